"""The queue of a service: clips wait, are read by processes, scored together, and their results are kept."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Condition, Lock, Thread
from typing import Any

from filelock import FileLock, Timeout

from reactometer.errors import ConfigError, OutputError, RequestError
from reactometer.inference.checkpoint import LoadedModel
from reactometer.inference.predictor import PredictOptions, Predictor
from reactometer.machine import default_workers
from reactometer.media.audio import STRETCH_S, levels_db
from reactometer.media.segments import MAX_SEGMENT
from reactometer.serving.job_store import DONE, FAILED, Job, JobStore
from reactometer.serving.metrics import Metrics
from reactometer.types import MediaInfo, Prediction
from reactometer.workers.decoder import UNREADABLE, Segment, reason_of
from reactometer.workers.media_worker import MediaWorker, ResourceLimits

logger = logging.getLogger(__name__)

MAX_PIXELS = 4096 * 2304
"""Largest frame of a clip."""

TIDY_S = 60.0
"""Interval at which old results are deleted."""

RETRY_S = 10
"""Time after which a client that was refused may come again. Our choice."""

FULL_S = 1.0
"""Interval at which a result is written again while the disk is full."""


@dataclass(frozen=True)
class Settings:
    """Settings and limits of a service."""

    folder: Path  # jobs, and uploads until they are scored
    keys: dict[str, str] = field(default_factory=dict)  # key by client's name; empty: no key is needed
    hosts: tuple[str, ...] = ("*",)  # host names of the service
    readers: int | None = None  # processes that read files; None: one per CPU
    body_bytes: int = 512 * 2**20  # of a request
    upload_s: float = 600.0  # from a request's first byte to its last
    bounds: ResourceLimits = field(
        default_factory=lambda: ResourceLimits(duration_s=3600.0, pixels=MAX_PIXELS)
    )  # of a clip
    wait_s: float = 30.0  # clips that take longer are answered by a 202
    queue: int = 64  # clips that wait
    per_client: int = 8  # clips of one client that wait or run
    keep_s: float = 24 * 3600.0  # results
    drain_s: float = 30.0  # time that running clips are given when the service ends


class GivenUpError(Exception):
    """The clip was deleted, or the service ends."""


@dataclass(eq=False)
class RunningJob:
    """A job that waits or runs, and what is known of its clip so far."""

    job: Job
    client: str  # whose limit it counts for
    told: Future[None] = field(default_factory=Future)  # done when the job is over, or left to the next service
    is_running: bool = False
    is_deleted: bool = False
    progress: float = 0.0  # in [0, 1]
    about: dict[str, Any] = field(default_factory=dict)  # as in the document: size, length, the voice's level

    def tell(self) -> None:
        """End the client's wait for the answer."""
        if not self.told.done():
            self.told.set_result(None)


class JobQueue:
    """Takes clips, scores them in as many threads as there are readers, and keeps the results."""

    def __init__(self, model: LoadedModel, settings: Settings, metrics: Metrics) -> None:
        """Open the folder, and resume what an earlier service left.

        Raises:
            ConfigError: another service has the folder.
            OutputError: the folder cannot be written.
        """
        self.model, self.settings, self.metrics = model, settings, metrics
        self.store = JobStore(settings.folder)
        self._lock = FileLock(settings.folder / "lock", blocking=False, thread_local=False)
        try:
            self._lock.acquire()
        except Timeout as error:
            fix = "Name another folder with --data, or end it"
            raise ConfigError(f"{settings.folder}: another service keeps its jobs there", fix=fix) from error
        self._works: dict[str, RunningJob] = {}
        self._waiting: deque[RunningJob] = deque()
        self._seats: dict[object, str] = {}  # clients whose uploads are on their way
        self._changed = Condition()
        self._open, self._over = True, False
        self._scoring = Lock()
        for job in self.store.unfinished():
            self._enqueue(RunningJob(job, job.owner))
        self._tidy()
        count = settings.readers or default_workers()
        self._threads = [Thread(target=self._serve, name=f"desk {number}", daemon=True) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def reserve(self, client: str) -> object:
        """Reserve a seat for an upload; it counts as waiting from now on.

        Raises:
            RequestError: 429, the queue or the client's share of it is full; 503, the service ends.
        """
        with self._changed:
            if not self._open:
                raise RequestError(503, "the service is ending", retry_s=30, fix="Ask again when it is back")
            clients = [*(work.client for work in self._works.values()), *self._seats.values()]
            for what, got, most in (
                ("too many clips wait", len(self._waiting) + len(self._seats), self.settings.queue),
                ("too many clips queued or running for this client", clients.count(client), self.settings.per_client),
            ):
                if got >= most:
                    limit, fix = f"{most} at most", f"Ask again in {RETRY_S} s"
                    raise RequestError(429, what, retry_s=RETRY_S, got=got, expected=limit, fix=fix)
            seat = object()
            self._seats[seat] = client
            return seat

    def release(self, seat: object) -> None:
        """Give a seat back; nothing happens if a clip has taken it."""
        with self._changed:
            self._seats.pop(seat, None)

    def add(self, job: Job, seat: object) -> RunningJob:
        """Queue a clip whose upload is complete."""
        self.store.write(job)
        with self._changed:
            work = RunningJob(job, self._seats.pop(seat))
        self._enqueue(work)
        return work

    def work(self, job_id: str) -> RunningJob | None:
        """Find a job that waits or runs."""
        return self._works.get(job_id)

    def delete(self, job_id: str) -> None:
        """Give a job up, and delete it with its results."""
        with self._changed:
            if work := self._works.get(job_id):
                work.is_deleted = True
                if work in self._waiting:
                    self._waiting.remove(work)
                    self._leave(work)
        self.store.delete(job_id)

    @property
    def is_open(self) -> bool:
        """Whether clips are accepted."""
        return self._open and all(thread.is_alive() for thread in self._threads)

    def refuse_more(self) -> None:
        """Accept no more clips; clients that wait for a queued clip get a 202."""
        with self._changed:
            self._open = False
            self._changed.notify_all()
            for work in self._waiting:
                work.tell()

    def close(self) -> None:
        """Give running clips their time, and leave the others to the next service; a second call does nothing."""
        if not self._lock.is_locked:
            return
        self.refuse_more()
        until_s = time.monotonic() + self.settings.drain_s
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))
        self._over = True
        for thread in self._threads:
            thread.join()
        for work in self._works.values():
            work.tell()
        self._lock.release()

    def _enqueue(self, work: RunningJob) -> None:
        with self._changed:
            self._works[work.job.id] = work
            self._waiting.append(work)
            self._count()
            self._changed.notify()
            if not self._open:
                work.tell()

    def _serve(self) -> None:
        reader = MediaWorker(self.settings.bounds)
        try:
            while self._open:
                with suppress(GivenUpError):
                    if work := self._next():
                        self._do(work, reader)
                    else:
                        self._tidy()
        finally:
            reader.end()

    def _tidy(self) -> None:
        with suppress(OSError):  # the folder is away
            self.store.forget(time.time() - self.settings.keep_s)

    def _next(self) -> RunningJob | None:
        """Take the next job of the queue; None after ``TIDY_S`` without one."""
        with self._changed:
            if not self._waiting and self._open:
                self._changed.wait(TIDY_S)
            if not self._waiting or not self._open:
                return None
            work = self._waiting.popleft()
            work.is_running = True
            self._count()
            return work

    def _do(self, work: RunningJob, reader: MediaWorker) -> None:
        """Score a clip and keep the result.

        Raises:
            GivenUpError: the service ends; the job and its upload are left to the next one.
        """
        job, begun_s = work.job, time.monotonic()
        self.metrics.seconds.labels("wait").observe(max(0.0, time.time() - job.created_s))
        try:
            job = replace(job, status=DONE, predictions=self._predict(work, reader))
            self.metrics.seconds.labels("predict").observe(time.monotonic() - begun_s)
        except GivenUpError:
            if not work.is_deleted:
                raise
        except Exception as error:  # no exception of one clip ends the thread
            reason = reason_of(error) if isinstance(error, UNREADABLE) else f"{type(error).__name__}: {error}"
            name = str(self.store.upload(job.id))
            job = replace(job, status=FAILED, error=reason.replace(name, job.name))  # the client's own name for it
        self._keep(replace(job, finished_s=time.time(), about=work.about), work)
        self.metrics.clips.labels("deleted" if work.is_deleted else job.status).inc()
        with self._changed:
            self._leave(work)

    def _keep(self, job: Job, work: RunningJob) -> None:
        """Write a job that is over, unless it was deleted; while the disk is full, wait for room."""
        while not work.is_deleted:
            try:
                self.store.write(job)
                break
            except OutputError as error:
                if self._over:
                    raise GivenUpError from error
                logger.warning("%s", error)
                time.sleep(FULL_S)
        if work.is_deleted:  # perhaps while it was written
            self.store.delete(job.id)

    def _check(self, work: RunningJob) -> None:
        """Raise GivenUpError if the clip was deleted, or the service ends."""
        if work.is_deleted or self._over:
            raise GivenUpError

    def _predict(self, work: RunningJob, reader: MediaWorker) -> list[Prediction]:
        """Read and score a job's clip: one prediction, or one per person.

        Raises:
            MediaError: the clip cannot be read.
            GivenUpError: the clip was deleted, or the service ends.
        """
        job, path = work.job, self.store.upload(work.job.id)
        options = PredictOptions(**{name: value for name, value in job.request.items() if name != "threshold"})
        predictor = Predictor(self.model, options, lock=self._scoring)
        segments = _watch(reader.read(path, predictor.reading, check=lambda: self._check(work)), work)
        predictions = predictor.predict_segments(str(path), segments)
        work.about["duration_s"] = predictions[0].duration_s
        return [replace(prediction, path=job.name) for prediction in predictions]

    def _leave(self, work: RunningJob) -> None:
        """Delete the upload of a job that is over, and end its client's wait."""
        with suppress(OSError):  # it cannot be deleted now; the next start will
            self.store.upload(work.job.id).unlink(missing_ok=True)
        self._works.pop(work.job.id, None)
        self._count()
        work.tell()

    def _count(self) -> None:
        self.metrics.queued.set(len(self._waiting))
        self.metrics.running.set(len(self._works) - len(self._waiting))


def _watch(pieces: Iterator[MediaInfo | Segment], work: RunningJob) -> Iterator[Segment]:
    """Pass parts and windows on, and note size, length, progress and the voice's level."""
    about = work.about
    for piece in pieces:
        if isinstance(piece, MediaInfo):
            about["voice_level"] = {"step_s": STRETCH_S, "db": []} if piece.has_audio else None
            about |= {"width_px": piece.width_px or None, "height_px": piece.height_px or None}
            about["duration_s"] = piece.duration_s
            continue
        kind, window = piece
        if kind == MAX_SEGMENT and about["voice_level"] and window.waveform is not None:
            about["voice_level"]["db"] += levels_db(window.waveform)
        work.progress = min(0.99, window.end_s / (about["duration_s"] or window.end_s + MAX_SEGMENT.length_s))
        yield piece
