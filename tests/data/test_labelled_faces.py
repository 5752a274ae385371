"""Labelled faces: every layout gives the same pictures, and what cannot be used is told of by name."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from reactometer.config import FacesConfig
from reactometer.data.labelled_faces import FaceDataset, LabelledFaces, read_faces
from reactometer.errors import DataError

LABELS = ("calm", "glad")


def _picture(label: str, number: int, grey: bool = False) -> bytes:
    pixels = np.full((20, 24, 3), (number, 90 if label == "calm" else 200, 50), np.uint8)  # BGR
    if grey:
        pixels[:] = pixels[..., 1:2]
    return cv2.imencode(".png", pixels)[1].tobytes()


def _rows(n: int, grey: bool = False) -> pd.DataFrame:
    return pd.DataFrame(
        {"image": _picture(label, number, grey), "label": label} for label in LABELS for number in range(n)
    )


def _folder(parent: Path, n: int) -> None:
    for label in LABELS:
        (parent / label).mkdir(parents=True)
        for number in range(n):
            (parent / label / f"{number}.png").write_bytes(_picture(label, number))


def _read(path: Path) -> LabelledFaces:
    return read_faces(FacesConfig(path=path), progress=False)


def _counts(faces: LabelledFaces) -> dict[str, int]:
    return {name: len(split.pictures) for name, split in faces.splits.items()}


def test_parquet_a_split(tmp_path: Path) -> None:
    for name, n in (("train", 10), ("validation", 3), ("test", 4)):
        _rows(n).to_parquet(tmp_path / f"{name}.parquet")
    faces = _read(tmp_path)
    assert _counts(faces) == {"train": 20, "val": 6, "test": 8}
    assert faces.labels == LABELS
    assert not faces.grey
    picture, place = FaceDataset(faces.splits["train"], 16)[11]
    assert picture.shape == (3, 16, 16)
    assert picture[:, 0, 0].tolist() == [50, 200, 1]  # RGB
    assert place == 1


def test_one_parquet_in_the_hub_s_form_with_its_own_splits(tmp_path: Path) -> None:
    table = _rows(10, grey=True)
    table["image"] = table["image"].map(lambda image: {"bytes": image, "path": None})
    table["split"] = ["train"] * 6 + ["valid"] * 4 + ["train"] * 6 + ["test"] * 4
    table.loc[[6, 7], "split"] = "test"
    table.loc[[16, 17], "split"] = "valid"
    table.to_parquet(tmp_path / "faces.parquet")
    faces = _read(tmp_path / "faces.parquet")
    assert _counts(faces) == {"train": 12, "val": 4, "test": 4}
    assert faces.grey


def test_a_folder_a_class_in_a_folder_a_split(tmp_path: Path) -> None:
    _folder(tmp_path / "train", 5)
    _folder(tmp_path / "val", 2)
    assert _counts(_read(tmp_path)) == {"train": 10, "val": 4}


def test_val_is_cut_out_of_train_the_same_each_time(tmp_path: Path) -> None:
    _folder(tmp_path / "faces", 30)
    first, second = _read(tmp_path / "faces"), _read(tmp_path / "faces")
    assert _counts(first) == {"train": 54, "val": 6}
    assert first.splits["val"].pictures == second.splits["val"].pictures
    assert not set(first.splits["val"].pictures) & set(first.splits["train"].pictures)
    assert np.bincount(first.splits["val"].classes).tolist() == [3, 3]


def test_unreadable_pictures_are_left_out_and_named(tmp_path: Path) -> None:
    _folder(tmp_path / "train", 5)
    _folder(tmp_path / "val", 2)
    (tmp_path / "train" / "calm" / "odd.jpg").write_bytes(b"no picture")
    (tmp_path / "train" / "calm" / "empty.jpg").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"2 pictures cannot be read.*train/calm/empty\.jpg"):
        faces = _read(tmp_path)
    assert _counts(faces)["train"] == 10
    assert len(faces.unreadable) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no pictures found"),
        (lambda path: _rows(5).rename(columns={"label": "class"}).to_parquet(path / "train.parquet"), "no column"),
        (lambda path: (path / "train.parquet").write_bytes(b"PAR"), "not a Parquet file"),
        (lambda path: _rows(5)[:5].to_parquet(path / "train.parquet"), "one class only"),
        (lambda path: _rows(5)[:6].to_parquet(path / "train.parquet"), "too few pictures of"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(make: object, message: str, tmp_path: Path) -> None:
    make(tmp_path)  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        _read(tmp_path)


def test_a_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        _read(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"faces\.path"):
        read_faces(FacesConfig())


@pytest.mark.slow
@pytest.mark.shared
def test_fer2013_is_read_as_it_is(shared_data: Path) -> None:
    faces = _read(shared_data / "fer2013")
    assert _counts(faces) == {"train": 28709, "val": 3589, "test": 3589}
    assert faces.labels == ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
    assert faces.grey
    assert not faces.unreadable


def test_a_split_in_any_spelling_is_known_and_another_one_refused(tmp_path: Path) -> None:
    """Pictures of a split that nobody knows must not be taught: they may be the test."""
    table = _rows(12).assign(split=(["Training"] * 4 + ["devel"] * 4 + ["test"] * 4) * 2)
    table.to_parquet(tmp_path / "faces.parquet")
    assert _counts(_read(tmp_path / "faces.parquet")) == {"train": 8, "val": 8, "test": 8}
    table.replace("test", "PrivateTest").to_parquet(tmp_path / "faces.parquet")
    with pytest.raises(DataError, match=r"PrivateTest.*train, val or test"):
        _read(tmp_path / "faces.parquet")
