"""The bootstrap: intervals of scores by resampling clips, or whole people or stimuli."""

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
"""Numbers per array of resampled counts: 8 MB."""

UNITS = ("person", "stimulus", "clip")
"""What can be resampled as a whole."""


@dataclass(frozen=True)
class Interval:
    """A score of all clips, and the 95% percentile interval of its resamples."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Resampling:
    """How clips are resampled.

    Units are drawn with replacement, as many as there are (Efron & Tibshirani 1993, chapter 13; whole groups of clips:
    the cluster bootstrap, Davison & Hinkley 1997, section 3.8). The same seed and number of units draw the same ones.
    """

    unit: str = "clip"  # what is resampled as a whole: one of UNITS
    groups: Sequence[Hashable] | None = None  # (clips,) the unit of each clip; None: each clip is one
    n_resamples: int = N_RESAMPLES
    seed: int = 0

    def count_units(self, n_clips: int) -> int:
        """Return the number of units of so many clips."""
        return n_clips if self.groups is None else len(set(self.groups))

    def sum_by_unit(self, rows: Array) -> Array:
        """Sum (clips, columns) within each unit, in the order in which units appear: (units, columns)."""
        if self.groups is None:
            return rows
        unit, names = pd.factorize(np.fromiter(self.groups, dtype=object))  # (clips,) index of the clip's unit
        sums = np.zeros((len(names), rows.shape[1]))
        np.add.at(sums, unit, rows)
        return sums

    def resample(self, rows: Array, statistic: Callable[[Array], Array]) -> Array:
        """Compute a statistic of all units, and of bootstrap resamples of them.

        Args:
            rows: (clips, columns) what the statistic needs of each clip, to be summed.
            statistic: takes (R, columns) sums over the clips of R resamples, and returns (R, ...).

        Returns:
            (1 + n_resamples, ...) the statistic of the clips as they are, then of each resample.
        """
        units, generator = self.sum_by_unit(rows), np.random.default_rng(self.seed)
        step, found = max(1, MAX_BATCH_COUNTS // len(units)), [statistic(units.sum(axis=0, keepdims=True))]
        for start in range(0, self.n_resamples, step):
            drawn = generator.integers(len(units), size=(min(step, self.n_resamples - start), len(units)))
            counts = np.array([np.bincount(row, minlength=len(units)) for row in drawn], dtype=np.float64)
            found.append(statistic(counts @ units))
        return np.concatenate(found)


CLIPS = Resampling()


@dataclass(frozen=True)
class Intervals:
    """Intervals of the scores in :class:`Metrics`, of the same names; ``None`` where the score is undefined."""

    labels: tuple[str, ...]
    mean: dict[str, Interval | None]  # by kind of score
    by_label: dict[str, tuple[Interval | None, ...]]  # by kind of score, (L,)
    unit: str  # what was resampled: "person", "stimulus" or "clip"
    n_units: int
    n_resamples: int


def interval(scores: Array) -> Interval:
    """Return the percentile interval of a (1 + n_resamples,) statistic of :meth:`Resampling.resample`."""
    low, high = np.nanquantile(scores[min(1, len(scores) - 1) :], [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0])
    return Interval(float(scores[0]), float(low), float(high))


def choose_units(clips: Sequence[Clip], by: str | None = None, n_resamples: int = N_RESAMPLES) -> Resampling:
    """Choose what to resample as a whole: ``by``, or people if every clip has one and there are at least 3, else clips.

    Clips of one person are not independent.

    Raises:
        DataError: no such unit, or a clip has none.
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
        got=f"{len(set(names) - {''})} of them known, {names.count('')} of {len(names)} clips without one",
        expected=f"a column '{by}' with a value for every clip, at least {MIN_CLIPS} different ones",
        fix="Choose another unit with --by",
    )


def bootstrap_metrics(
    targets: npt.ArrayLike, predictions: npt.ArrayLike, labels: Sequence[str], how: Resampling = CLIPS
) -> Intervals:
    """Return 95% percentile intervals of Pearson, CCC and MAE of predictions (clips, L) against targets (clips, L).

    Checked against ``scipy.stats.bootstrap``, and by simulation with known targets. With 20 units or fewer the
    intervals are too narrow.

    Raises:
        ScoreError: as :func:`measure`.
    """
    known = measure(targets, predictions, labels)
    scores = how.resample(moments(targets, predictions), scores_from_moments)  # (1 + R, kinds, 1 + L)
    mean: dict[str, Interval | None] = {}
    by_label: dict[str, tuple[Interval | None, ...]] = {}
    for place, (kind, values) in enumerate(known.by_metric.items()):
        own = [None if value is None else interval(scores[:, place, 1 + at]) for at, value in enumerate(values)]
        mean[kind] = None if None in own else interval(scores[:, place, 0])
        by_label[kind] = tuple(own)
    return Intervals(tuple(labels), mean, by_label, how.unit, how.count_units(known.n_clips), how.n_resamples)


def bootstrap_mean_pearson(
    targets: npt.ArrayLike,
    predictions: npt.ArrayLike,
    baseline: npt.ArrayLike | None = None,
    how: Resampling = CLIPS,
) -> Interval:
    """Return the interval of the mean Pearson, or of how much higher it is than a baseline's on the same resamples.

    Unlike in :func:`measure`, a constant prediction counts as r = 0, and a label that is constant in a resample is
    left out of that resample's mean: else a resample could have no score. All arrays are (clips, L).

    Raises:
        ScoreError: as :func:`measure`; or no label varies.
    """

    def mean_pearson(values: npt.ArrayLike) -> Array:
        return how.resample(moments(targets, values), lambda sums: scores_from_moments(sums)[:, 0, 0])

    scores = mean_pearson(predictions)
    if np.isnan(scores[0]):
        raise ScoreError("no label varies over these clips", fix="Score a larger split")
    return interval(scores if baseline is None else scores - mean_pearson(baseline))


def moments(targets: npt.ArrayLike, predictions: npt.ArrayLike, centre: Array | None = None) -> Array:
    """Return what the scores need of each clip, to be summed.

    Returns:
        (clips, 1 + 7 L): 1, then L columns each of targets about their mean, predictions about their mean (or about
        ``centre``, (L,)), the squares of both, their product, absolute errors, and errors.

    Raises:
        ScoreError: as :func:`measure`.
    """
    truth, guess = np.asarray(targets, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
    measure(truth, guess, [str(place) for place in range(truth.shape[-1])])  # raises where there is no score
    error = guess - truth
    truth, guess = truth - truth.mean(axis=0), guess - (guess.mean(axis=0) if centre is None else centre)
    columns = [np.ones((len(truth), 1)), truth, guess, truth**2, guess**2, truth * guess, np.abs(error), error]
    return np.hstack(columns)


def scores_from_moments(sums: Array) -> Array:
    """Score (R, 1 + 7 L) sums of :func:`moments`: (R, kinds, 1 + L), the mean over the labels first.

    Pearson and CCC are 0 if the predictions are constant, and NaN if the targets are; such a label is left out of the
    mean.
    """
    truth, guess, truth_square, guess_square, product, distance, error = np.split(sums[:, 1:] / sums[:, :1], 7, axis=1)
    truth_variance, guess_variance = truth_square - truth**2, guess_square - guess**2  # (R, L) each
    covariance = product - truth * guess
    varies = truth_variance > MIN_STD**2
    defined = varies & (guess_variance > MIN_STD**2)
    r = np.where(defined, covariance, 0.0) / np.sqrt(np.where(defined, truth_variance * guess_variance, 1.0))
    apart = truth_variance + guess_variance + error**2
    ccc = np.where(defined, 2.0 * covariance, 0.0) / np.where(defined, apart, 1.0)
    scores = np.stack([np.where(varies, r, np.nan), np.where(varies, ccc, np.nan), distance], axis=1)  # (R, kinds, L)
    known = np.isfinite(scores)
    n_known = known.sum(axis=2, keepdims=True)
    total = np.where(known, scores, 0.0).sum(axis=2, keepdims=True)
    means = np.where(n_known > 0, total / np.maximum(n_known, 1), np.nan)  # (R, kinds, 1)
    return np.concatenate([means, scores], axis=2)
