"""Clips come in, wait, are read and scored, and what comes of them is kept: the service less HTTP."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition, Thread

from filelock import FileLock, Timeout

from reactometer.batch.work import Request
from reactometer.errors import ConfigError, RequestError
from reactometer.inference.predictor import check_timeline, reading_of
from reactometer.io import make_folder
from reactometer.models.folder import LoadedModel
from reactometer.records import Prediction
from reactometer.serving.clip import Clip, GivenUpError, failure_of, score_clip
from reactometer.serving.job_store import Job, JobTable, home_of, sqlite_address
from reactometer.serving.limits import Settings
from reactometer.serving.metrics import Metrics
from reactometer.serving.scorer import SharedScorer
from reactometer.workers.media_worker import Reader
from reactometer.workers.pool import default_workers

TIDY_S = 60.0
"""So often what is too old is deleted."""

AWAY_S = 1.0
"""So often it is looked whether a database that is away is back."""


@dataclass
class Work:
    """A job that waits or is under way."""

    job: Job
    client: str  # whose limit it counts for
    clip: Clip = field(default_factory=Clip)
    told: Future[None] = field(default_factory=Future)  # it is over, or known to take long

    def tell(self) -> None:
        """Who waits for the answer waits no longer."""
        if not self.told.done():
            self.told.set_result(None)


@dataclass(eq=False)
class Seat:
    """Room for a clip that is on its way."""

    client: str


class Desk:
    """Takes clips, has them scored by as many threads as there are readers, and keeps what comes of them."""

    def __init__(self, model: LoadedModel, settings: Settings, metrics: Metrics) -> None:
        """Open the folder and the database, and go on with what an earlier service left.

        Raises:
            ConfigError: another service has the folder, or there is no such database.
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
        self._open, self._seconds = True, 1.0  # of a clip under way, smoothed
        self._scorer = SharedScorer(model)
        self._go_on()
        count = settings.readers or default_workers()
        self._threads = [Thread(target=self._serve, name=f"desk {place}", daemon=True) for place in range(count)]
        for thread in self._threads:
            thread.start()

    def reserve(self, client: str) -> Seat:
        """A seat for a clip that is on its way, which counts from now on.

        Raises:
            RequestError: 429, too many clips wait, or too many are this client's; 503, the service ends.
        """
        with self._changed:
            waiting = len(self._waiting) + len(self._seats)
            own = [*(work.client for work in self._works.values()), *(seat.client for seat in self._seats)].count(
                client
            )
            retry_s = max(1, min(600, round(self._seconds * (waiting + 1) / len(self._threads))))
            if not self._open:
                raise RequestError(503, "the service is ending", retry_s=30, fix="Ask again when it is back")
            if waiting >= self.limits.queue:
                what, got, most = "too many clips wait", waiting, self.limits.queue
            elif own >= self.limits.per_client:
                what, got, most = "too many clips of yours wait or are under way", own, self.limits.per_client
            else:
                seat = Seat(client)
                self._seats.append(seat)
                return seat
        expected = f"{most} at most"
        raise RequestError(429, what, retry_s=retry_s, got=got, expected=expected, fix=f"Ask again in {retry_s} s")

    def release(self, seat: Seat) -> None:
        """Nothing comes for a seat any more; one that a clip has taken stays taken."""
        with self._changed:
            self._seats = [other for other in self._seats if other is not seat]

    def new_place(self) -> tuple[str, Path]:
        """An id that nobody can guess, and where that job's upload goes."""
        job_id = secrets.token_urlsafe(18)
        return job_id, self.uploads / job_id

    def add(self, job: Job, seat: Seat) -> Work:
        """Take a clip whose file is in its place; its request must have been checked, see :meth:`check_request`."""
        self.table.add(job)
        self.release(seat)
        return self._enqueue(Work(job, seat.client))

    def check_request(self, request: Request) -> None:
        """Refuse settings that ``predict`` refuses.

        Raises:
            ConfigError, ModelError: as :func:`reactometer.inference.predictor.predict`.
        """
        check_timeline(request.window_s, request.hop_s, request.smooth_s, request.baseline)
        reading_of(self.model, request.faces, request.rate_hz)

    def work(self, job_id: str) -> Work | None:
        """A job that waits or is under way."""
        return self._works.get(job_id)

    def delete(self, job: Job) -> None:
        """Give a job up, and forget it with all that came of it."""
        with self._changed:
            if work := self._works.get(job.id):
                work.clip.wanted = False
                if work in self._waiting:
                    self._waiting.remove(work)
                    self._leave(work)
        self.table.delete(job.id)

    @property
    def is_open(self) -> bool:
        """Whether it takes clips."""
        return self._open and all(thread.is_alive() for thread in self._threads)

    def refuse_more(self) -> None:
        """Take no more clips; who waits for one that has not begun is told that it takes its time."""
        with self._changed:
            self._open = False
            self._changed.notify_all()
            for work in self._waiting:
                work.tell()

    def close(self) -> None:
        """Give the clips under way their time, and leave the others to the next service; a second call does nothing."""
        if not self._lock.is_locked:
            return
        self.refuse_more()
        until_s = time.monotonic() + self.limits.drain_s
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))
        for work in self._works.values():
            work.clip.wanted = False
        for thread in self._threads:
            thread.join()
        for work in self._works.values():
            work.tell()
        self._scorer.close()
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
        """Take up what was not finished, and delete uploads that are no job's."""
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
        now_s = time.time()
        self.table.forget(now_s - self.limits.keep_s, now_s)

    def _next(self) -> Work | None:
        """The next in the queue; nothing after a while."""
        with self._changed:
            if not self._waiting and self._open:
                self._changed.wait(TIDY_S)
            if not self._waiting or not self._open:
                return None
            work = self._waiting.popleft()
            self._count()
            return work

    def _do(self, work: Work, reader: Reader) -> None:
        job, clip, begun_s = work.job, work.clip, time.monotonic()
        self.metrics.seconds.labels("wait").observe(max(0.0, time.time() - job.created_s))
        try:
            self._keep(lambda: self.table.begin(job.id))
            predictions = score_clip(self.model, reader, self._scorer, job, clip, lambda: self._on_length(work))
            self._keep(lambda: self.table.finish(job.id, clip.about, predictions))
            self._observe(clip, predictions, time.monotonic() - begun_s)
            outcome = "done"
        except GivenUpError:
            if not self._open and self.table.get(job.id):
                self.table.requeue(job.id)  # with its upload, for the next service
                return
            outcome = "deleted"
        except RequestError:  # the service ends, and the next one does it again
            raise
        except Exception as error:  # whatever one clip brings about, the others go on
            failure = failure_of(error, job)
            self._keep(lambda: self.table.fail(job.id, clip.about, failure))
            outcome = "failed"
        self.metrics.clips.labels(outcome).inc()
        self._seconds += 0.2 * (time.monotonic() - begun_s - self._seconds)
        with self._changed:
            self._leave(work)

    def _on_length(self, work: Work) -> None:
        """Of a long clip, who asked gets the answer that it takes its time."""
        if (work.clip.about["duration_s"] or 0.0) > self.limits.short_s:
            work.tell()

    def _observe(self, clip: Clip, predictions: Sequence[Prediction], whole_s: float) -> None:
        for stage, seconds in (("score", clip.score_s), ("read", whole_s - clip.score_s), ("whole", whole_s)):
            self.metrics.seconds.labels(stage).observe(seconds)
        self.metrics.video_seconds.inc(predictions[0].duration_s or 0.0)
        for own in predictions:
            self.metrics.face_share.observe(own.face_share or 0.0)
        for distances in clip.distances:
            self.metrics.observe_input(distances)

    def _leave(self, work: Work) -> None:
        """A job is over: its upload goes, and who waits for it is told."""
        with suppress(OSError):  # it cannot be deleted now; the next start will
            (self.uploads / work.job.id).unlink(missing_ok=True)
        self._works.pop(work.job.id, None)
        self._count()
        work.tell()

    def _count(self) -> None:
        self.metrics.queued.set(len(self._waiting))
        self.metrics.running.set(len(self._works) - len(self._waiting))
