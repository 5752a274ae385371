"""A live session: pieces wait in an inbox, are scored as they come, and their scores are timed and written."""

from __future__ import annotations

import csv
import json
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from reactometer.errors import OutputError
from reactometer.io import make_folder, unwritable
from reactometer.live.protocol import Kind, LiveScore, Piece, score_as_json
from reactometer.live.scorer import LiveScorer
from reactometer.media.video import GRID_TOLERANCE_S
from reactometer.types import ENDS, SOUND_RATE_HZ

PAUSE_S = 0.1
"""Longest wait for a frame, after which sound without frames is scored."""

RECENT = 30
"""Number of scores that the displayed rate is computed from."""

MOST_WAITING = 500
"""Pieces of sound that the inbox holds; beyond, the oldest are lost. Ten seconds of 20 ms each."""

MOST_LATENCIES = 100_000

MOST_SOUNDS = 10_000
"""Pieces of sound whose arrival is remembered until a score contains them; after a clock went back, no score does."""

ENDINGS = (".csv", ".jsonl")


class Inbox:
    """Pieces in from one thread, out to another.

    Frames that come faster than ``rate_hz`` are ignored: as offline, the first at or after each point of that grid is
    wanted. The newest wanted frame waits; a frame that it replaces is counted as dropped. No sound is dropped.
    """

    def __init__(self, rate_hz: float) -> None:
        self.rate_hz = rate_hz
        self.dropped = 0
        self.closed = False
        self._point = 0  # of the grid, from which on a frame is wanted
        self._frame: Piece | None = None
        self._sounds: deque[Piece] = deque(maxlen=MOST_WAITING)
        self._changed = threading.Condition()

    def put(self, piece: Piece) -> None:
        """Add a piece; never waits."""
        with self._changed:
            if piece.kind is Kind.SOUND:
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

    def take(self, timeout_s: float) -> Sequence[Piece]:
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


@dataclass(frozen=True)
class Told:
    """A score, how long it took, and what was dropped before it."""

    score: LiveScore
    latency_s: float | None  # from the arrival of the newest frame (or sound, if no frames come) until now
    dropped: int  # frames, so far


class Arrivals:
    """When pieces arrived that no score has contained yet."""

    def __init__(self) -> None:
        self.frames: dict[float, float] = {}  # moment of arrival by the frame's time
        self.sounds: deque[tuple[float, float]] = deque(maxlen=MOST_SOUNDS)  # end and moment of arrival
        self.sees = False

    def note(self, piece: Piece) -> None:
        """Remember a piece that is about to be scored."""
        if callable(piece.content):
            self.sees, self.frames[piece.time_s] = True, piece.arrived_s
        else:
            self.sounds.append((piece.time_s + len(piece.content) / SOUND_RATE_HZ, piece.arrived_s))

    def latency_s(self, score: LiveScore) -> float | None:
        """Seconds since the newest piece arrived that this score is the first to contain; None if it has no new one."""
        heard_s = None
        while self.sounds and self.sounds[0][0] <= score.time_s + 1e-3:
            heard_s = self.sounds.popleft()[1]
        seen_s = self.frames.pop(score.frame_s, None) if score.frame_s is not None else None
        for passed_s in [at_s for at_s in self.frames if score.frame_s is not None and at_s < score.frame_s]:
            self.frames.pop(passed_s, None)
        arrived_s = seen_s if self.sees else heard_s
        return None if arrived_s is None else time.monotonic() - arrived_s


def score_here(scorer: LiveScorer, inbox: Inbox) -> Iterator[Told]:
    """Score what comes into the inbox, until it is closed and empty."""
    arrivals = Arrivals()
    while True:
        over = inbox.closed
        pieces = inbox.take(PAUSE_S)
        for piece in pieces:
            arrivals.note(piece)
            scorer.take(piece)
        score = scorer.score() if pieces else None
        if score is not None:
            yield Told(score, arrivals.latency_s(score), inbox.dropped)
        if over:
            return


class LiveStats:
    """Number, rate and latency of scores."""

    def __init__(self) -> None:
        self.scores = self.dropped = 0
        self.latencies_s: deque[float] = deque(maxlen=MOST_LATENCIES)
        self._first_s = self._last_s = 0.0
        self._recent: deque[float] = deque(maxlen=RECENT)

    def add(self, told: Told) -> None:
        """Count a score that came now."""
        self._last_s = time.monotonic()
        self._first_s = self._first_s or self._last_s
        self._recent.append(self._last_s)
        self.scores, self.dropped = self.scores + 1, told.dropped
        if told.latency_s is not None:
            self.latencies_s.append(told.latency_s)

    @property
    def rate_hz(self) -> float:
        """Scores per second, of the most recent ones."""
        return _rate(len(self._recent), self._recent[-1] - self._recent[0]) if self._recent else 0.0

    @property
    def mean_rate_hz(self) -> float:
        """Scores per second, of all."""
        return _rate(self.scores, self._last_s - self._first_s)

    def latency_ms(self, percentile: float) -> float | None:
        """Percentile of the latencies, milliseconds; None if there are none."""
        return 1000 * float(np.percentile(self.latencies_s, percentile)) if self.latencies_s else None


class LiveRows:
    """A file with one row per score, flushed immediately; a context manager.

    Args:
        path: ``.csv``, with columns ``LABEL``, ``LABEL_low`` …; or ``.jsonl``, with the objects of the protocol.
        labels: L names.

    Raises:
        OutputError: another ending, or a file that cannot be written.
    """

    def __init__(self, path: Path, labels: tuple[str, ...]) -> None:
        self.path, self.labels = path, labels
        if path.suffix not in ENDINGS:
            raise OutputError(f"{path}: cannot be written live", expected=" or ".join(ENDINGS))
        make_folder(path.parent)
        try:
            self.file = path.open("w", encoding="utf-8", newline="")
        except OSError as error:
            raise unwritable(path, error) from error
        self.writer: csv.DictWriter[str] | None = None

    def add(self, told: Told) -> None:
        """Write a score, its latency and the number of frames dropped so far."""
        latency_ms = None if told.latency_s is None else round(1000 * told.latency_s, 1)
        row = {**score_as_json(told.score, self.labels), "latency_ms": latency_ms, "dropped": told.dropped}
        if self.path.suffix == ".jsonl":
            self.file.write(json.dumps(row) + "\n")
        else:
            row = _flat(row, self.labels)
            if self.writer is None:
                self.writer = csv.DictWriter(self.file, list(row))
                self.writer.writeheader()
            self.writer.writerow(row)
        self.file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def _flat(row: dict[str, Any], labels: tuple[str, ...]) -> dict[str, Any]:
    """The row with one column per label and interval bound, and the face's box as text."""
    values = row["intensities"] or {}
    columns = {label: values.get(label, {}).get("value") for label in labels}
    columns |= {f"{label}_{end}": values.get(label, {}).get(end) for label in labels for end in ENDS}
    face = "" if row["face"] is None else " ".join(str(round(value)) for value in row["face"])
    rest = {name: value for name, value in row.items() if name not in ("intensities", "latency_ms", "dropped")}
    return {**rest, "face": face, **columns, "latency_ms": row["latency_ms"], "dropped": row["dropped"]}


def _rate(count: int, span_s: float) -> float:
    return (count - 1) / span_s if span_s > 0 else 0.0
