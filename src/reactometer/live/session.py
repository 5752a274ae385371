"""Run a live session: queue packets, score them, measure the latency and write the scores."""

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
"""Maximum wait for a frame, seconds; then sound without frames is scored."""

MAX_QUEUED_PACKETS = 500
"""Maximum number of queued sound packets; beyond it, the oldest are dropped. Ten seconds of 20 ms each."""


class FrameQueue:
    """A queue of packets from one thread to another.

    Frames that arrive faster than ``rate_hz`` are ignored: as in a file, the first frame at or after each
    point of that grid is selected. The queue holds the newest selected frame; a frame that it replaces counts
    as dropped.
    """

    def __init__(self, rate_hz: float) -> None:
        self.rate_hz = rate_hz
        self.dropped = 0
        self.closed = False
        self._point = 0  # of the grid, from which on a frame is selected
        self._frame: Packet | None = None
        self._sounds: deque[Packet] = deque(maxlen=MAX_QUEUED_PACKETS)
        self._changed = threading.Condition()

    def put(self, packet: Packet) -> None:
        """Add a packet without waiting."""
        with self._changed:
            if packet.kind is PacketKind.SOUND:
                self._sounds.append(packet)
            elif self._select(packet.time_s):
                self.dropped += self._frame is not None
                self._frame = packet
            self._changed.notify()

    def close(self) -> None:
        """Wake the consumer, and end the session once the queue is empty."""
        with self._changed:
            self.closed = True
            self._changed.notify()

    def get_all(self, timeout_s: float) -> Sequence[Packet]:
        """Wait at most ``timeout_s`` for a frame, and return all packets: the sound, then the frame."""
        with self._changed:
            self._changed.wait_for(lambda: self.closed or self._frame is not None, timeout_s)
            packets = [*self._sounds, *([self._frame] if self._frame else [])]
            self._sounds.clear()
            self._frame = None
        return packets

    def _select(self, time_s: float) -> bool:
        """Return True for the first frame at or after a point of the grid, and move on to the next point."""
        point = int((time_s + GRID_TOLERANCE_S) * self.rate_hz) + 1
        is_due = time_s >= self._point / self.rate_hz - GRID_TOLERANCE_S
        if (
            is_due or point < self._point - self.rate_hz
        ):  # time went back by more than a second: another clock
            self._point = point
            return True
        return False


def run_session(scorer: LiveScorer, queue: FrameQueue) -> Iterator[LiveScore]:
    """Score packets from the queue until it is closed and empty."""
    while True:
        is_closed = queue.closed
        packets = queue.get_all(PAUSE_S)
        for packet in packets:
            scorer.push(packet)
        score = scorer.score() if packets else None
        if score is not None:
            latency_s = time.monotonic() - packets[-1].arrived_s
            yield replace(score, latency_s=latency_s, dropped=queue.dropped)
        if is_closed:
            return


@contextmanager
def live_rows(path: Path, labels: tuple[str, ...]) -> Iterator[Callable[[LiveScore], None]]:
    """Open a CSV file, and yield a function that writes one row per score immediately.

    Raises:
        OutputError: the file extension is not .csv, or the file cannot be written.
    """
    if path.suffix != ".csv":
        raise OutputError(f"{path}: unknown format of live scores", got=path.suffix, expected=".csv")
    make_folder(path.parent)
    with wrap_write_errors(path):
        file = path.open("w", encoding="utf-8", newline="")

    def add(score: LiveScore) -> None:
        row = score_as_json(score, labels)
        values = row.pop("intensities") or {}
        face = row.pop("face") or ()
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
