"""A timeline as the model gave it -> smoothed, and less what the person shows at rest; it says what was done."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from reactometer.errors import ConfigError
from reactometer.types import Prediction, Window

RUNNING_S, RUNNING_QUANTILE = 60.0, 0.2
"""A running baseline: this quantile of the windows of the last minute; our choice."""


@dataclass(frozen=True)
class Baseline:
    """What counts as the person at rest: a stretch of the file, or, without one, the windows so far."""

    start_s: float | None = None
    end_s: float | None = None


def parse_baseline(text: str, window_s: float) -> Baseline:
    """Read "0-3s", "12.5-20" (seconds) or "running".

    Raises:
        ConfigError: it is none of them, or no window of ``window_s`` fits into it.
    """
    if text.strip().lower() == "running":
        return Baseline()
    stretch = parse_stretch(text)
    if stretch is None:
        raise ConfigError("not a baseline", got=f"'{text}'", expected="a stretch in seconds such as 0-3s, or running")
    if stretch[1] - stretch[0] < window_s:
        raise ConfigError(
            "the baseline is shorter than a window of the timeline",
            got=f"'{text}' and windows of {window_s:g} s",
            fix="Name a longer stretch, or use a shorter window",
        )
    return Baseline(*stretch)


def parse_stretch(text: str) -> tuple[float, float] | None:
    """Where "0-3s" or "12.5-20" (seconds) begins and ends; ``None`` where it is no such stretch."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*s?\s*-\s*(\d+(?:\.\d+)?)\s*s?\s*", text)
    return (float(found[1]), float(found[2])) if found else None


def check_span(span_s: float) -> None:
    """Refuse a smoothing that is no length of time.

    Raises:
        ConfigError: it is negative, or not a number.
    """
    if not 0.0 <= span_s < np.inf:
        raise ConfigError("smoothing is over a length of time", got=f"{span_s:g} s", expected="0 s or more")


def refine(prediction: Prediction, smooth_s: float, baseline: Baseline | None) -> Prediction:
    """Smooth the timeline, and subtract a baseline, where there is a timeline and either is asked for."""
    if not prediction.windows:
        return prediction
    smoothed = smooth(prediction, smooth_s)
    return smoothed if baseline is None else subtract_baseline(smoothed, baseline)


def smooth(prediction: Prediction, span_s: float) -> Prediction:
    """Each window's intensities become a weighted mean of those around it; a window with none stays so.

    Args:
        prediction: with windows.
        span_s: the weights are a Hann window of this length, seconds, around the middle of each window; 0: none.
    """
    if span_s == 0.0:
        return prediction
    values = _values(prediction)  # (K, L), not a number where there is none
    known = ~np.isnan(values).any(axis=1)  # (K,)
    own, at_s = values[known], _middles_s(prediction.windows)[known]  # in order of time
    first, end = np.searchsorted(at_s, at_s - span_s / 2), np.searchsorted(at_s, at_s + span_s / 2, side="right")
    smoothed = np.empty_like(own)
    for place, near in enumerate(map(slice, first, end)):
        weights = np.cos(np.pi * (at_s[near] - at_s[place]) / span_s) ** 2
        smoothed[place] = weights @ own[near] / weights.sum()
    values[known] = smoothed
    note = f"smoothed: Hann-weighted mean over {span_s:g} s"
    return _with_values(prediction, values, note)


def subtract_baseline(prediction: Prediction, baseline: Baseline) -> Prediction:
    """Intensities above what the person shows at rest: less the baseline of each emotion, and not below 0.

    Args:
        prediction: of one person, with windows.
        baseline: a stretch of the file: the mean of the windows inside it, taken from all windows and from the file's
            own intensities. Or a running one: of each window, the lower fifth of what the last minute showed, its own
            time included; the file's own intensities stay as they are.

    Returns:
        The same with other values, and a note that says what was done; unchanged, and the note says so, where the
        stretch shows and says nothing.
    """
    values, whole = _values(prediction), prediction.intensities  # (K, L)
    if baseline.start_s is None or baseline.end_s is None:
        rest = _running(values, _middles_s(prediction.windows))  # (K, L)
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
    lifted = None if whole is None else tuple(float(value) for value in np.maximum(np.array(whole) - rest, 0.0))
    refined = _with_values(prediction, np.maximum(values - rest, 0.0), note)
    return replace(refined, intensities=lifted, intervals=None)


def _running(values: np.ndarray, middles_s: np.ndarray) -> np.ndarray:
    """(K, L) baseline of each window from those of the last ``RUNNING_S``; nobody knows the future."""
    rest = np.full(values.shape, np.nan)
    for place, now_s in enumerate(middles_s):
        lately = values[: place + 1][middles_s[: place + 1] > now_s - RUNNING_S]
        lately = lately[~np.isnan(lately).any(axis=1)]
        if len(lately):
            rest[place] = np.quantile(lately, RUNNING_QUANTILE, axis=0)
    return rest


def _middles_s(windows: Sequence[Window]) -> np.ndarray:
    return np.array([(window.start_s + window.end_s) / 2 for window in windows])  # (K,)


def _values(prediction: Prediction) -> np.ndarray:
    """(K, L) intensities of the windows, not a number where there are none."""
    nothing = (np.nan,) * len(prediction.labels)
    return np.array([window.intensities or nothing for window in prediction.windows])


def _with_values(prediction: Prediction, values: np.ndarray, note: str) -> Prediction:
    if prediction.coverage:
        note += "; intervals are of values as the model gave them, so these have none"
    windows = tuple(
        replace(window, intensities=None if np.isnan(row).any() else tuple(map(float, row)), intervals=None)
        for window, row in zip(prediction.windows, values, strict=True)
    )
    return replace(prediction, windows=windows, notes=(*prediction.notes, note))
