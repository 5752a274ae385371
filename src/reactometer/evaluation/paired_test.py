"""Test two models on the same clips with a paired bootstrap and a paired permutation test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

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
"""Absolute tolerance for equal differences."""


@dataclass(frozen=True)
class Difference:
    """One score of two models; Pearson and CCC of a constant prediction count as 0."""

    name: str  # "mean_pearson", or "pearson" and a label, …
    first: float
    second: float
    interval: Interval  # of first − second
    p: float  # two-sided, of the permutation test
    corrected_p: float  # of single labels: corrected for their number by Holm's method

    @property
    def better(self) -> str | None:
        """The better model: "first", "second", or ``None`` (interval contains 0, or corrected p >= 0.05)."""
        if self.interval.low <= 0.0 <= self.interval.high or self.corrected_p >= 1.0 - LEVEL:
            return None
        less_is_better = self.name.split()[0].removeprefix("mean_") in LOWER_IS_BETTER
        return "first" if (self.interval.value > 0.0) != less_is_better else "second"


@dataclass(frozen=True)
class Paired:
    """All scores of two models on the same clips."""

    differences: tuple[Difference, ...]  # mean Pearson, CCC and MAE, then each label's Pearson
    n_clips: int
    unit: str  # unit of resampling and swapping
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
        first, second: ``predictions.csv`` of each model, with the same clips in any order.
        data: the dataset with the labels, or a folder prepared before.
        by: "person", "stimulus" or "clip"; default: person if known, else clip.
        n_resamples: number of bootstrap resamples and of permutations.
        out: a JSON file to write.

    Raises:
        DataError: the files have different clips or labels, or clips that are not in the dataset.
        ScoreError: too few clips with labels, or no label varies.
    """
    first_table = _read_predictions(Path(first))
    labels = tuple(first_table.columns)
    second_table = _read_predictions(Path(second), labels)
    if unmatched := sorted(set(first_table.index) ^ set(second_table.index)):
        raise DataError(
            f"{first} and {second}: not the same clips",
            got=f"{len(unmatched)} clips in only one of them, such as {unmatched[0]}",
            fix="Evaluate both models on the same split of the same dataset",
        )
    clips = _read_labels(Path(data), labels)
    if unknown := sorted(set(first_table.index) - {clip.clip_id for clip in clips}):
        raise DataError(
            f"{first}: clips are missing in {data}",
            got=f"{len(unknown)} of {len(first_table)}, such as {unknown[0]}",
            fix="Name the dataset that the models were evaluated on",
        )
    labelled = [clip for clip in clips if clip.clip_id in first_table.index and clip.labels]
    targets = np.array([clip.labels for clip in labelled], dtype=np.float64).reshape(
        len(labelled), len(labels)
    )
    first_values, second_values = (
        table.loc[[clip.clip_id for clip in labelled], list(labels)] for table in (first_table, second_table)
    )
    paired = compare_paired(
        targets, first_values, second_values, labels, choose_units(labelled, by, n_resamples)
    )
    if out is not None:
        write_atomic(Path(out), format_json(asdict(paired)))
    return paired


def compare_paired(
    targets: npt.ArrayLike,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    labels: Sequence[str],
    resampling: Resampling = CLIPS,
) -> Paired:
    """Run a paired bootstrap and a paired permutation test on two models' predictions, (clips, L) each.

    The bootstrap scores both on the same resampled units. The test swaps the two models' predictions of whole
    units at random (Ernst, Statistical Science 19, 2004); for Pearson, which is scale-free, those of each
    model are standardised first, label by label. p counts differences at least as large, with the one
    observed among them (Phipson & Smyth 2010); all permutations are used if there are no more than
    ``resampling.n_resamples``. Checked against ``scipy.stats.permutation_test`` and ``bootstrap``, and by
    simulation.

    Raises:
        ScoreError: as :func:`bootstrap_metrics`; or no label varies.
    """
    targets, *predictions = (np.asarray(values, dtype=np.float64) for values in (targets, first, second))
    rows = np.hstack([moments(targets, values) for values in predictions])  # the same resamples for both
    scores = resampling.resample(
        rows, lambda sums: np.stack([scores_from_moments(half) for half in np.hsplit(sums, 2)], axis=1)
    )  # (1 + R, 2, metrics, 1 + L)
    if np.isnan(scores[0, 0, 0, 0]):
        raise ScoreError("no label varies over these clips", fix="Compare on a larger split")
    p = _permute(targets, predictions, resampling)  # (metrics, 1 + L)
    names = [*(f"mean_{kind}" for kind in METRIC_NAMES), *(f"pearson {label}" for label in labels)]
    first_scores, second_scores, p = (
        np.concatenate([values[..., 0], values[..., 0, 1:]], axis=-1)  # all means, then each label's Pearson
        for values in (scores[:, 0], scores[:, 1], p)
    )  # (..., metrics + L)
    deltas = first_scores - second_scores
    is_defined = np.isfinite(first_scores[0])  # (metrics + L,)
    is_label = is_defined & (np.arange(len(names)) >= len(METRIC_NAMES))
    corrected_p = p.copy()
    corrected_p[is_label] = correct_holm(p[is_label])
    differences = tuple(
        Difference(
            name,
            float(first_scores[0, i]),
            float(second_scores[0, i]),
            interval(deltas[:, i]),
            float(p[i]),
            float(corrected_p[i]),
        )
        for i, name in enumerate(names)
        if is_defined[i]
    )
    n_units = resampling.count_units(len(targets))
    return Paired(differences, len(targets), resampling.unit, n_units, resampling.n_resamples)


def correct_holm(p: Array) -> Array:
    """Return (n,) p values corrected for their number (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    order = np.argsort(p, kind="stable")
    scaled = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(scaled, 1.0)
    return corrected


def _permute(targets: Array, predictions: Sequence[Array], resampling: Resampling) -> Array:
    """Return (metrics, 1 + L) two-sided p of Pearson, CCC and MAE."""
    target_mean = targets.mean(axis=0)
    zero = np.zeros_like(target_mean)
    first, second = (
        resampling.sum_by_unit(
            np.hstack([moments(targets, _standardise(values), zero), moments(targets, values, target_mean)])
        )
        for values in predictions
    )  # (units, 2 C): for Pearson, for CCC and MAE
    n_units = len(first)
    is_exact = n_units < 63 and 2**n_units <= resampling.n_resamples
    if is_exact:
        swaps = (np.arange(2**n_units)[:, None] >> np.arange(n_units)) % 2 == 1  # (P, units)
    else:
        swaps = (
            np.random.default_rng(resampling.seed).random((resampling.n_resamples, n_units), dtype=np.float32)
            < 0.5
        )

    def score(sums: Array) -> Array:
        standardised, raw = np.hsplit(sums, 2)
        scores = [scores_from_moments(standardised)[:, :1], scores_from_moments(raw)[:, 1:]]
        return np.nan_to_num(np.concatenate(scores, axis=1))  # (P, metrics, 1 + L)

    total = first.sum(axis=0) + second.sum(axis=0)
    batches = [
        batch @ (second - first) for batch in np.array_split(swaps, 1 + swaps.size // MAX_BATCH_COUNTS)
    ]
    first_scores = first.sum(axis=0) + np.concatenate(
        [np.zeros((1, len(total))), *batches]
    )  # observed, then swapped
    differences = np.abs(score(first_scores) - score(total - first_scores))
    n_as_large = (differences[1:] >= differences[0] - ROUNDING).sum(axis=0)
    p: Array = n_as_large / len(swaps) if is_exact else (1 + n_as_large) / (1 + len(swaps))
    return p


def _standardise(values: Array) -> Array:
    """Bring each label's predictions (clips, L) to mean 0 and standard deviation 1; a constant stays
    constant."""
    std = values.std(axis=0)
    standardised: Array = (values - values.mean(axis=0)) / np.where(std > MIN_STD, std, 1.0)
    return standardised


def _read_labels(data: Path, labels: tuple[str, ...]) -> tuple[Clip, ...]:
    """Read the clips of a dataset, or of a folder prepared before."""
    if not (data / INDEX_FILE).is_file():
        return read_dataset(data, labels).clips
    prepared = open_prepared(data)
    if prepared.labels != labels:
        raise DataError(f"{data}: not the predictions' labels", got=prepared.labels, expected=labels)
    return tuple(row.clip for row in prepared.rows)


def _read_predictions(path: Path, labels: Sequence[str] = ()) -> pd.DataFrame:
    """Read predictions (clips, L) by clip id; every column but the ids is a label."""
    table = pd.DataFrame(read_rows(path, (ID_COLUMN, *labels))).set_index(ID_COLUMN)
    if table.index.has_duplicates:
        clip_id = table.index[table.index.duplicated()][0]
        raise DataError(
            f"{path}: {clip_id} has two rows", fix="Write it with 'reactometer evaluate -o FOLDER'"
        )
    values: pd.DataFrame = table.apply(pd.to_numeric, errors="coerce")
    if len(undefined := values[values.isna().any(axis=1)]):
        raise DataError(f"{path}: {undefined.index[0]} has a prediction that is not a number")
    return values
