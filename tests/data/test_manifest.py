"""Users' tables: accepted forms, detected labels, and errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from reactometer.data.datasets import read_dataset
from reactometer.errors import DataError
from reactometer.labels import BASIC, EMI, HUME_REACTION


def _csv(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "clips.csv"
    path.write_text(text, encoding=encoding)
    return path


def test_a_plain_csv_with_custom_labels(tmp_path: Path) -> None:
    path = _csv(tmp_path, "path,split,person,Joy,Awe\nsub/a b.mp4,devel,anna,0.5,1\n/else/b.mp4,,,,\n")
    manifest = read_dataset(path)
    assert manifest.labels == ("Joy", "Awe")
    first, second = manifest.clips
    assert (first.path, first.split, first.person) == (tmp_path / "sub" / "a b.mp4", "val", "anna")
    assert (second.path, second.split, second.person, second.labels) == (
        Path("/else/b.mp4"),
        None,
        None,
        None,
    )


def test_a_byte_order_mark_and_commas_in_names_do_no_harm(tmp_path: Path) -> None:
    path = _csv(tmp_path, 'path,Joy\n"a, b.mp4",0.5\n', encoding="utf-8-sig")
    assert read_dataset(path).clips[0].path.name == "a, b.mp4"


@pytest.mark.parametrize(("separator", "encoding"), [(";", "utf-8"), (";", "utf-8-sig"), ("\t", "utf-8")])
def test_tables_of_spreadsheets_are_read(separator: str, encoding: str, tmp_path: Path) -> None:
    """Semicolons separate cells if the comma is the decimal sign; a column of remarks is no label."""
    rows = ["path;person;Joy;Awe;Remark;Empty", "a, b.mp4;ü;0,5;1;late, but fine;", "c.mp4;y;0,25;,75;;"]
    manifest = read_dataset(_csv(tmp_path, "\n".join(rows).replace(";", separator) + "\n", encoding))
    assert manifest.labels == ("Joy", "Awe")
    assert [clip.clip_id for clip in manifest.clips] == ["a, b.mp4", "c.mp4"]
    assert [clip.labels for clip in manifest.clips] == [(0.5, 1.0), (0.25, 0.75)]
    assert (manifest.clips[0].person, manifest.clips[0].attributes) == (
        "ü",
        {"Remark": "late, but fine", "Empty": ""},
    )


def test_a_requested_label_column_of_text_is_an_error(tmp_path: Path) -> None:
    table = _csv(tmp_path, "path,Joy,Remark\na.mp4,0.5,good\n")
    problem = read_dataset(table, "Joy,Remark").clips[0].problem
    assert problem
    assert "label Remark is not a number in [0, 1] (got 'good'" in problem


def test_windows_paths_are_found(tmp_path: Path) -> None:
    (tmp_path / "day1").mkdir()
    (tmp_path / "day1" / "a.mp4").touch()
    (clip,) = read_dataset(_csv(tmp_path, "path,Joy\nday1\\a.mp4,0.5\n")).clips
    assert (clip.clip_id, clip.path) == ("day1\\a.mp4", tmp_path / "day1" / "a.mp4")


def test_columns_are_found_in_any_case_and_a_number_of_the_rater_is_no_label(tmp_path: Path) -> None:
    manifest = read_dataset(
        _csv(tmp_path, "Path,PERSON,Split,Rater,Joy\na.mp4,x,Train,1,0\nb.mp4,x,Val,1,1\n,,,,\n")
    )
    assert manifest.labels == ("Joy",)
    assert [(clip.person, clip.split) for clip in manifest.clips] == [("x", "train"), ("x", "val")]


def test_two_columns_of_one_name_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="2 columns are called 'Joy'"):
        read_dataset(_csv(tmp_path, "path,Joy,Joy\na.mp4,0.5,1\n"))


def test_a_folder_with_one_table_is_a_dataset(tmp_path: Path) -> None:
    _csv(tmp_path, "path,Joy\na.mp4,0.5\n")
    assert [clip.clip_id for clip in read_dataset(tmp_path).clips] == ["a.mp4"]
    (tmp_path / "more.tsv").write_text("path\tJoy\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"layout.*clips.csv, more.tsv"):
        read_dataset(tmp_path)


def test_rows_of_several_raters_are_a_problem(tmp_path: Path) -> None:
    problem = read_dataset(_csv(tmp_path, "path,rater,Joy\na.mp4,x,1\na.mp4,y,0\n")).clips[1].problem
    assert problem
    assert "'reactometer data ratings'" in problem


def test_labels_can_be_named(tmp_path: Path) -> None:
    path = _csv(tmp_path, "path,Joy,age\na.mp4,0.5,33\n")
    manifest = read_dataset(path, labels="Joy")
    assert manifest.labels == ("Joy",)
    assert manifest.clips[0].attributes == {"age": "33"}
    with pytest.raises(DataError, match=r"'joi'.*'Joy'"):
        read_dataset(path, labels=["joi"])


@pytest.mark.parametrize("names", [HUME_REACTION, EMI, BASIC])
def test_a_known_label_set_has_its_standard_order(tmp_path: Path, names: tuple[str, ...]) -> None:
    path = _csv(tmp_path, f"path,{','.join(reversed(names))},note\na.mp4,{','.join('1' for _ in names)},x\n")
    assert read_dataset(path).labels == names


def test_rows_longer_than_the_header_are_an_error(tmp_path: Path) -> None:
    path = _csv(tmp_path, "path,split,Joy\na.mp4,train,0.5,\nb.mp4,test,0.5,\n")
    with pytest.raises(DataError, match=r"more cells than the header.*1 more"):
        read_dataset(path)
