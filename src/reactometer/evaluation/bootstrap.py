"""Bootstrap intervals of scores, by resampling clips, people or stimuli."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from reactometer.errors import DataError, ScoreError, suggestion
from reactometer.evaluation.metrics import MIN_CLIPS, MIN_STD, Array, measure
from reactometer.types import Clip

N_RESAMPLES = 2000
LEVEL = 0.95

MAX_BATCH_COUNTS = 2**20
"""Maximum number of elements per array of resampled counts: 8 MB."""

UNITS = ("person", "stimulus", "clip")
"""Resampling units."""


@dataclass(frozen=True)
class Interval:
    """A score of all clips, and the 95% percentile interval of its resamples."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Resampling:
    """A plan for resampling clips.

    All units are resampled with replacement (Efron & Tibshirani 1993, chapter 13; for whole groups of clips,
    the cluster bootstrap, Davison & Hinkley 1997, section 3.8). One seed and number of units give the same
    resamples.
    """

    unit: str = "clip"  # resampling unit: one of UNITS
    groups: Sequence[Hashable] | None = None  # (clips,) the unit of each clip; None: each clip is one
    n_resamples: int = N_RESAMPLES
    seed: int = 0

    def count_units(self, n_clips: int) -> int:
        """Return the number of resampling units among ``n_clips`` clips."""
        return n_clips if self.groups is None else len(set(self.groups))

    def sum_by_unit(self, rows: Array) -> Array:
        """Sum (clips, columns) within each unit, in the order in which units appear: (units, columns)."""
        if self.groups is None:
            return rows
        unit, names = pd.factorize(
            np.fromiter(self.groups, dtype=object)
        )  # (clips,) index of the clip's unit
        sums = np.zeros((len(names), rows.shape[1]))
        np.add.at(sums, unit, rows)
        return sums

    def resample(self, rows: Array, statistic: Callable[[Array], Array]) -> Array:
        """Compute a statistic of all clips, and of bootstrap resamples.

        Args:
            rows: (clips, columns) values of each clip; the statistic needs only their sums.
            statistic: takes (R, columns) sums over the clips of R resamples, and returns (R, ...).

        Returns:
            (1 + n_resamples, ...) the statistic of the original clips, then of each resample.
        """
        units = self.sum_by_unit(rows)
        rng = np.random.default_rng(self.seed)
        batch_size = max(1, MAX_BATCH_COUNTS // len(units))
        statistics = [statistic(units.sum(axis=0, keepdims=True))]
        for start in range(0, self.n_resamples, batch_size):
            samples = rng.integers(len(units), size=(min(batch_size, self.n_resamples - start), len(units)))
            counts = np.array([np.bincount(row, minlength=len(units)) for row in samples], dtype=np.float64)
            statistics.append(statistic(counts @ units))
        return np.concatenate(statistics)


CLIPS = Resampling()


@dataclass(frozen=True)
class Intervals:
    """Intervals of the scores in :class:`Metrics`, of the same names; ``None`` if a score is undefined."""

    labels: tuple[str, ...]
    mean: dict[str, Interval | None]  # by metric
    by_label: dict[str, tuple[Interval | None, ...]]  # by metric, (L,)
    unit: str  # resampling unit: "person", "stimulus" or "clip"
    n_units: int
    n_resamples: int


def interval(scores: Array) -> Interval:
    """Return the percentile interval of a (1 + n_resamples,) statistic of :meth:`Resampling.resample`."""
    low, high = np.nanquantile(scores[min(1, len(scores) - 1) :], [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0])
    return Interval(float(scores[0]), float(low), float(high))


def choose_units(clips: Sequence[Clip], by: str | None = None, n_resamples: int = N_RESAMPLES) -> Resampling:
    """Choose the resampling unit: ``by``, or people if every clip has one and there are at least 3, else
    clips.

    Clips of one person are not independent.

    Raises:
        DataError: unknown unit, or clips without one.
    """
    if by is not None and by not in UNITS:
        raise DataError(f"clips cannot be resampled by '{by}'", fix=suggestion(by, UNITS))
    unit = by or "person"
    names = [] if unit == "clip" else [getattr(clip, unit) or "" for clip in clips]
    if all(names) and len(set(names)) >= MIN_CLIPS:
        return Resampling(unit, names, n_resamples)
    if by in (None, "clip"):
        return Resampling("clip", None, n_resamples)
    raise DataError(
        f"clips cannot be resampled by {by}",
        got=f"{len(set(names) - {''})} different values, {names.count('')} of {len(names)} clips without one",
        expected=f"a column '{by}' with a value for every clip, at least {MIN_CLIPS} different values",
        fix="Choose another unit with --by",
    )


def bootstrap_metrics(
    targets: npt.ArrayLike, predictions: npt.ArrayLike, labels: Sequence[str], resampling: Resampling = CLIPS
) -> Intervals:
    """Return 95% percentile intervals of Pearson, CCC and MAE of predictions (clips, L) against targets
    (clips, L).

    Checked against ``scipy.stats.bootstrap``, and by simulation with known targets. With 20 units or fewer
    the intervals are too narrow.

    Raises:
        ScoreError: as :func:`measure`.
    """
    metrics = measure(targets, predictions, labels)
    scores = resampling.resample(
        moments(targets, predictions), scores_from_moments
    )  # (1 + R, metrics, 1 + L)
    mean: dict[str, Interval | None] = {}
    by_label: dict[str, tuple[Interval | None, ...]] = {}
    for i, (name, values) in enumerate(metrics.by_metric.items()):
        intervals = [
            None if value is None else interval(scores[:, i, 1 + j]) for j, value in enumerate(values)
        ]
        mean[name] = None if None in intervals else interval(scores[:, i, 0])
        by_label[name] = tuple(intervals)
    n_units = resampling.count_units(metrics.n_clips)
    return Intervals(tuple(labels), mean, by_label, resampling.unit, n_units, resampling.n_resamples)


def bootstrap_mean_pearson(
    targets: npt.ArrayLike,
    predictions: npt.ArrayLike,
    baseline: npt.ArrayLike | None = None,
    resampling: Resampling = CLIPS,
) -> Interval:
    """Return the interval of the mean Pearson, or of its difference from a baseline's on the same resamples.

    Unlike in :func:`measure`, a constant prediction counts as r = 0, and a label that is constant in a
    resample is left out of that resample's mean; otherwise a resample could have no score. All arrays are
    (clips, L).

    Raises:
        ScoreError: as :func:`measure`; or no label varies.
    """

    def mean_pearson(values: npt.ArrayLike) -> Array:
        return resampling.resample(moments(targets, values), lambda sums: scores_from_moments(sums)[:, 0, 0])

    scores = mean_pearson(predictions)
    if np.isnan(scores[0]):
        raise ScoreError("no label varies over these clips", fix="Score a larger split")
    return interval(scores if baseline is None else scores - mean_pearson(baseline))


def moments(targets: npt.ArrayLike, predictions: npt.ArrayLike, centre: Array | None = None) -> Array:
    """Return the moments of each clip, whose sums over clips give all scores.

    Returns:
        (clips, 1 + 7 L): 1, then L columns each of targets about their mean, predictions about their mean (or
        about ``centre``, (L,)), the squares of both, their product, absolute errors, and errors.

    Raises:
        ScoreError: as :func:`measure`.
    """
    targets = np.asarray(targets, dtype=np.float64)
    predictions = np.asarray(predictions, dtype=np.float64)
    measure(
        targets, predictions, [str(index) for index in range(targets.shape[-1])]
    )  # raises if there is no score
    error = predictions - targets
    target = targets - targets.mean(axis=0)
    prediction = predictions - (predictions.mean(axis=0) if centre is None else centre)
    columns = [np.ones((len(error), 1)), target, prediction, target**2, prediction**2, target * prediction]
    return np.hstack([*columns, np.abs(error), error])


def scores_from_moments(sums: Array) -> Array:
    """Score (R, 1 + 7 L) sums of :func:`moments`: (R, metrics, 1 + L), the mean over the labels first.

    Pearson and CCC are 0 if the predictions are constant, and NaN if the targets are; the mean leaves out
    such a label.
    """
    target, prediction, target_square, prediction_square, product, absolute_error, error = np.split(
        sums[:, 1:] / sums[:, :1], 7, axis=1
    )
    target_variance = target_square - target**2
    prediction_variance = prediction_square - prediction**2  # (R, L) each
    covariance = product - target * prediction
    varies = target_variance > MIN_STD**2
    defined = varies & (prediction_variance > MIN_STD**2)
    r = np.where(defined, covariance, 0.0) / np.sqrt(
        np.where(defined, target_variance * prediction_variance, 1.0)
    )
    denominator = target_variance + prediction_variance + error**2
    ccc = np.where(defined, 2.0 * covariance, 0.0) / np.where(defined, denominator, 1.0)
    columns = [np.where(varies, r, np.nan), np.where(varies, ccc, np.nan), absolute_error]
    scores = np.stack(columns, axis=1)  # (R, metrics, L)
    with np.errstate(invalid="ignore"):  # 0 / 0 if no label varies
        means = np.nansum(scores, axis=2, keepdims=True) / np.isfinite(scores).sum(axis=2, keepdims=True)
    return np.concatenate([means, scores], axis=2)
