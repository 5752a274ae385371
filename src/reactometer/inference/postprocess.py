"""Smooth a timeline, and subtract what the person shows at rest."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from reactometer.errors import ConfigError
from reactometer.types import Prediction

RUNNING_S, RUNNING_QUANTILE = 60.0, 0.2
"""A running baseline: this quantile of the windows of the last minute; our choice."""


@dataclass(frozen=True)
class Baseline:
    """A span in which the person is at rest; without bounds, a running baseline."""

    start_s: float | None = None
    end_s: float | None = None


def parse_baseline(text: str, window_s: float) -> Baseline:
    """Read "0-3s", "12.5-20" (seconds) or "running".

    Raises:
        ConfigError: it is none of them, or no window of ``window_s`` fits into it.
    """
    if text.strip().lower() == "running":
        return Baseline()
    stretch = parse_span(text)
    if stretch is None:
        raise ConfigError("not a baseline", got=f"'{text}'", expected="a stretch in seconds such as 0-3s, or running")
    if stretch[1] - stretch[0] < window_s:
        raise ConfigError(
            "the baseline is shorter than a window of the timeline",
            got=f"'{text}' and windows of {window_s:g} s",
            fix="Name a longer stretch, or use a shorter window",
        )
    return Baseline(*stretch)


def parse_span(text: str) -> tuple[float, float] | None:
    """Parse "0-3s" or "12.5-20" into its start and end, seconds; return ``None`` for other text."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*s?\s*-\s*(\d+(?:\.\d+)?)\s*s?\s*", text)
    return (float(found[1]), float(found[2])) if found else None


def refine(prediction: Prediction, smooth_s: float, baseline: Baseline | None) -> Prediction:
    """Smooth the timeline, then subtract the baseline, if there is a timeline."""
    if not prediction.windows:
        return prediction
    smoothed = smooth(prediction, smooth_s)
    return smoothed if baseline is None else subtract_baseline(smoothed, baseline)


def smooth(prediction: Prediction, span_s: float) -> Prediction:
    """Replace each window's intensities by the weighted mean of those around it; empty windows stay empty.

    The weights are a Hann window of ``span_s`` seconds around the window's middle; 0 changes nothing.
    """
    if span_s == 0.0:
        return prediction
    values = prediction.timeline  # (K, L)
    known = ~np.isnan(values).any(axis=1)  # (K,)
    given, at_s = values[known], prediction.middles_s[known]  # in order of time
    first, end = np.searchsorted(at_s, at_s - span_s / 2), np.searchsorted(at_s, at_s + span_s / 2, side="right")
    smoothed = np.empty_like(given)
    for index, near in enumerate(map(slice, first, end)):
        weights = np.cos(np.pi * (at_s[near] - at_s[index]) / span_s) ** 2
        smoothed[index] = weights @ given[near] / weights.sum()
    values[known] = smoothed
    return _with_values(prediction, values, f"smoothed: Hann-weighted mean over {span_s:g} s")


def subtract_baseline(prediction: Prediction, baseline: Baseline) -> Prediction:
    """Subtract what the person shows at rest from each emotion, down to 0, and say so in the notes.

    A span of the file gives the mean of the windows inside it, which is subtracted from all windows and from the
    file's own intensities. A running baseline gives, for each window, the lower fifth of the last minute including
    itself; the file's own intensities stay unchanged. If no window in the span has a value, nothing changes.
    """
    values = prediction.timeline  # (K, L)
    if baseline.start_s is None or baseline.end_s is None:
        rest = _running(values, prediction.middles_s)  # (K, L)
        note = f"baseline: lower fifth of the last {RUNNING_S:g} s, subtracted; the file's own intensities are as given"
        return _with_values(prediction, np.maximum(values - rest, 0.0), note)
    stretch = f"{baseline.start_s:g} to {baseline.end_s:g} s"
    within = [
        baseline.start_s <= window.start_s and window.end_s <= baseline.end_s and window.intensities is not None
        for window in prediction.windows
    ]
    if not any(within):
        note = f"baseline: no window with a face or sound lies in {stretch}; values are as the model gave them"
        return replace(prediction, notes=(*prediction.notes, note))
    rest = values[within].mean(axis=0)  # (L,)
    note = f"baseline: mean of what {stretch} show (windows: {sum(within)}), subtracted"
    refined = _with_values(prediction, np.maximum(values - rest, 0.0), note)
    if prediction.intensities is None:
        return replace(refined, intervals=None)
    whole = np.maximum(np.array(prediction.intensities) - rest, 0.0)  # (L,)
    return replace(refined, intensities=tuple(whole.tolist()), intervals=None)


def _running(values: np.ndarray, middles_s: np.ndarray) -> np.ndarray:
    """Return the (K, L) running baseline, from the past only."""
    rest = np.full(values.shape, np.nan)
    for index, now_s in enumerate(middles_s):
        lately = values[: index + 1][middles_s[: index + 1] > now_s - RUNNING_S]
        lately = lately[~np.isnan(lately).any(axis=1)]
        if len(lately):
            rest[index] = np.quantile(lately, RUNNING_QUANTILE, axis=0)
    return rest


def _with_values(prediction: Prediction, values: np.ndarray, note: str) -> Prediction:
    if prediction.coverage:
        note += "; intervals are of values as the model gave them, so these have none"
    windows = tuple(
        replace(window, intensities=None if np.isnan(row).any() else tuple(map(float, row)), intervals=None)
        for window, row in zip(prediction.windows, values, strict=True)
    )
    return replace(prediction, windows=windows, notes=(*prediction.notes, note))
