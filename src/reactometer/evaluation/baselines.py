"""What any model must beat: predictions without a face or voice, fitted on the training clips."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import numpy as np
import numpy.typing as npt

from reactometer.data.cache import PreparedRow, PreparedSet
from reactometer.evaluation.metrics import Array, measure


def length_baseline(train_values: npt.ArrayLike, train_targets: npt.ArrayLike, values: npt.ArrayLike) -> Array:
    """(m, L) the mean labels of the training clips of about the same length.

    "About the same" is one of √n equally filled ranges of the n training lengths: unlike a polynomial's, such an answer
    is a mean of labels whatever the lengths. Clips of unknown length get the overall training mean.

    Args:
        train_values: (n,) lengths of the training clips in seconds, n > 0; NaN: not known.
        train_targets: (n, L) in [0, 1].
        values: (m,) of the clips to answer for.
    """
    lengths, targets = np.asarray(train_values, dtype=np.float64), np.asarray(train_targets, dtype=np.float64)
    asked = np.asarray(values, dtype=np.float64)
    answers = np.tile(targets.mean(axis=0), (len(asked), 1))
    known = np.isfinite(lengths)
    if not known.any():
        return answers
    lengths, targets = lengths[known], targets[known]
    edges = np.unique(np.quantile(lengths, np.linspace(0.0, 1.0, isqrt(len(lengths)) + 1)[1:-1]))
    train_range = np.digitize(lengths, edges)
    asked_range = np.where(np.isfinite(asked), np.digitize(asked, edges), -1)
    for place in np.unique(train_range):
        answers[asked_range == place] = targets[train_range == place].mean(axis=0)
    return answers


def shuffled_scores(
    targets: npt.ArrayLike, predictions: npt.ArrayLike, labels: Sequence[str], n_shuffles: int = 200, seed: int = 0
) -> list[float]:
    """Mean Pearson of predictions (clips, L) against the targets (clips, L) of other clips, drawn anew each time.

    Shuffles without a score, over which a label or prediction is constant, are left out.
    """
    truth, generator = np.asarray(targets, dtype=np.float64), np.random.default_rng(seed)
    scores = [measure(generator.permutation(truth), predictions, labels).mean_pearson for _ in range(n_shuffles)]
    return [score for score in scores if score is not None]


def predict_from_length(prepared: PreparedSet, rows: Sequence[PreparedRow]) -> Array:
    """Predict the labels of prepared clips from their lengths, (clips, L); see :func:`length_baseline`.

    If clips are as long as their stimulus, as in Hume-Reaction, length predicts the labels. Unreadable clips have
    length 0.
    """
    train = labelled_train_rows(prepared)
    targets = np.array([row.clip.labels for row in train])
    known, asked = ([row.duration_s or np.nan for row in own] for own in (train, rows))
    return length_baseline(known, targets, asked)


def labelled_train_rows(prepared: PreparedSet) -> list[PreparedRow]:
    """The train clips that have labels and could be read."""
    return [row for row in prepared.split("train") if row.clip.labels and row.file]
