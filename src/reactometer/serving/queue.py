"""The queue of a service: clips wait, are read by processes, scored together, and their results are kept."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Condition, Lock, Thread
from typing import Any

from filelock import FileLock, Timeout

from reactometer.errors import ConfigError, RequestError
from reactometer.inference.checkpoint import LoadedModel
from reactometer.inference.predictor import PredictOptions, Predictor
from reactometer.io import make_folder
from reactometer.machine import default_workers
from reactometer.media.audio import STRETCH_S, levels_db
from reactometer.media.segments import PART, WindowShape
from reactometer.serving.job_store import Job, JobTable, home_of, sqlite_address
from reactometer.serving.metrics import Metrics
from reactometer.types import MediaInfo, Prediction, PreparedClip
from reactometer.workers.decoder import UNREADABLE, reason_of
from reactometer.workers.media_worker import Bounds, Reader

MAX_PIXELS = 4096 * 2304
"""Largest frame of a clip."""

TIDY_S = 60.0
"""Interval at which old results are deleted."""

RETRY_S = 10
"""Time after which a client that was refused may come again. Our choice."""

AWAY_S = 1.0
"""Interval at which a database that is away is tried again."""


@dataclass(frozen=True)
class Limits:
    """Limits of a service."""

    body_bytes: int = 512 * 2**20  # of a request
    upload_s: float = 600.0  # from a request's first byte to its last
    bounds: Bounds = field(default_factory=lambda: Bounds(duration_s=3600.0, pixels=MAX_PIXELS))  # of a clip
    wait_s: float = 30.0  # clips that take longer are answered by a 202
    queue: int = 64  # clips that wait
    per_client: int = 8  # clips of one client that wait or run
    keep_s: float = 24 * 3600.0  # results
    drain_s: float = 30.0  # time that running clips are given when the service ends


@dataclass(frozen=True)
class Settings:
    """Settings of a service."""

    folder: Path  # jobs, and uploads until they are scored
    database: str | None = None  # address for SQLAlchemy; None: SQLite inside the folder
    keys: dict[str, str] = field(default_factory=dict)  # key by client's name; empty: no key is needed
    hosts: tuple[str, ...] = ("*",)  # host names of the service
    readers: int | None = None  # processes that read files; None: one per CPU
    limits: Limits = Limits()


class GivenUpError(Exception):
    """The clip was deleted, or the service ends."""


@dataclass(eq=False)
class Seat:
    """Room in the queue for an upload that is on its way."""

    client: str


@dataclass(eq=False)
class Work:
    """A job that waits or runs, and what is known of its clip so far."""

    job: Job
    client: str  # whose limit it counts for
    told: Future[None] = field(default_factory=Future)  # done when the job is over, or left to the next service
    wanted: bool = True
    progress: float = 0.0  # in [0, 1]
    about: dict[str, Any] = field(default_factory=dict)  # as in the document: size, length, the voice's level

    def tell(self) -> None:
        """End the client's wait for the answer."""
        if not self.told.done():
            self.told.set_result(None)

    def check(self) -> None:
        """Raise GivenUpError if the clip is no longer wanted."""
        if not self.wanted:
            raise GivenUpError


class Desk:
    """Takes clips, scores them in as many threads as there are readers, and keeps the results."""

    def __init__(self, model: LoadedModel, settings: Settings, metrics: Metrics) -> None:
        """Open the folder and the database, and resume what an earlier service left.

        Raises:
            ConfigError: another service has the folder, or the database cannot be opened.
        """
        self.model, self.limits, self.metrics = model, settings.limits, metrics
        self.uploads = make_folder(settings.folder / "uploads")
        self._lock = FileLock(settings.folder / "lock", blocking=False, thread_local=False)
        self._claim(settings.folder)
        self.table = JobTable(
            settings.database or sqlite_address(settings.folder / "jobs.db"), home_of(settings.folder)
        )
        self._works: dict[str, Work] = {}
        self._waiting: deque[Work] = deque()
        self._seats: list[Seat] = []
        self._changed = Condition()
        self._open = True
        self._scoring = Lock()
        self._go_on()
        count = settings.readers or default_workers()
        self._threads = [Thread(target=self._serve, name=f"desk {number}", daemon=True) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def reserve(self, client: str) -> Seat:
        """Reserve room for an upload; it counts as waiting from now on.

        Raises:
            RequestError: 429, the queue or the client's share of it is full; 503, the service ends.
        """
        with self._changed:
            waiting = len(self._waiting) + len(self._seats)
            clients = [entry.client for entries in (self._works.values(), self._seats) for entry in entries]
            of_client = clients.count(client)
            if not self._open:
                raise RequestError(503, "the service is ending", retry_s=30, fix="Ask again when it is back")
            if waiting >= self.limits.queue:
                what, got, most = "too many clips wait", waiting, self.limits.queue
            elif of_client >= self.limits.per_client:
                what, got, most = "too many clips queued or running for this client", of_client, self.limits.per_client
            else:
                seat = Seat(client)
                self._seats.append(seat)
                return seat
        expected = f"{most} at most"
        raise RequestError(429, what, retry_s=RETRY_S, got=got, expected=expected, fix=f"Ask again in {RETRY_S} s")

    def release(self, seat: Seat) -> None:
        """Give the room back; nothing happens if a clip has taken it."""
        with self._changed:
            self._seats = [other for other in self._seats if other is not seat]

    def new_place(self) -> tuple[str, Path]:
        """Make an id that nobody can guess, and the path of that job's upload."""
        job_id = secrets.token_urlsafe(18)
        return job_id, self.uploads / job_id

    def add(self, job: Job, seat: Seat) -> Work:
        """Queue a clip whose file is complete and whose request passed :meth:`check_request`."""
        self.table.add(job)
        self.release(seat)
        return self._enqueue(Work(job, seat.client))

    def check_request(self, options: PredictOptions) -> None:
        """Refuse settings that ``predict`` refuses.

        Raises:
            ConfigError, ModelError: as :func:`reactometer.inference.predictor.predict`.
        """
        Predictor(self.model, options)

    def work(self, job_id: str) -> Work | None:
        """Find a job that waits or runs."""
        return self._works.get(job_id)

    def delete(self, job: Job) -> None:
        """Give a job up, and delete it with its results."""
        with self._changed:
            if work := self._works.get(job.id):
                work.wanted = False
                if work in self._waiting:
                    self._waiting.remove(work)
                    self._leave(work)
        self.table.delete(job.id)

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
        until_s = time.monotonic() + self.limits.drain_s
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))
        for work in self._works.values():
            work.wanted = False
        for thread in self._threads:
            thread.join()
        for work in self._works.values():
            work.tell()
        self.table.engine.dispose()
        self._lock.release()

    def _claim(self, folder: Path) -> None:
        try:
            self._lock.acquire()
        except Timeout as error:
            raise ConfigError(
                f"{folder}: another service keeps its jobs there", fix="Name another folder with --data, or end it"
            ) from error

    def _go_on(self) -> None:
        """Queue what was not finished, and delete uploads without a job."""
        self._tidy()
        left = self.table.unfinished()
        for job in left:
            self.table.requeue(job.id)
            self._enqueue(Work(job, job.owner))
        for file in self.uploads.iterdir():
            if file.name not in {job.id for job in left}:
                file.unlink()

    def _enqueue(self, work: Work) -> Work:
        with self._changed:
            self._works[work.job.id] = work
            self._waiting.append(work)
            self._count()
            self._changed.notify()
            if not self._open:
                work.tell()
        return work

    def _serve(self) -> None:
        reader = Reader(self.limits.bounds)
        try:
            while self._open:
                with suppress(RequestError):  # the database is away, and will be back
                    if work := self._next():
                        self._do(work, reader)
                    else:
                        self._tidy()
        finally:
            reader.end()

    def _keep(self, change: Callable[[], None]) -> None:
        """Make a change to the table; while the database is away, wait for it until the service ends."""
        while True:
            try:
                return change()
            except RequestError:
                if not self._open:
                    raise
                time.sleep(AWAY_S)

    def _tidy(self) -> None:
        self.table.forget(time.time() - self.limits.keep_s)

    def _next(self) -> Work | None:
        """Take the next job of the queue; None after ``TIDY_S`` without one."""
        with self._changed:
            if not self._waiting and self._open:
                self._changed.wait(TIDY_S)
            if not self._waiting or not self._open:
                return None
            work = self._waiting.popleft()
            self._count()
            return work

    def _do(self, work: Work, reader: Reader) -> None:
        job, begun_s = work.job, time.monotonic()
        self.metrics.seconds.labels("wait").observe(max(0.0, time.time() - job.created_s))
        try:
            self._keep(lambda: self.table.begin(job.id))
            predictions = self._predict(work, reader)
            self._keep(lambda: self.table.finish(job.id, work.about, predictions))
            self.metrics.seconds.labels("predict").observe(time.monotonic() - begun_s)
            outcome = "done"
        except GivenUpError:
            if not self._open and self.table.get(job.id):
                self.table.requeue(job.id)  # with its upload, for the next service
                return
            outcome = "deleted"
        except RequestError:  # the service ends, and the next one does it again
            raise
        except Exception as error:  # no exception of one clip ends the thread
            reason = reason_of(error) if isinstance(error, UNREADABLE) else f"{type(error).__name__}: {error}"
            reason = reason.replace(job.path, job.name)  # the client's own name for the file
            self._keep(lambda: self.table.fail(job.id, work.about, reason))
            outcome = "failed"
        self.metrics.clips.labels(outcome).inc()
        with self._changed:
            self._leave(work)

    def _predict(self, work: Work, reader: Reader) -> list[Prediction]:
        """Read and score a job's clip: one prediction, or one per person.

        Raises:
            MediaError: the clip cannot be read.
            GivenUpError: the clip is no longer wanted.
        """
        job = work.job
        options = PredictOptions(**{name: value for name, value in job.request.items() if name != "threshold"})
        predictor = Predictor(self.model, options, lock=self._scoring)
        segments = self._watch(reader.read(Path(job.path), predictor.reading, check=work.check), work)
        predictions = predictor.predict_segments(job.path, segments)
        work.about["duration_s"] = predictions[0].duration_s
        return [replace(prediction, path=job.name) for prediction in predictions]

    def _watch(
        self, pieces: Iterator[MediaInfo | tuple[WindowShape, PreparedClip]], work: Work
    ) -> Iterator[tuple[WindowShape, PreparedClip]]:
        """Pass parts and windows on, and note size, length, progress and the voice's level."""
        about = work.about
        for piece in pieces:
            if isinstance(piece, MediaInfo):
                level = {"step_s": STRETCH_S, "db": []} if piece.has_audio else None
                size = {"width_px": piece.width_px or None, "height_px": piece.height_px or None}
                about |= {**size, "duration_s": piece.duration_s, "voice_level": level}
                continue
            kind, window = piece
            if kind == PART and about["voice_level"] and window.waveform is not None:
                about["voice_level"]["db"] += levels_db(window.waveform)
            work.progress = min(0.99, window.end_s / (about["duration_s"] or window.end_s + PART.length_s))
            yield piece

    def _leave(self, work: Work) -> None:
        """Delete the upload of a job that is over, and end its client's wait."""
        with suppress(OSError):  # it cannot be deleted now; the next start will
            (self.uploads / work.job.id).unlink(missing_ok=True)
        self._works.pop(work.job.id, None)
        self._count()
        work.tell()

    def _count(self) -> None:
        self.metrics.queued.set(len(self._waiting))
        self.metrics.running.set(len(self._works) - len(self._waiting))
