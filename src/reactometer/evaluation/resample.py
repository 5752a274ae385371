"""How sure a score is: the bootstrap over clips, or over people."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from reactometer.errors import ScoreError
from reactometer.evaluation.metrics import LEAST_CLIPS, LEAST_SPREAD, Array, measure

COUNTS_AT_ONCE = 2**20
"""Resampled clips held at a time: 8 MB an array."""


@dataclass(frozen=True)
class Interval:
    """A score of all clips, and the percentile interval of its resamples."""

    value: float
    low: float
    high: float
    level: float  # share of the resamples between low and high, such as 0.95


def bootstrap_mean_pearson(
    targets: npt.ArrayLike,
    predictions: npt.ArrayLike,
    *,
    groups: Sequence[Hashable] | None = None,
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval (Efron & Tibshirani 1993, chapter 13) of the mean Pearson over the labels.

    Clips are drawn with replacement, as many as there are; with ``groups``, whole groups (the cluster bootstrap).
    Unlike in :func:`measure`, a constant prediction counts as r = 0, and a label that is constant in a resample is
    left out of that resample's mean: else a resample could have no score.

    Args:
        targets: (clips, L) in [0, 1].
        predictions: (clips, L).
        groups: the group of each clip, such as its person; clips of one group are not independent.
        n_resamples: how many times to draw.
        level: share of the resamples that the interval spans.
        seed: of the draws; the same seed draws the same clips.

    Raises:
        ScoreError: as :func:`measure`; or no label varies, or there are fewer than 3 groups or clips without one.
    """
    return _interval(_scores(targets, predictions, groups, n_resamples, seed), level)


def bootstrap_difference(
    targets: npt.ArrayLike,
    predictions: npt.ArrayLike,
    baseline: npt.ArrayLike,
    *,
    groups: Sequence[Hashable] | None = None,
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of how much higher the mean Pearson of ``predictions`` is than that of ``baseline``, (clips, L) both.

    Paired: both are scored on the same resampled clips. All else as :func:`bootstrap_mean_pearson`.
    """
    ours, theirs = (_scores(targets, guess, groups, n_resamples, seed) for guess in (predictions, baseline))
    return _interval(ours - theirs, level)


def _interval(scores: Array, level: float) -> Interval:
    """From the score of the clips as they are, followed by those of the resamples."""
    low, high = np.nanquantile(scores[1:], [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Interval(float(scores[0]), float(low), float(high), level)


def _scores(
    targets: npt.ArrayLike,
    predictions: npt.ArrayLike,
    groups: Sequence[Hashable] | None,
    n_resamples: int,
    seed: int,
) -> Array:
    """(1 + n_resamples,) mean Pearson of the clips as they are, then of each resample (NaN: no label varies in it)."""
    sums = _sums(np.asarray(targets, dtype=np.float64), np.asarray(predictions, dtype=np.float64), groups)
    scores = [_mean_pearson(sums.sum(axis=0, keepdims=True))]
    if np.isnan(scores[0]).any():
        raise ScoreError("no label varies over these clips", fix="Score a larger split")
    generator = np.random.default_rng(seed)
    n_units, step = len(sums), max(1, COUNTS_AT_ONCE // len(sums))
    for start in range(0, n_resamples, step):
        drawn = generator.integers(n_units, size=(min(step, n_resamples - start), n_units))
        counts = np.array([np.bincount(row, minlength=n_units) for row in drawn], dtype=np.float64)
        scores.append(_mean_pearson(counts @ sums))
    return np.concatenate(scores)


def _sums(truth: Array, guess: Array, groups: Sequence[Hashable] | None) -> Array:
    """(units, 1 + 5 L) what a correlation is made of, summed over each unit: a clip, or a group of clips.

    One column of ones, then L columns each of truth, guess, their squares and their product, about the overall means.
    """
    measure(truth, guess, [str(place) for place in range(truth.shape[-1])])  # raises where there is no score
    truth, guess = truth - truth.mean(axis=0), guess - guess.mean(axis=0)
    rows = np.hstack([np.ones((len(truth), 1)), truth, guess, truth**2, guess**2, truth * guess])
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


def _mean_pearson(sums: Array) -> Array:
    """(R,) mean of r over the labels that vary, from R rows of summed moments; NaN where none varies."""
    truth, guess, truth_square, guess_square, product = np.split(sums[:, 1:] / sums[:, :1], 5, axis=1)  # (R, L) each
    truth_variance, guess_variance = truth_square - truth**2, guess_square - guess**2
    varies = truth_variance > LEAST_SPREAD**2
    defined = varies & (guess_variance > LEAST_SPREAD**2)
    scale = np.sqrt(np.where(defined, truth_variance * guess_variance, 1.0))
    r = np.where(defined, (product - truth * guess) / scale, 0.0)
    n_varying = varies.sum(axis=1)
    return np.where(n_varying > 0, r.sum(axis=1) / np.maximum(n_varying, 1), np.nan)
