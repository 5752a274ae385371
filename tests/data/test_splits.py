"""Splits for data sets that bring none, and folds of those that do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from reactometer.data.splits import assign_folds, assign_splits
from reactometer.errors import ConfigError
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


def _people(n_people: int) -> list[Clip]:
    """Person 0 in one clip, person 1 in two, and so on; every third person is in test, and five clips are nobody's."""
    splits = ("train", "val", "test")
    clips = [
        Clip(f"{person}-{number}", Path("a"), person=f"person {person}", split=splits[person % 3])
        for person in range(n_people)
        for number in range(1 + person % 7)
    ]
    return [*clips, *(Clip(f"nobody {number}", Path("a"), split="train") for number in range(5))]


@pytest.mark.parametrize("n_folds", [2, 3, 5])
def test_each_clip_is_in_val_of_one_fold_and_nobody_in_two(n_folds: int) -> None:
    clips = _people(40)
    folds = [assign_folds(clips, n_folds, fold) for fold in range(n_folds)]
    fold_of: dict[str, int] = {}
    for number, fold in enumerate(folds):
        assert [replace(clip, split=None) for clip in fold] == [replace(clip, split=None) for clip in clips]
        for before, after in zip(clips, fold, strict=True):
            assert (after.split == "test") == (before.split == "test")
            assert after.split in ("train", "val", "test")
            if after.split == "val":
                assert fold_of.setdefault(after.person or after.clip_id, number) == number
    n_val = [sum(clip.split == "val" for clip in fold) for fold in folds]
    assert sum(n_val) == sum(clip.split != "test" for clip in clips)
    assert max(n_val) - min(n_val) <= 1  # people of one clip each come last and even it out
    assert assign_folds(clips, n_folds, 0) == folds[0]
    assert assign_folds(clips, n_folds, 0, seed=1) != folds[0]


def test_clips_without_a_split_stay_without_one() -> None:
    clips = [*_people(9), Clip("unlisted", Path("a"), person="person 0", problem="no split")]
    assert assign_folds(clips, 2, 1)[-1] == clips[-1]


def test_folds_that_cannot_be_are_named() -> None:
    clips = _people(2)[:3]
    with pytest.raises(ConfigError, match=r"data\.fold=3.*0 to 2"):
        assign_folds(clips, 3, 3)
    with pytest.raises(ConfigError, match=r"data\.fold=-1"):
        assign_folds(clips, 3, -1)
    with pytest.raises(ConfigError, match=r"3 folds, 2 people"):
        assign_folds(clips, 3, 0)
    with pytest.raises(ConfigError, match=r"data\.folds=1.*2"):
        assign_folds(clips, 1, 0)
