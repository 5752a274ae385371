"""What any model must beat: predictions without a face or voice, fitted on the training clips."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import numpy as np
import numpy.typing as npt

from reactometer.data.cache import PreparedRow, PreparedSet
from reactometer.errors import ScoreError
from reactometer.evaluation.metrics import Array, measure


def constant_baseline(train_targets: npt.ArrayLike, n_clips: int) -> Array:
    """(n_clips, L) the training mean of each label for every clip; of all constants it has the least squared error.

    Args:
        train_targets: (training clips, L) in [0, 1].
        n_clips: clips to answer for.

    Raises:
        ScoreError: there is no training clip.
    """
    targets = np.asarray(train_targets, dtype=np.float64)
    if targets.ndim != 2 or len(targets) == 0:
        raise ScoreError("no baseline without training clips", got=targets.shape, expected="(training clips, L)")
    return np.tile(targets.mean(axis=0), (n_clips, 1))


def length_baseline(train_values: npt.ArrayLike, train_targets: npt.ArrayLike, values: npt.ArrayLike) -> Array:
    """(m, L) the mean labels of the training clips of about the same length.

    "About the same" is one of √n equally filled ranges of the n training lengths: unlike a polynomial's, such an answer
    is a mean of labels whatever the lengths. Clips of unknown length get the overall training mean.

    Args:
        train_values: (n,) lengths of the training clips in seconds; NaN: not known.
        train_targets: (n, L) in [0, 1].
        values: (m,) of the clips to answer for.

    Raises:
        ScoreError: there is no training clip.
    """
    own, targets = np.asarray(train_values, dtype=np.float64), np.asarray(train_targets, dtype=np.float64)
    asked = np.asarray(values, dtype=np.float64)
    answers = constant_baseline(targets, len(asked))
    known = np.isfinite(own)
    own, targets = own[known], targets[known]
    if len(own) == 0:
        return answers
    edges = np.unique(np.quantile(own, np.linspace(0.0, 1.0, isqrt(len(own)) + 1)[1:-1]))
    own_range, wanted = np.digitize(own, edges), np.where(np.isfinite(asked), np.digitize(asked, edges), -1)
    for place in np.unique(own_range):
        answers[wanted == place] = targets[own_range == place].mean(axis=0)
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


def length_answers(prepared: PreparedSet, rows: Sequence[PreparedRow]) -> Array:
    """Predict the labels of prepared clips from their lengths, (clips, L); see :func:`length_baseline`.

    If clips are as long as their stimulus, as in Hume-Reaction, length predicts the labels. Unreadable clips have
    length 0.
    """
    train = readable_train(prepared)
    targets = np.array([row.clip.labels for row in train])
    known, asked = ([row.duration_s or np.nan for row in own] for own in (train, rows))
    return length_baseline(known, targets, asked)


def readable_train(prepared: PreparedSet) -> list[PreparedRow]:
    """The train clips that have labels and could be read."""
    return [row for row in prepared.split("train") if row.clip.labels and row.file]
