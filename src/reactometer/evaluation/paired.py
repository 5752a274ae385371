"""Two models' predictions of the same clips -> which is better, by how much, and whether chance explains it."""

from __future__ import annotations

import json
from collections.abc import Collection, Hashable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from reactometer.data.cache import SETTINGS_FILE, open_prepared
from reactometer.data.clips import choose_labels, make_clip, mark_duplicates, parse_split, read_rows
from reactometer.data.layouts import read_data_set
from reactometer.data.splits import with_splits
from reactometer.errors import DataError, ScoreError
from reactometer.evaluation.metrics import KINDS, LEAST_SPREAD, LESS_IS_BETTER, Array
from reactometer.evaluation.resample import (
    COUNTS_AT_ONCE,
    N_RESAMPLES,
    Interval,
    choose_units,
    draw,
    interval,
    score_sums,
    unit_sums,
)
from reactometer.io import write_whole
from reactometer.records import Clip

ID_COLUMN = "File_ID"
"""Of ``predictions.csv``, and of a table that gives labels alone."""

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
        if self.interval.low <= 0.0 <= self.interval.high or self.p >= 1.0 - self.interval.level:
            return None
        less_is_better = self.name.split()[0].removeprefix("mean_") in LESS_IS_BETTER
        return "first" if (self.interval.value > 0.0) != less_is_better else "second"


@dataclass(frozen=True)
class Paired:
    """All scores of two models on the same clips."""

    differences: tuple[Difference, ...]  # mean Pearson, CCC and MAE, then each label's Pearson
    n_clips: int
    unit: str  # what was drawn, and swapped, as a whole
    n_units: int
    n_resamples: int
    is_exact: bool  # the permutation test went through all permutations
    n_left_out: int = 0  # clips with labels, of the same splits, that neither model predicted


def compare_predictions(
    first: Path | str,
    second: Path | str,
    data: Path | str,
    *,
    by: str | None = None,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
    out: Path | str | None = None,
) -> Paired:
    """Compare two files of predictions, as ``evaluate`` writes them, over the clips that have labels.

    Args:
        first, second: ``predictions.csv`` of each model, with the same clips; the rows' order has no say.
        data: where the labels are: a data set, a folder prepared before, or a CSV with a column ``File_ID``, one a
            label, and optional ``person`` and ``stimulus``.
        by: "person", "stimulus" or "clip"; default: person where known, else clip.
        n_resamples: of the bootstrap, and permutations.
        seed: of both.
        out: a JSON file to write.

    Raises:
        DataError: the files have different clips or labels, or clips that the data set does not know.
        ScoreError: too few clips with labels, or no label varies.
    """
    labels, one = _read_predictions(Path(first))
    _, other = _read_predictions(Path(second), labels)
    _check_same(Path(first), one, Path(second), other)
    clips = _read_labels(Path(data), labels)
    strange = sorted(set(one) - {clip.clip_id for clip in clips})
    if strange:
        raise DataError(
            f"{first}: clips that {data} does not have",
            got=f"{len(strange)} of {len(one)}, such as {strange[0]}",
            fix="Give the data set that the models were scored on",
        )
    chosen = [clip for clip in clips if clip.clip_id in one and clip.labels]
    unit, groups = choose_units(chosen, by)
    shape = len(chosen), len(labels)
    first_values, second_values = (
        np.array([own[clip.clip_id] for clip in chosen]).reshape(shape) for own in (one, other)
    )
    truth = np.array([clip.labels for clip in chosen]).reshape(shape)
    paired = compare_paired(
        truth, first_values, second_values, labels, unit=unit, groups=groups, n_resamples=n_resamples, seed=seed
    )
    splits = {clip.split for clip in chosen} - {None}
    left_out = [clip for clip in clips if clip.split in splits and clip.labels and clip.clip_id not in one]
    paired = replace(paired, n_left_out=len(left_out))
    if out is not None:
        write_whole(Path(out), json.dumps(asdict(paired), indent=2) + "\n")
    return paired


def compare_paired(
    targets: npt.ArrayLike,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    labels: Sequence[str],
    *,
    unit: str = "clip",
    groups: Sequence[Hashable] | None = None,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Paired:
    """Paired bootstrap and paired permutation test of the scores of two models, arrays of (clips, L).

    The bootstrap scores both on the same resampled units. The test swaps the two models' predictions of whole units
    at random (Ernst, Statistical Science 19, 2004); for Pearson, which knows no scale, those of each model are
    standardised first, label by label. p counts differences at least as large, with the one observed among them
    (Phipson & Smyth 2010); all permutations are gone through where there are no more than ``n_resamples``. Checked
    against ``scipy.stats.permutation_test`` and ``bootstrap``, and by simulation (``benchmarks/intervals.py``).

    Raises:
        ScoreError: as :func:`bootstrap_metrics`; or no label varies.
    """
    guesses = [np.asarray(values, dtype=np.float64) for values in (first, second)]
    sums = [unit_sums(targets, guess, groups) for guess in guesses]
    drawn = np.hsplit(draw(np.hstack([own.rows for own in sums]), n_resamples, seed), 2)  # the same units for both
    ours, theirs = (score_sums(part, own.offset) for part, own in zip(drawn, sums, strict=True))
    if np.isnan(ours[0, 0, 0]):
        raise ScoreError("no label varies over these clips", fix="Compare on a larger split")
    apart = ours - theirs  # (1 + R, 3, 1 + L): as they are, then resampled
    swaps, is_exact = _swaps(len(sums[0].rows), n_resamples, seed)
    p = _p_values(targets, guesses, groups, swaps, is_exact)  # (3, 1 + L)
    places = [(f"mean_{kind}", place, 0) for place, kind in enumerate(KINDS)]
    places += [(f"pearson {label}", 0, 1 + number) for number, label in enumerate(labels)]
    differences = tuple(
        Difference(
            name,
            float(ours[0, place, column]),
            float(theirs[0, place, column]),
            interval(apart[:, place, column]),
            float(p[place, column]),
        )
        for name, place, column in places
        if np.isfinite(ours[0, place, column])
    )
    return Paired(differences, len(guesses[0]), unit, len(sums[0].rows), n_resamples, is_exact)


def _swaps(n_units: int, n_permutations: int, seed: int) -> tuple[npt.NDArray[np.bool_], bool]:
    """(P, units) which units' predictions are swapped, and whether these are all the ways there are."""
    if n_units < 63 and 2**n_units <= n_permutations:
        return (np.arange(2**n_units)[:, None] >> np.arange(n_units)) % 2 == 1, True
    return np.random.default_rng(seed).random((n_permutations, n_units), dtype=np.float32) < 0.5, False


def _p_values(
    targets: npt.ArrayLike,
    guesses: Sequence[Array],
    groups: Sequence[Hashable] | None,
    swaps: npt.NDArray[np.bool_],
    is_exact: bool,
) -> Array:
    """(3, 1 + L) two-sided p of Pearson, CCC and MAE, the means and each label's."""
    middle = np.asarray(targets, dtype=np.float64).mean(axis=0)
    standard = [unit_sums(targets, _standard(guess), groups, np.zeros_like(middle)) for guess in guesses]
    as_given = [unit_sums(targets, guess, groups, middle) for guess in guesses]
    first, second = (np.hstack([a.rows, b.rows]) for a, b in zip(standard, as_given, strict=True))
    parts = [part @ (second - first) for part in np.array_split(swaps, 1 + swaps.size // COUNTS_AT_ONCE)]
    both, ours = (
        first.sum(axis=0) + second.sum(axis=0),
        first.sum(axis=0) + np.concatenate([np.zeros((1, first.shape[1])), *parts]),
    )
    apart = [
        score_sums(mine, sums[0].offset) - score_sums(other, sums[0].offset)
        for mine, other, sums in zip(np.hsplit(ours, 2), np.hsplit(both - ours, 2), (standard, as_given), strict=True)
    ]  # (1 + P, 3, 1 + L) each: as they are, then with units swapped
    differences = np.abs(np.nan_to_num(np.concatenate([apart[0][:, :1], apart[1][:, 1:]], axis=1)))
    as_large = (differences[1:] >= differences[0] - ROUNDING).sum(axis=0)
    p: Array = as_large / len(swaps) if is_exact else (1 + as_large) / (1 + len(swaps))
    return p


def _standard(guess: Array) -> Array:
    """(clips, L) with mean 0 and standard deviation 1; a constant stays one."""
    spread = guess.std(axis=0)
    standard: Array = (guess - guess.mean(axis=0)) / np.where(spread > LEAST_SPREAD, spread, 1.0)
    return standard


def _read_labels(data: Path, labels: tuple[str, ...]) -> tuple[Clip, ...]:
    """The clips of a data set, of a folder prepared before, or of a CSV with a column ``File_ID``."""
    if (data / SETTINGS_FILE).is_file():
        prepared = open_prepared(data)
        if prepared.labels != labels:
            raise DataError(f"{data}: not the predictions' labels", got=prepared.labels, expected=labels)
        return tuple(row.clip for row in prepared.rows)
    rows = read_rows(data) if data.is_file() else []
    if not rows or ID_COLUMN not in rows[0]:
        return with_splits(read_data_set(data, labels).clips)
    choose_labels(list(rows[0]), (), labels, data)
    clips = []
    for row in rows:
        split, problem = parse_split(row.get("split", row.get("Split", "")))
        clips.append(
            make_clip(row, labels, (), clip_id=row[ID_COLUMN].strip(), path=data, split=split, problem=problem)
        )
    return mark_duplicates(clips)


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


def _check_same(first: Path, one: Collection[str], second: Path, other: Collection[str]) -> None:
    """Refuse files of different clips."""
    alone = [sorted(set(one) - set(other)), sorted(set(other) - set(one))]
    if any(alone):
        told = [
            f"{len(names)} only in {path}, such as {names[0]}"
            for path, names in zip((first, second), alone, strict=True)
            if names
        ]
        raise DataError(
            f"{first} and {second}: not the same clips",
            got="; ".join(told),
            expected="the same clips in both",
            fix="Score both models on the same split of the same data set",
        )
