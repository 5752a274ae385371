"""Leaks between splits are reported, without false alarms for vectors that coincide by chance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reactometer.data.leakage import check_leaks, find_label_vectors, find_shared
from reactometer.errors import DataError
from reactometer.types import Clip

SPLITS = ("train", "val", "test")
FOLDED = ("train", "val")


def _clips(vectors: np.ndarray, splits: np.ndarray | list[str]) -> list[Clip]:
    return [
        Clip(f"{row}", Path("a"), split=str(split), labels=tuple(map(float, vector)))
        for row, (vector, split) in enumerate(zip(vectors, splits, strict=True))
    ]


def test_people_and_stimuli_in_two_splits_are_named_with_their_size() -> None:
    clips = [
        Clip(f"{row}", Path("a"), split=SPLITS[row % 3], person=f"p{row % 3}", stimulus=f"s{row // 3}")
        for row in range(30)
    ]
    assert find_shared(clips, "person") == []
    clips[3] = replace(clips[3], person="p1")  # a train clip of val's person
    (leak,) = find_shared(clips, "person")
    assert str(leak) == "person: 1 in train and val (10 clips, 100.0% of val, such as p1)"
    stimuli = find_shared(clips, "stimulus")
    assert [(leak.splits, leak.n_shared) for leak in stimuli] == [
        (("train", "val"), 10),
        (("train", "test"), 10),
        (("val", "test"), 10),
    ]
    assert find_shared([replace(clip, person=None) for clip in clips], "person") == []


def test_training_stops_at_a_leak_unless_leaks_are_allowed() -> None:
    clips = [Clip(f"{row}", Path("a"), split=SPLITS[row % 2], person=f"p{row % 5}") for row in range(20)]
    with pytest.raises(DataError, match=r"person: 5 in train and val.*reactometer data split.*--allow"):
        check_leaks(clips, origin="set", allowed=False)
    with pytest.warns(UserWarning, match="person: 5 in train and val"):
        check_leaks(clips, origin="set", allowed=True)
    folded = [replace(clip, split=SPLITS[int(str(clip.person)[1:]) % 2]) for clip in clips]
    check_leaks(folded, folded=FOLDED, origin="set", allowed=False)


def test_clips_of_one_person_are_no_leak_and_warned_of() -> None:
    clips = [Clip(f"{row}", Path("a"), split=SPLITS[row % 3], person="anna") for row in range(9)]
    with pytest.warns(UserWarning, match="all clips are of one person"):
        check_leaks(clips, origin="set", allowed=False)
    assert len(find_shared(clips, "person")) == 3


def test_stimuli_that_folds_share_cause_a_warning() -> None:
    clips = [Clip(f"{row}", Path("a"), split="train", person=f"p{row}", stimulus="s") for row in range(6)]
    folded = [replace(clip, split=SPLITS[row % 2]) for row, clip in enumerate(clips)]
    with pytest.warns(UserWarning, match="stimulus: 1 in train and val"):
        check_leaks(folded, folded=FOLDED, origin="set", allowed=False)
    with pytest.raises(DataError, match="stimulus: 1 in train and test"):
        check_leaks([*folded, replace(clips[0], split="test")], folded=FOLDED, origin="set", allowed=False)


def _like_hume(n_clips: int, n_stimuli: int, n_labels: int = 7) -> np.ndarray:
    """Labels of the stimulus, in [0, 1], the largest 1 and small ones 0, four decimals."""
    generator = np.random.default_rng(0)
    stimulus_labels = generator.beta(0.6, 1.0, size=(n_stimuli, n_labels))
    stimulus_labels = np.where(
        stimulus_labels < 0.05, 0.0, stimulus_labels / stimulus_labels.max(axis=1, keepdims=True)
    ).round(4)
    return stimulus_labels[generator.integers(n_stimuli, size=n_clips)]


def test_label_vectors_of_the_stimulus_are_found() -> None:
    """Constructed as Hume-Reaction is: 20,463 clips of train and val, 927 stimuli drawn for each."""
    splits = ["train"] * 15_806 + ["val"] * 4_657
    vectors, leaks = find_label_vectors(_clips(_like_hume(20_463, 927), splits))
    assert (vectors.n_clips, vectors.n_distinct) == (20_463, 927)
    assert vectors.shared["val"] > 0.999
    assert vectors.identifying["val"] > 0.98
    assert len(leaks) == 1
    assert (leaks[0].type, leaks[0].splits) == ("label vector", ("train", "val"))
    assert leaks[0].n_clips > 4_560


def test_a_few_stimuli_of_many_are_found() -> None:
    """10 of 400 val clips have the label vector of one of 1,600 train clips; all others are distinct."""
    vectors = np.random.default_rng(1).uniform(size=(2000, 7)).round(4)
    vectors[1600:1610] = vectors[:10]
    (leak,) = find_label_vectors(_clips(vectors, ["train"] * 1600 + ["val"] * 400))[1]
    assert (leak.n_shared, leak.n_clips) == (10, 10)


@pytest.mark.parametrize(
    ("name", "steps", "n_labels", "active"),
    [
        ("five steps", 4, 6, 1.0),
        ("tenths", 10, 7, 1.0),
        ("one emotion, four decimals", 10_000, 6, 0.15),
    ],
)
def test_vectors_that_coincide_by_rounding_are_no_leak(
    name: str, steps: int, n_labels: int, active: float
) -> None:
    """Unrelated clips with correlated labels on a coarse grid, many of them 0."""
    generator = np.random.default_rng(2)
    strength = 0.5 * generator.normal(size=(6000, 1)) + generator.normal(size=(6000, n_labels))
    values = (
        1 / (1 + np.exp(-strength)) * (generator.uniform(size=strength.shape) < active) * steps
    ).round() / steps
    splits = ["train"] * 4000 + ["val"] * 1000 + ["test"] * 1000
    vectors, leaks = find_label_vectors(_clips(values, splits))
    assert leaks == [], (name, vectors)
    assert vectors.n_distinct < 6000


def test_zeros_and_missing_labels_are_no_leak() -> None:
    zeros = find_label_vectors(_clips(np.zeros((300, 7)), ["train"] * 200 + ["val"] * 100))
    assert zeros[0].shared == {"val": 1.0}
    assert zeros[1] == []
    assert find_label_vectors([Clip("a", Path("a"), split="test")])[0].n_clips == 0
