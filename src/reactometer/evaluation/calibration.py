"""Do the numbers mean what they say? Slope, intercept and bias of each label, and truth by size of the prediction."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reactometer.evaluation.bootstrap import N_RESAMPLES, Interval, interval, moments, resample, sum_by_unit
from reactometer.evaluation.metrics import LEAST_SPREAD, Array

MOST_BINS = 10
CLIPS_A_BIN = 10
"""As many bins as have so many clips each, at least two and at most ten; our choice."""


@dataclass(frozen=True)
class Bin:
    """The clips whose predictions lie next to each other, as many as in every other bin."""

    prediction: float  # mean
    truth: Interval  # mean
    n_clips: int


@dataclass(frozen=True)
class LabelReliability:
    """How truth goes with prediction for one label."""

    label: str
    slope: Interval | None  # of truth on prediction; 1 where calibrated; None: the prediction is constant
    intercept: Interval | None  # the truth that belongs to a prediction of 0; 0 where calibrated
    bias: Interval  # mean prediction less mean truth
    bins: tuple[Bin, ...]  # from small to large predictions


@dataclass(frozen=True)
class Reliability:
    """All labels' reliability on one set of clips."""

    by_label: tuple[LabelReliability, ...]
    unit: str  # what was drawn: "person", "stimulus" or "clip"
    n_units: int
    n_resamples: int


def measure_reliability(
    targets: npt.ArrayLike,
    predictions: npt.ArrayLike,
    labels: Sequence[str],
    *,
    unit: str = "clip",
    groups: Sequence[Hashable] | None = None,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Reliability:
    """Least squares of truth on prediction, label by label, bias, and a binned curve, with 95 % percentile intervals.

    The calibration slope and intercept of Cox (Biometrika 45, 1958), linear since intensities are: a slope below 1
    says that predictions are too far apart. Bins keep their clips in all resamples. Checked against
    ``scipy.stats.linregress``, and by simulation with known targets.

    Args:
        targets: (clips, L) in [0, 1].
        predictions: (clips, L).
        labels: L names.
        unit, groups, n_resamples, seed: as of :func:`~reactometer.evaluation.bootstrap.bootstrap_metrics`.

    Raises:
        ScoreError: as there.
    """
    truth, guess = np.asarray(targets, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
    units, middle, centre = moments(truth, guess, groups), truth.mean(axis=0), guess.mean(axis=0)
    numbers = resample(units, lambda sums: _fit_line(sums, middle, centre), n_resamples, seed)  # (1 + R, 3, L)
    orders = [
        np.array_split(own, min(MOST_BINS, max(2, len(truth) // CLIPS_A_BIN)))
        for own in guess.argsort(axis=0, kind="stable").T
    ]
    inside = np.zeros((len(truth), len(labels), len(orders[0])))  # (clips, L, bins), 1 where the clip is in the bin
    for place, order in enumerate(orders):
        for number, clips in enumerate(order):
            inside[clips, place, number] = 1.0

    def bin_means(sums: Array) -> Array:  # (R, L, bins); NaN if none of the bin's clips is drawn
        total, count = np.split(sums.reshape(-1, 2 * len(labels), inside.shape[2]), 2, axis=1)
        return np.where(count > 0, total / np.maximum(count, 1.0), np.nan)

    columns = np.concatenate([inside * truth[:, :, None], inside], axis=1).reshape(len(truth), -1)
    means = resample(sum_by_unit(columns, groups), bin_means, n_resamples, seed)
    by_label = []
    for place, (label, order) in enumerate(zip(labels, orders, strict=True)):
        slope, intercept = (interval(own) if np.isfinite(own[0]) else None for own in numbers[:, :2, place].T)
        bins = tuple(
            Bin(float(guess[own, place].mean()), interval(means[:, place, number]), len(own))
            for number, own in enumerate(order)
        )
        by_label.append(LabelReliability(label, slope, intercept, interval(numbers[:, 2, place]), bins))
    return Reliability(tuple(by_label), unit, len(units), n_resamples)


def _fit_line(sums: Array, middle: Array, centre: Array) -> Array:
    """Return (R, 3, L) slope, intercept and bias; ``middle`` and ``centre`` are what :func:`moments` subtracted.

    Slope and intercept are NaN if the predictions are constant.
    """
    truth, guess, _, guess_square, product, _, error = np.split(sums[:, 1:] / sums[:, :1], 7, axis=1)  # (R, L) each
    variance = guess_square - guess**2
    varies = variance > LEAST_SPREAD**2
    slope = np.where(varies, (product - truth * guess) / np.where(varies, variance, 1.0), np.nan)
    return np.stack([slope, truth + middle - slope * (guess + centre), error], axis=1)
