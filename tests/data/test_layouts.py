"""Reading data sets: ABAW5 as the challenge gives it, a plain CSV, and what can be wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from reactometer.data.layouts import read_data_set
from reactometer.errors import DataError
from reactometer.labels import BASIC, EMI, HUME_REACTION

HEADER = "File_ID,Split,Adoration,Amusement,Anxiety,Disgust,Empathic-Pain,Fear,Surprise,Age,Country"


def _abaw5(folder: Path, *rows: str, header: str = HEADER) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data_info.csv").write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return folder


def _csv(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "clips.csv"
    path.write_text(text, encoding=encoding)
    return path


def test_abaw5_is_read_as_the_challenge_gives_it(tmp_path: Path) -> None:
    (tmp_path / "train" / "wav").mkdir(parents=True)
    (tmp_path / "train" / "wav" / "00000.wav").write_bytes(b"RIFF")
    manifest = read_data_set(
        _abaw5(
            tmp_path,
            "[00000],Train,0.1,0.2,0.3,0.4,0.5,0.6,1.0,25.0,United States",
            "[00001],Val,1,0,0,0,0,0,0,31.0,South Africa",
            "[00002],Test,,,,,,,,,",
        )
    )
    assert manifest.labels == HUME_REACTION
    first, second, third = manifest.clips
    assert first.clip_id == "[00000]"
    assert first.path == tmp_path / "train" / "mp4" / "00000.mp4"
    assert first.audio_path == tmp_path / "train" / "wav" / "00000.wav"
    assert first.labels == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0)
    assert first.attributes == {"Age": "25.0", "Country": "United States"}
    assert (second.split, second.audio_path) == ("val", None)
    assert (third.split, third.labels, third.problem) == ("test", None, None)


def test_abaw5_with_another_label_set_and_known_people(tmp_path: Path) -> None:
    header = "File_ID,Split," + ",".join(BASIC) + ",Person,Stimulus"
    manifest = read_data_set(_abaw5(tmp_path, "[7],Train,0,0,0,0,0,1,p1,s1", header=header))
    assert manifest.labels == BASIC
    assert (manifest.clips[0].person, manifest.clips[0].stimulus) == ("p1", "s1")


def test_a_plain_csv_with_labels_of_ones_own(tmp_path: Path) -> None:
    path = _csv(tmp_path, "path,split,person,Joy,Awe\nsub/a b.mp4,devel,anna,0.5,1\n/else/b.mp4,,,,\n")
    manifest = read_data_set(path)
    assert manifest.labels == ("Joy", "Awe")
    first, second = manifest.clips
    assert (first.path, first.split, first.person) == (tmp_path / "sub" / "a b.mp4", "val", "anna")
    assert (second.path, second.split, second.person, second.labels) == (Path("/else/b.mp4"), None, None, None)


def test_a_byte_order_mark_and_commas_in_names_do_no_harm(tmp_path: Path) -> None:
    path = _csv(tmp_path, 'path,Joy\n"a, b.mp4",0.5\n', encoding="utf-8-sig")
    assert read_data_set(path).clips[0].path.name == "a, b.mp4"


def test_labels_can_be_named(tmp_path: Path) -> None:
    path = _csv(tmp_path, "path,Joy,age\na.mp4,0.5,33\n")
    manifest = read_data_set(path, labels="Joy")
    assert manifest.labels == ("Joy",)
    assert manifest.clips[0].attributes == {"age": "33"}
    with pytest.raises(DataError, match=r"no column for label 'joi'.*Did you mean 'Joy'\?"):
        read_data_set(path, labels=["joi"])


@pytest.mark.parametrize("names", [HUME_REACTION, EMI, BASIC])
def test_a_known_label_set_is_found_in_its_own_order(tmp_path: Path, names: tuple[str, ...]) -> None:
    path = _csv(tmp_path, f"path,{','.join(reversed(names))},note\na.mp4,{','.join('1' for _ in names)},x\n")
    assert read_data_set(path).labels == names


def test_a_misspelt_label_gets_a_suggestion(tmp_path: Path) -> None:
    header = HEADER.replace("Amusement", "Amusment")
    with pytest.raises(DataError, match=r"unknown label 'Amusment'.*Did you mean 'Amusement'\?"):
        read_data_set(_abaw5(tmp_path, "[0],Train,0,0,0,0,0,0,1,,", header=header))


def test_a_missing_label_column_is_named(tmp_path: Path) -> None:
    header = HEADER.replace(",Fear", "")
    with pytest.raises(DataError, match="label column 'Fear' is missing"):
        read_data_set(_abaw5(tmp_path, "[0],Train,0,0,0,0,0,1,,", header=header))


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("[1],Train,0,0,0,0,0,0,7,,", r"label Surprise is outside \[0, 1\] \(got 7\)"),
        ("[1],Train,0,0,0,0,0,-0.1,1,,", r"label Fear is outside \[0, 1\] \(got -0\.1\)"),
        ("[1],Train,0,0,nan,0,0,0,1,,", r"label Anxiety is outside \[0, 1\] \(got nan\)"),
        ("[1],Train,0,high,0,0,0,0,1,,", r"label Amusement is not a number \(got 'high'"),
        ("[1],Train,0,,0,0,0,0,1,,", r"label Amusement is not a number \(got ''"),
        ("[1],Holdout,0,0,0,0,0,0,1,,", r"unknown split \(got 'Holdout'; expected train, val or test\)"),
        ("[1],,0,0,0,0,0,0,1,,", r"no split"),
        ("[0],Train,0,0,0,0,0,0,1,,", r"duplicate id \(rows 2 and 3"),
    ],
)
def test_a_bad_row_costs_itself_alone(tmp_path: Path, row: str, problem: str) -> None:
    manifest = read_data_set(_abaw5(tmp_path, "[0],Train,0,0,0,0,0,0,1,,", row))
    good, bad = manifest.clips
    assert good.problem is None
    assert bad.problem is not None
    with pytest.raises(AssertionError, match=problem):
        raise AssertionError(bad.problem)


def test_what_is_no_data_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such file"):
        read_data_set(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no known data set layout"):
        read_data_set(tmp_path)
    with pytest.raises(DataError, match="no column 'path'"):
        read_data_set(_csv(tmp_path, "file,Joy\na.mp4,1\n"))
    with pytest.raises(DataError, match="has a header and no rows"):
        read_data_set(_csv(tmp_path, "path,Joy\n"))
    with pytest.raises(DataError, match="not a CSV table"):
        read_data_set(_csv(tmp_path, ""))
    with pytest.raises(DataError, match="has no label column"):
        read_data_set(_csv(tmp_path, "path,split\na.mp4,train\n"))
    (tmp_path / "latin.csv").write_bytes(b"path,Joy\n\xe9.mp4,1\n")
    with pytest.raises(DataError, match="UTF-8"):
        read_data_set(tmp_path / "latin.csv")


@pytest.mark.shared
def test_the_real_table_is_read(shared_data: Path) -> None:
    manifest = read_data_set(shared_data / "facevoice")
    assert manifest.labels == BASIC
    assert [sum(clip.split == name for clip in manifest.clips) for name in ("train", "val", "test")] == [360, 100, 100]
    assert all(clip.path.is_file() and clip.labels and not clip.problem for clip in manifest.clips)
