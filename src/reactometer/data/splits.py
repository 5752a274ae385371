"""Person-disjoint splits for a data set that brings none, and person-disjoint folds of train and val."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from reactometer.errors import ConfigError
from reactometer.records import Clip

SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}
"""Shares of the clips; our choice."""

SPLITS = tuple(SHARES)
"""Their names, in order."""


def with_splits(clips: Sequence[Clip]) -> tuple[Clip, ...]:
    """The clips with the splits they bring, or, where none brings any, with person-disjoint ones."""
    return tuple(clips) if any(clip.split for clip in clips) else assign_splits(clips)


def assign_splits(clips: Sequence[Clip], seed: int = 0) -> tuple[Clip, ...]:
    """Give every clip a split, all clips of one person the same (each clip for itself where no person is known).

    Whole groups, in an order drawn from the seed, go to the split that is furthest below its share (``SHARES``).
    """
    groups: dict[str, list[int]] = {}
    for index, clip in enumerate(clips):
        groups.setdefault(clip.person or f"clip {clip.clip_id}", []).append(index)
    counts = dict.fromkeys(SHARES, 0)
    split_of: dict[int, str] = {}
    for name in np.random.default_rng(seed).permutation(sorted(groups)):
        split = min(SHARES, key=lambda key: counts[key] / SHARES[key])
        counts[split] += len(groups[name])
        split_of.update(dict.fromkeys(groups[name], split))
    return tuple(replace(clip, split=split_of[index]) for index, clip in enumerate(clips))


def assign_folds(clips: Sequence[Clip], n_folds: int, fold: int, seed: int = 0) -> tuple[Clip, ...]:
    """Deal train and val anew: the clips of one fold become val, those of the others train, nobody in two folds.

    Whole groups, largest first, go to the fold with the fewest clips. Test stays as it is.

    Raises:
        ConfigError: a single fold, no such fold, or fewer people than folds.
    """
    if n_folds < 2:
        raise ConfigError("one fold leaves no clip to train on", got=f"data.folds={n_folds}", expected="2 or more")
    if not 0 <= fold < n_folds:
        raise ConfigError("no such fold", got=f"data.fold={fold}", expected=f"0 to {n_folds - 1}")
    groups: dict[str, list[int]] = {}
    for index, clip in enumerate(clips):
        if clip.split in ("train", "val"):
            groups.setdefault(clip.person or f"clip {clip.clip_id}", []).append(index)
    if len(groups) < n_folds:
        raise ConfigError("more folds than people", got=f"{n_folds} folds, {len(groups)} people in train and val")
    names = sorted(np.random.default_rng(seed).permutation(sorted(groups)), key=lambda name: -len(groups[name]))
    counts = [0] * n_folds
    split_of: dict[int, str] = {}
    for name in names:
        place = counts.index(min(counts))
        counts[place] += len(groups[name])
        split_of.update(dict.fromkeys(groups[name], "val" if place == fold else "train"))
    return tuple(replace(clip, split=split_of.get(index, clip.split)) for index, clip in enumerate(clips))
