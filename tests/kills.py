"""Real commands that are killed, at random moments or at random writes, and started again: what is to be lost? Nothing.

The commands are in ``kill_cases.py``, the service is in ``kill_service.py``. A :class:`Case` is a command with all
that it needs: what lies there before, how it is started and started again, what may be seen of it between the two, and
what it must come to.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import kill_hook

LONGEST_S = 300.0
CLI = [sys.executable, "-m", "reactometer"]


@dataclass(frozen=True)
class Case:
    """A command in a folder of its own."""

    name: str
    begin: Callable[[Path], None]  # puts there what lies there before
    command: Callable[[Path], Sequence[str] | None]  # as it is started, or started again; None: there is nothing to do
    between: Callable[[Path, Path], list[str]]  # what is wrong behind a kill, beside the undisturbed folder
    after: Callable[[Path, Path], list[str]]  # what is wrong when it has been started again, and has ended


@dataclass(frozen=True)
class Kill:
    """When a command is killed: after so many seconds; or at one of its writes, or some bytes behind it."""

    after_s: float | None = None
    at: int = 0
    n_bytes: int = 0

    def __str__(self) -> str:
        return f"{self.after_s:.2f} s" if self.after_s is not None else f"write {self.at} + {self.n_bytes} bytes"


def kill_one_of_two(case: Case, kill: Kill, folder: Path, whole: Path) -> list[str]:
    """The same command twice at once, one of which is killed: the other one must come to what it comes to alone."""
    case.begin(folder)
    command = case.command(folder)
    assert command is not None
    killed, other = start(command, folder, kill.at, kill.n_bytes), start(command, folder, 0, name="other")
    statuses = end(killed), end(other)
    wrong = (
        [] if statuses == (-signal.SIGKILL, 0) else [f"ended with {statuses}: {log_file(folder).read_text()[-2000:]}"]
    )
    return wrong + case.after(folder, whole)


def undisturbed(case: Case, folder: Path) -> tuple[float, int]:
    """Run a command to its end in a new folder: the seconds and the writes that it takes."""
    case.begin(folder)
    began_s = time.perf_counter()
    command = case.command(folder)
    assert command is not None
    assert end(start(command, folder, 0)) == 0
    return time.perf_counter() - began_s, count_writes(folder)


def kill_and_repeat(
    case: Case, kill: Kill, folder: Path, whole: Path, how: signal.Signals = signal.SIGKILL
) -> list[str]:
    """Kill a command once, start it again, and tell all that is wrong with what it comes to, beside ``whole``."""
    case.begin(folder)
    command = case.command(folder)
    assert command is not None
    process = start(command, folder, kill.at, kill.n_bytes)
    try:
        process.wait(kill.after_s if kill.after_s is not None else LONGEST_S)
    except subprocess.TimeoutExpired:
        kill_group(process, how)
    end(process)
    wrong = case.between(folder, whole)
    if (command := case.command(folder)) is not None and (status := end(start(command, folder, 0))) != 0:
        wrong.append(f"ended with {status}: {log_file(folder).read_text()[-2000:]}")
        return wrong
    return wrong + case.after(folder, whole)


def draw_kills(count: int, seconds: float, writes: int, rng: np.random.Generator) -> list[Kill]:
    """So many kills of each kind: anywhere in the command's time and a little past it, and at any write."""
    times = [Kill(after_s=float(own)) for own in rng.uniform(0.0, 1.1 * seconds, count)]
    bytes_ = [int(own) for own in rng.choice([0, 1, 30, 400, 5000], count)]
    return times + [
        Kill(at=int(at), n_bytes=own) for at, own in zip(rng.integers(1, writes + 1, count), bytes_, strict=True)
    ]


def start(
    command: Sequence[str], folder: Path, at: int, n_bytes: int = 0, name: str = "one"
) -> subprocess.Popen[bytes]:
    site, counted = folder.with_suffix(f".{name}-site"), _count_file(folder, name)
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(
        f"import sys; sys.path.append({str(Path(__file__).parent)!r}); import kill_hook"
    )
    counted.unlink(missing_ok=True)
    told = {
        kill_hook.UNDER: str(folder),
        kill_hook.COUNT: str(counted),
        kill_hook.AT: str(at),
        kill_hook.BYTES: str(n_bytes or ""),
        kill_hook.SPARED: str(os.getpgrp()),
        "PYTHONPATH": os.pathsep.join([str(site), *(path for path in sys.path if path)]),
    }
    with log_file(folder, name).open("w") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env={**os.environ, **told})


def kill_group(process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGKILL) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, how)


def end(process: subprocess.Popen[bytes]) -> int:
    """Wait for the end of a process and of all of its group: its exit status."""
    until_s = time.monotonic() + LONGEST_S
    status = process.wait(LONGEST_S)
    while any(_is_of(process.pid, about) for about in Path("/proc").glob("[0-9]*/stat")):
        assert time.monotonic() < until_s
        time.sleep(0.05)
    return status


def _is_of(group: int, about: Path) -> bool:
    try:
        state, _, own = about.read_text().rpartition(") ")[2].split()[:3]
    except (OSError, ValueError):
        return False
    return int(own) == group and state != "Z"


def _count_file(folder: Path, name: str = "one") -> Path:
    return folder.with_suffix(f".{name}-count")


def log_file(folder: Path, name: str = "one") -> Path:
    return folder.with_suffix(f".{name}-log")


def count_writes(folder: Path) -> int:
    """Writes that the last command in a folder made."""
    return _count_file(folder).stat().st_size
