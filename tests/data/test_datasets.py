"""Reading data sets: ABAW5, MuSe-2022 and EMI as the challenges give them, and what can be wrong."""

from __future__ import annotations

import wave
from pathlib import Path

import cv2
import numpy as np
import pytest

from reactometer.config import PrepareConfig
from reactometer.data.datasets import read_dataset
from reactometer.data.manifest import DUPLICATE, NO_LABEL
from reactometer.data.prepare import prepare
from reactometer.errors import DataError
from reactometer.labels import BASIC, EMI, HUME_REACTION

HEADER = "File_ID,Split,Adoration,Amusement,Anxiety,Disgust,Empathic-Pain,Fear,Surprise,Age,Country"


def _abaw5(folder: Path, *rows: str, header: str = HEADER) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data_info.csv").write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return folder


def _csv(folder: Path, text: str) -> Path:
    path = folder / "clips.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_abaw5_is_read_as_the_challenge_gives_it(tmp_path: Path) -> None:
    (tmp_path / "train" / "wav").mkdir(parents=True)
    (tmp_path / "train" / "wav" / "00000.wav").write_bytes(b"RIFF")
    manifest = read_dataset(
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
    manifest = read_dataset(_abaw5(tmp_path, "[7],Train,0,0,0,0,0,1,p1,s1", header=header))
    assert manifest.labels == BASIC
    assert (manifest.clips[0].person, manifest.clips[0].stimulus) == ("p1", "s1")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("[1],Train,0,0,0,0,0,0,7,,", r"label Surprise is not a number in \[0, 1\] \(got '7'\)"),
        ("[1],Train,0,0,0,0,0,-0.1,1,,", r"label Fear is not a number in \[0, 1\] \(got '-0\.1'\)"),
        ("[1],Train,0,0,nan,0,0,0,1,,", r"label Anxiety is not a number in \[0, 1\] \(got 'nan'\)"),
        ("[1],Train,0,high,0,0,0,0,1,,", r"label Amusement is not a number in \[0, 1\] \(got 'high'"),
        ("[1],Train,0,,0,0,0,0,1,,", r"label Amusement is not a number in \[0, 1\] \(got ''"),
        ("[1],Holdout,0,0,0,0,0,0,1,,", r"unknown split \(got 'Holdout'; expected train, val or test\)"),
        ("[0],Train,0,0,0,0,0,0,1,,", r"duplicate id"),
    ],
)
def test_a_bad_row_affects_only_its_clip(tmp_path: Path, row: str, problem: str) -> None:
    manifest = read_dataset(_abaw5(tmp_path, "[0],Train,0,0,0,0,0,0,1,,", row))
    good, bad = manifest.clips
    assert good.problem is None
    assert bad.problem is not None
    with pytest.raises(AssertionError, match=problem):
        raise AssertionError(bad.problem)


def test_an_unknown_dataset_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        read_dataset(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no known dataset layout"):
        read_dataset(tmp_path)
    with pytest.raises(DataError, match="no column 'path'"):
        read_dataset(_csv(tmp_path, "clip,Joy\na.mp4,1\n"))
    with pytest.raises(DataError, match="not a CSV table with rows"):
        read_dataset(_csv(tmp_path, "path,Joy\n"))
    with pytest.raises(DataError, match="not a CSV table"):
        read_dataset(_csv(tmp_path, ""))
    with pytest.raises(DataError, match="no label column"):
        read_dataset(_csv(tmp_path, "path,split\na.mp4,train\n"))
    (tmp_path / "latin.csv").write_bytes(b"path,Joy\n\xe9.mp4,1\n")
    with pytest.raises(DataError, match="UTF-8"):
        read_dataset(tmp_path / "latin.csv")


def _table(path: Path, *rows: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def _file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"media")
    return path


def _tone(path: Path, duration_s: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    times_s = np.arange(int(duration_s * 16_000)) / 16_000
    with wave.open(str(path), "wb") as stream:
        stream.setparams((1, 2, 16_000, 0, "NONE", ""))
        stream.writeframes((10_000 * np.sin(2 * np.pi * 440 * times_s)).astype("<i2").tobytes())


MUSE_HEADER = "File_ID," + ",".join(HUME_REACTION)


@pytest.mark.parametrize("header", ["Id,Proposal", "File_ID,Split", "id,partition"])
def test_muse_2022_is_read_as_the_challenge_gives_it(tmp_path: Path, header: str) -> None:
    _table(
        tmp_path / "labels.csv",
        MUSE_HEADER,
        "[00001],0,.2,0,0,0,0,1",
        "[00000],.1,.2,.3,.4,.5,.6,1",
        "[00002],,,,,,,",
    )
    _table(
        tmp_path / "partition.csv", header, "[00000],train", "[00001],devel", "[00002],test", "[00003],test"
    )
    _file(tmp_path / "feats" / "Faces" / "00000" / "1.jpg")
    wav = _file(tmp_path / "raw" / "wav" / "00000.wav")
    video = _file(tmp_path / "raw" / "00001.mp4")
    manifest = read_dataset(tmp_path)
    assert manifest.labels == HUME_REACTION
    first, second, third, fourth = manifest.clips
    assert (first.clip_id, first.split, first.labels) == (
        "[00000]",
        "train",
        (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0),
    )
    assert (first.path, first.audio_path) == (tmp_path / "feats" / "Faces" / "00000", wav)
    assert (second.path, second.audio_path, second.split) == (video, None, "val")
    assert second.labels == (0, 0.2, 0, 0, 0, 0, 1)
    assert (third.labels, third.split, fourth.labels, fourth.split) == (None, "test", None, "test")
    assert (third.path, fourth.clip_id) == (tmp_path / "feats" / "Faces" / "00002", "[00003]")
    assert [clip.problem for clip in manifest.clips] == [None] * 4


def test_muse_2022_rows_that_do_not_fit_are_named(tmp_path: Path) -> None:
    _table(
        tmp_path / "labels.csv",
        MUSE_HEADER,
        "[00000],0,0,0,0,0,0,1",
        "[00001],0,0,0,0,0,0,9",
        "[00009],,,,,,,",
    )
    parts = ["[00000],train", "[00001],train", "[00003],holdout", "[00004],train", "[00000],devel"]
    _table(tmp_path / "partition.csv", "Id,Proposal", *parts)
    assert [(clip.clip_id, clip.problem) for clip in read_dataset(tmp_path).clips] == [
        ("[00000]", None),
        ("[00001]", f"label Surprise is not a number in [0, 1] (got '9'); {NO_LABEL}"),
        ("[00003]", "unknown split (got 'holdout'; expected train, val or test)"),
        ("[00004]", "no labels (labels.csv has no row for this id)"),
        ("[00000]", DUPLICATE),
    ]


def test_muse_2022_crops_are_prepared_with_their_sound(tmp_path: Path) -> None:
    """From the challenge's folder to a prepared clip: crops as they are, two a second, and the sound beside
    them."""
    _table(tmp_path / "data" / "labels.csv", MUSE_HEADER, "[00000],0,0,0,0,0,0,1")
    _table(tmp_path / "data" / "partition.csv", "Id,Proposal", "[00000],train", "[00001],test")
    crops = tmp_path / "data" / "feats" / "Faces" / "00000"
    crops.mkdir(parents=True)
    for number in range(3):
        cv2.imwrite(str(crops / f"{number}.jpg"), np.full((40, 40, 3), 90, np.uint8))
    _tone(tmp_path / "data" / "wav" / "00000.wav", duration_s=2.0)
    settings = PrepareConfig(detector="haar", size_px=32)
    prepared = prepare(tmp_path / "data", tmp_path / "out", settings=settings, workers=1, progress=False)
    first, second = prepared.rows
    assert (first.n_faces, first.has_sound, first.duration_s, first.clip.split) == (3, True, 2.0, "train")
    assert "feats/Faces/00001 (got no such file" in (second.clip.problem or "")


EMI_HEADER = "Filename," + ",".join(EMI)


def test_emi_is_read_as_the_challenge_gives_it(tmp_path: Path) -> None:
    _table(tmp_path / "train_split.csv", EMI_HEADER, "00000,.3,.3,0,0,.3,0", "00001.mp4,0,0,0,0,.5,0")
    _table(tmp_path / "valid_split.csv", EMI_HEADER, "00002,1,0,0,0,0,0")
    one, two = _file(tmp_path / "raw" / "00001.mp4"), _file(tmp_path / "mp4" / "00002.mp4")
    manifest = read_dataset(tmp_path)
    assert manifest.labels == EMI
    assert [(clip.clip_id, clip.split) for clip in manifest.clips] == [
        ("00000", "train"),
        ("00001.mp4", "train"),
        ("00002", "val"),
    ]
    assert [clip.path for clip in manifest.clips] == [tmp_path / "raw" / "00000.mp4", one, two]
    assert manifest.clips[0].labels == (0.3, 0.3, 0, 0, 0.3, 0)
    assert not any(clip.problem for clip in manifest.clips)
    _table(tmp_path / "test_split.csv", "Filename", "00003", "00004")
    *_, third, fourth = read_dataset(tmp_path).clips
    assert (third.clip_id, third.split, third.labels, third.problem) == ("00003", "test", None, None)
    assert fourth.path == tmp_path / "raw" / "00004.mp4"


def test_emi_rows_and_tables_that_do_not_fit_are_named(tmp_path: Path) -> None:
    _table(tmp_path / "train_split.csv", EMI_HEADER, "00000,0,0,0,0,0,1", "00001,0,0,0,0,0,1.2")
    _table(tmp_path / "valid_split.csv", EMI_HEADER, "00002,0,0,0,0,0,1", "00000,0,0,0,0,0,1")
    assert [clip.problem for clip in read_dataset(tmp_path).clips] == [
        None,
        f"label Joy is not a number in [0, 1] (got '1.2'); {NO_LABEL}",
        None,
        DUPLICATE,
    ]
    _table(tmp_path / "valid_split.csv", EMI_HEADER.replace(",Joy", ""), "00002,0,0,0,0,0")
    with pytest.raises(DataError, match=r"valid_split\.csv: no column 'Joy'"):
        read_dataset(tmp_path)
    _table(tmp_path / "train_split.csv", EMI_HEADER.replace("Filename", "File"), "00000,0,0,0,0,0,1")
    with pytest.raises(DataError, match=r"train_split\.csv.*'Filename'"):
        read_dataset(tmp_path)


def test_an_empty_id_is_no_other_clip(tmp_path: Path) -> None:
    zeros = "0,0,0,0,0,1"
    for layout, name in (("muse", "labels.csv"), ("emi", "train_split.csv"), ("abaw5", "data_info.csv")):
        header = {"muse": MUSE_HEADER, "emi": EMI_HEADER, "abaw5": HEADER}[layout]
        row = {"muse": f"[00000],0,{zeros}", "emi": f"00000,{zeros}", "abaw5": f"[],Train,0,{zeros},,"}[
            layout
        ]
        _table(tmp_path / layout / name, header, row)
    _table(tmp_path / "muse" / "partition.csv", "Id,Proposal", ",train", "[00000],train")
    _table(tmp_path / "emi" / "valid_split.csv", EMI_HEADER, f",{zeros}")
    _csv(tmp_path, "path,Joy\n,1\n")
    for path in (tmp_path / "muse", tmp_path / "emi", tmp_path / "abaw5", tmp_path / "clips.csv"):
        assert [clip.problem for clip in read_dataset(path).clips].count("empty id") == 1


def test_an_unknown_folder_gets_the_list_of_layouts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"layout.*without CSV") as caught:
        read_dataset(tmp_path)
    abaw5, muse = "data_info.csv (ABAW5)", "labels.csv and partition.csv (MuSe-2022)"
    emi, crema_d = "train_split.csv and valid_split.csv (EMI)", "tabulatedVotes.csv (CREMA-D)"
    for table in (abaw5, muse, emi, crema_d, "a CSV table with a column 'path'"):
        assert table in str(caught.value)
    _table(tmp_path / "labels.csv", MUSE_HEADER, "[00000],0,0,0,0,0,0,1")
    with pytest.raises(DataError, match=r"labels\.csv: no column 'path'"):
        read_dataset(tmp_path)


@pytest.mark.shared
def test_the_real_table_is_read(shared_data: Path) -> None:
    manifest = read_dataset(shared_data / "facevoice")
    assert manifest.labels == BASIC
    assert [sum(clip.split == name for clip in manifest.clips) for name in ("train", "val", "test")] == [
        360,
        100,
        100,
    ]
    assert all(clip.path.is_file() and clip.labels and not clip.problem for clip in manifest.clips)


def test_a_crop_that_is_a_dangling_link_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "crops").mkdir()
    cv2.imwrite(str(tmp_path / "crops" / "0.jpg"), np.full((40, 40, 3), 90, np.uint8))
    (tmp_path / "crops" / "1.jpg").symlink_to("annexed")
    path = _csv(tmp_path, "path,split,Joy\ncrops,train,0.5\n")
    settings = PrepareConfig(detector="haar", size_px=32)
    (row,) = prepare(path, tmp_path / "out", settings=settings, workers=1, progress=False).rows
    assert (row.clip.problem, row.n_samples, row.n_faces, row.n_unreadable) == (None, 2, 1, 1)
