"""Splits for datasets that bring none, folds of those that do, and new splits that share nothing."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reactometer.data.datasets import read_dataset
from reactometer.data.leakage import find_mixed_splits, find_shared
from reactometer.data.splits import (
    assign_folds,
    assign_splits,
    choose_fold_unit,
    find_components,
    split,
    with_splits,
)
from reactometer.errors import ConfigError, DataError, OutputError
from reactometer.types import Clip


def test_each_person_is_in_one_split_and_shares_are_met() -> None:
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
    """Person 0 in one clip, person 1 in two, and so on; every third person is in test, and five clips are
    nobody's."""
    splits = ("train", "val", "test")
    clips = [
        Clip(f"{person}-{number}", Path("a"), person=f"person {person}", split=splits[person % 3])
        for person in range(n_people)
        for number in range(1 + person % 7)
    ]
    return [*clips, *(Clip(f"nobody {number}", Path("a"), split="train") for number in range(5))]


@pytest.mark.parametrize("n_folds", [2, 3, 5])
def test_each_clip_and_each_person_is_in_val_of_one_fold(n_folds: int) -> None:
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


@pytest.mark.parametrize("n_folds", [3, 5, 13])
def test_nested_folds_hold_each_person_out_once(n_folds: int) -> None:
    clips = [replace(clip, labels=(0.5,)) for clip in _people(13)[:-5]]
    tested = dict[str, int]()
    for number in range(n_folds):
        folded = assign_folds(clips, n_folds, number, nested=True)
        people = {
            name: {clip.person for clip in folded if clip.split == name} for name in ("train", "val", "test")
        }
        assert all(people.values())
        assert sum(map(len, people.values())) == 13  # each person is in one split
        assert n_folds == 3 or sum(clip.split == "val" for clip in folded) >= 0.15 * len(clips)
        for person in people["test"]:
            assert tested.setdefault(str(person), number) == number
    assert len(tested) == 13
    unlabelled = Clip("unlabelled", Path("a"), split="test", person="someone")
    assert assign_folds([*clips, unlabelled], 3, 0, nested=True)[-1] == unlabelled


def test_folds_are_by_stimulus_or_clip_where_people_tell_no_folds_apart() -> None:
    clips = [Clip(f"{row}", Path("a"), split="train", person="anna", labels=(0.5,)) for row in range(12)]
    assert choose_fold_unit(clips, 3) == "clip"
    assert [clip.split for clip in assign_folds(clips, 3, 0)].count("val") == 4
    two = [replace(clip, person=f"{row % 2}") for row, clip in enumerate(clips)]
    assert [choose_fold_unit(two, 3, nested=nested) for nested in (False, True)] == ["person", "clip"]
    filmed = [replace(clip, person=None, stimulus=f"film {row % 4}") for row, clip in enumerate(clips)]
    assert (choose_fold_unit(filmed, 4), choose_fold_unit(filmed, 5)) == ("stimulus", "clip")
    held_out = {clip.stimulus for clip in assign_folds(filmed, 4, 1) if clip.split == "val"}
    assert len(held_out) == 1


def test_a_table_of_one_person_is_split_by_clip_with_a_warning() -> None:
    clips = [Clip(f"{row}", Path("a"), person="anna") for row in range(52)]
    with pytest.warns(UserWarning, match=r"one person.*by clip.*crossval"):
        split_clips = with_splits(clips)
    assert [sum(clip.split == name for clip in split_clips) for name in ("train", "val", "test")] == [
        36,
        8,
        8,
    ]


def test_clips_without_a_split_are_unchanged() -> None:
    clips = [*_people(9), Clip("unlisted", Path("a"), person="person 0", problem="no split")]
    assert assign_folds(clips, 2, 1)[-1] == clips[-1]


def test_invalid_folds_are_refused() -> None:
    clips = _people(2)[:3]
    with pytest.raises(ConfigError, match=r"data\.folds=3, data\.fold=3"):
        assign_folds(clips, 3, 3)
    with pytest.raises(ConfigError, match=r"data\.fold=-1"):
        assign_folds(clips, 3, -1)
    with pytest.raises(ConfigError, match=r"3 folds, 2 people"):
        assign_folds(clips, 3, 0)
    with pytest.raises(ConfigError, match=r"data\.folds=1.*2"):
        assign_folds(clips, 1, 0)


def _write(folder: Path, people: list[str], stimuli: list[str], seed: int = 0) -> Path:
    """A table of clips whose labels depend on the person; files in the folder and elsewhere, one without
    labels."""
    generator = np.random.default_rng(seed)
    levels = {name: generator.uniform(0.2, 0.8, size=3) for name in sorted(set(people))}
    with (folder / "data.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "audio", "split", "person", "stimulus", "Joy", "Fear", "Awe", "age"])
        for row, (person, stimulus) in enumerate(zip(people, stimuli, strict=True)):
            values = (levels[person] + generator.uniform(-0.2, 0.2, size=3)).round(4)
            writer.writerow([f"media/{row}.mp4", f"media/{row}.wav", "train", person, stimulus, *values, 30])
        writer.writerow(["media/no.mp4", "", "test", "x", "y", "", "", "", 30])
    return folder / "data.csv"


def _blocks(n_blocks: int, size: int, n_stimuli: int = 3) -> tuple[list[str], list[str]]:
    """Groups of people who saw the same stimuli, each stimulus in one group."""
    people = [f"p{block}-{row % 4}" for block in range(n_blocks) for row in range(size)]
    stimuli = [f"s{block}-{row % n_stimuli}" for block in range(n_blocks) for row in range(size)]
    return people, stimuli


LABELS = ("Joy", "Fear", "Awe")


@pytest.mark.parametrize("seed", [0, 1])
def test_splits_share_no_person_and_stimulus_and_have_similar_labels(tmp_path: Path, seed: int) -> None:
    data = _write(tmp_path, *_blocks(60, 10), seed=seed)
    made = split(data, tmp_path / "clean.csv", labels=LABELS, seed=seed)
    manifest = read_dataset(made.path)
    assert manifest.labels == LABELS  # the table has no other column that could be one
    for kind in ("person", "stimulus"):
        assert find_shared(manifest.clips, kind) == []
    assert (made.n_components, made.n_left_out, len(manifest.clips)) == (60, 1, 600)
    assert made.n_clips == {"train": 420, "val": 90, "test": 90}
    assert made.to_pandas()["n_clips"].to_dict() == made.n_clips
    assert "train 420, val 90, test 90 clips" in made._repr_html_()
    values = np.array([clip.labels for clip in manifest.clips])
    for name in ("val", "test"):
        apart = np.abs(np.array(made.means[name]) - values.mean(axis=0)) / values.std(axis=0)
        assert apart.max() < 0.1  # nine blocks drawn at random are .27 apart on average
    first = manifest.clips[0]
    assert first.path == tmp_path / "media" / "0.mp4"
    assert first.audio_path == tmp_path / "media" / "0.wav"
    original = read_dataset(data, LABELS).clips[0]
    assert (first.person, first.stimulus, first.labels) == (
        original.person,
        original.stimulus,
        original.labels,
    )


def test_splits_disjoint_in_a_single_key(tmp_path: Path) -> None:
    people, stimuli = [f"p{row % 30}" for row in range(600)], [f"s{row // 30}" for row in range(600)]
    data = _write(tmp_path, people, stimuli)
    by_person = split(data, tmp_path / "person.csv", disjoint=["person"], labels=LABELS)
    assert find_shared(read_dataset(by_person.path).clips, "person") == []
    assert len(find_shared(read_dataset(by_person.path).clips, "stimulus")) == 3
    by_stimulus = split(
        data, tmp_path / "stimulus.csv", disjoint=["stimulus"], val=0.3, test=0.0, labels=LABELS
    )
    assert find_shared(read_dataset(by_stimulus.path).clips, "stimulus") == []
    assert by_stimulus.n_clips == {"train": 420, "val": 180, "test": 0}
    by_labels = split(data, tmp_path / "labels.csv", disjoint=["labels"], labels=LABELS)
    assert by_labels.n_components > 590


@pytest.mark.parametrize("scale", [0.1, pytest.param(1.0, marks=pytest.mark.slow)])
def test_new_splits_of_unknown_people_keep_the_existing_splits(tmp_path: Path, scale: float) -> None:
    """Simulate Hume-Reaction's published sizes: 2,222 people, each in one official split; 927 stimuli."""
    generator = np.random.default_rng(0)
    stimuli = generator.uniform(size=(round(927 * scale), 3)).round(4)
    person_of = dict[str, int]()
    rows = []
    n_people = round(2222 * scale)
    for name, n_clips in (("train", 15_806), ("val", 4_657), ("test", 4_604)):
        size, n_new = round(n_clips * scale), round(n_people * n_clips / 25_067)
        for person in len(set(person_of.values())) + generator.integers(n_new, size=size):
            path = f"{len(person_of)}.mp4"
            person_of[path] = int(person)
            values = ["", "", ""] if name == "test" else stimuli[generator.integers(len(stimuli))].tolist()
            rows.append([path, name, *values])
    data = tmp_path / "hume.csv"
    lines = [",".join(map(str, row)) for row in [["path", "split", *LABELS], *rows]]
    data.write_text("\n".join(lines), encoding="utf-8")

    def shared_people(table: Path) -> float:  # share of the test people in train
        people = {name: set[int]() for name in ("train", "val", "test")}
        for clip in read_dataset(table, LABELS).clips:
            people[str(clip.split)].add(person_of[clip.path.name])
        return len(people["test"] & people["train"]) / len(people["test"])

    with pytest.warns(UserWarning, match=r"people are unknown.*--within-split"):
        mixed = split(data, tmp_path / "mixed.csv", disjoint=["labels"], labels=LABELS)
    kept = split(data, tmp_path / "kept.csv", labels=LABELS)
    shares = [f"{shared_people(table.path):.1%}" for table in (mixed, kept)]
    print(f"people of test in train: {shares[0]}, within splits {shares[1]}")
    print(f"{mixed.n_clips}, within splits {kept.n_clips}, {kept.n_dropped} clips dropped")
    assert shared_people(mixed.path) > 0.99
    assert shared_people(kept.path) == 0.0
    assert kept.sources == {"train": "train", "val": "val", "test": "val"}
    assert kept.n_clips["test"] == pytest.approx(0.15 * 4_657 * scale, rel=0.25)
    clips = read_dataset(kept.path, LABELS).clips
    assert len({(clip.labels, clip.split) for clip in clips}) == len({clip.labels for clip in clips})
    assert find_mixed_splits(clips) == []
    leaks = find_mixed_splits(read_dataset(mixed.path, LABELS).clips)
    assert [(leak.splits, leak.n_shared) for leak in leaks] == [(("train", "val"), 2), (("train", "test"), 2)]


def test_components_are_joined_through_other_clips() -> None:
    pairs = [("a", "1"), ("b", "2"), ("b", "1"), ("c", "3"), ("d", "3"), ("e", "4")]
    clips = [Clip(f"{row}", Path("a"), person=one, stimulus=other) for row, (one, other) in enumerate(pairs)]
    assert find_components(clips, ["person", "stimulus"]).tolist() == [0, 0, 0, 1, 1, 2]
    assert find_components(clips, ["stimulus"]).tolist() == [0, 1, 0, 2, 2, 3]


def test_an_impossible_split_is_an_error_with_a_hint(tmp_path: Path) -> None:
    crossed = _write(tmp_path, [f"p{row % 8}" for row in range(80)], [f"s{row // 8}" for row in range(80)])
    out = tmp_path / "out.csv"
    with pytest.raises(DataError, match=r"person and stimulus.*1 components.*--disjoint"):
        split(crossed, out, labels=LABELS)
    two = _write(tmp_path, *_blocks(2, 40))
    with pytest.raises(DataError, match=r"2 components.*40 of 80 clips"):
        split(two, out, labels=LABELS)
    with pytest.raises(ConfigError, match=r"disjoint in persons.*person, stimulus"):
        split(two, out, disjoint=["persons"])
    with pytest.raises(ConfigError, match=r"val 0\.6, test 0\.4"):
        split(two, out, disjoint=["person"], val=0.6, test=0.4)
    with pytest.raises(OutputError, match="a file that exists"):
        split(two, two)
    unknown = _write(tmp_path, *_blocks(20, 10))
    unknown.write_text(unknown.read_text().replace("s3-1", ""), encoding="utf-8")
    with pytest.raises(DataError, match=r"stimulus.*3 of 200"):
        split(unknown, out, labels=LABELS)
    assert not out.exists()
