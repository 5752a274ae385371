"""Pearson, CCC and MAE over all clips of a split at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from reactometer.errors import ScoreError

Array = npt.NDArray[np.float64]

METRIC_NAMES: Mapping[str, str] = {"pearson": "Pearson", "ccc": "CCC", "mae": "MAE"}
"""Metrics and their printed names, in the order of all tables and score arrays."""

LOWER_IS_BETTER = frozenset({"mae"})

MIN_CLIPS = 3
"""Minimum number of clips for a correlation: over two clips, r is always 1, −1 or undefined."""

MIN_STD = 1e-6
"""Values within this range count as constant; the rounding of float32 networks is smaller."""


@dataclass(frozen=True)
class Metrics:
    """Scores of one set of clips; ``None``: undefined, because targets or predictions are constant."""

    labels: tuple[str, ...]
    pearson: tuple[float | None, ...]  # (L,)
    ccc: tuple[float | None, ...]  # (L,)
    mae: tuple[float, ...]  # (L,)
    n_clips: int

    @property
    def by_metric(self) -> dict[str, tuple[float | None, ...]]:
        """Values (L,) of each metric in :data:`METRIC_NAMES`."""
        return {name: getattr(self, name) for name in METRIC_NAMES}

    @property
    def means(self) -> dict[str, float | None]:
        """Unweighted mean over the labels of each metric; undefined if a label is."""
        return {name: _mean(values) for name, values in self.by_metric.items()}

    @property
    def mean_pearson(self) -> float | None:
        """Mean Pearson over the labels."""
        return self.means["pearson"]

    def as_json(self) -> dict[str, Any]:
        """Return the metrics of ``metrics.json``; ``null``: undefined."""
        content: dict[str, Any] = {}
        for name, values in self.by_metric.items():
            content |= {f"mean_{name}": self.means[name], name: dict(zip(self.labels, values, strict=True))}
        return {**content, "n_clips": self.n_clips}


def measure(targets: npt.ArrayLike, predictions: npt.ArrayLike, labels: Sequence[str]) -> Metrics:
    """Score predictions against targets.

    Args:
        targets: (clips, L) in [0, 1].
        predictions: (clips, L).
        labels: L names.

    Raises:
        ScoreError: shapes differ, fewer than 3 clips, or a value is not finite.
    """
    targets = np.asarray(targets, dtype=np.float64)
    predictions = np.asarray(predictions, dtype=np.float64)
    if targets.shape != predictions.shape or targets.ndim != 2 or targets.shape[1] != len(labels):
        raise ScoreError(
            "targets and predictions do not match",
            got=f"{targets.shape} and {predictions.shape}",
            expected=f"(clips, {len(labels)}) both",
        )
    if len(targets) < MIN_CLIPS:
        raise ScoreError(
            "too few clips with labels for a correlation",
            got=len(targets),
            expected=f"at least {MIN_CLIPS}",
            fix="Evaluate a larger split, or --split all",
        )
    if not (np.isfinite(targets).all() and np.isfinite(predictions).all()):
        raise ScoreError("a target or a prediction is not finite", fix="Fix empty or infinite values")
    mae = tuple(float(value) for value in np.abs(targets - predictions).mean(axis=0))
    return Metrics(tuple(labels), pearson(targets, predictions), ccc(targets, predictions), mae, len(targets))


def pearson(targets: Array, predictions: Array) -> tuple[float | None, ...]:
    """Compute Pearson's r of each column of two (clips, L) arrays; ``None`` if a column is constant."""
    target_deviation = targets - targets.mean(axis=0)
    prediction_deviation = predictions - predictions.mean(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (target_deviation * prediction_deviation).sum(axis=0) / np.sqrt(
            (target_deviation**2).sum(axis=0) * (prediction_deviation**2).sum(axis=0)
        )
    return _defined(r.clip(-1.0, 1.0), targets, predictions)


def ccc(targets: Array, predictions: Array) -> tuple[float | None, ...]:
    """Compute Lin's concordance correlation coefficient (Biometrics 45, 1989) of each column, with 1/n
    moments.

    ``None`` if a column is constant: the formula gives 0, but a constant is no evidence of discordance.
    """
    covariance = ((targets - targets.mean(axis=0)) * (predictions - predictions.mean(axis=0))).mean(axis=0)
    bias = targets.mean(axis=0) - predictions.mean(axis=0)
    with np.errstate(invalid="ignore"):
        value = 2.0 * covariance / (targets.var(axis=0) + predictions.var(axis=0) + bias**2)
    return _defined(value, targets, predictions)


def mean_over_varying(values: Sequence[float | None], targets: Array) -> float:
    """Average a metric over the labels that vary; an undefined value counts as 0 (constant predictions).

    Unlike the reported means, it is always defined, so that a label that is constant on a few clips does not
    prevent a comparison.

    Args:
        values: (L,) of one metric.
        targets: (clips, L) in [0, 1], at least one label of which varies.
    """
    varied = varying_labels(targets)
    return float(np.mean([value or 0.0 for value, varies in zip(values, varied, strict=True) if varies]))


def varying_labels(targets: Array) -> list[bool]:
    """Return for each of the L labels whether it varies over the clips; correlation needs variation."""
    return [bool(spread > MIN_STD) for spread in np.ptp(targets, axis=0)]


def _defined(values: Array, targets: Array, predictions: Array) -> tuple[float | None, ...]:
    varies = (np.ptp(targets, axis=0) > MIN_STD) & (np.ptp(predictions, axis=0) > MIN_STD)
    return tuple(float(value) if is_varied else None for value, is_varied in zip(values, varies, strict=True))


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if len(defined) == len(values) else None
