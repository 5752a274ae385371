"""Person-disjoint splits for a data set that brings none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from reactometer.records import Clip

SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}
"""Shares of the clips; our choice."""


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
