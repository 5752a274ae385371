"""Find leaks between the splits of a dataset: shared people, stimuli, label vectors and equal files."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from reactometer.data.cache import PreparedRow
from reactometer.data.splits import OFFICIAL_SPLIT, SPLITS
from reactometer.errors import DataError
from reactometer.terminal import is_first_process
from reactometer.types import Clip

MIN_PROBABILITY = 1e-3
"""A label vector identifies its stimulus if fewer train clips than this are expected to have it by chance."""

MIN_LEAK_SHARE, MIN_CLIPS = 0.01, 3
"""Minimum share and number of a split's clips with an identifying label vector of train that make a leak."""


@dataclass(frozen=True)
class Leak:
    """A person, stimulus, label vector or file that two splits share."""

    type: str  # "person", "stimulus", "label vector" or "file"
    splits: tuple[str, str]
    n_shared: int  # people, stimuli, vectors or files
    n_clips: int  # affected clips of the second split
    share: float  # of the second split's clips
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return a line with the size of the leak."""
        first, second = self.splits
        examples = f", such as {', '.join(self.examples)}" if self.examples else ""
        extent = f"{self.n_clips} clips, {self.share:.1%} of {second}"
        return f"{self.type}: {self.n_shared} in {first} and {second} ({extent}{examples})"


@dataclass(frozen=True)
class LabelVectors:
    """Counts of distinct label vectors, and shares of clips whose vector also occurs in train."""

    n_clips: int  # with labels
    n_distinct: int
    shared: dict[str, float]  # by split, share in [0, 1] of its clips whose vector some train clip has
    identifying: dict[str, float]  # the same, for vectors that identify their stimulus


def find_shared(clips: Sequence[Clip], key: str) -> list[Leak]:
    """Find people (``key`` "person") or stimuli ("stimulus") in more than one split, by pair of splits."""
    return _find_leaks(key, clips, [getattr(clip, key) for clip in clips])


def find_mixed_splits(clips: Sequence[Clip]) -> list[Leak]:
    """Find official splits of unknown people in train and in val or test, after a dataset was split anew."""
    names = [None if clip.person else clip.attributes.get(OFFICIAL_SPLIT) for clip in clips]
    leaks = _find_leaks("official split, whose people may be in both", clips, names)
    return [leak for leak in leaks if leak.splits[0] == "train"]


def find_same_files(rows: Sequence[PreparedRow]) -> list[Leak]:
    """Find media files, or features, that are equal by SHA-256 in more than one split.

    A file is named by the first clip that has it.
    """
    clips = [row.clip for row in rows]
    first_clip = dict[str, str]()
    names = [first_clip.setdefault(row.sha256, row.clip.clip_id) if row.sha256 else None for row in rows]
    return _find_leaks("file", clips, names)


def _find_leaks(leak_type: str, clips: Sequence[Clip], names: Sequence[str | None]) -> list[Leak]:
    """Return the names that clips of two splits share, by pair of splits; ``None`` is no name."""
    leaks = []
    for first, second in combinations(SPLITS, 2):
        first_names, second_names = (
            [name for clip, name in zip(clips, names, strict=True) if clip.split == split]
            for split in (first, second)
        )
        shared = set(first_names) & set(second_names) - {None}
        n_clips = sum(name in shared for name in second_names)
        if shared:
            examples = tuple(sorted(map(str, shared))[:3])
            leaks.append(
                Leak(leak_type, (first, second), len(shared), n_clips, n_clips / len(second_names), examples)
            )
    return leaks


def check_leaks(clips: Sequence[Clip], *, folded: Sequence[str] = (), origin: str, allowed: bool) -> None:
    """Raise if splits share people or stimuli; warn instead if leaks are allowed.

    If all clips are of one person, the splits must share the person, which is no error.

    Args:
        clips: the dataset.
        folded: splits that are folds of the dataset. Stimuli that they share cause a warning.
        origin: the dataset, for the message.
        allowed: ``data.allow_leak``.

    Raises:
        DataError: the splits share people or stimuli.
    """
    has_people = len({clip.person for clip in clips}) > 1
    leaks = [*(find_shared(clips, "person") if has_people else ()), *find_shared(clips, "stimulus")]
    refused = [leak for leak in leaks if not set(leak.splits) <= set(folded)]
    if refused and not allowed:
        raise DataError(
            f"{origin}: splits share people or stimuli",
            got="; ".join(map(str, refused)),
            fix="Make a clean split with 'reactometer data split', or add --allow-leak "
            "to measure on people or stimuli of the training set",
        )
    if not has_people and clips and clips[0].person and not folded and is_first_process():
        warnings.warn(
            f"{origin}: all clips are of one person, so a score is for new clips of this person", stacklevel=4
        )
    for leak in leaks if is_first_process() else ():
        warnings.warn(f"{origin}: splits share {leak}", stacklevel=4)


def find_label_vectors(clips: Sequence[Clip]) -> tuple[LabelVectors, list[Leak]]:
    """Find label vectors of val and test that also occur in train, which reveal shared stimuli.

    Vectors also coincide by coarse rounding, or are all zero. A vector identifies its stimulus if few train
    clips have it by chance: the number of train's distinct vectors, times, for each label, the share of all
    distinct vectors with its value, is below 1e-3. So a vector with a single value other than 0, or on a
    coarse grid, identifies nothing. A leak is reported if at least 1% of a split's clips, and 3 of them, have
    an identifying vector of train.
    """
    labelled = [clip for clip in clips if clip.labels]
    if not labelled:
        return LabelVectors(0, 0, {}, {}), []
    vectors = np.array([clip.labels for clip in labelled])  # (clips, L)
    distinct, vector_index = np.unique(vectors, axis=0, return_inverse=True)  # (V, L), (clips,)
    vector_index = vector_index.ravel()
    split = np.array([clip.split for clip in labelled])  # (clips,)
    in_train = np.isin(np.arange(len(distinct)), vector_index[split == "train"])  # (V,)
    chance = np.full(len(distinct), float(in_train.sum()))
    for column in distinct.T:
        _, value_index, count = np.unique(column, return_inverse=True, return_counts=True)
        chance *= count[value_index] / len(distinct)
    is_identifying = in_train & (chance < MIN_PROBABILITY)
    shared, identifying, leaks = {}, {}, []
    for name in SPLITS[1:]:
        indices = vector_index[split == name]
        if not len(indices):
            continue
        hits = indices[is_identifying[indices]]
        shared[name] = float(in_train[indices].mean())
        identifying[name] = len(hits) / len(indices)
        if len(hits) >= max(MIN_CLIPS, MIN_LEAK_SHARE * len(indices)):
            leaks.append(Leak("label vector", ("train", name), len(set(hits)), len(hits), identifying[name]))
    return LabelVectors(len(labelled), len(distinct), shared, identifying), leaks
