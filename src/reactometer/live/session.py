"""A live session: pieces wait in an inbox, are scored as they come, and their scores are timed and written."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from reactometer.errors import OutputError
from reactometer.io import format_csv, make_folder, wrap_write_errors
from reactometer.live.protocol import LiveScore, Packet, PacketKind, score_as_json
from reactometer.live.scorer import LiveScorer
from reactometer.media.video import GRID_TOLERANCE_S
from reactometer.types import BOUNDS

PAUSE_S = 0.1
"""Longest wait for a frame, after which sound without frames is scored."""

MAX_QUEUED_PACKETS = 500
"""Pieces of sound that the inbox holds; beyond, the oldest are lost. Ten seconds of 20 ms each."""

MAX_LATENCIES = 100_000


class FrameQueue:
    """Pieces in from one thread, out to another.

    Frames that come faster than ``rate_hz`` are ignored: as offline, the first at or after each point of that grid is
    wanted. The newest wanted frame waits; a frame that it replaces is counted as dropped. No sound is dropped.
    """

    def __init__(self, rate_hz: float) -> None:
        self.rate_hz = rate_hz
        self.dropped = 0
        self.closed = False
        self._point = 0  # of the grid, from which on a frame is wanted
        self._frame: Packet | None = None
        self._sounds: deque[Packet] = deque(maxlen=MAX_QUEUED_PACKETS)
        self._changed = threading.Condition()

    def put(self, piece: Packet) -> None:
        """Add a piece; never waits."""
        with self._changed:
            if piece.kind is PacketKind.SOUND:
                self._sounds.append(piece)
            elif self._is_wanted(piece.time_s):
                self.dropped += self._frame is not None
                self._frame = piece
            self._changed.notify()

    def close(self) -> None:
        """Wake the reader, and end the session once the pieces that are here are taken."""
        with self._changed:
            self.closed = True
            self._changed.notify()

    def take(self, timeout_s: float) -> Sequence[Packet]:
        """Wait for a frame, at most ``timeout_s``, and return all pieces: the sound, then the frame."""
        with self._changed:
            self._changed.wait_for(lambda: self.closed or self._frame is not None, timeout_s)
            pieces = [*self._sounds, *([self._frame] if self._frame else [])]
            self._sounds.clear()
            self._frame = None
        return pieces

    def _is_wanted(self, time_s: float) -> bool:
        point = int((time_s + GRID_TOLERANCE_S) * self.rate_hz) + 1
        wanted = time_s >= self._point / self.rate_hz - GRID_TOLERANCE_S
        if wanted or point < self._point - self.rate_hz:  # or time went back by more than a second: another clock
            self._point = point
            return True
        return False


def run_session(scorer: LiveScorer, inbox: FrameQueue) -> Iterator[LiveScore]:
    """Score what comes into the inbox, until it is closed and empty."""
    while True:
        over = inbox.closed
        pieces = inbox.take(PAUSE_S)
        for piece in pieces:
            scorer.take(piece)
        score = scorer.score() if pieces else None
        if score is not None:
            latency_s = time.monotonic() - pieces[-1].arrived_s
            yield replace(score, latency_s=latency_s, dropped=inbox.dropped)
        if over:
            return


class LiveStats:
    """Number, rate and latency of scores."""

    def __init__(self) -> None:
        self.scores = self.dropped = 0
        self.latencies_s: deque[float] = deque(maxlen=MAX_LATENCIES)
        self._first_s = self._last_s = 0.0

    def add(self, score: LiveScore) -> None:
        """Count a score that came now."""
        self._last_s = time.monotonic()
        self._first_s = self._first_s or self._last_s
        self.scores, self.dropped = self.scores + 1, score.dropped
        self.latencies_s.append(score.latency_s)

    @property
    def rate_hz(self) -> float:
        """Scores per second."""
        span_s = self._last_s - self._first_s
        return (self.scores - 1) / span_s if span_s > 0 else 0.0


@contextmanager
def live_rows(path: Path, labels: tuple[str, ...]) -> Iterator[Callable[[LiveScore], None]]:
    """Open a CSV file, and yield a function that writes the row of a score at once.

    Args:
        path: of the file.
        labels: L names, columns ``LABEL``, ``LABEL_low`` and ``LABEL_high``.

    Raises:
        OutputError: another ending, or a file that cannot be written.
    """
    if path.suffix != ".csv":
        raise OutputError(f"{path}: cannot be written live", expected="a name that ends in .csv")
    make_folder(path.parent)
    with wrap_write_errors(path):
        file = path.open("w", encoding="utf-8", newline="")

    def add(score: LiveScore) -> None:
        row = score_as_json(score, labels)
        values, face = row.pop("intensities") or {}, row.pop("face") or ()
        row["face"] = " ".join(str(round(value)) for value in face)
        row |= {label: values.get(label, {}).get("value") for label in labels}
        row |= {f"{label}_{end}": values.get(label, {}).get(end) for label in labels for end in BOUNDS}
        row["latency_ms"] = round(1000 * score.latency_s, 1)
        if file.tell() == 0:
            file.write(format_csv([row]))
        file.write(format_csv([row.values()]))
        file.flush()

    with file:
        yield add
