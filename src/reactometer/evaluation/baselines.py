"""What any model must beat: answers that look at no face and hear no voice, fitted on the training clips alone."""

from __future__ import annotations

from math import isqrt

import numpy as np
import numpy.typing as npt

from reactometer.errors import ScoreError
from reactometer.evaluation.metrics import Array


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


def length_baseline(
    train_durations_s: npt.ArrayLike, train_targets: npt.ArrayLike, durations_s: npt.ArrayLike
) -> Array:
    """(m, L) the mean labels of the training clips of about the same length.

    Where clips have the length of what was watched, as in Hume-Reaction, length alone tells something of the labels.
    "About the same" is one of √n equally filled ranges of the n training lengths: unlike a polynomial's, such an answer
    is a mean of labels whatever the lengths. Clips of length 0, which could not be read, get the overall training mean.

    Args:
        train_durations_s: (n,) lengths of the training clips, seconds.
        train_targets: (n, L) in [0, 1].
        durations_s: (m,) lengths of the clips to answer for, seconds.

    Raises:
        ScoreError: there is no training clip, or not one length for each.
    """
    lengths, targets = np.asarray(train_durations_s, dtype=np.float64), np.asarray(train_targets, dtype=np.float64)
    asked = np.asarray(durations_s, dtype=np.float64)
    answers = constant_baseline(targets, len(asked))
    if lengths.shape != targets.shape[:1]:
        raise ScoreError("lengths and targets do not match", got=lengths.shape, expected=targets.shape[:1])
    lengths, targets = lengths[lengths > 0], targets[lengths > 0]
    if len(lengths) == 0:
        return answers
    edges = np.unique(np.quantile(lengths, np.linspace(0.0, 1.0, isqrt(len(lengths)) + 1)[1:-1]))
    own, wanted = np.digitize(lengths, edges), np.where(asked > 0, np.digitize(asked, edges), -1)
    for place in np.unique(own):
        answers[wanted == place] = targets[own == place].mean(axis=0)
    return answers
