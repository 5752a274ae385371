"""Jobs of a service with uploads and results: one JSON file per job."""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from reactometer.errors import OutputError
from reactometer.inference.prediction import Prediction
from reactometer.io import make_folder, wrap_decode_errors, write_atomic

QUEUED, RUNNING, DONE, FAILED = "queued", "running", "done", "failed"


@dataclass(frozen=True)
class Job:
    """A clip with its owner, request options, state and result."""

    owner: str  # the client's name; empty if the service has no keys
    name: str  # file name sent by the client
    request: dict[str, Any]
    id: str = field(default_factory=lambda: secrets.token_urlsafe(18))  # 144 random bits
    status: str = QUEUED  # QUEUED, DONE or FAILED; RUNNING is not saved
    created_s: float = field(default_factory=time.time)  # seconds since 1970
    finished_s: float | None = None
    error: str | None = None
    media: dict[str, Any] = field(default_factory=dict)  # frame size, duration, voice level
    predictions: list[Prediction] = field(default_factory=list)


_ADAPTER = TypeAdapter(Job)


class JobStore:
    """A folder with ``jobs/ID.json``, and ``uploads/ID`` until the job ends."""

    def __init__(self, folder: Path) -> None:
        self.jobs = make_folder(folder / "jobs")
        self.uploads = make_folder(folder / "uploads")

    def upload(self, job_id: str) -> Path:
        """Return the path of a job's upload."""
        return self.uploads / job_id

    def write(self, job: Job) -> None:
        """Save a job and sync it to the disk.

        Raises:
            OutputError: the disk is full or not writable.
        """
        write_atomic(self._file(job.id), _ADAPTER.dump_json(job))

    def read(self, job_id: str) -> Job | None:
        """Return the job with this id, or None; the id comes from a client and may be malformed.

        Raises:
            OutputError: the job's file is damaged.
        """
        if not re.fullmatch(r"[\w-]{24}", job_id, re.ASCII):
            return None
        file = self._file(job_id)
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            return None
        with wrap_decode_errors(file, OutputError, "Delete this file"):
            return _ADAPTER.validate_json(content)

    def delete(self, job_id: str) -> None:
        """Delete a job and its predictions."""
        self._file(job_id).unlink(missing_ok=True)

    def purge(self, before_s: float) -> None:
        """Delete jobs that ended before ``before_s``, in seconds since 1970."""
        for file in self.jobs.iterdir():
            if file.stat().st_mtime < before_s and not self.upload(file.stem).exists():
                file.unlink(missing_ok=True)

    def unfinished(self) -> list[Job]:
        """List the queued jobs of an earlier process, oldest first; delete uploads without a queued job."""
        queued = []
        for file in self.uploads.iterdir():
            job = self.read(file.name)
            if job is not None and job.status == QUEUED:
                queued.append(job)
            else:
                file.unlink()
        return sorted(queued, key=lambda job: job.created_s)

    def _file(self, job_id: str) -> Path:
        return self.jobs / f"{job_id}.json"
