"""What all readers bring is scored together: one thread, batches shared by all clips under way."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from threading import Thread

from reactometer.inference.cuts import Drawn
from reactometer.inference.predictor import make_scorer
from reactometer.models.folder import LoadedModel
from reactometer.records import PreparedClip

MOST_AT_ONCE = 64
"""Parts and windows of all clips that are scored together, unless one clip alone brings more; our choice."""

_Waiting = tuple[Sequence[PreparedClip], "Future[list[Drawn]]"]


class SharedScorer:
    """Scores parts and windows of any clip, called from any thread: those that wait meanwhile are the next batch."""

    def __init__(self, model: LoadedModel) -> None:
        self._score = make_scorer(model, [{} for _ in model.each])
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name="scorer", daemon=True)
        self._thread.start()

    def __call__(self, clips: Sequence[PreparedClip]) -> list[Drawn]:
        """What the model says of each, see :data:`reactometer.inference.cuts.Scorer`; waits for it."""
        future: Future[list[Drawn]] = Future()
        self._queue.put((clips, future))
        return future.result()

    def close(self) -> None:
        """End the thread, when all that waits is scored."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            batch, last = self._gather(first)
            self._score_all(batch)
            if last:
                return

    def _gather(self, first: _Waiting) -> tuple[list[_Waiting], bool]:
        """The first and those that wait behind it; whether the queue was closed meanwhile."""
        batch = [first]
        while sum(len(clips) for clips, _ in batch) < MOST_AT_ONCE:
            try:
                other = self._queue.get_nowait()
            except Empty:
                break
            if other is None:
                return batch, True
            batch.append(other)
        return batch, False

    def _score_all(self, batch: Sequence[_Waiting]) -> None:
        try:
            drawn = iter(self._score([clip for clips, _ in batch for clip in clips]))
            for clips, future in batch:
                future.set_result([next(drawn) for _ in clips])
        except Exception as error:
            if len(batch) == 1:
                batch[0][1].set_exception(error)  # its clip tells of it; the thread goes on
            else:
                for own in batch:
                    self._score_all([own])
