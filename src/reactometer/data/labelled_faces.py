"""Labelled pictures of faces: a folder of class folders, or Parquet with the pictures inside."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from reactometer.config import FacesConfig
from reactometer.console import is_first_process, progress_bar
from reactometer.data.clips import SPLIT_NAMES, parse_split
from reactometer.errors import DataError

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
LEAST_PICTURES = 2
"""Of each class in a split."""

MOST_TINT = 2
"""Levels between the colours of a grey picture, as lossy formats leave them."""

CHECKED_AT_ONCE = 256


@dataclass(frozen=True)
class FaceSplit:
    """The pictures of one split, still encoded, and their classes."""

    pictures: Sequence[bytes | Path]
    classes: np.ndarray  # (N,) int64


@dataclass(frozen=True)
class LabelledFaces:
    """All splits that there are; train and val always."""

    name: str
    labels: tuple[str, ...]
    splits: dict[str, FaceSplit]
    unreadable: tuple[str, ...]
    grey: bool  # no picture has any colour


class FaceDataset(Dataset[tuple[Tensor, int]]):
    """Decodes pictures when they are asked for."""

    def __init__(self, split: FaceSplit, size_px: int) -> None:
        self.split = split
        self.size_px = size_px

    def __len__(self) -> int:
        return len(self.split.pictures)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        """A picture, (3, size_px, size_px) uint8 RGB, and its class."""
        picture = _decode(self.split.pictures[place])
        if picture is None:
            raise DataError(f"{self.split.pictures[place]!r:.80}: no longer readable", fix="Start again")
        if picture.shape[:2] != (self.size_px, self.size_px):
            shrinks = min(picture.shape[:2]) > self.size_px
            way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            picture = cv2.resize(picture, (self.size_px, self.size_px), interpolation=way)
        return torch.from_numpy(np.ascontiguousarray(picture[..., ::-1].transpose(2, 0, 1))), int(
            self.split.classes[place]
        )


def read_faces(config: FacesConfig, *, progress: bool = True) -> LabelledFaces:
    """Find the pictures of a data set, their classes and splits, and see that each can be read.

    Args:
        config: ``path`` is one of: a folder with ``train.parquet`` and others named after splits; a Parquet file, with
            or without a column ``split``; a folder with a folder a split and in it a folder a class; a folder with a
            folder a class. A Parquet file has the columns ``image`` (bytes of a JPEG, PNG, WebP …, or the Hugging
            Face form, a dictionary with ``bytes``) and ``label``.
        progress: show a bar on standard error.

    Raises:
        DataError: nothing found, a column is missing, fewer than two classes, or a class has too few pictures.
    """
    if config.path is None:
        raise DataError("no pictures to learn from", fix="Name them with faces.path=FOLDER")
    table = _find(config.path)
    readable, grey = _check(table["image"], progress)
    unreadable = tuple(str(name) for name in table.loc[~readable, "name"])
    if unreadable and is_first_process():
        more = f" and {len(unreadable) - 3} more" if len(unreadable) > 3 else ""
        warnings.warn(
            f"{len(unreadable)} pictures cannot be read and are left out: {', '.join(unreadable[:3])}{more}",
            stacklevel=2,
        )
    table = _with_val(table[readable].reset_index(drop=True), config.val_share)
    labels = tuple(sorted(str(label) for label in table["label"].unique()))
    classes = table["label"].astype(str).map({label: place for place, label in enumerate(labels)}).to_numpy(np.int64)
    splits = {}
    for split in ("train", "val", "test"):
        rows = (table["split"] == split).to_numpy()
        if rows.any():
            splits[split] = FaceSplit(table.loc[rows, "image"].tolist(), classes[rows])
    _check_classes(config.path, splits, labels)
    return LabelledFaces(config.path.name, labels, splits, unreadable, grey)


def _find(path: Path) -> pd.DataFrame:
    """A row a picture: image (bytes or path), label, split (or None), name."""
    if path.is_file():
        return _read_parquet(path, None)
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder", fix="Give a folder of pictures, or a Parquet file")
    tables = [
        _read_parquet(file, SPLIT_NAMES[file.stem.lower()])
        for file in sorted(path.glob("*.parquet"))
        if file.stem.lower() in SPLIT_NAMES
    ]
    if tables:
        return pd.concat(tables, ignore_index=True)
    folders = [folder for folder in sorted(path.iterdir()) if folder.is_dir()]
    by_split: list[tuple[str | None, Path]] = [
        (SPLIT_NAMES[folder.name.lower()], folder) for folder in folders if folder.name.lower() in SPLIT_NAMES
    ]
    rows = [
        {"image": file, "label": folder.name, "split": split, "name": str(file.relative_to(path))}
        for split, parent in by_split or [(None, path)]
        for folder in sorted(parent.iterdir())
        if folder.is_dir()
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in PICTURES
    ]
    if not rows:
        raise DataError(
            f"{path}: no pictures found",
            expected="a folder a class with pictures in it, the same in train/, val/ and test/, or train.parquet",
        )
    return pd.DataFrame(rows)


def _read_parquet(path: Path, split: str | None) -> pd.DataFrame:
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a Parquet file: {error}", fix="Give a folder of pictures, or Parquet") from error
    missing = [column for column in ("image", "label") if column not in table]
    if missing:
        raise DataError(f"{path}: no column '{missing[0]}'", got=", ".join(map(str, table)), expected="image and label")
    own = [_split(path, cell) for cell in table["split"].fillna("").astype(str)] if "split" in table else split
    images = [image.get("bytes") if isinstance(image, dict) else image for image in table["image"]]
    names = [f"{path.name} row {place}" for place in range(len(table))]
    return pd.DataFrame({"image": images, "label": table["label"], "split": own, "name": names})


def _split(path: Path, cell: str) -> str | None:
    """The split that a cell names; none where it is empty."""
    split, problem = parse_split(cell)
    if problem:
        raise DataError(f"{path}: {problem}", fix="Name its splits so")
    return split


def _check(pictures: pd.Series, progress: bool) -> tuple[np.ndarray, bool]:
    """(N,) bool: which can be decoded; and whether none has any colour."""

    def look(picture: bytes | Path) -> tuple[bool, bool]:
        pixels = _decode(picture)
        if pixels is None:
            return False, True
        return True, _tint(pixels) <= MOST_TINT

    looks: list[tuple[bool, bool]] = []
    with progress_bar("reading faces", len(pictures), progress) as advance, ThreadPoolExecutor() as pool:
        for start in range(0, len(pictures), CHECKED_AT_ONCE):
            looks += pool.map(look, pictures.iloc[start : start + CHECKED_AT_ONCE])
            for _ in range(start, min(len(pictures), start + CHECKED_AT_ONCE)):
                advance()
    return np.array([readable for readable, _ in looks]), all(grey for _, grey in looks)


def _tint(pixels: np.ndarray) -> float:
    """Levels between the colours of a (H, W, 3) uint8 picture where they differ most."""
    blue, green, red = cv2.split(pixels)
    return max(cv2.norm(one, other, cv2.NORM_INF) for one, other in ((blue, green), (green, red), (red, blue)))


def _decode(picture: bytes | Path) -> np.ndarray | None:
    """(H, W, 3) uint8 BGR, or None where it cannot be read."""
    try:
        encoded = picture.read_bytes() if isinstance(picture, Path) else picture
        return cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    except (OSError, TypeError, ValueError, cv2.error):
        return None


def _with_val(table: pd.DataFrame, share: float) -> pd.DataFrame:
    """The table with a split in each row; a val split is cut out of train where there is none."""
    table["split"] = table["split"].fillna("train")
    if (table["split"] == "val").any():
        return table
    train = table[table["split"] == "train"]
    held_out = train.groupby("label").sample(frac=share, random_state=0).index
    table.loc[held_out, "split"] = "val"
    return table


def _check_classes(path: Path, splits: dict[str, FaceSplit], labels: Sequence[str]) -> None:
    if len(labels) < 2:
        raise DataError(f"{path}: one class only", got=", ".join(labels), expected="at least two to tell apart")
    for name in ("train", "val"):
        counts = np.bincount(splits[name].classes, minlength=len(labels)) if name in splits else np.zeros(len(labels))
        if counts.min() < LEAST_PICTURES:
            label = labels[int(counts.argmin())]
            raise DataError(
                f"{path}: split '{name}' has too few pictures of '{label}'",
                got=str(int(counts.min())),
                expected=f"at least {LEAST_PICTURES}",
            )
