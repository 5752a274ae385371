"""Calibration of each label, and coverage: the share of labels that a model's intervals contain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd

from reactometer.data.cache import PreparedRow
from reactometer.evaluation.bootstrap import CLIPS, Interval, Resampling, interval, moments
from reactometer.evaluation.metrics import MIN_STD, Array
from reactometer.inference.conformal import Uncertainty
from reactometer.inference.scores import Score
from reactometer.types import BOUNDS

NO_INPUT = "no usable face or voice"


SIZE_EDGES = (0.05, 0.2, 0.5)
"""Predictions that separate the rows of coverage by size of prediction."""

STRONGEST = "strongest emotion"


@dataclass(frozen=True)
class CoveredShare:
    """Share of some labels inside their prediction intervals."""

    share: Interval
    width: float  # mean of high − low, within [0, 1]
    n_labels: int


@dataclass(frozen=True)
class Coverage:
    """Share of labels inside the prediction intervals."""

    nominal: float  # share of labels that the intervals should contain
    overall: CoveredShare
    by_label: dict[str, CoveredShare]
    by_size: dict[
        str, CoveredShare
    ]  # by size of prediction; "strongest emotion": each clip's largest prediction
    by_modalities: dict[str, CoveredShare]  # by "face and voice", "face", "voice"
    n_clips: int  # clips with intervals
    warnings: dict[str, str]  # warnings by clip id
    is_in_sample: bool  # the intervals were fitted to these clips: their coverage is no evidence


def interval_table(
    scores: Sequence[Score], rows: Sequence[PreparedRow], labels: Sequence[str], uncertainty: Uncertainty
) -> pd.DataFrame:
    """Return ``intervals.csv``, one row per clip: ``File_ID, basis, warnings`` and each label's ``_low`` and
    ``_high``.

    The intervals of a clip without a usable face or voice are empty.
    """
    names = [f"{label}_{bound}" for label in labels for bound in BOUNDS]
    table = []
    for score, row in zip(scores, rows, strict=True):
        bounds = uncertainty.intervals(score, score.intensities)
        warnings = uncertainty.warnings(score, row.duration_s or None) if score.has_input else (NO_INPUT,)
        numbers = np.full(len(names), np.nan) if bounds is None else np.ravel(bounds)
        table.append([row.clip.clip_id, score.modalities, "; ".join(warnings), *numbers])
    return pd.DataFrame(table, columns=["File_ID", "basis", "warnings", *names])


def measure_coverage(
    table: pd.DataFrame,
    predictions: Array,
    targets: Array,
    labels: Sequence[str],
    resampling: Resampling,
    *,
    nominal: float,
    is_in_sample: bool,
) -> Coverage | None:
    """Measure the share of targets (clips, L) inside their intervals, rows of :func:`interval_table`.

    ``predictions`` are (clips, L); ``nominal`` and ``is_in_sample`` are those of :class:`Coverage`. Returns
    ``None`` if no clip has intervals.
    """
    low, high = (table[[f"{label}_{bound}" for label in labels]].to_numpy() for bound in BOUNDS)  # (clips, L)
    has_interval = np.isfinite(low)
    if not has_interval.any():
        return None
    is_inside = (low <= targets) & (targets <= high)  # (clips, L)
    columns = np.arange(len(labels))
    basis = table["basis"].to_numpy()[:, None]
    size = np.searchsorted(SIZE_EDGES, predictions, side="right")
    sizes = [f"{start:g} to {end:g}" for start, end in pairwise((0.0, *SIZE_EDGES, 1.0))]
    groups = {
        "overall": {"": has_interval},
        "by_label": {label: has_interval & (columns == number) for number, label in enumerate(labels)},
        "by_size": {
            **{name: has_interval & (size == number) for number, name in enumerate(sizes)},
            STRONGEST: has_interval & (columns == predictions.argmax(axis=1)[:, None]),
        },
        "by_modalities": {str(name): has_interval & (basis == name) for name in np.unique(basis)},
    }
    groups = {kind: {key: mask for key, mask in by.items() if mask.any()} for kind, by in groups.items()}
    masks = [mask for by in groups.values() for mask in by.values()]  # (clips, L) each
    n_labels = np.stack([mask.sum(axis=1) for mask in masks], axis=1)  # (clips, groups)
    n_inside = np.stack([(mask & is_inside).sum(axis=1) for mask in masks], axis=1)

    def share_inside(
        sums: Array,
    ) -> Array:  # (R, 2 groups) -> (R, groups); NaN if a resample has none of a group
        total, inside = np.split(sums, 2, axis=1)
        return inside / np.where(total > 0, total, np.nan)

    shares = iter(resampling.resample(np.hstack([n_labels, n_inside]), share_inside).T)
    covered = {
        kind: {
            key: CoveredShare(interval(next(shares)), float((high - low)[mask].mean()), int(mask.sum()))
            for key, mask in by.items()
        }
        for kind, by in groups.items()
    }
    flagged = table[table["warnings"] != ""]
    return Coverage(
        nominal=nominal,
        overall=covered["overall"][""],
        by_label=covered["by_label"],
        by_size=covered["by_size"],
        by_modalities=covered["by_modalities"],
        n_clips=int(has_interval.all(axis=1).sum()),
        warnings=dict(flagged[["File_ID", "warnings"]].to_numpy().tolist()),
        is_in_sample=is_in_sample,
    )


MAX_BINS = 10
CLIPS_PER_BIN = 10
"""Minimum number of clips per bin; there are 2 to ``MAX_BINS`` bins."""


@dataclass(frozen=True)
class Bin:
    """Clips with predictions of similar size; all bins have about as many clips."""

    prediction: float  # mean
    target: Interval  # mean
    n_clips: int


@dataclass(frozen=True)
class LabelReliability:
    """Relation of targets to predictions for one label."""

    label: str
    slope: Interval | None  # of target on prediction; 1: calibrated; None: the prediction is constant
    intercept: Interval | None  # target at a prediction of 0; 0: calibrated
    bias: Interval  # mean prediction − mean target
    bins: tuple[Bin, ...]  # from small to large predictions


def measure_reliability(
    targets: npt.ArrayLike, predictions: npt.ArrayLike, labels: Sequence[str], resampling: Resampling = CLIPS
) -> tuple[LabelReliability, ...]:
    """Fit a line of targets on predictions, (clips, L) each, label by label; bin them; with 95% percentile
    intervals.

    The calibration slope and intercept of Cox (Biometrika 45, 1958), linear since intensities are: a slope
    below 1 means that predictions spread too widely. Bins keep their clips in all resamples. Checked against
    ``scipy.stats.linregress``, and by simulation with known targets.

    Raises:
        ScoreError: as :func:`~reactometer.evaluation.metrics.measure`.
    """
    targets = np.asarray(targets, dtype=np.float64)
    predictions = np.asarray(predictions, dtype=np.float64)
    target_mean = targets.mean(axis=0)
    prediction_mean = predictions.mean(axis=0)
    rows = moments(targets, predictions)
    line = resampling.resample(
        rows, lambda sums: _fit_line(sums, target_mean, prediction_mean)
    )  # (1 + R, 3, L)
    n_bins = min(MAX_BINS, max(2, len(targets) // CLIPS_PER_BIN))
    rank = predictions.argsort(axis=0, kind="stable").argsort(axis=0)  # (clips, L)
    in_bin = rank[:, :, None] * n_bins // len(targets) == np.arange(n_bins)  # (clips, L, bins)

    def bin_means(sums: Array) -> Array:  # (R, L, bins); NaN if a resample has none of the bin's clips
        total, count = np.split(sums.reshape(-1, 2 * len(labels), n_bins), 2, axis=1)
        return np.where(count > 0, total / np.maximum(count, 1.0), np.nan)

    columns = np.concatenate([in_bin * targets[:, :, None], in_bin], axis=1).reshape(len(targets), -1)
    means = resampling.resample(columns, bin_means)  # (1 + R, L, bins)
    by_label = []
    for index, label in enumerate(labels):
        slope, intercept = (
            interval(values) if np.isfinite(values[0]) else None for values in line[:, :2, index].T
        )
        bins = tuple(
            Bin(float(predictions[clips, index].mean()), interval(means[:, index, number]), int(clips.sum()))
            for number, clips in enumerate(in_bin[:, index].T)
        )
        by_label.append(LabelReliability(label, slope, intercept, interval(line[:, 2, index]), bins))
    return tuple(by_label)


def _fit_line(sums: Array, target_mean: Array, prediction_mean: Array) -> Array:
    """Return (R, 3, L) slope, intercept and bias; the means are those that :func:`moments` subtracted.

    Slope and intercept are NaN if the predictions are constant.
    """
    means = sums[:, 1:] / sums[:, :1]
    target, prediction, _, prediction_square, product, _, error = np.split(means, 7, axis=1)  # (R, L) each
    variance = prediction_square - prediction**2
    varies = variance > MIN_STD**2
    slope = np.where(varies, (product - target * prediction) / np.where(varies, variance, 1.0), np.nan)
    return np.stack([slope, target + target_mean - slope * (prediction + prediction_mean), error], axis=1)
