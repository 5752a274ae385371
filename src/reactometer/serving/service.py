"""What the routes of a service share: its model, its desk, and a job as its client sees it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reactometer.errors import RequestError
from reactometer.inference.events import DEFAULT_THRESHOLD
from reactometer.models.folder import LoadedModel
from reactometer.serving.job_store import DONE, Job
from reactometer.serving.limits import Settings
from reactometer.serving.queue import Desk
from reactometer.serving.schemas import Document, as_moment, describe, rounded


@dataclass(frozen=True)
class Service:
    """What the routes need."""

    model: LoadedModel
    folder: Path  # the model's
    sha256: str
    settings: Settings
    desk: Desk

    def document(self, job: Job, *, frames: bool) -> Document:
        """A job as its client sees it."""
        work = self.desk.work(job.id)
        about = work.clip.about if work else job.about
        done = job.status == DONE
        threshold = float(job.request.get("threshold", DEFAULT_THRESHOLD))
        predictions = self.desk.table.predictions(job.id) if done else []
        return Document(
            id=job.id,
            status=job.status,
            progress=1.0 if done else round(work.clip.progress, 3) if work else 0.0,
            name=job.name,
            created=as_moment(job.created_s) or "",
            finished=as_moment(job.finished_s),
            error=job.error,
            labels=list(self.model.labels),
            coverage=self.model.uncertainty.coverage if self.model.uncertainty else None,
            model_sha256=self.sha256,
            width_px=about.get("width_px"),
            height_px=about.get("height_px"),
            duration_s=rounded(about.get("duration_s")),
            voice_level=about.get("voice_level") if done else None,
            predictions=[describe(own, threshold, frames=frames) for own in predictions] if done else None,
        )

    def job(self, job_id: str, owner: str) -> Job:
        """A client's job.

        Raises:
            RequestError: 404, there is none, or it is another client's.
        """
        job = self.desk.table.get(job_id)
        if job is None or job.owner != owner:
            raise RequestError(404, "there is no such prediction", fix="It may have been deleted; send the clip again")
        return job
