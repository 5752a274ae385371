"""How sure a score is: the bootstrap over clips, or over people or stimuli."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from reactometer.errors import DataError, ScoreError, suggestion
from reactometer.evaluation.metrics import KINDS, LEAST_CLIPS, LEAST_SPREAD, Array, measure
from reactometer.records import Clip

COUNTS_AT_ONCE = 2**20
"""Resampled clips held at a time: 8 MB an array."""

N_RESAMPLES = 2000
LEVEL = 0.95

UNITS = ("person", "stimulus", "clip")
"""What can be drawn as a whole."""


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
    unit: str  # what was drawn: "person", "stimulus" or "clip"
    n_units: int
    n_resamples: int

    def as_json(self) -> dict[str, Any]:
        """The field "intervals" of ``metrics.json``: [low, high] for each score, ``null`` where it is undefined."""
        scores: dict[str, Any] = {}
        for kind in KINDS:
            scores[f"mean_{kind}"] = _ends(self.mean[kind])
            scores[kind] = dict(zip(self.labels, map(_ends, self.by_label[kind]), strict=True))
        about = {"level": LEVEL, "unit": self.unit, "n_units": self.n_units, "n_resamples": self.n_resamples}
        return {**about, **scores}


def choose_units(clips: Sequence[Clip], by: str | None = None) -> tuple[str, list[str] | None]:
    """What to draw as a whole, and the group of each clip (``None``: every clip is its own).

    Clips of one person are not independent; by default people are drawn where every clip has one and there are at
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
    """95 % percentile intervals (Efron & Tibshirani 1993, chapter 13) of Pearson, CCC and MAE: the means, each label's.

    Clips are drawn with replacement, as many as there are; with ``groups``, whole groups (the cluster bootstrap,
    Davison & Hinkley 1997, section 3.8). Checked against ``scipy.stats.bootstrap``, and by simulation with known truth
    (``benchmarks/intervals.py``): with 20 groups or fewer it is too narrow.

    Args:
        targets: (clips, L) in [0, 1].
        predictions: (clips, L).
        labels: L names.
        unit: what a group is, in a word.
        groups: the group of each clip; see :func:`choose_units`.
        n_resamples: how many times to draw.
        seed: of the draws; the same seed draws the same clips.

    Raises:
        ScoreError: as :func:`measure`; or there are fewer than 3 groups or clips without one.
    """
    sums = unit_sums(targets, predictions, groups)
    scores = score_sums(draw(sums.rows, n_resamples, seed), sums.offset)
    truth, guess = np.asarray(targets, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
    known = measure(truth, guess, labels).by_kind
    mean: dict[str, Interval | None] = {}
    by_label: dict[str, tuple[Interval | None, ...]] = {}
    for place, kind in enumerate(KINDS):
        each = [value is not None for value in known[kind]]  # (L,)
        mean[kind] = interval(scores[:, place, 0]) if all(each) else None
        by_label[kind] = tuple(
            interval(scores[:, place, 1 + label]) if defined else None for label, defined in enumerate(each)
        )
    return Intervals(tuple(labels), mean, by_label, unit, len(sums.rows), n_resamples)


def bootstrap_mean_pearson(
    targets: npt.ArrayLike,
    predictions: npt.ArrayLike,
    *,
    groups: Sequence[Hashable] | None = None,
    n_resamples: int = N_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Percentile interval of the mean Pearson over the labels; see :func:`bootstrap_metrics`.

    Unlike in :func:`measure`, a constant prediction counts as r = 0, and a label that is constant in a resample is
    left out of that resample's mean: else a resample could have no score.

    Raises:
        ScoreError: as :func:`bootstrap_metrics`; or no label varies.
    """
    return interval(_mean_pearson(targets, predictions, groups, n_resamples, seed), level)


def bootstrap_difference(
    targets: npt.ArrayLike,
    predictions: npt.ArrayLike,
    baseline: npt.ArrayLike,
    *,
    groups: Sequence[Hashable] | None = None,
    n_resamples: int = N_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Interval of how much higher the mean Pearson of ``predictions`` is than that of ``baseline``, (clips, L) both.

    Paired: both are scored on the same resampled clips. All else as :func:`bootstrap_mean_pearson`.
    """
    ours, theirs = (_mean_pearson(targets, guess, groups, n_resamples, seed) for guess in (predictions, baseline))
    return interval(ours - theirs, level)


def interval(scores: Array, level: float = LEVEL) -> Interval:
    """From the score of the clips as they are, followed by those of the resamples, if any: (1 + n_resamples,)."""
    low, high = np.nanquantile(scores[min(1, len(scores) - 1) :], [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Interval(float(scores[0]), float(low), float(high), level)


@dataclass(frozen=True)
class UnitSums:
    """What the scores are made of, summed over each unit: a clip, or a group of clips."""

    rows: Array  # (units, 1 + 6 L): ones, then L columns each of truth, guess, their squares, product, distance
    offset: Array  # (L,) truth's centre less guess's: both are summed about a centre


def unit_sums(
    targets: npt.ArrayLike,
    predictions: npt.ArrayLike,
    groups: Sequence[Hashable] | None,
    centre: Array | None = None,
) -> UnitSums:
    """Sums over each unit, about the mean target and the mean prediction, or about ``centre`` (L,) instead of that.

    Raises:
        ScoreError: as :func:`bootstrap_metrics`.
    """
    truth, guess = np.asarray(targets, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
    measure(truth, guess, [str(place) for place in range(truth.shape[-1])])  # raises where there is no score
    distance, middle = np.abs(truth - guess), truth.mean(axis=0)
    centre = guess.mean(axis=0) if centre is None else centre
    truth, guess = truth - middle, guess - centre
    rows = np.hstack([np.ones((len(truth), 1)), truth, guess, truth**2, guess**2, truth * guess, distance])
    return UnitSums(sum_units(rows, groups), middle - centre)


def sum_units(rows: Array, groups: Sequence[Hashable] | None) -> Array:
    """(units, columns) sums over each unit, in the order in which units appear, from (clips, columns).

    Raises:
        ScoreError: as :func:`bootstrap_metrics`.
    """
    if groups is None:
        return rows
    unit, names = pd.factorize(np.fromiter(groups, dtype=object))  # (clips,) place of the clip's group
    if len(unit) != len(rows) or (unit < 0).any() or len(names) < LEAST_CLIPS:
        raise ScoreError(
            "these groups cannot be resampled",
            got=f"{len(names)} groups of {int((unit >= 0).sum())} clips",
            expected=f"at least {LEAST_CLIPS} groups, and one for each of {len(rows)} clips",
        )
    sums = np.zeros((len(names), rows.shape[1]))
    np.add.at(sums, unit, rows)
    return sums


def draw(rows: Array, n_resamples: int, seed: int) -> Array:
    """(1 + n_resamples, columns) sums of (units, columns): of all rows, then of as many, drawn with replacement."""
    generator, n_units = np.random.default_rng(seed), len(rows)
    step, sums = max(1, COUNTS_AT_ONCE // n_units), [rows.sum(axis=0, keepdims=True)]
    for start in range(0, n_resamples, step):
        drawn = generator.integers(n_units, size=(min(step, n_resamples - start), n_units))
        counts = np.array([np.bincount(row, minlength=n_units) for row in drawn], dtype=np.float64)
        sums.append(counts @ rows)
    return np.concatenate(sums)


def score_sums(sums: Array, offset: Array) -> Array:
    """(R, kinds, 1 + L) every kind of score, the mean and each label's, from R rows of sums.

    Pearson and CCC are 0 where the guess is constant and NaN where the truth is; such a label is left out of the mean.
    """
    moments = np.split(sums[:, 1:] / sums[:, :1], 6, axis=1)
    truth, guess, truth_square, guess_square, product, distance = moments  # (R, L) each
    truth_variance, guess_variance, covariance = (
        truth_square - truth**2,
        guess_square - guess**2,
        product - truth * guess,
    )
    varies = truth_variance > LEAST_SPREAD**2
    defined = varies & (guess_variance > LEAST_SPREAD**2)
    r = np.where(defined, covariance, 0.0) / np.sqrt(np.where(defined, truth_variance * guess_variance, 1.0))
    apart = truth_variance + guess_variance + (truth - guess + offset) ** 2
    ccc = np.where(defined, 2.0 * covariance, 0.0) / np.where(defined, apart, 1.0)
    scores = np.stack([np.where(varies, r, np.nan), np.where(varies, ccc, np.nan), distance], axis=1)  # (R, kinds, L)
    known = np.isfinite(scores)
    n_known = known.sum(axis=2, keepdims=True)
    total = np.where(known, scores, 0.0).sum(axis=2, keepdims=True)
    means = np.where(n_known > 0, total / np.maximum(n_known, 1), np.nan)  # (R, kinds, 1)
    return np.concatenate([means, scores], axis=2)  # (R, kinds, 1 + L)


def _mean_pearson(
    targets: npt.ArrayLike, predictions: npt.ArrayLike, groups: Sequence[Hashable] | None, n_resamples: int, seed: int
) -> Array:
    """(1 + n_resamples,) mean Pearson of the clips as they are, then of each resample (NaN: no label varies in it)."""
    sums = unit_sums(targets, predictions, groups)
    scores: Array = score_sums(draw(sums.rows, n_resamples, seed), sums.offset)[:, 0, 0]
    if np.isnan(scores[0]):
        raise ScoreError("no label varies over these clips", fix="Score a larger split")
    return scores


def _ends(own: Interval | None) -> list[float] | None:
    return None if own is None else [own.low, own.high]
