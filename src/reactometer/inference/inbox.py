"""What waits for a live scorer: all sound, and of frames the newest, so that it never falls behind."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from reactometer.media.video import GRID_TOLERANCE_S
from reactometer.records import Kind, Piece

MOST_WAITING = 500
"""Pieces of sound that are held; beyond, the oldest are lost. Ten seconds of 20 ms each."""


class Inbox:
    """Pieces in from one thread, out to another.

    Frames that come faster than ``rate_hz`` are not wanted: as offline, the first at or after each point of that grid
    is. Of the wanted ones the newest waits; one that it replaces, unseen, is counted as dropped.
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
        """Leave a piece; never waits."""
        with self._changed:
            if piece.kind is Kind.SOUND:
                self._sounds.append(piece)
            elif self._is_wanted(piece.time_s):
                self.dropped += self._frame is not None
                self._frame = piece
            self._changed.notify()

    def close(self) -> None:
        """Nothing more will come, or is wanted; what is there can still be taken."""
        with self._changed:
            self.closed = True
            self._changed.notify()

    def take(self, timeout_s: float) -> Sequence[Piece]:
        """Wait for a frame, at most ``timeout_s``, and give all that has come: the sound, and behind it the frame."""
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
