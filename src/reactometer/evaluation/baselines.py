"""Baselines that use neither face nor voice: the clip length, and shuffled labels."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import numpy as np
import numpy.typing as npt

from reactometer.data.cache import PreparedRow, PreparedSet
from reactometer.evaluation.metrics import Array, measure


def length_baseline(
    train_values: npt.ArrayLike, train_targets: npt.ArrayLike, values: npt.ArrayLike
) -> Array:
    """Predict (m, L) labels as the mean labels of training clips of similar length.

    Lengths are binned into √n equally filled bins of the n training lengths: unlike a polynomial, a bin mean
    stays in the labels' range. Clips of unknown length get the overall training mean.

    Args:
        train_values: (n,) lengths of the training clips in seconds, n > 0; NaN: unknown.
        train_targets: (n, L) in [0, 1].
        values: (m,) lengths of the clips to predict, in seconds; NaN: unknown.
    """
    lengths = np.asarray(train_values, dtype=np.float64)
    targets = np.asarray(train_targets, dtype=np.float64)
    test_lengths = np.asarray(values, dtype=np.float64)
    predictions = np.tile(targets.mean(axis=0), (len(test_lengths), 1))
    is_finite = np.isfinite(lengths)
    if not is_finite.any():
        return predictions
    lengths, targets = lengths[is_finite], targets[is_finite]
    edges = np.unique(np.quantile(lengths, np.linspace(0.0, 1.0, isqrt(len(lengths)) + 1)[1:-1]))
    train_bin = np.digitize(lengths, edges)
    test_bin = np.where(np.isfinite(test_lengths), np.digitize(test_lengths, edges), -1)
    for index in np.unique(train_bin):
        predictions[test_bin == index] = targets[train_bin == index].mean(axis=0)
    return predictions


def shuffled_scores(
    targets: npt.ArrayLike,
    predictions: npt.ArrayLike,
    labels: Sequence[str],
    n_shuffles: int = 200,
    seed: int = 0,
) -> list[float]:
    """Score predictions (clips, L) against randomly permuted targets (clips, L): one mean Pearson per
    shuffle.

    Shuffles without a score are left out: a label or prediction is constant.
    """
    targets = np.asarray(targets, dtype=np.float64)
    rng = np.random.default_rng(seed)
    scores = [measure(rng.permutation(targets), predictions, labels).mean_pearson for _ in range(n_shuffles)]
    return [score for score in scores if score is not None]


def predict_from_length(prepared: PreparedSet, rows: Sequence[PreparedRow]) -> Array:
    """Predict the labels of prepared clips from their lengths, (clips, L); see :func:`length_baseline`.

    If clips are as long as their stimulus, as in Hume-Reaction, length predicts the labels. Unreadable clips
    have length 0.
    """
    train = labelled_train_rows(prepared)
    targets = np.array([row.clip.labels for row in train])
    train_lengths, lengths = ([row.duration_s or np.nan for row in clips] for clips in (train, rows))
    return length_baseline(train_lengths, targets, lengths)


def labelled_train_rows(prepared: PreparedSet) -> list[PreparedRow]:
    """Return the readable train clips that have labels."""
    return [row for row in prepared.split("train") if row.clip.labels and row.file]
