"""The jobs of a service, their uploads and their results: one JSON file per job."""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from reactometer.io import make_folder, write_atomic
from reactometer.types import Prediction

QUEUED, RUNNING, DONE, FAILED = "queued", "running", "done", "failed"
CLOCK_S = 3600.0
"""A result from further in the future was kept while the clock was wrong."""


@dataclass(frozen=True)
class Job:
    """One clip: its owner, its request, and what came of it."""

    id: str
    owner: str  # the client's name; empty if the service has no keys
    name: str  # of the file, as the client calls it
    request: dict[str, Any]
    status: str = QUEUED  # in its file QUEUED, DONE or FAILED
    created_s: float = field(default_factory=time.time)  # seconds since 1970
    finished_s: float | None = None
    error: str | None = None
    about: dict[str, Any] = field(default_factory=dict)  # of the clip: size, length, the voice's level
    predictions: list[Prediction] = field(default_factory=list)


_ADAPTER = TypeAdapter(Job)


class JobStore:
    """A folder with ``jobs/ID.json``, and with ``uploads/ID`` until the job is over."""

    def __init__(self, folder: Path) -> None:
        self.jobs, self.uploads = make_folder(folder / "jobs"), make_folder(folder / "uploads")

    def new_id(self) -> str:
        """Make an id that nobody can guess."""
        return secrets.token_urlsafe(18)

    def upload(self, job_id: str) -> Path:
        """Return the path of a job's upload."""
        return self.uploads / job_id

    def write(self, job: Job) -> None:
        """Keep a job; it is on the disk when this returns.

        Raises:
            OutputError: the disk is full, or cannot be written.
        """
        write_atomic(self._file(job.id), _ADAPTER.dump_json(job))

    def read(self, job_id: str) -> Job | None:
        """Find a job by its id, which a client may have made up."""
        if not re.fullmatch(r"[\w-]{24}", job_id, re.ASCII):
            return None
        try:
            return _ADAPTER.validate_json(self._file(job_id).read_bytes())
        except FileNotFoundError:
            return None

    def delete(self, job_id: str) -> None:
        """Delete a job and its predictions."""
        self._file(job_id).unlink(missing_ok=True)

    def forget(self, before_s: float) -> None:
        """Delete jobs that are over since before ``before_s``, in seconds since 1970."""
        for file in self.jobs.iterdir():
            is_kept = before_s <= file.stat().st_mtime <= time.time() + CLOCK_S
            if not (is_kept or self.upload(file.stem).exists()):
                file.unlink(missing_ok=True)

    def unfinished(self) -> list[Job]:
        """List the jobs that an earlier service left, the oldest first; delete uploads without one."""
        left = []
        for file in self.uploads.iterdir():
            job = self.read(file.name)
            if job is not None and job.status == QUEUED:
                left.append(job)
            else:
                file.unlink()
        return sorted(left, key=lambda job: job.created_s)

    def _file(self, job_id: str) -> Path:
        return self.jobs / f"{job_id}.json"
