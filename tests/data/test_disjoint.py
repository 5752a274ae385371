"""Splits that share nothing: the components, the shares, the labels, and what cannot be."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from reactometer.data.disjoint import find_components, split
from reactometer.data.layouts import read_data_set
from reactometer.data.leaks import find_shared
from reactometer.errors import ConfigError, DataError, OutputError
from reactometer.records import Clip


def _write(folder: Path, people: list[str], stimuli: list[str], seed: int = 0) -> Path:
    """A table of clips whose labels depend on the person; files in the folder and elsewhere, one without labels."""
    generator = np.random.default_rng(seed)
    own = {name: generator.uniform(0.2, 0.8, size=3) for name in sorted(set(people))}
    with (folder / "data.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "audio", "split", "person", "stimulus", "Joy", "Fear", "Awe", "age"])
        for row, (person, stimulus) in enumerate(zip(people, stimuli, strict=True)):
            values = (own[person] + generator.uniform(-0.2, 0.2, size=3)).round(4)
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
def test_splits_share_nobody_and_nothing_and_their_labels_are_alike(tmp_path: Path, seed: int) -> None:
    data = _write(tmp_path, *_blocks(60, 10), seed=seed)
    made = split(data, tmp_path / "clean.csv", labels=LABELS, seed=seed)
    manifest = read_data_set(made.path)
    assert manifest.labels == LABELS  # the table has no other column that could be one
    for kind in ("person", "stimulus"):
        assert find_shared(manifest.clips, kind) == []
    assert (made.n_components, made.n_left_out, len(manifest.clips)) == (60, 1, 600)
    assert made.n_clips == {"train": 420, "val": 90, "test": 90}
    values = np.array([clip.labels for clip in manifest.clips])
    for name in ("val", "test"):
        apart = np.abs(np.array(made.means[name]) - values.mean(axis=0)) / values.std(axis=0)
        assert apart.max() < 0.1  # nine blocks drawn at random are .27 apart on average
    first = manifest.clips[0]
    assert first.path == tmp_path / "media" / "0.mp4"
    assert first.audio_path == tmp_path / "media" / "0.wav"
    original = read_data_set(data, LABELS).clips[0]
    assert (first.person, first.stimulus, first.labels) == (original.person, original.stimulus, original.labels)


def test_one_key_alone_and_label_vectors(tmp_path: Path) -> None:
    people, stimuli = [f"p{row % 30}" for row in range(600)], [f"s{row // 30}" for row in range(600)]
    data = _write(tmp_path, people, stimuli)
    by_person = split(data, tmp_path / "person.csv", disjoint=["person"], labels=LABELS)
    assert find_shared(read_data_set(by_person.path).clips, "person") == []
    assert len(find_shared(read_data_set(by_person.path).clips, "stimulus")) == 3
    by_stimulus = split(data, tmp_path / "stimulus.csv", disjoint=["stimulus"], val=0.3, test=0.0, labels=LABELS)
    assert find_shared(read_data_set(by_stimulus.path).clips, "stimulus") == []
    assert by_stimulus.n_clips == {"train": 420, "val": 180, "test": 0}
    by_labels = split(data, tmp_path / "labels.csv", disjoint=["labels"], labels=LABELS)
    assert by_labels.n_components > 590


def test_components_are_joined_at_second_hand() -> None:
    pairs = [("a", "1"), ("b", "2"), ("b", "1"), ("c", "3"), ("d", "3"), ("e", "4")]
    clips = [Clip(f"{row}", Path("a"), person=one, stimulus=other) for row, (one, other) in enumerate(pairs)]
    assert find_components(clips, ["person", "stimulus"]).tolist() == [0, 0, 0, 1, 1, 2]
    assert find_components(clips, ["stimulus"]).tolist() == [0, 1, 0, 2, 2, 3]


def test_what_cannot_be_split_says_why_and_what_to_do(tmp_path: Path) -> None:
    crossed = _write(tmp_path, [f"p{row % 8}" for row in range(80)], [f"s{row // 8}" for row in range(80)])
    out = tmp_path / "out.csv"
    with pytest.raises(
        DataError,
        match=r"disjoint in person and stimulus.*one component.*--disjoint",
    ):
        split(crossed, out, labels=LABELS)
    two = _write(tmp_path, *_blocks(2, 40))
    with pytest.raises(DataError, match=r"2 components.*40 of 80 clips"):
        split(two, out, labels=LABELS)
    with pytest.raises(ConfigError, match=r"'persons'.*'person'"):
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
