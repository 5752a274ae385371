"""Real commands that are killed, at random moments or at random writes, and started again: what is to be lost? Nothing.

Shared by ``test_kills.py`` and ``benchmarks/kills.py``. A :class:`Case` is a command with all that it needs: what lies
there before, how it is started and started again, what may be seen of it between the two, and what it must come to.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from threading import Timer
from typing import Any

import httpx
import numpy as np
import pandas as pd

import kill_hook
from reactometer.data.cache import open_prepared
from reactometer.errors import DataError
from reactometer.files import PART
from reactometer.models.folder import load_model
from reactometer.runs.store import CLIPS, DONE, INDEX_FILE, TIMELINE

LONGEST_S = 300.0
CLI = [sys.executable, "-m", "reactometer"]
SMALL_SHARDS = "from reactometer.runs import run, store; run.SHARD_FILES = store.SHARD_FILES = 3; "
RUN = [sys.executable, "-c", SMALL_SHARDS + "from reactometer.cli import main; main()"]

CONFIG = """
[prepare]
detector = "haar"
rate_hz = 2.0
size_px = 48
[model]
name = "vit-transformer"
encoder = "random:vit-tiny"
frozen = true
n_frames = 4
size_px = 48
hidden = 16
dropout = 0.2
[training]
epochs = 4
batch_size = 4
ema_decay = 0.9
accelerator = "cpu"
"""


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
    killed, other = _start(command, folder, kill.at, kill.n_bytes), _start(command, folder, 0, name="other")
    statuses = _end(killed), _end(other)
    wrong = (
        [] if statuses == (-signal.SIGKILL, 0) else [f"ended with {statuses}: {_log_file(folder).read_text()[-2000:]}"]
    )
    return wrong + case.after(folder, whole)


def undisturbed(case: Case, folder: Path) -> tuple[float, int]:
    """Run a command to its end in a new folder: the seconds and the writes that it takes."""
    case.begin(folder)
    began_s = time.perf_counter()
    command = case.command(folder)
    assert command is not None
    assert _end(_start(command, folder, 0)) == 0
    return time.perf_counter() - began_s, count_writes(folder)


def kill_and_repeat(
    case: Case, kill: Kill, folder: Path, whole: Path, how: signal.Signals = signal.SIGKILL
) -> list[str]:
    """Kill a command once, start it again, and tell all that is wrong with what it comes to, beside ``whole``."""
    case.begin(folder)
    command = case.command(folder)
    assert command is not None
    process = _start(command, folder, kill.at, kill.n_bytes)
    try:
        process.wait(kill.after_s if kill.after_s is not None else LONGEST_S)
    except subprocess.TimeoutExpired:
        _kill(process, how)
    _end(process)
    wrong = case.between(folder, whole)
    if (command := case.command(folder)) is not None and (status := _end(_start(command, folder, 0))) != 0:
        wrong.append(f"ended with {status}: {_log_file(folder).read_text()[-2000:]}")
        return wrong
    return wrong + case.after(folder, whole)


def draw_kills(count: int, seconds: float, writes: int, rng: np.random.Generator) -> list[Kill]:
    """So many kills of each kind: anywhere in the command's time and a little past it, and at any write."""
    times = [Kill(after_s=float(own)) for own in rng.uniform(0.0, 1.1 * seconds, count)]
    bytes_ = [int(own) for own in rng.choice([0, 1, 30, 400, 5000], count)]
    return times + [
        Kill(at=int(at), n_bytes=own) for at, own in zip(rng.integers(1, writes + 1, count), bytes_, strict=True)
    ]


def _start(
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
    with _log_file(folder, name).open("w") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env={**os.environ, **told})


def _kill(process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGKILL) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, how)


def _end(process: subprocess.Popen[bytes]) -> int:
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


def _log_file(folder: Path, name: str = "one") -> Path:
    return folder.with_suffix(f".{name}-log")


def prepare_case(data: Path, before: Path) -> Case:
    """Prepares ``data`` anew, over what was prepared otherwise: ``before``, which is made where it is not there."""
    if not before.exists():
        subprocess.run([*_prepare(data, before), "--rate", "1"], check=True, capture_output=True)

    def begin(folder: Path) -> None:
        shutil.copytree(before, folder)

    def between(folder: Path, whole: Path) -> list[str]:
        """There is what was there before or what there is to be, every clip of it; or it says that it is none."""
        try:
            found = _numbers(folder)
        except DataError as error:
            told = "not a prepared data set", "is not the one that"
            return [] if any(words in str(error) for words in told) else [f"between: {error}"]
        return [] if found in (_numbers(before), _numbers(whole)) else ["between: neither the old set nor the new one"]

    def after(folder: Path, whole: Path) -> list[str]:
        wrong = [] if _numbers(folder) == _numbers(whole) else ["other clips or numbers"]
        listed = [row.file for row in open_prepared(folder).rows]
        wrong += [] if len(set(listed)) == len(listed) else ["a clip twice"]
        return wrong

    return Case(
        "prepare",
        begin=begin,
        command=lambda folder: [*_prepare(data, folder), "--rate", "2"],
        between=between,
        after=after,
    )


def _prepare(data: Path, out: Path) -> list[str]:
    return [*CLI, "prepare", str(data), "--out", str(out), "--detector", "haar", "--size", "48", "--workers", "2"]


def _numbers(folder: Path) -> list[Any]:
    """All that a prepared folder says, its clips' arrays by their hash."""
    prepared = open_prepared(folder)
    clips = [_arrays(row.file) if row.file else None for row in prepared.rows]
    rows = [(row.clip, row.duration_s, row.frames_read, row.n_samples, row.n_faces) for row in prepared.rows]
    return [prepared.settings, prepared.labels, rows, clips]


def _arrays(file: Path) -> str:
    with np.load(file) as arrays:
        return sha256(b"".join(arrays[name].tobytes() for name in sorted(arrays.files))).hexdigest()


def train_case(prepared: Path) -> Case:
    """Trains a small head behind frozen features, which are computed first, and fits intervals where clips suffice."""

    def begin(folder: Path) -> None:
        shutil.copytree(prepared, folder / "data")
        (folder / "small.toml").write_text(CONFIG)

    def command(folder: Path) -> Sequence[str] | None:
        """As a user would: --resume from the first checkpoint on, and nothing once there is a model."""
        if (folder / "run" / "model").exists():
            return None
        options = [f"data.path={folder / 'data'}", f"training.out={folder / 'run'}"]
        resume = ["--resume"] if (folder / "run" / "checkpoints" / "last.ckpt").is_file() else []
        return [*CLI, "train", str(folder / "small.toml"), *options, *resume]

    def between(folder: Path, whole: Path) -> list[str]:
        return _compare_models(folder, whole) if (folder / "run" / "model").exists() else []

    def after(folder: Path, whole: Path) -> list[str]:
        wrong = _compare_models(folder, whole)
        logs = [(own / "run" / "logs" / "metrics.csv").read_text() for own in (folder, whole)]
        return wrong if logs[0] == logs[1] else [*wrong, "another log"]

    return Case("train", begin, command, between, after)


def _compare_models(folder: Path, whole: Path) -> list[str]:
    """A model is whole, or it is not there: weights, scores and intervals are those of the undisturbed training."""
    models = [own / "run" / "model" for own in (folder, whole)]
    one, other = map(load_model, models)
    wrong = [
        f"another {name}"
        for name in ("weights.safetensors", "uncertainty.json", "uncertainty.safetensors")
        if _bytes(models[0] / name) != _bytes(models[1] / name)
    ]
    return wrong if one.description["metrics"] == other.description["metrics"] else [*wrong, "other scores"]


def _bytes(file: Path) -> bytes:
    return file.read_bytes() if file.is_file() else b""


def folder_case(videos: Path) -> Case:
    """Predicts a folder into a run's folder, three results a shard."""

    def after(folder: Path, whole: Path) -> list[str]:
        wrong = []
        for name, key in ((INDEX_FILE, ["path"]), (TIMELINE, ["path", "start_s"])):
            one, other = (pd.read_parquet(own / name).sort_values(key, ignore_index=True) for own in (folder, whole))
            wrong += [] if one.equals(other) else [f"another {name}: {len(one)} rows, not {len(other)}"]
        hashes = pd.read_parquet(folder / CLIPS)["sha256"]
        wrong += [] if hashes.is_unique else ["a content twice"]
        left = [
            str(path.relative_to(folder)) for path in folder.rglob("*") if PART in path.name or path.parent.name == DONE
        ]
        return wrong + ([f"left: {left}"] if left else [])

    return Case(
        "predict into a folder",
        begin=lambda folder: folder.mkdir(),
        command=lambda folder: [
            *RUN,
            "predict",
            str(videos),
            "--out",
            str(folder),
            "--workers",
            "2",
            "--device",
            "cpu",
        ],
        between=lambda folder, whole: [],
        after=after,
    )


def table_case(videos: Sequence[Path]) -> Case:
    """Predicts files into tables of which older ones are there."""
    names = {"--out": "clips.csv", "--timeline": "timeline.parquet", "--frames": "frames.json", "--elan": "e.eaf"}
    names |= {"--overlay": "o.mp4", "--plot": "p.png", "--subtitles": "s.vtt"}
    old = b"what was there before"

    def begin(folder: Path) -> None:
        folder.mkdir()
        for name in names.values():
            (folder / name).write_bytes(old)

    def between(folder: Path, whole: Path) -> list[str]:
        """Each is the old one or the new one."""
        return [
            f"{name} is neither the old file nor the new one"
            for name in names.values()
            if (data := (folder / name).read_bytes()) != old and not _is_same(data, whole / name)
        ]

    def command(folder: Path) -> list[str]:
        options = [text for option, name in names.items() for text in (option, str(folder / name))]
        return [*CLI, "predict", *map(str, videos), *options, "--device", "cpu"]

    def after(folder: Path, whole: Path) -> list[str]:
        return [
            f"another {name}" for name in names.values() if not _is_same((folder / name).read_bytes(), whole / name)
        ]

    return Case("predict into tables", begin, command, between, after)


def _is_same(data: bytes, file: Path) -> bool:
    """The same content, less the moment that an ELAN document says it was made at."""
    one, other = (re.sub(rb' DATE="[^"]*"', b"", own) for own in (data, file.read_bytes()))
    return one == other


@dataclass
class Told:
    """What a service has told a client."""

    accepted: dict[str, int]  # the clip's number by the job's id
    done: dict[str, Any]  # documents by id


def count_writes(folder: Path) -> int:
    """Writes that the last command in a folder made."""
    return _count_file(folder).stat().st_size


def kill_service(
    clips: Sequence[Path], kill: Kill | None, folder: Path, expected: Sequence[Any] = ()
) -> tuple[Told, list[str]]:
    """Send clips to a service that is killed meanwhile, start it again, and tell what it told and all that is wrong.

    Args:
        clips: to be sent.
        kill: when; None: never.
        folder: of the service.
        expected: what an undisturbed service predicts of each.
    """
    process, told = _start(_service(folder), folder, kill.at if kill else 0, kill.n_bytes if kill else 0), Told({}, {})
    timer = Timer(kill.after_s, _kill, (process,)) if kill is not None and kill.after_s is not None else None
    if timer is not None:
        timer.start()
    with suppress(httpx.HTTPError, ProcessLookupError):
        _send(clips, process, folder, told)
    if timer is not None:
        timer.cancel()
    _kill(process)
    _end(process)
    if kill is None:
        return told, []
    return told, _go_on(folder, told, expected, len(clips))


def _service(folder: Path) -> list[str]:
    return [*CLI, "serve", "--port", "0", "--data", str(folder), "--readers", "2", "--device", "cpu"]


def _send(clips: Sequence[Path], process: subprocess.Popen[bytes], folder: Path, told: Told) -> None:
    with httpx.Client(base_url=_address(process, folder), timeout=LONGEST_S) as client:
        for number, clip in enumerate(clips):
            files, headers = {"file": (clip.name, clip.read_bytes())}, {"Prefer": "respond-async"}
            answer = client.post("/v1/predictions", files=files, headers=headers)
            assert answer.status_code == 202, answer.text
            told.accepted[answer.json()["id"]] = number
        _wait(client, told)


def _wait(client: httpx.Client, told: Told) -> None:
    """Ask for every clip until it is over, and keep what is told of it."""
    until_s = time.monotonic() + LONGEST_S
    while left := told.accepted.keys() - told.done.keys():
        assert time.monotonic() < until_s, left
        for job in left:
            document = client.get(f"/v1/predictions/{job}").json()
            if document.get("status") not in ("queued", "running"):
                told.done[job] = document
        time.sleep(0.02)


def _address(process: subprocess.Popen[bytes], folder: Path) -> str:
    until_s = time.monotonic() + LONGEST_S
    while time.monotonic() < until_s:
        if process.poll() is not None:
            raise ProcessLookupError
        lines = _log_file(folder).read_text().splitlines()
        if found := [line.split()[0] for line in lines if line.startswith("http")]:
            return found[0]
        time.sleep(0.02)
    raise TimeoutError


def _go_on(folder: Path, before: Told, expected: Sequence[Any], sent: int) -> list[str]:
    """Start the service again; wrong: an accepted clip without an end, or with two; other numbers; an upload left."""
    finished = _rows(folder)
    process, told = _start(_service(folder), folder, 0), Told(dict(before.accepted), {})
    try:
        with httpx.Client(base_url=_address(process, folder), timeout=LONGEST_S) as client:
            _wait(client, told)
            _settled(folder)
    except ProcessLookupError:
        return [f"does not start again: {_log_file(folder).read_text()[-2000:]}"]
    finally:
        _kill(process, signal.SIGTERM)
        _end(process)
    rows = _rows(folder)
    wrong = [f"{job}: {own}" for job, own in told.done.items() if own.get("status") != "done"]
    wrong += [f"{job}: changed" for job, own in before.done.items() if told.done[job] != own]
    wrong += [f"{job}: done twice" for job, own in finished.items() if own[0] == "done" and rows[job] != own]
    wrong += [f"{job}: {own[0]}" for job, own in rows.items() if own[0] != "done"]
    wrong += [] if len(rows) <= sent else [f"{len(rows)} jobs of {sent} clips"]
    wrong += [f"left: {path.name}" for path in (folder / "uploads").iterdir()]
    return wrong + [
        f"{job}: other numbers"
        for job, own in told.done.items()
        if own.get("status") == "done" and not _is_close(own["predictions"], expected[told.accepted[job]])
    ]


def _rows(folder: Path) -> dict[str, tuple[str, float]]:
    """Status, and when it was over, of each job in the database."""
    if not (folder / "jobs.db").is_file():
        return {}
    asked = "SELECT id, status, finished_s FROM reactometer_jobs"
    with closing(sqlite3.connect(folder / "jobs.db")) as table, suppress(sqlite3.OperationalError):
        return {job: (status, end) for job, status, end in table.execute(asked)}
    # killed before there was a table
    return {}


def _settled(folder: Path) -> None:
    """A job's upload goes right behind its end, and jobs may be there whose acceptance could not be told any more."""
    until_s = time.monotonic() + LONGEST_S
    while list((folder / "uploads").iterdir()) and time.monotonic() < until_s:
        time.sleep(0.02)


def _is_close(one: Any, other: Any) -> bool:
    """The same, numbers within 1e-6: clips are scored together as they come."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_is_close(own, other[name]) for name, own in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_is_close, one, other))
    return (
        bool(abs(one - other) <= 1.1e-6) if isinstance(one, float) and isinstance(other, float) else bool(one == other)
    )
