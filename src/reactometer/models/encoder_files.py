"""Read the settings beside an encoder's file, and check an encoder on synthetic faces."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ValidationError
from torch import nn

from reactometer.errors import WeightsError
from reactometer.io import sha256_of
from reactometer.synthetic.face import ACTIONS, Pose, build_scene, draw_frame, random_appearance

N_FACES = 4
"""Number of synthetic faces that :func:`check_features` encodes."""

MAX_MIRROR = 0.6
"""Largest distance of a face from its mirror image, as a share of its distance from a grey square."""

MIN_GREY = 0.1
"""Smallest distance of a face from a grey square, as a share of the features' length."""

SUFFIXES = (".onnx", ".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
"""Suffixes of the files that :func:`encoder_file` takes for encoders."""

EXAMPLE = '{"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "licence": "unknown"}'


class FileSettings(BaseModel, extra="forbid"):
    """Settings of an encoder that its file does not contain, in the terms of transformers' preprocessing.

    A pixel x of 0 to 255 becomes (x * rescale_factor - image_mean) / image_std, in the network's order of
    colours.
    """

    image_mean: list[float] | None = None
    image_std: list[float] | None = None
    do_normalize: bool = True
    rescale_factor: float = 1 / 255
    do_flip_channel_order: bool = False  # True: the network's input is BGR
    do_grayscale: bool = False
    layout: Literal["NCHW", "NHWC"] | None = None  # of an ONNX file whose shape does not tell
    output: str | None = None  # tensor of an ONNX file with the features
    variant: Literal["torch", "tf", "caffe"] | None = None  # of weights, see state_dicts.translate
    licence: str = "unknown"
    source: str = "unknown"


def encoder_file(name: str) -> Path | None:
    """Return the file that a name of an encoder refers to, or ``None`` if it is no name of a file."""
    file = Path(name)
    with suppress(RuntimeError):  # no such home folder
        file = file.expanduser()
    return file if file.suffix in SUFFIXES else None


def read_settings(file: Path) -> dict[str, Any]:
    """Read the settings of an encoder's file from the JSON file beside it, with its name and SHA-256.

    Raises:
        WeightsError: a file is missing, or the settings are incomplete or unknown.
    """
    beside = file.with_suffix(".json")
    if not file.is_file():
        raise WeightsError(f"{file}: no such file")
    if not beside.is_file():
        raise WeightsError(
            f"{file}: the input normalisation is unknown: no {beside.name} beside the file",
            fix=f"Write {beside} with the values of the encoder's training, such as {EXAMPLE}",
        )
    try:
        settings = FileSettings.model_validate_json(beside.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise WeightsError(
            f"{beside}: {'.'.join(map(str, first['loc']))}: {first['msg']}",
            expected=", ".join(FileSettings.model_fields),
        ) from error
    if settings.do_normalize and None in (settings.image_mean, settings.image_std):
        fix = f'Set both as in the encoder\'s training, such as {EXAMPLE}; or "do_normalize": false'
        raise WeightsError(f"{beside}: no image_mean and image_std", fix=fix)
    return {**settings.model_dump(exclude_none=True), "file": file.name, "sha256": sha256_of(file)}


@torch.no_grad()
def check_features(name: str, encoder: nn.Module, size_px: int) -> None:
    """Check on synthetic faces that an encoder's features describe a face.

    A face and its mirror image must have similar features, and a grey square others; and the features of an
    image must not depend on the other images of a batch.

    Args:
        name: the encoder's name, for the error.
        encoder: maps (K, 3, H, W) uint8 RGB to (K, D) float32.
        size_px: side of the images, pixels.

    Raises:
        WeightsError: the features fail a check.
    """
    rng = np.random.default_rng(0)
    scenes = [build_scene(random_appearance(rng), size_px) for _ in range(N_FACES)]
    pose, neutral = Pose(0.5, 0.4, 0.27), dict.fromkeys(ACTIONS, 0.0)
    faces = np.stack([draw_frame(scene, pose, neutral) for scene in scenes]).transpose(0, 3, 1, 2)
    grey = np.full_like(faces[:1], 128)
    images = torch.from_numpy(np.concatenate((faces, faces[..., ::-1], grey)))
    encoder.eval()
    features = encoder(images).numpy()  # (2 * N_FACES + 1, D)
    alone = encoder(images[:1]).numpy()
    encoder.train()
    mirror = np.linalg.norm(features[:N_FACES] - features[N_FACES:-1], axis=1).mean()
    contrast = np.linalg.norm(features[:N_FACES] - features[-1:], axis=1).mean()
    length = np.linalg.norm(features[:N_FACES], axis=1).mean()
    problem = ""
    if not np.isfinite(features).all():
        problem = "features are not finite"
    elif not np.allclose(alone, features[:1], atol=1e-3 * length):
        problem = "the features of a face depend on the other images of the batch"
    elif not contrast > MIN_GREY * length:
        problem = f"a face and a grey square differ by {contrast / length:.0%} of the features' length"
    elif not mirror < MAX_MIRROR * contrast:
        problem = (
            f"a face differs from its mirror image by {mirror / contrast:.0%} of what it differs from grey"
        )
    if problem:
        raise WeightsError(
            f"encoder '{name}' does not describe faces",
            got=problem,
            expected=f"over {MIN_GREY:.0%} from grey, under {MAX_MIRROR:.0%} from the mirror image",
            fix="Likely causes: image_mean, image_std or rescale_factor in the JSON file are not those of "
            "its training (0-1 instead of 0-255); another layout; an output that is not the last features",
        )
