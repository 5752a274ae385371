"""Kill real commands at a write and start them again; nothing may be lost.

The commands are in ``kill_cases.py``, the service is in ``kill_service.py``. A :class:`Case` is a command
with its initial folder, the allowed states between the kill and the restart, and the expected result.
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

import kill_hook

LONGEST_S = 300.0
CLI = [sys.executable, "-m", "reactometer"]


@dataclass(frozen=True)
class Case:
    """A command that runs in a separate folder."""

    name: str
    begin: Callable[[Path], None]  # puts there what lies there before
    command: Callable[
        [Path], Sequence[str] | None
    ]  # as it is started, or started again; None: there is nothing to do
    between: Callable[[Path, Path], list[str]]  # what is wrong behind a kill, beside the undisturbed folder
    after: Callable[[Path, Path], list[str]]  # what is wrong when it has been started again, and has ended


@dataclass(frozen=True)
class Kill:
    """The moment of a kill: at one of the writes, or some bytes after it."""

    at: int
    n_bytes: int = 0

    def __str__(self) -> str:
        return f"write {self.at} + {self.n_bytes} bytes"


def undisturbed(case: Case, folder: Path) -> int:
    """Run a command to its end in a new folder; return the number of its writes."""
    case.begin(folder)
    command = case.command(folder)
    assert command is not None
    assert end(start(command, folder, 0)) == 0
    return count_writes(folder)


def kill_and_repeat(case: Case, kill: Kill, folder: Path, whole: Path) -> list[str]:
    """Kill a command once, start it again, and list all differences of the result from ``whole``."""
    case.begin(folder)
    command = case.command(folder)
    assert command is not None
    end(start(command, folder, kill.at, kill.n_bytes))
    wrong = case.between(folder, whole)
    if (command := case.command(folder)) is not None and (status := end(start(command, folder, 0))) != 0:
        wrong.append(f"ended with {status}: {log_file(folder).read_text()[-2000:]}")
        return wrong
    return wrong + case.after(folder, whole)


def start(command: Sequence[str], folder: Path, at: int, n_bytes: int = 0) -> subprocess.Popen[bytes]:
    site, counted = folder.with_suffix(".site"), _count_file(folder)
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(
        f"import sys; sys.path.append({str(Path(__file__).parent)!r}); import kill_hook"
    )
    counted.unlink(missing_ok=True)
    variables = {
        kill_hook.UNDER: str(folder),
        kill_hook.COUNT: str(counted),
        kill_hook.AT: str(at),
        kill_hook.BYTES: str(n_bytes or ""),
        kill_hook.SPARED: str(os.getpgrp()),
        "PYTHONPATH": os.pathsep.join([str(site), *(path for path in sys.path if path)]),
    }
    with log_file(folder).open("w") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, env=os.environ | variables
        )


def kill_group(process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGKILL) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, how)


def end(process: subprocess.Popen[bytes]) -> int:
    """Wait for the end of a process and its group; return the exit status."""
    until_s = time.monotonic() + LONGEST_S
    status = process.wait(LONGEST_S)
    while any(_is_of(process.pid, about) for about in Path("/proc").glob("[0-9]*/stat")):
        assert time.monotonic() < until_s
        time.sleep(0.05)
    return status


def _is_of(group: int, about: Path) -> bool:
    try:
        state, _, process_group = about.read_text().rpartition(") ")[2].split()[:3]
    except (OSError, ValueError):
        return False
    return int(process_group) == group and state != "Z"


def _count_file(folder: Path) -> Path:
    return folder.with_suffix(".count")


def log_file(folder: Path) -> Path:
    return folder.with_suffix(".log")


def count_writes(folder: Path) -> int:
    """Return the number of writes of the last command in a folder."""
    return _count_file(folder).stat().st_size
