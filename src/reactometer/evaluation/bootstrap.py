"""The bootstrap: intervals of scores by resampling clips, or whole people or stimuli."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from reactometer.errors import DataError, ScoreError, suggestion
from reactometer.evaluation.metrics import KINDS, LEAST_CLIPS, LEAST_SPREAD, Array, measure
from reactometer.types import Clip

N_RESAMPLES = 2000
LEVEL = 0.95

COUNTS_AT_ONCE = 2**20
"""Numbers per array of resampled counts: 8 MB."""

UNITS = ("person", "stimulus", "clip")
"""What can be resampled as a whole."""


@dataclass(frozen=True)
class Interval:
    """A score of all clips, and the percentile interval of its resamples."""

    value: float
    low: float
    high: float
    level: float  # share of the resamples between low and high, such as 0.95


@dataclass(frozen=True)
class Intervals:
    """Intervals of the scores in :class:`Metrics`, of the same names; ``None`` where the score is undefined."""

    labels: tuple[str, ...]
    mean: dict[str, Interval | None]  # by kind of score
    by_label: dict[str, tuple[Interval | None, ...]]  # by kind of score, (L,)
    unit: str  # what was resampled: "person", "stimulus" or "clip"
    n_units: int
    n_resamples: int

    def as_json(self) -> dict[str, Any]:
        """Return the field "intervals" of ``metrics.json``: [low, high] for each score, ``null`` if undefined."""

        def bounds(interval: Interval | None) -> list[float] | None:
            return [interval.low, interval.high] if interval else None

        scores: dict[str, Any] = {}
        for kind in KINDS:
            scores[f"mean_{kind}"] = bounds(self.mean[kind])
            scores[kind] = dict(zip(self.labels, map(bounds, self.by_label[kind]), strict=True))
        about = {"level": LEVEL, "unit": self.unit, "n_units": self.n_units, "n_resamples": self.n_resamples}
        return {**about, **scores}


def resample(units: Array, statistic: Callable[[Array], Array], n_resamples: int = N_RESAMPLES, seed: int = 0) -> Array:
    """Compute a statistic of all units, and of bootstrap resamples of them.

    Units are drawn with replacement, as many as there are (Efron & Tibshirani 1993, chapter 13; whole groups of clips:
    the cluster bootstrap, Davison & Hinkley 1997, section 3.8). The same seed and number of units draw the same ones.

    Args:
        units: (units, columns) what the statistic needs, summed within each unit.
        statistic: takes (R, columns) sums over the units of R resamples, and returns (R, ...).
        n_resamples: number of resamples.
        seed: random seed of the resampling.

    Returns:
        (1 + n_resamples, ...) the statistic of the units as they are, then of each resample.
    """
    generator, n_units = np.random.default_rng(seed), len(units)
    step, found = max(1, COUNTS_AT_ONCE // n_units), [statistic(units.sum(axis=0, keepdims=True))]
    for start in range(0, n_resamples, step):
        drawn = generator.integers(n_units, size=(min(step, n_resamples - start), n_units))
        counts = np.array([np.bincount(row, minlength=n_units) for row in drawn], dtype=np.float64)
        found.append(statistic(counts @ units))
    return np.concatenate(found)


def interval(scores: Array, level: float = LEVEL) -> Interval:
    """Return the percentile interval of a (1 + n_resamples,) statistic, as :func:`resample` returns it."""
    low, high = np.nanquantile(scores[min(1, len(scores) - 1) :], [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Interval(float(scores[0]), float(low), float(high), level)


def choose_units(clips: Sequence[Clip], by: str | None = None) -> tuple[str, list[str] | None]:
    """Choose what to resample as a whole; return its name and the unit of each clip (``None``: each clip is one).

    Clips of one person are not independent. By default people are resampled if every clip has one and there are at
    least 3, else clips.

    Args:
        clips: the clips that are scored.
        by: "person", "stimulus" or "clip" instead.

    Raises:
        DataError: no such unit, or a clip has none.
    """
    if by is not None and by not in UNITS:
        raise DataError(f"clips cannot be resampled by '{by}'", fix=suggestion(by, UNITS))
    unit = by or "person"
    if unit == "clip":
        return unit, None
    names = [getattr(clip, unit) or "" for clip in clips]
    if all(names) and len(set(names)) >= LEAST_CLIPS:
        return unit, names
    if by is None:
        return "clip", None
    raise DataError(
        f"clips cannot be resampled by {by}",
        got=f"{len(set(names) - {''})} of them known, {names.count('')} of {len(names)} clips without one",
        expected=f"a column '{by}' with a value for every clip, at least {LEAST_CLIPS} different ones",
        fix="Choose another unit with --by",
    )


def bootstrap_metrics(
    targets: npt.ArrayLike,
    predictions: npt.ArrayLike,
    labels: Sequence[str],
    *,
    unit: str = "clip",
    groups: Sequence[Hashable] | None = None,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Intervals:
    """Return 95% percentile intervals of Pearson, CCC and MAE, of the means and of each label.

    Checked against ``scipy.stats.bootstrap``, and by simulation with known targets. With 20 groups or fewer the
    intervals are too narrow.

    Args:
        targets: (clips, L) in [0, 1].
        predictions: (clips, L).
        labels: L names.
        unit: the name of a unit.
        groups: the unit of each clip; see :func:`choose_units`.
        n_resamples: number of resamples.
        seed: random seed of the resampling.

    Raises:
        ScoreError: as :func:`measure`; or there are fewer than 3 groups or clips without one.
    """
    units = moments(targets, predictions, groups)
    scores = resample(units, score_moments, n_resamples, seed)  # (1 + R, kinds, 1 + L)
    known = measure(targets, predictions, labels).by_kind
    mean: dict[str, Interval | None] = {}
    by_label: dict[str, tuple[Interval | None, ...]] = {}
    for place, kind in enumerate(KINDS):
        defined = [value is not None for value in known[kind]]  # (L,)
        mean[kind] = interval(scores[:, place, 0]) if all(defined) else None
        by_label[kind] = tuple(
            interval(scores[:, place, 1 + label]) if is_defined else None for label, is_defined in enumerate(defined)
        )
    return Intervals(tuple(labels), mean, by_label, unit, len(units), n_resamples)


def bootstrap_mean_pearson(
    targets: npt.ArrayLike,
    predictions: npt.ArrayLike,
    baseline: npt.ArrayLike | None = None,
    *,
    groups: Sequence[Hashable] | None = None,
    n_resamples: int = N_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Return the interval of the mean Pearson, or of how much higher it is than a baseline's on the same resamples.

    Unlike in :func:`measure`, a constant prediction counts as r = 0, and a label that is constant in a resample is
    left out of that resample's mean: else a resample could have no score.

    Args:
        targets, predictions, groups, n_resamples, seed: as of :func:`bootstrap_metrics`.
        baseline: (clips, L) other predictions to compare with.
        level: share of the resamples inside the interval.

    Raises:
        ScoreError: as :func:`bootstrap_metrics`; or no label varies.
    """

    def mean_pearson(values: npt.ArrayLike) -> Array:
        units = moments(targets, values, groups)
        return resample(units, lambda sums: score_moments(sums)[:, 0, 0], n_resamples, seed)

    scores = mean_pearson(predictions)
    if np.isnan(scores[0]):
        raise ScoreError("no label varies over these clips", fix="Score a larger split")
    return interval(scores if baseline is None else scores - mean_pearson(baseline), level)


def moments(
    targets: npt.ArrayLike,
    predictions: npt.ArrayLike,
    groups: Sequence[Hashable] | None,
    centre: Array | None = None,
) -> Array:
    """Sum within each unit what the scores need.

    Returns:
        (units, 1 + 7 L): the number of clips, then L columns each of targets about their mean, predictions about their
        mean (or about ``centre``, (L,)), the squares of both, their product, absolute errors, and errors.

    Raises:
        ScoreError: as :func:`bootstrap_metrics`.
    """
    truth, guess = np.asarray(targets, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
    measure(truth, guess, [str(place) for place in range(truth.shape[-1])])  # raises where there is no score
    if groups is not None:
        unit, names = pd.factorize(np.fromiter(groups, dtype=object))
        if len(unit) != len(truth) or (unit < 0).any() or len(names) < LEAST_CLIPS:
            raise ScoreError(
                "these groups cannot be resampled",
                got=f"{len(names)} groups of {int((unit >= 0).sum())} clips",
                expected=f"at least {LEAST_CLIPS} groups, and one for each of {len(truth)} clips",
            )
    error = guess - truth
    truth, guess = truth - truth.mean(axis=0), guess - (guess.mean(axis=0) if centre is None else centre)
    columns = [np.ones((len(truth), 1)), truth, guess, truth**2, guess**2, truth * guess, np.abs(error), error]
    return sum_by_unit(np.hstack(columns), groups)


def sum_by_unit(rows: Array, groups: Sequence[Hashable] | None) -> Array:
    """Sum (clips, columns) within each unit, in the order in which units appear: (units, columns)."""
    if groups is None:
        return rows
    unit, names = pd.factorize(np.fromiter(groups, dtype=object))  # (clips,) index of the clip's group
    sums = np.zeros((len(names), rows.shape[1]))
    np.add.at(sums, unit, rows)
    return sums


def score_moments(sums: Array) -> Array:
    """Score (R, 1 + 7 L) sums of :func:`moments`: (R, kinds, 1 + L), the mean over the labels first.

    Pearson and CCC are 0 if the predictions are constant, and NaN if the targets are; such a label is left out of the
    mean.
    """
    truth, guess, truth_square, guess_square, product, distance, error = np.split(sums[:, 1:] / sums[:, :1], 7, axis=1)
    truth_variance, guess_variance = truth_square - truth**2, guess_square - guess**2  # (R, L) each
    covariance = product - truth * guess
    varies = truth_variance > LEAST_SPREAD**2
    defined = varies & (guess_variance > LEAST_SPREAD**2)
    r = np.where(defined, covariance, 0.0) / np.sqrt(np.where(defined, truth_variance * guess_variance, 1.0))
    apart = truth_variance + guess_variance + error**2
    ccc = np.where(defined, 2.0 * covariance, 0.0) / np.where(defined, apart, 1.0)
    scores = np.stack([np.where(varies, r, np.nan), np.where(varies, ccc, np.nan), distance], axis=1)  # (R, kinds, L)
    known = np.isfinite(scores)
    n_known = known.sum(axis=2, keepdims=True)
    total = np.where(known, scores, 0.0).sum(axis=2, keepdims=True)
    means = np.where(n_known > 0, total / np.maximum(n_known, 1), np.nan)  # (R, kinds, 1)
    return np.concatenate([means, scores], axis=2)
