"""Prepare a clip from existing face crops, without detection."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np

from reactometer.config import PrepareConfig
from reactometer.errors import MediaError
from reactometer.media.audio import read_waveform
from reactometer.media.faces import encode_crop
from reactometer.types import SOUND_RATE_HZ, FaceSample, FrameState, PreparedClip

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")

CROP_RATE_HZ = 2.0
"""Assumed crops per second: about that of MuSe-2022's ``Faces/`` (MTCNN, at most 30 per clip)."""


def list_crops(folder: Path) -> list[Path]:
    """Return the images of a folder in the order of the numbers in their names (``2.jpg`` before ``10.jpg``)."""
    images = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_ENDINGS]
    return sorted(images, key=lambda path: ([int(part) for part in re.findall(r"\d+", path.stem)], path.name))


def prepare_crops(folder: Path, settings: PrepareConfig, audio_path: Path | None = None) -> PreparedClip:
    """Use the images of a folder as the aligned crops of one person, ``CROP_RATE_HZ`` per second from 0 s on.

    Raises:
        MediaError: the folder contains no readable image.
    """
    paths = list_crops(folder)
    samples = tuple(_sample(path, i / CROP_RATE_HZ, settings.size_px) for i, path in enumerate(paths))
    if not any(sample.state is FrameState.FACE for sample in samples):
        expected = f"files ending in {', '.join(IMAGE_ENDINGS)}"
        raise MediaError(f"{folder}: no readable face crop", got=f"{len(paths)} images", expected=expected)
    waveform = read_waveform(audio_path) if audio_path else None
    sound_s = 0.0 if waveform is None else len(waveform) / SOUND_RATE_HZ
    return PreparedClip(0.0, max(len(paths) / CROP_RATE_HZ, sound_s), samples, waveform, len(paths))


def _sample(path: Path, time_s: float, size_px: int) -> FaceSample:
    try:
        image = cv2.imdecode(np.frombuffer(path.read_bytes() or b"\0", dtype=np.uint8), cv2.IMREAD_COLOR_RGB)
    except OSError:  # a dangling link, as git-annex leaves them
        image = None
    if image is None:
        return FaceSample(time_s, FrameState.UNREADABLE)
    height, width = image.shape[:2]
    interpolation = cv2.INTER_AREA if max(height, width) > size_px else cv2.INTER_LINEAR
    crop = np.asarray(cv2.resize(image, (size_px, size_px), interpolation=interpolation), dtype=np.uint8)
    return FaceSample(time_s, FrameState.FACE, (0.0, 0.0, float(width), float(height)), 1.0, encode_crop(crop))
