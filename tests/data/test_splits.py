"""Splits for data sets that bring none."""

from __future__ import annotations

from pathlib import Path

from reactometer.data.splits import assign_splits
from reactometer.records import Clip


def test_nobody_is_in_two_splits_and_the_shares_are_kept() -> None:
    clips = [Clip(f"{index}", Path("a"), person=f"person {index % 40}") for index in range(200)]
    split = assign_splits(clips)
    homes: dict[str, set[str]] = {}
    for clip in split:
        homes.setdefault(clip.person or "", set()).add(clip.split or "")
    assert all(len(home) == 1 for home in homes.values())
    counts = [sum(clip.split == name for clip in split) for name in ("train", "val", "test")]
    assert counts == [140, 30, 30]
    assert assign_splits(clips) == split
    assert assign_splits(clips, seed=1) != split


def test_clips_of_unknown_people_are_split_one_by_one() -> None:
    split = assign_splits([Clip(f"{index}", Path("a")) for index in range(40)])
    assert [sum(clip.split == name for clip in split) for name in ("train", "val", "test")] == [28, 6, 6]
