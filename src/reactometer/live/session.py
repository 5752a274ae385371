"""A live session from pieces to scores on this machine, and how often and how fast they came."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from reactometer.inference.inbox import Inbox
from reactometer.live.scorer import LiveScore, LiveScorer
from reactometer.records import SOUND_RATE_HZ, Piece

PAUSE_S = 0.1
"""Where sound comes without frames, it is scored so often; our choice."""

RECENT = 30
"""Scores that the rate shown is taken of."""

MOST_LATENCIES = 100_000

MOST_SOUNDS = 10_000
"""Pieces of sound that wait for the score that tells of them; after a clock went back, none does."""


@dataclass(frozen=True)
class Told:
    """A score as it reaches whoever asked for it."""

    score: LiveScore
    latency_s: float | None  # from the arrival of the newest frame (or sound, where there are none) until now
    dropped: int  # frames, so far


class Arrivals:
    """When pieces arrived that were not seen in a score yet."""

    def __init__(self) -> None:
        self.frames: dict[float, float] = {}  # moment of arrival by the frame's time
        self.sounds: deque[tuple[float, float]] = deque(maxlen=MOST_SOUNDS)  # end and moment of arrival
        self.sees = False

    def note(self, piece: Piece) -> None:
        """A piece that is about to be scored."""
        if callable(piece.content):
            self.sees, self.frames[piece.time_s] = True, piece.arrived_s
        else:
            self.sounds.append((piece.time_s + len(piece.content) / SOUND_RATE_HZ, piece.arrived_s))

    def latency_s(self, score: LiveScore) -> float | None:
        """How long ago the newest piece arrived that this score is the first to tell of; None: it tells of none."""
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
    """Counts scores and how long they took."""

    def __init__(self) -> None:
        self.scores = self.dropped = 0
        self.latencies_s: deque[float] = deque(maxlen=MOST_LATENCIES)
        self._first_s = self._last_s = 0.0
        self._recent: deque[float] = deque(maxlen=RECENT)

    def add(self, told: Told) -> None:
        """Count one that came now."""
        self._last_s = time.monotonic()
        self._first_s = self._first_s or self._last_s
        self._recent.append(self._last_s)
        self.scores, self.dropped = self.scores + 1, told.dropped
        if told.latency_s is not None:
            self.latencies_s.append(told.latency_s)

    @property
    def rate_hz(self) -> float:
        """Scores a second, of the last ones."""
        return _rate(len(self._recent), self._recent[-1] - self._recent[0]) if self._recent else 0.0

    @property
    def mean_rate_hz(self) -> float:
        """Scores a second, of all."""
        return _rate(self.scores, self._last_s - self._first_s)

    def latency_ms(self, percentile: float) -> float | None:
        """Of the latencies, milliseconds; None where there are none."""
        return 1000 * float(np.percentile(self.latencies_s, percentile)) if self.latencies_s else None


def _rate(count: int, span_s: float) -> float:
    return (count - 1) / span_s if span_s > 0 else 0.0
