"""A timeline -> events: when an emotion rises above a threshold, is at its height, and is over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from reactometer.errors import ConfigError
from reactometer.types import Event, Prediction, Window

DEFAULT_THRESHOLD = 0.5


def check_threshold(threshold: float) -> None:
    """Raise ConfigError for a threshold that is out of (0, 1]."""
    if not 0.0 < threshold <= 1.0:
        raise ConfigError("a threshold of events is an intensity", got=f"{threshold:g}", expected="above 0, at most 1")


def find_events(prediction: Prediction, threshold: float = DEFAULT_THRESHOLD) -> list[Event]:
    """Every stretch of windows whose intensity of an emotion is at or above a threshold.

    A window's value stands for its middle. Onset and offset are where the line between two windows crosses the
    threshold; beside a window without a value they are half-way to it, and at the file's ends where the window itself
    begins or ends. So no two events of an emotion lie over each other.

    Args:
        prediction: of one file, with windows.
        threshold: in (0, 1].

    Returns:
        Events in the order of their onsets.

    Raises:
        ConfigError: a threshold out of its range.
    """
    check_threshold(threshold)
    events = [
        event
        for place, label in enumerate(prediction.labels)
        for event in _events(prediction.windows, place, label, threshold)
    ]
    return sorted(events, key=lambda event: (event.onset_s, event.label))


def _events(windows: Sequence[Window], place: int, label: str, threshold: float) -> Iterator[Event]:
    values = np.array([window.intensities[place] if window.intensities else np.nan for window in windows])  # (K,)
    middles_s = [(window.start_s + window.end_s) / 2 for window in windows]

    def crossing_s(inside: int, outside: int, edge_s: float) -> float:
        """Where the line from one window to its neighbour crosses the threshold; ``edge_s`` at the file's end."""
        if not 0 <= outside < len(windows):
            return edge_s
        if np.isnan(values[outside]):
            return (middles_s[inside] + middles_s[outside]) / 2
        share = (values[inside] - threshold) / (values[inside] - values[outside])
        return float(middles_s[inside] + share * (middles_s[outside] - middles_s[inside]))

    for first, last in _runs(values >= threshold):
        peak = first + int(np.argmax(values[first : last + 1]))
        yield Event(
            label=label,
            onset_s=crossing_s(first, first - 1, windows[first].start_s),
            peak_s=middles_s[peak],
            offset_s=crossing_s(last, last + 1, windows[last].end_s),
            peak=float(values[peak]),
            mean=float(values[first : last + 1].mean()),
        )


def _runs(above: np.ndarray) -> list[tuple[int, int]]:
    """First and last place of every run of True in (K,) bool."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], above, [False]])))  # runs begin, and are over, in turns
    return [(first, end - 1) for first, end in edges.reshape(-1, 2).tolist()]  # (runs, 2)
