"""The job queue: clips are read by worker processes and scored; results are saved in the job store. Its
metrics."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Condition, Lock, Thread
from typing import Any

from filelock import FileLock, Timeout
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from reactometer.errors import ConfigError, OutputError, RequestError
from reactometer.inference.checkpoint import LoadedModel
from reactometer.inference.prediction import Prediction
from reactometer.inference.predictor import PredictOptions, Predictor
from reactometer.machine import default_workers
from reactometer.media.audio import LEVEL_INTERVAL_S, levels_db
from reactometer.media.segments import MAX_SEGMENT
from reactometer.serving.job_store import DONE, FAILED, Job, JobStore
from reactometer.types import MediaInfo
from reactometer.workers.decoder import READ_ERRORS, Segment, error_message
from reactometer.workers.media_worker import MediaWorker, ResourceLimits

SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)


class ServiceMetrics:
    """Prometheus counters of one service, in a separate registry."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "reactometer_requests",
            "Number of requests by route and status.",
            ("route", "status"),
            registry=registry,
        )
        self.clips = Counter(
            "reactometer_clips", "Number of clips by outcome.", ("outcome",), registry=registry
        )
        self.seconds = Histogram(
            "reactometer_clip_seconds",
            "Seconds per clip in each stage: wait (in the queue), predict.",
            ("stage",),
            buckets=SECONDS,
            registry=registry,
        )
        self.queued = Gauge("reactometer_queue_clips", "Number of clips in the queue.", registry=registry)
        self.running = Gauge("reactometer_running_clips", "Number of running clips.", registry=registry)
        self.live = Gauge("reactometer_live_sessions", "Number of open live sessions.", registry=registry)


logger = logging.getLogger(__name__)

MAX_PIXELS = 4096 * 2304
"""Maximum frame size of a clip, pixels."""

PURGE_INTERVAL_S = 60.0
"""Interval between deletions of old results, seconds."""

RETRY_AFTER_S = 10
"""Retry-After of a refused upload, seconds."""

DISK_FULL_RETRY_S = 1.0
"""Interval between attempts to save a result while the disk is full, seconds."""


@dataclass(frozen=True)
class Settings:
    """Settings and limits of a service."""

    folder: Path  # jobs and uploads
    keys: dict[str, str] = field(default_factory=dict)  # key by client name; empty: no authentication
    hosts: tuple[str, ...] = ("*",)  # allowed host names
    readers: int | None = None  # decoder processes; None: one per CPU
    body_bytes: int = 512 * 2**20  # maximum size of a request
    upload_s: float = 600.0  # maximum time of an upload
    bounds: ResourceLimits = field(
        default_factory=lambda: ResourceLimits(duration_s=3600.0, pixels=MAX_PIXELS)
    )
    wait_s: float = 30.0  # slower clips are answered by 202
    max_queued: int = 64  # clips
    max_per_client: int = 8  # queued or running clips
    keep_s: float = 24 * 3600.0  # age at which results are deleted
    drain_s: float = 30.0  # time for running clips at shutdown
    live_sessions: int = 4
    live_start_s: float = 10.0  # timeout of a live session's first message
    live_idle_s: float = 30.0  # timeout between its messages


class JobStoppedError(Exception):
    """The clip was deleted, or the service is shutting down."""


@dataclass(eq=False)
class ActiveJob:
    """State of a queued or running job."""

    job: Job
    client: str  # name or address, for the limit per client
    completion: Future[None] = field(
        default_factory=Future
    )  # resolved when the job ends or stays queued at shutdown
    is_running: bool = False
    is_deleted: bool = False
    progress: float = 0.0  # in [0, 1]
    media: dict[str, Any] = field(default_factory=dict)  # frame size, duration, voice level

    def notify(self) -> None:
        """Wake the request that waits for the result."""
        if not self.completion.done():
            self.completion.set_result(None)


class JobQueue:
    """Queue of clips with one scoring thread per decoder process."""

    def __init__(self, model: LoadedModel, settings: Settings, metrics: ServiceMetrics) -> None:
        """Lock the folder, and resume the queued clips of an earlier process.

        Raises:
            ConfigError: another service uses the folder.
            OutputError: the folder is not writable.
        """
        self.model = model
        self.settings = settings
        self.metrics = metrics
        self.store = JobStore(settings.folder)
        self._lock = FileLock(settings.folder / "lock", blocking=False, thread_local=False)
        try:
            self._lock.acquire()
        except Timeout as error:
            fix = "Choose another folder with --jobs, or stop the other service"
            raise ConfigError(f"{settings.folder}: another service uses this folder", fix=fix) from error
        self.active: dict[str, ActiveJob] = {}  # queued and running jobs by id
        self._queued: deque[ActiveJob] = deque()
        self._reservations: dict[object, str] = {}  # clients of uploads in progress
        metrics.queued.set_function(lambda: len(self._queued))
        metrics.running.set_function(lambda: len(self.active) - len(self._queued))
        self._changed = Condition()
        self._is_accepting = True
        self._is_closed = False
        self._scoring = Lock()
        for job in self.store.unfinished():
            self._enqueue(ActiveJob(job, job.owner))
        self._purge()
        count = settings.readers or default_workers()
        self._threads = [Thread(target=self._run_worker, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    @contextmanager
    def reserve(self, client: str) -> Iterator[object]:
        """Reserve a slot of the queue for an upload; :meth:`add` uses it.

        Raises:
            RequestError: 429, the queue is full or the client is at its limit; 503, the service is shutting
                down.
        """
        with self._changed:
            if not self._is_accepting:
                raise RequestError(503, "the service is shutting down", retry_s=30, fix="Try again in 30 s")
            clients = [*(active.client for active in self.active.values()), *self._reservations.values()]
            n_waiting = len(self._queued) + len(self._reservations)
            settings = self.settings
            for problem, count, limit in (
                ("too many clips in the queue", n_waiting, settings.max_queued),
                (
                    "too many clips queued or running for this client",
                    clients.count(client),
                    settings.max_per_client,
                ),
            ):
                if count >= limit:
                    expected = f"at most {limit}"
                    fix = f"Try again in {RETRY_AFTER_S} s"
                    raise RequestError(
                        429, problem, retry_s=RETRY_AFTER_S, got=count, expected=expected, fix=fix
                    )
            reservation = object()
            self._reservations[reservation] = client
        try:
            yield reservation
        finally:
            with self._changed:
                self._reservations.pop(reservation, None)

    def add(self, job: Job, reservation: object) -> ActiveJob:
        """Queue a clip whose upload is complete."""
        self.store.write(job)
        with self._changed:
            active = ActiveJob(job, self._reservations.pop(reservation))
        self._enqueue(active)
        return active

    def delete(self, job_id: str) -> None:
        """Stop a job, and delete it with its results."""
        with self._changed:
            if active := self.active.get(job_id):
                active.is_deleted = True
                if active in self._queued:
                    self._queued.remove(active)
                    self._finish(active)
        self.store.delete(job_id)

    @property
    def is_open(self) -> bool:
        """True if the service accepts clips."""
        return self._is_accepting and all(thread.is_alive() for thread in self._threads)

    def stop_accepting(self) -> None:
        """Refuse new clips, and answer requests of queued clips by 202."""
        with self._changed:
            self._is_accepting = False
            self._changed.notify_all()
            for active in self._queued:
                active.notify()

    def close(self) -> None:
        """Wait ``drain_s`` for running clips; the other clips stay queued on the disk. Idempotent."""
        if not self._lock.is_locked:
            return
        self.stop_accepting()
        deadline = time.monotonic() + self.settings.drain_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._is_closed = True
        for thread in self._threads:
            thread.join()
        for active in self.active.values():
            active.notify()
        self._lock.release()

    def _enqueue(self, active: ActiveJob) -> None:
        with self._changed:
            self.active[active.job.id] = active
            self._queued.append(active)
            self._changed.notify()
            if not self._is_accepting:
                active.notify()

    def _run_worker(self) -> None:
        worker = MediaWorker(self.settings.bounds)
        try:
            while self._is_accepting:
                with suppress(JobStoppedError):
                    if active := self._next_job():
                        self._process(active, worker)
                    else:
                        self._purge()
        finally:
            worker.close()

    def _purge(self) -> None:
        with suppress(OSError):  # the folder was deleted
            self.store.purge(time.time() - self.settings.keep_s)

    def _next_job(self) -> ActiveJob | None:
        """Take the next job of the queue; None after ``PURGE_INTERVAL_S`` without one."""
        with self._changed:
            if not self._queued and self._is_accepting:
                self._changed.wait(PURGE_INTERVAL_S)
            if not self._queued or not self._is_accepting:
                return None
            active = self._queued.popleft()
            active.is_running = True
            return active

    def _process(self, active: ActiveJob, worker: MediaWorker) -> None:
        """Score a clip and save the result.

        Raises:
            JobStoppedError: the service is shutting down; the job stays queued on the disk.
        """
        job, start = active.job, time.monotonic()
        self.metrics.seconds.labels("wait").observe(max(0.0, time.time() - job.created_s))
        try:
            job = replace(job, status=DONE, predictions=self._predict(active, worker))
            self.metrics.seconds.labels("predict").observe(time.monotonic() - start)
        except JobStoppedError:
            if not active.is_deleted:
                raise
        except Exception as error:  # one clip must not end the thread
            reason = (
                error_message(error) if isinstance(error, READ_ERRORS) else f"{type(error).__name__}: {error}"
            )
            name = str(self.store.upload(job.id))
            job = replace(job, status=FAILED, error=reason.replace(name, job.name))  # no paths of the server
        self._save_with_retry(replace(job, finished_s=time.time(), media=active.media), active)
        self.metrics.clips.labels("deleted" if active.is_deleted else job.status).inc()
        with self._changed:
            self._finish(active)

    def _save_with_retry(self, job: Job, active: ActiveJob) -> None:
        """Save a finished job unless it was deleted; retry while the disk is full."""
        while not active.is_deleted:
            try:
                self.store.write(job)
                break
            except OutputError as error:
                if self._is_closed:
                    raise JobStoppedError from error
                logger.warning("%s", error)
                time.sleep(DISK_FULL_RETRY_S)
        if active.is_deleted:  # possibly during the write
            self.store.delete(job.id)

    def _check(self, active: ActiveJob) -> None:
        """Raise JobStoppedError if the clip was deleted or the service is shutting down."""
        if active.is_deleted or self._is_closed:
            raise JobStoppedError

    def _predict(self, active: ActiveJob, worker: MediaWorker) -> list[Prediction]:
        """Decode and score the clip of a job: one prediction, or one per person.

        Raises:
            MediaError: the clip cannot be decoded.
            JobStoppedError: the clip was deleted, or the service is shutting down.
        """
        job, path = active.job, self.store.upload(active.job.id)
        options = PredictOptions(
            **{name: value for name, value in job.request.items() if name != "threshold"}
        )
        predictor = Predictor(self.model, options, lock=self._scoring)
        segments = _track_progress(
            worker.read(path, predictor.decode_spec, check=lambda: self._check(active)), active
        )
        predictions = predictor.predict_segments(str(path), segments)
        active.media["duration_s"] = predictions[0].duration_s
        return [replace(prediction, path=job.name) for prediction in predictions]

    def _finish(self, active: ActiveJob) -> None:
        """Delete the upload of a finished job, and wake its request."""
        with suppress(OSError):  # the next start deletes it
            self.store.upload(active.job.id).unlink(missing_ok=True)
        self.active.pop(active.job.id, None)
        active.notify()


def _track_progress(items: Iterator[MediaInfo | Segment], active: ActiveJob) -> Iterator[Segment]:
    """Yield segments, and record frame size, duration, progress and voice level."""
    media = active.media
    for item in items:
        if isinstance(item, MediaInfo):
            media["voice_level"] = {"step_s": LEVEL_INTERVAL_S, "db": []} if item.has_audio else None
            media |= {"width_px": item.width_px or None, "height_px": item.height_px or None}
            media["duration_s"] = item.duration_s
            continue
        spec, window = item
        if spec == MAX_SEGMENT and media["voice_level"] and window.waveform is not None:
            media["voice_level"]["db"] += levels_db(window.waveform)
        active.progress = min(
            0.99, window.end_s / (media["duration_s"] or window.end_s + MAX_SEGMENT.length_s)
        )
        yield item
