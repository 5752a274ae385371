"""Compare two models on the same clips: which is better, by how much, and whether chance explains it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from reactometer.data.cache import INDEX_FILE, open_prepared
from reactometer.data.datasets import read_dataset
from reactometer.data.manifest import read_rows
from reactometer.errors import DataError, ScoreError
from reactometer.evaluation.bootstrap import (
    CLIPS,
    LEVEL,
    MAX_BATCH_COUNTS,
    N_RESAMPLES,
    Interval,
    Resampling,
    choose_units,
    interval,
    moments,
    scores_from_moments,
)
from reactometer.evaluation.metrics import LOWER_IS_BETTER, METRIC_NAMES, MIN_STD, Array
from reactometer.io import format_json, write_atomic
from reactometer.types import Clip

ID_COLUMN = "File_ID"
"""Column of ``predictions.csv``."""

ROUNDING = 1e-12
"""Differences closer than this are equal."""


@dataclass(frozen=True)
class Difference:
    """One score of two models; Pearson and CCC of a constant prediction count as 0."""

    name: str  # "mean_pearson", or "pearson" and a label, …
    first: float
    second: float
    interval: Interval  # of first less second
    p: float  # two-sided, of the permutation test

    @property
    def better(self) -> str | None:
        """ "first", "second", or ``None``: the interval holds 0, or p is not below 1 - level."""
        if self.interval.low <= 0.0 <= self.interval.high or self.p >= 1.0 - LEVEL:
            return None
        less_is_better = self.name.split()[0].removeprefix("mean_") in LOWER_IS_BETTER
        return "first" if (self.interval.value > 0.0) != less_is_better else "second"


@dataclass(frozen=True)
class Paired:
    """All scores of two models on the same clips."""

    differences: tuple[Difference, ...]  # mean Pearson, CCC and MAE, then each label's Pearson
    n_clips: int
    unit: str  # what was resampled, and swapped, as a whole
    n_units: int
    n_resamples: int


def compare_predictions(
    first: Path | str,
    second: Path | str,
    data: Path | str,
    *,
    by: str | None = None,
    n_resamples: int = N_RESAMPLES,
    out: Path | str | None = None,
) -> Paired:
    """Compare two files of predictions, as ``evaluate`` writes them, over the clips that have labels.

    Args:
        first, second: ``predictions.csv`` of each model, with the same clips; the rows' order has no say.
        data: the dataset with the labels, or a folder prepared before.
        by: "person", "stimulus" or "clip"; default: person where known, else clip.
        n_resamples: of the bootstrap, and permutations.
        out: a JSON file to write.

    Raises:
        DataError: the files have different clips or labels, or clips that the data set does not know.
        ScoreError: too few clips with labels, or no label varies.
    """
    labels, one = _read_predictions(Path(first))
    _, other = _read_predictions(Path(second), labels)
    if odd := sorted(set(one) ^ set(other)):
        raise DataError(
            f"{first} and {second}: not the same clips",
            got=f"{len(odd)} clips in only one of them, such as {odd[0]}",
            fix="Score both models on the same split of the same data set",
        )
    clips = _read_labels(Path(data), labels)
    if strange := sorted(set(one) - {clip.clip_id for clip in clips}):
        raise DataError(
            f"{first}: clips that {data} does not have",
            got=f"{len(strange)} of {len(one)}, such as {strange[0]}",
            fix="Give the data set that the models were scored on",
        )
    chosen = [clip for clip in clips if clip.clip_id in one and clip.labels]
    values = [(clip.labels, one[clip.clip_id], other[clip.clip_id]) for clip in chosen]
    truth, ours, theirs = np.array(values, dtype=np.float64).reshape(len(chosen), 3, len(labels)).swapaxes(0, 1)
    paired = compare_paired(truth, ours, theirs, labels, choose_units(chosen, by, n_resamples))
    if out is not None:
        write_atomic(Path(out), format_json(asdict(paired)))
    return paired


def compare_paired(
    targets: npt.ArrayLike,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    labels: Sequence[str],
    how: Resampling = CLIPS,
) -> Paired:
    """Paired bootstrap and paired permutation test of the scores of two models, arrays of (clips, L).

    The bootstrap scores both on the same resampled units. The test swaps the two models' predictions of whole units
    at random (Ernst, Statistical Science 19, 2004); for Pearson, which knows no scale, those of each model are
    standardised first, label by label. p counts differences at least as large, with the one observed among them
    (Phipson & Smyth 2010); all permutations are gone through where there are no more than ``how.n_resamples``. Checked
    against ``scipy.stats.permutation_test`` and ``bootstrap``, and by simulation.

    Raises:
        ScoreError: as :func:`bootstrap_metrics`; or no label varies.
    """
    truth, *guesses = (np.asarray(values, dtype=np.float64) for values in (targets, first, second))
    rows = np.hstack([moments(truth, guess) for guess in guesses])  # the same resamples for both
    scores = how.resample(
        rows, lambda sums: np.stack([scores_from_moments(own) for own in np.hsplit(sums, 2)], axis=1)
    )  # (1 + R, 2, kinds, 1 + L)
    if np.isnan(scores[0, 0, 0, 0]):
        raise ScoreError("no label varies over these clips", fix="Compare on a larger split")
    p = _permute(truth, guesses, how)  # (kinds, 1 + L)
    names = [*(f"mean_{kind}" for kind in METRIC_NAMES), *(f"pearson {label}" for label in labels)]
    ours, theirs, p = (
        np.concatenate([own[..., 0], own[..., 0, 1:]], axis=-1)  # the means of all kinds, then each label's Pearson
        for own in (scores[:, 0], scores[:, 1], p)
    )  # (..., kinds + L)
    differences = tuple(
        Difference(name, float(ours[0, at]), float(theirs[0, at]), interval(ours[:, at] - theirs[:, at]), float(p[at]))
        for at, name in enumerate(names)
        if np.isfinite(ours[0, at])
    )
    return Paired(differences, len(truth), how.unit, how.count_units(len(truth)), how.n_resamples)


def _permute(truth: Array, guesses: Sequence[Array], how: Resampling) -> Array:
    """Return (kinds, 1 + L) two-sided p of Pearson, CCC and MAE."""
    middle = truth.mean(axis=0)
    first, second = (
        how.sum_by_unit(
            np.hstack([moments(truth, _standardise(guess), np.zeros_like(middle)), moments(truth, guess, middle)])
        )
        for guess in guesses
    )  # (units, 2 C): for Pearson, for CCC and MAE
    n_units = len(first)
    is_exact = n_units < 63 and 2**n_units <= how.n_resamples
    if is_exact:
        swaps = (np.arange(2**n_units)[:, None] >> np.arange(n_units)) % 2 == 1  # (P, units)
    else:
        swaps = np.random.default_rng(how.seed).random((how.n_resamples, n_units), dtype=np.float32) < 0.5

    def score(sums: Array) -> Array:
        standard, as_given = np.hsplit(sums, 2)
        scores = [scores_from_moments(standard)[:, :1], scores_from_moments(as_given)[:, 1:]]
        return np.nan_to_num(np.concatenate(scores, axis=1))  # (P, kinds, 1 + L)

    both = first.sum(axis=0) + second.sum(axis=0)
    parts = [part @ (second - first) for part in np.array_split(swaps, 1 + swaps.size // MAX_BATCH_COUNTS)]
    ours = first.sum(axis=0) + np.concatenate([np.zeros((1, len(both))), *parts])  # as they are, then swapped
    differences = np.abs(score(ours) - score(both - ours))
    n_as_large = (differences[1:] >= differences[0] - ROUNDING).sum(axis=0)
    p: Array = n_as_large / len(swaps) if is_exact else (1 + n_as_large) / (1 + len(swaps))
    return p


def _standardise(guess: Array) -> Array:
    """Bring each label's predictions (clips, L) to mean 0 and standard deviation 1; a constant stays one."""
    spread = guess.std(axis=0)
    standard: Array = (guess - guess.mean(axis=0)) / np.where(spread > MIN_STD, spread, 1.0)
    return standard


def _read_labels(data: Path, labels: tuple[str, ...]) -> tuple[Clip, ...]:
    """Read the clips of a dataset, or of a folder prepared before."""
    if not (data / INDEX_FILE).is_file():
        return read_dataset(data, labels).clips
    prepared = open_prepared(data)
    if prepared.labels != labels:
        raise DataError(f"{data}: not the predictions' labels", got=prepared.labels, expected=labels)
    return tuple(row.clip for row in prepared.rows)


def _read_predictions(
    path: Path, labels: tuple[str, ...] | None = None
) -> tuple[tuple[str, ...], dict[str, list[float]]]:
    """The labels (of a first file, all columns but the ids), and by id the (L,) predictions."""
    rows, values = read_rows(path, (ID_COLUMN, *(labels or ()))), {}
    labels = labels or tuple(name for name in rows[0] if name != ID_COLUMN)
    for row in rows:
        name = row[ID_COLUMN].strip()
        if name in values:
            raise DataError(f"{path}: {name} has two rows", fix="Give the file as 'reactometer evaluate' writes it")
        try:
            values[name] = [float(row[label]) for label in labels]
        except ValueError as error:
            raise DataError(f"{path}: {name} has a prediction that is no number: {error}") from error
    return labels, values
