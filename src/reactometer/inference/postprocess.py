"""Smooth a timeline, subtract the person's baseline at rest, and find events in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal

import numpy as np

from reactometer.errors import ConfigError
from reactometer.inference.prediction import Event, Prediction

DEFAULT_THRESHOLD = 0.5


def check_threshold(threshold: float) -> None:
    """Raise ConfigError for a threshold that is out of (0, 1]."""
    if not 0.0 < threshold <= 1.0:
        raise ConfigError("event threshold out of range", got=f"{threshold:g}", expected="above 0, at most 1")


def find_events(prediction: Prediction, threshold: float = DEFAULT_THRESHOLD) -> list[Event]:
    """Return all runs of windows with an intensity of at least ``threshold``, in (0, 1], in the order of
    their onsets.

    A window's value counts at its middle. Onset and offset are interpolated where the line between two
    windows crosses the threshold. They are half-way to a window without a value, and at the file's ends the
    bounds of the window.

    Raises:
        ConfigError: the threshold is out of range.
    """
    check_threshold(threshold)
    events = [
        event for index in range(len(prediction.labels)) for event in _events(prediction, index, threshold)
    ]
    return sorted(events, key=lambda event: (event.onset_s, event.label))


def _events(prediction: Prediction, index: int, threshold: float) -> Iterator[Event]:
    windows = prediction.windows
    values = prediction.timeline.values[:, index]  # K, (K,)
    middles_s: list[float] = prediction.timeline.times_s.tolist()

    def crossing_s(inside: int, outside: int, edge_s: float) -> float:
        """Return the time where the line to the next window crosses the threshold; ``edge_s`` at a file
        end."""
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


RUNNING_S, RUNNING_QUANTILE = 60.0, 0.2
"""Running baseline: this quantile of the windows of the last minute."""


Baseline = tuple[float, float] | Literal["running"]
"""Start and end of a time range in which the person is at rest, seconds; or a running baseline."""


def parse_baseline(text: str, window_s: float) -> Baseline:
    """Read "0-3s", "12.5-20" (seconds) or "running".

    Raises:
        ConfigError: the text is none of these, or the span is shorter than ``window_s``.
    """
    if text.strip().lower() == "running":
        return "running"
    span = parse_span(text)
    if span is None:
        raise ConfigError("invalid baseline", got=f"'{text}'", expected="seconds such as 0-3s, or running")
    if span[1] - span[0] < window_s:
        raise ConfigError(
            "the baseline is shorter than a window of the timeline",
            got=f"'{text}' and windows of {window_s:g} s",
            fix="Use a longer baseline or a shorter window",
        )
    return span


def parse_span(text: str) -> tuple[float, float] | None:
    """Parse "0-3s" or "12.5-20" into its start and end, seconds; return ``None`` for other text."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*s?\s*-\s*(\d+(?:\.\d+)?)\s*s?\s*", text)
    return (float(match[1]), float(match[2])) if match else None


NO_INTERVALS = "no intervals, because they are calibrated on unchanged values"

SUMMARIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda values: np.asarray(values.mean(axis=0)),
    "max": lambda values: np.asarray(values.max(axis=0)),
    "p90": lambda values: np.quantile(values, 0.9, axis=0),
}
"""Statistics of (K, L) windows by name, as values of a whole file instead of the model's."""


def refine(
    prediction: Prediction, smooth_s: float, baseline: Baseline | None, summary: str = "model"
) -> Prediction:
    """Smooth the timeline, subtract the baseline, then summarise the timeline, if there is one."""
    if not prediction.windows:
        return prediction
    refined = smooth(prediction, smooth_s)
    if baseline is not None:
        refined = subtract_baseline(refined, baseline)
    values = refined.timeline.values  # (K, L)
    values = values[~np.isnan(values).any(axis=1)]
    if summary == "model" or not len(values):
        return refined
    note = f"summary: {summary} of the windows"
    if refined.intervals:
        note += f"; {NO_INTERVALS}"
    intensities = tuple(SUMMARIES[summary](values).tolist())
    return replace(refined, intensities=intensities, intervals=None, notes=(*refined.notes, note))


def smooth(prediction: Prediction, span_s: float) -> Prediction:
    """Replace each window's intensities by the weighted mean of those around it; empty windows stay empty.

    The weights are a Hann window of ``span_s`` seconds around the window's middle; 0 changes nothing.
    """
    if span_s == 0.0:
        return prediction
    values = prediction.timeline.values  # (K, L)
    valid = ~np.isnan(values).any(axis=1)  # (K,)
    raw = values[valid]
    times_s = prediction.timeline.times_s[valid]  # in temporal order
    first = np.searchsorted(times_s, times_s - span_s / 2)
    end = np.searchsorted(times_s, times_s + span_s / 2, side="right")
    smoothed = np.empty_like(raw)
    for index, near in enumerate(map(slice, first, end)):
        weights = np.cos(np.pi * (times_s[near] - times_s[index]) / span_s) ** 2
        smoothed[index] = weights @ raw[near] / weights.sum()
    values[valid] = smoothed
    return _with_values(prediction, values, f"smoothed: Hann-weighted mean over {span_s:g} s")


def subtract_baseline(prediction: Prediction, baseline: Baseline) -> Prediction:
    """Subtract the baseline at rest from each emotion, down to 0, and add a note.

    A span of the file gives the mean of the windows inside it, which is subtracted from all windows and from
    the file's intensities. A running baseline gives, for each window, the lower fifth of the last minute
    including itself; the file's intensities do not change. If no window in the span has a value, nothing
    changes.
    """
    values = prediction.timeline.values  # (K, L)
    if baseline == "running":
        rest = _running(values, prediction.timeline.times_s)  # (K, L)
        note = f"baseline: lower fifth of the last {RUNNING_S:g} s, subtracted; "
        note += "the file's intensities are unchanged"
        return _with_values(prediction, np.maximum(values - rest, 0.0), note)
    start_s, end_s = baseline
    span = f"{start_s:g} to {end_s:g} s"
    within = [
        start_s <= window.start_s and window.end_s <= end_s and window.intensities is not None
        for window in prediction.windows
    ]
    if not any(within):
        note = f"baseline: no window with a face or sound in {span}; values are unchanged"
        return replace(prediction, notes=(*prediction.notes, note))
    rest = values[within].mean(axis=0)  # (L,)
    note = f"baseline: mean of {span} (windows: {sum(within)}), subtracted"
    if prediction.intervals:
        note += f"; {NO_INTERVALS}"
    refined = _with_values(prediction, np.maximum(values - rest, 0.0), note)
    if prediction.intensities is None:
        return replace(refined, intervals=None)
    whole = np.maximum(np.array(prediction.intensities) - rest, 0.0)  # (L,)
    return replace(refined, intensities=tuple(whole.tolist()), intervals=None)


def _running(values: np.ndarray, middles_s: np.ndarray) -> np.ndarray:
    """Return the (K, L) running baseline, from the past only."""
    rest = np.full(values.shape, np.nan)
    for index, now_s in enumerate(middles_s):
        recent = values[: index + 1][middles_s[: index + 1] > now_s - RUNNING_S]
        recent = recent[~np.isnan(recent).any(axis=1)]
        if len(recent):
            rest[index] = np.quantile(recent, RUNNING_QUANTILE, axis=0)
    return rest


def _with_values(prediction: Prediction, values: np.ndarray, note: str) -> Prediction:
    windows = tuple(
        replace(window, intensities=None if np.isnan(row).any() else tuple(map(float, row)))
        for window, row in zip(prediction.windows, values, strict=True)
    )
    return replace(prediction, windows=windows, notes=(*prediction.notes, note))
