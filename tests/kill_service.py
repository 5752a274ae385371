"""Kill a service during requests, restart it, and check its jobs."""

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
class ClientRecord:
    """Responses of a service: accepted and finished jobs."""

    accepted: dict[str, int]  # the clip's number by the job's id
    done: dict[str, Any]  # documents by id


def kill_service(
    clips: Sequence[Path], kill: Kill | None, folder: Path, expected: Sequence[Any] = ()
) -> tuple[ClientRecord, list[str]]:
    """Send clips to a service, kill and restart it; return its responses and all errors.

    Args:
        clips: to be sent.
        kill: when; None: never.
        folder: folder of the service.
        expected: predictions of an undisturbed service, per clip.
    """
    process, record = (
        start(_service(folder), folder, kill.at if kill else 0, kill.n_bytes if kill else 0),
        ClientRecord({}, {}),
    )
    with suppress(httpx.HTTPError, ProcessLookupError):
        _send(clips, process, folder, record)
    kill_group(process)
    end(process)
    if kill is None:
        return record, []
    return record, _restart(folder, record, expected, len(clips))


def _service(folder: Path) -> list[str]:
    return [*CLI, "serve", "--port", "0", "--jobs", str(folder), "--workers", "2", "--device", "cpu"]


def _send(
    clips: Sequence[Path], process: subprocess.Popen[bytes], folder: Path, record: ClientRecord
) -> None:
    with httpx.Client(base_url=_address(process, folder), timeout=LONGEST_S) as client:
        for number, clip in enumerate(clips):
            files, headers = {"file": (clip.name, clip.read_bytes())}, {"Prefer": "respond-async"}
            answer = client.post("/v1/predictions", files=files, headers=headers)
            assert answer.status_code == 202, answer.text
            record.accepted[answer.json()["id"]] = number
        _wait(client, record)


def _wait(client: httpx.Client, record: ClientRecord) -> None:
    """Poll every clip until it ends, and record its document."""
    deadline = time.monotonic() + LONGEST_S
    while pending := record.accepted.keys() - record.done.keys():
        assert time.monotonic() < deadline, pending
        for job in pending:
            document = client.get(f"/v1/predictions/{job}").json()
            if document.get("status") not in ("queued", "running"):
                record.done[job] = document
        time.sleep(0.02)


def _address(process: subprocess.Popen[bytes], folder: Path) -> str:
    deadline = time.monotonic() + LONGEST_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ProcessLookupError
        lines = log_file(folder).read_text().splitlines()
        if addresses := [line.split()[0] for line in lines if line.startswith("http")]:
            return addresses[0]
        time.sleep(0.02)
    raise TimeoutError


def _restart(folder: Path, before: ClientRecord, expected: Sequence[Any], sent: int) -> list[str]:
    """Restart the service; list lost, repeated or changed clips, and leftover uploads."""
    finished = _rows(folder)
    process, record = start(_service(folder), folder, 0), ClientRecord(dict(before.accepted), {})
    try:
        with httpx.Client(base_url=_address(process, folder), timeout=LONGEST_S) as client:
            _wait(client, record)
            _settled(folder)
    except ProcessLookupError:
        return [f"does not start again: {log_file(folder).read_text()[-2000:]}"]
    finally:
        kill_group(process, signal.SIGTERM)
        end(process)
    rows = _rows(folder)
    wrong = [
        f"{job}: {document}" for job, document in record.done.items() if document.get("status") != "done"
    ]
    wrong += [f"{job}: changed" for job, document in before.done.items() if record.done[job] != document]
    wrong += [
        f"{job}: done twice"
        for job, document in finished.items()
        if document[0] == "done" and rows[job] != document
    ]
    wrong += [f"{job}: {document[0]}" for job, document in rows.items() if document[0] != "done"]
    wrong += [] if len(rows) <= sent else [f"{len(rows)} jobs of {sent} clips"]
    wrong += [f"left: {path.name}" for path in (folder / "uploads").iterdir()]
    return wrong + [
        f"{job}: other numbers"
        for job, document in record.done.items()
        if document.get("status") == "done"
        and not _is_close(document["predictions"], expected[record.accepted[job]])
    ]


def _rows(folder: Path) -> dict[str, tuple[str, float]]:
    """Return status and time of the end of each job."""
    jobs = [json.loads(file.read_text()) for file in (folder / "jobs").glob("*.json")]
    return {job["id"]: (job["status"], job["finished_s"]) for job in jobs}


def _settled(folder: Path) -> None:
    """Wait for the deletion of uploads, also of jobs whose client got no response."""
    deadline = time.monotonic() + LONGEST_S
    while list((folder / "uploads").iterdir()) and time.monotonic() < deadline:
        time.sleep(0.02)


def _is_close(one: Any, other: Any) -> bool:
    """Compare documents, numbers within 1e-6."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(
            _is_close(document, other[name]) for name, document in one.items()
        )
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_is_close, one, other))
    return (
        bool(abs(one - other) <= 1.1e-6)
        if isinstance(one, float) and isinstance(other, float)
        else bool(one == other)
    )
