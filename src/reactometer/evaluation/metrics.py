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
"""The scores, in the order of every table and array of scores, and their names in print."""

LOWER_IS_BETTER = frozenset({"mae"})

MIN_CLIPS = 3
"""Fewer clips have no meaningful correlation: over two, r is always 1, −1 or undefined."""

MIN_STD = 1e-6
"""Values closer together than this are a constant; float32 networks round within it."""


@dataclass(frozen=True)
class Metrics:
    """Scores of one set of clips; ``None`` is undefined: targets or predictions are constant."""

    labels: tuple[str, ...]
    pearson: tuple[float | None, ...]  # (L,)
    ccc: tuple[float | None, ...]  # (L,)
    mae: tuple[float, ...]  # (L,)
    n_clips: int

    @property
    def by_metric(self) -> dict[str, tuple[float | None, ...]]:
        """(L,) values of each of :data:`METRIC_NAMES`."""
        return {kind: getattr(self, kind) for kind in METRIC_NAMES}

    @property
    def means(self) -> dict[str, float | None]:
        """Of each of :data:`METRIC_NAMES`, the unweighted mean over the labels; undefined when any of them is."""
        return {kind: None if None in own else float(np.mean(own)) for kind, own in self.by_metric.items()}  # type: ignore[arg-type]

    @property
    def mean_pearson(self) -> float | None:
        """The mean of Pearson."""
        return self.means["pearson"]

    def as_json(self) -> dict[str, Any]:
        """The fields of ``metrics.json``; ``null`` is undefined."""
        told: dict[str, Any] = {}
        for kind, values in self.by_metric.items():
            told |= {f"mean_{kind}": self.means[kind], kind: dict(zip(self.labels, values, strict=True))}
        return {**told, "n_clips": self.n_clips}


def measure(targets: npt.ArrayLike, predictions: npt.ArrayLike, labels: Sequence[str]) -> Metrics:
    """Score predictions against targets.

    Args:
        targets: (clips, L) in [0, 1].
        predictions: (clips, L).
        labels: L names.

    Raises:
        ScoreError: shapes differ, fewer than 3 clips, or a value is not a number.
    """
    truth, guess = np.asarray(targets, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
    if truth.shape != guess.shape or truth.ndim != 2 or truth.shape[1] != len(labels):
        raise ScoreError(
            "targets and predictions do not match",
            got=f"{truth.shape} and {guess.shape}",
            expected=f"(clips, {len(labels)}) both",
        )
    if len(truth) < MIN_CLIPS:
        raise ScoreError(
            "too few clips with labels for a correlation",
            got=len(truth),
            expected=f"at least {MIN_CLIPS}",
            fix="Evaluate a larger split, or --split all",
        )
    if not (np.isfinite(truth).all() and np.isfinite(guess).all()):
        raise ScoreError("a target or a prediction is not a number", fix="Look for empty or infinite values")
    mae = tuple(float(value) for value in np.abs(truth - guess).mean(axis=0))
    return Metrics(tuple(labels), pearson(truth, guess), ccc(truth, guess), mae, len(truth))


def pearson(targets: Array, predictions: Array) -> tuple[float | None, ...]:
    """Pearson's r of each column of two (clips, L) arrays; ``None`` where a column is constant."""
    truth, guess = targets - targets.mean(axis=0), predictions - predictions.mean(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (truth * guess).sum(axis=0) / np.sqrt((truth**2).sum(axis=0) * (guess**2).sum(axis=0))
    return _defined(r.clip(-1.0, 1.0), targets, predictions)


def ccc(targets: Array, predictions: Array) -> tuple[float | None, ...]:
    """Lin's concordance correlation coefficient (Biometrics 45, 1989) of each column, with 1/n moments.

    ``None`` where a column is constant, although the formula would give 0: a constant says nothing of concordance.
    """
    covariance = ((targets - targets.mean(axis=0)) * (predictions - predictions.mean(axis=0))).mean(axis=0)
    bias = targets.mean(axis=0) - predictions.mean(axis=0)
    with np.errstate(invalid="ignore"):
        value = 2.0 * covariance / (targets.var(axis=0) + predictions.var(axis=0) + bias**2)
    return _defined(value, targets, predictions)


def _defined(values: Array, targets: Array, predictions: Array) -> tuple[float | None, ...]:
    varied = (np.ptp(targets, axis=0) > MIN_STD) & (np.ptp(predictions, axis=0) > MIN_STD)
    return tuple(float(value) if is_varied else None for value, is_varied in zip(values, varied, strict=True))
