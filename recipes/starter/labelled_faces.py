"""Read labelled face images: one Parquet file per split, or one folder per split and class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from reactometer.errors import DataError

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

MAX_TINT = 2
"""Levels between the channels of a grey image, because lossy formats add a little colour."""


@dataclass(frozen=True)
class FaceSplit:
    """Encoded images of one split and their classes."""

    images: Sequence[bytes | Path]
    classes: np.ndarray  # (N,) int64


@dataclass(frozen=True)
class LabelledFaces:
    """All splits of a dataset; train and val are always present."""

    labels: tuple[str, ...]
    splits: dict[str, FaceSplit]
    grey: bool  # no image has colour


class FaceDataset(Dataset[tuple[Tensor, int]]):
    """Decode and resize one image at a time."""

    def __init__(self, split: FaceSplit, size_px: int) -> None:
        self.split = split
        self.size_px = size_px

    def __len__(self) -> int:
        return len(self.split.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return an image, (3, size_px, size_px) uint8 RGB, and its class."""
        image = decode_image(self.split.images[index])
        if image.shape[:2] != (self.size_px, self.size_px):
            way = cv2.INTER_AREA if min(image.shape[:2]) > self.size_px else cv2.INTER_LINEAR
            image = cv2.resize(image, (self.size_px, self.size_px), interpolation=way)
        return torch.from_numpy(np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1))), int(
            self.split.classes[index]
        )


def read_faces(folder: Path) -> LabelledFaces:
    """Read the images and classes of each split.

    Args:
        folder: with ``train.parquet``, ``val.parquet`` and perhaps ``test.parquet``, which have the columns
            ``image`` (bytes of an image file, or a dictionary with ``bytes``, as on the Hugging Face Hub) and
            ``label``; or with ``train/``, ``val/`` and perhaps ``test/``, each with one folder of images per
            class.

    Raises:
        DataError: train or val is missing, an image cannot be decoded, or val has a class that train lacks.
    """
    tables = {
        split: table
        for split in ("train", "val", "test")
        if (table := _read_split(folder, split)) is not None
    }
    for split in ("train", "val"):
        if split not in tables:
            raise DataError(
                f"{folder}: no split '{split}'", expected=f"{split}.parquet, or {split}/CLASS/IMAGE.jpg"
            )
    labels = tuple(sorted(tables["train"]["label"].unique()))
    splits = {}
    for split, table in tables.items():
        if unknown := set(table["label"]) - set(labels):
            raise DataError(
                f"{folder}: class '{min(unknown)}' of split '{split}' is not in train", got=str(labels)
            )
        splits[split] = FaceSplit(
            table["image"].tolist(), table["label"].map(labels.index).to_numpy(np.int64)
        )
    grey = all(_tint(decode_image(image)) <= MAX_TINT for split in splits.values() for image in split.images)
    return LabelledFaces(labels, splits, grey)


def _read_split(folder: Path, split: str) -> pd.DataFrame | None:
    """Return one row per image (image, label), or ``None`` if the dataset has no such split."""
    if (file := folder / f"{split}.parquet").is_file():
        table = pd.read_parquet(file, columns=["image", "label"])
        images = [image["bytes"] if isinstance(image, dict) else image for image in table["image"]]
        return pd.DataFrame({"image": images, "label": table["label"].astype(str)})
    files = [file for file in sorted((folder / split).glob("*/*")) if file.suffix.lower() in IMAGE_ENDINGS]
    return pd.DataFrame({"image": files, "label": [file.parent.name for file in files]}) if files else None


def decode_image(image: bytes | Path) -> np.ndarray:
    """Decode an image to (H, W, 3) uint8 BGR."""
    encoded = image.read_bytes() if isinstance(image, Path) else image
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR) if encoded else None
    if pixels is None:
        raise DataError(f"{image!r:.80}: not an image", fix="Delete it from the dataset")
    return pixels


def _tint(pixels: np.ndarray) -> float:
    """Return the largest difference between the channels of a (H, W, 3) uint8 image, in levels."""
    blue, green, red = cv2.split(pixels)
    return max(
        cv2.norm(one, other, cv2.NORM_INF) for one, other in ((blue, green), (green, red), (red, blue))
    )
