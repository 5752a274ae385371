"""A service that is killed under its clients, and started again."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from kills import CLI, LONGEST_S, Kill, end, kill_group, log_file, start


@dataclass
class Told:
    """What a service has told a client."""

    accepted: dict[str, int]  # the clip's number by the job's id
    done: dict[str, Any]  # documents by id


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
    process, told = start(_service(folder), folder, kill.at if kill else 0, kill.n_bytes if kill else 0), Told({}, {})
    with suppress(httpx.HTTPError, ProcessLookupError):
        _send(clips, process, folder, told)
    kill_group(process)
    end(process)
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
        lines = log_file(folder).read_text().splitlines()
        if found := [line.split()[0] for line in lines if line.startswith("http")]:
            return found[0]
        time.sleep(0.02)
    raise TimeoutError


def _go_on(folder: Path, before: Told, expected: Sequence[Any], sent: int) -> list[str]:
    """Start the service again; wrong: an accepted clip without an end, or with two; other numbers; an upload left."""
    finished = _rows(folder)
    process, told = start(_service(folder), folder, 0), Told(dict(before.accepted), {})
    try:
        with httpx.Client(base_url=_address(process, folder), timeout=LONGEST_S) as client:
            _wait(client, told)
            _settled(folder)
    except ProcessLookupError:
        return [f"does not start again: {log_file(folder).read_text()[-2000:]}"]
    finally:
        kill_group(process, signal.SIGTERM)
        end(process)
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
    """Status, and when it was over, of each job."""
    jobs = [json.loads(file.read_text()) for file in (folder / "jobs").glob("*.json")]
    return {job["id"]: (job["status"], job["finished_s"]) for job in jobs}


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
