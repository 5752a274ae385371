"""Find events in a timeline: when an emotion rises above a threshold, peaks, and falls below it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from reactometer.errors import ConfigError
from reactometer.types import Event, Prediction

DEFAULT_THRESHOLD = 0.5


def check_threshold(threshold: float) -> None:
    """Raise ConfigError for a threshold that is out of (0, 1]."""
    if not 0.0 < threshold <= 1.0:
        raise ConfigError("event threshold out of range", got=f"{threshold:g}", expected="above 0, at most 1")


def find_events(prediction: Prediction, threshold: float = DEFAULT_THRESHOLD) -> list[Event]:
    """Return all runs of windows with an intensity of at least ``threshold``, in (0, 1], in the order of their onsets.

    A window's value counts at its middle. Onset and offset are interpolated where the line between two windows crosses
    the threshold. They are half-way to a window without a value, and at the file's ends the bounds of the window.

    Raises:
        ConfigError: the threshold is out of range.
    """
    check_threshold(threshold)
    events = [event for index in range(len(prediction.labels)) for event in _events(prediction, index, threshold)]
    return sorted(events, key=lambda event: (event.onset_s, event.label))


def _events(prediction: Prediction, index: int, threshold: float) -> Iterator[Event]:
    windows, values = prediction.windows, prediction.timeline[:, index]  # K, (K,)
    middles_s: list[float] = prediction.middles_s.tolist()

    def crossing_s(inside: int, outside: int, edge_s: float) -> float:
        """Return the time where the line to the next window crosses the threshold; ``edge_s`` at a file end."""
        if not 0 <= outside < len(windows):
            return edge_s
        if np.isnan(values[outside]):
            return (middles_s[inside] + middles_s[outside]) / 2
        share = (values[inside] - threshold) / (values[inside] - values[outside])
        return float(middles_s[inside] + share * (middles_s[outside] - middles_s[inside]))

    for first, last in _runs(values >= threshold):
        peak = first + int(np.argmax(values[first : last + 1]))
        yield Event(
            label=prediction.labels[index],
            onset_s=crossing_s(first, first - 1, windows[first].start_s),
            peak_s=middles_s[peak],
            offset_s=crossing_s(last, last + 1, windows[last].end_s),
            peak=float(values[peak]),
            mean=float(values[first : last + 1].mean()),
        )


def _runs(above: np.ndarray) -> list[tuple[int, int]]:
    """Return the first and last index of every run of True in (K,) bool."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], above, [False]])))  # starts and ends alternate
    return [(first, end - 1) for first, end in edges.reshape(-1, 2).tolist()]  # (runs, 2)
