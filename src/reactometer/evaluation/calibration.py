"""Calibration of each label: slope, intercept and bias, and mean targets by size of the prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reactometer.evaluation.bootstrap import CLIPS, Interval, Resampling, interval, moments
from reactometer.evaluation.metrics import MIN_STD, Array

MAX_BINS = 10
CLIPS_PER_BIN = 10
"""There are as many bins as have this many clips each, at least two and at most ten; our choice."""


@dataclass(frozen=True)
class Bin:
    """Clips with predictions of similar size; all bins have about as many clips."""

    prediction: float  # mean
    truth: Interval  # mean
    n_clips: int


@dataclass(frozen=True)
class LabelReliability:
    """Relation of targets to predictions for one label."""

    label: str
    slope: Interval | None  # of truth on prediction; 1 where calibrated; None: the prediction is constant
    intercept: Interval | None  # the truth that belongs to a prediction of 0; 0 where calibrated
    bias: Interval  # mean prediction less mean truth
    bins: tuple[Bin, ...]  # from small to large predictions


def measure_reliability(
    targets: npt.ArrayLike, predictions: npt.ArrayLike, labels: Sequence[str], how: Resampling = CLIPS
) -> tuple[LabelReliability, ...]:
    """Fit a line of targets on predictions, (clips, L) each, label by label; bin them; with 95% percentile intervals.

    The calibration slope and intercept of Cox (Biometrika 45, 1958), linear since intensities are: a slope below 1
    says that predictions are too far apart. Bins keep their clips in all resamples. Checked against
    ``scipy.stats.linregress``, and by simulation with known targets.

    Raises:
        ScoreError: as :func:`~reactometer.evaluation.metrics.measure`.
    """
    truth, guess = np.asarray(targets, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
    middle, centre = truth.mean(axis=0), guess.mean(axis=0)
    numbers = how.resample(moments(truth, guess), lambda sums: _fit_line(sums, middle, centre))  # (1 + R, 3, L)
    n_bins = min(MAX_BINS, max(2, len(truth) // CLIPS_PER_BIN))
    rank = guess.argsort(axis=0, kind="stable").argsort(axis=0)  # (clips, L)
    inside = rank[:, :, None] * n_bins // len(truth) == np.arange(n_bins)  # (clips, L, bins)

    def bin_means(sums: Array) -> Array:  # (R, L, bins); NaN if none of the bin's clips is drawn
        total, count = np.split(sums.reshape(-1, 2 * len(labels), n_bins), 2, axis=1)
        return np.where(count > 0, total / np.maximum(count, 1.0), np.nan)

    columns = np.concatenate([inside * truth[:, :, None], inside], axis=1).reshape(len(truth), -1)
    means = how.resample(columns, bin_means)  # (1 + R, L, bins)
    by_label = []
    for place, label in enumerate(labels):
        slope, intercept = (interval(own) if np.isfinite(own[0]) else None for own in numbers[:, :2, place].T)
        bins = tuple(
            Bin(float(guess[own, place].mean()), interval(means[:, place, number]), int(own.sum()))
            for number, own in enumerate(inside[:, place].T)
        )
        by_label.append(LabelReliability(label, slope, intercept, interval(numbers[:, 2, place]), bins))
    return tuple(by_label)


def _fit_line(sums: Array, middle: Array, centre: Array) -> Array:
    """Return (R, 3, L) slope, intercept and bias; ``middle`` and ``centre`` are what :func:`moments` subtracted.

    Slope and intercept are NaN if the predictions are constant.
    """
    truth, guess, _, guess_square, product, _, error = np.split(sums[:, 1:] / sums[:, :1], 7, axis=1)  # (R, L) each
    variance = guess_square - guess**2
    varies = variance > MIN_STD**2
    slope = np.where(varies, (product - truth * guess) / np.where(varies, variance, 1.0), np.nan)
    return np.stack([slope, truth + middle - slope * (guess + centre), error], axis=1)
