"""Image and clip encoders of face crops, with any vision network of transformers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from reactometer.errors import ConfigError, WeightsError
from reactometer.models.backbones import Backbone

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

LUMA = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
"""Weight of each colour in a grey image (Rec. ITU-R BT.601), as in OpenCV and Pillow."""

GRID = (4, 4)
"""Rows and columns of the pooling "grid": in aligned crops, the position separates brows from mouth."""

CLIP_TYPES = ("videomae", "vjepa2")
"""Types of clip encoders whose hidden states are exactly a map of (time, rows, columns)."""


class ImageNormalizer(nn.Module):
    """Image normalisation of a network's preprocessing settings, in BGR or in grey if they say so."""

    mean: Tensor
    std: Tensor

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__()
        mean = settings.get("image_mean") or IMAGENET_MEAN
        std = settings.get("image_std") or IMAGENET_STD
        if settings.get("do_normalize") is False:
            mean, std = (0.0,), (1.0,)
        scale = 255.0 * (settings.get("rescale_factor") or 1 / 255)
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(
                name, torch.tensor(np.array(values, np.float32).reshape(1, -1, 1, 1) / scale)
            )
        self.grey = bool(settings.get("do_grayscale"))
        self.bgr = bool(settings.get("do_flip_channel_order"))

    def forward(self, frames: Tensor) -> Tensor:
        """Normalise (..., 3, H, W) uint8 RGB to float32 of the same shape."""
        pixels = frames.float() / 255.0
        if self.grey:
            pixels = (pixels * LUMA.to(pixels)).sum(-3, keepdim=True)  # (..., 1, H, W)
        elif self.bgr:
            pixels = pixels.flip(-3)
        return (pixels - self.mean) / self.std


class FrameEncoder(nn.Module):
    """A vision network of transformers with its normalisation: one feature vector per uint8 image.

    If the network was trained on another image size, its position embeddings are interpolated.

    Raises:
        ConfigError: the network supports only the image size of its training.
    """

    input_kind: Final = "frames"
    checkpointing = False  # recompute activations in the backward pass

    def __init__(self, net: Backbone, size_px: int, pooling: str = "network") -> None:
        super().__init__()
        self.net = net.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.settings = net.settings
        self.pretrained = net.pretrained
        self.pooling = pooling
        self.pixels = ImageNormalizer(net.settings)
        module: Any = net.module
        has_pooler = getattr(module, "pooler", None) is not None
        has_class_token = hasattr(getattr(module, "embeddings", None), "cls_token")
        is_autoencoder = module.config.model_type == "vit_mae"  # its class token has no training target
        self.reads_class_token = net.pretrained and has_class_token and not (has_pooler or is_autoencoder)
        self.options = {}
        if _trained_px(net.module) not in (None, size_px) and _has_option(
            net.module, "interpolate_pos_encoding"
        ):
            self.options["interpolate_pos_encoding"] = True
        try:
            with torch.no_grad():
                self.feature_size = self.eval()(
                    torch.zeros((1, 3, size_px, size_px), dtype=torch.uint8)
                ).shape[1]
        except (ValueError, RuntimeError, AssertionError) as error:  # raised by transformers for a wrong size
            raise _wrong_size(net.module, size_px) from error
        self.train()

    def forward(self, frames: Tensor) -> Tensor:
        """Encode images.

        Args:
            frames: (K, 3, H, W) uint8 RGB.

        Returns:
            (K, D) float32: with pooling "network" the network's pooled output; if it has no trained pooler,
            the class token that its classifier used, or the mean of its last hidden states. With "grid" the
            means of its last map over 4 x 4 cells, row by row.
        """
        pixels = self.pixels(frames).contiguous(memory_format=torch.channels_last)
        output = self.net(pixel_values=pixels, **self.options)
        hidden: Tensor = (
            output.last_hidden_state
        )  # (K, tokens, D), or (K, D, rows, columns) of a convolutional network
        if self.pooling == "grid":
            return _pool_grid(hidden)  # (K, D * 16)
        pooled: Tensor | None = getattr(output, "pooler_output", None)
        if pooled is not None:
            return pooled.mean((2, 3)) if pooled.ndim == 4 else pooled  # (K, D)
        if self.reads_class_token:
            return hidden[:, 0]
        return hidden.mean(1) if hidden.ndim == 3 else hidden.flatten(2).mean(2)


class ClipEncoder(nn.Module):
    """A space-time network of transformers with its normalisation: one feature vector per clip.

    Raises:
        ConfigError: ``size_px`` is not the image size of the network's training.
        WeightsError: the network's type is not in :data:`CLIP_TYPES`.
    """

    input_kind: Final = "clips"
    checkpointing = False  # recompute activations in the backward pass

    def __init__(self, net: Backbone, size_px: int, pooling: str = "network") -> None:
        super().__init__()
        config: Any = net.module.config
        if config.model_type not in CLIP_TYPES:
            raise WeightsError(f"no clip encoder: '{config.model_type}'", expected=" or ".join(CLIP_TYPES))
        if size_px != _trained_px(net.module):
            raise _wrong_size(net.module, size_px)
        self.net = net.module
        self.settings = net.settings
        self.pretrained = net.pretrained
        self.pooling = pooling
        self.pixels = ImageNormalizer(net.settings)
        self.options = (
            {"skip_predictor": True} if _has_option(net.module, "skip_predictor") else {}
        )  # V-JEPA 2's
        self.has_fc_norm = hasattr(net.module, "fc_norm")
        self.n_frames = int(getattr(config, "num_frames", None) or config.frames_per_clip)
        self.n_moments = self.n_frames // config.tubelet_size
        self.feature_size = int(config.hidden_size) * (math.prod(GRID) if pooling == "grid" else 1)

    def forward(self, frames: Tensor) -> Tensor:
        """Encode clips.

        Args:
            frames: (K, n_frames, 3, H, W) uint8 RGB, all with a face.

        Returns:
            (K, D) float32: with pooling "network" the mean of the last hidden states; with "grid" their means
            over time and 4 x 4 cells, row by row. A classifier's norm of the mean is applied, to each cell.
        """
        net: Any = self.net
        output = net(**{net.main_input_name: self.pixels(frames)}, **self.options)
        hidden: Tensor = output.last_hidden_state.float()  # (K, moments * patches, D of the network)
        means = hidden.mean(1, keepdim=True)  # (K, 1, D)
        if self.pooling == "grid":
            patches = hidden.view(len(hidden), self.n_moments, -1, hidden.shape[2]).mean(1)
            means = _pool_grid(patches).view(len(hidden), -1, math.prod(GRID)).mT  # (K, 16, D)
        if self.has_fc_norm:
            means = net.fc_norm(means)
        return means.mT.flatten(1)


def _pool_grid(hidden: Tensor) -> Tensor:
    """Average last hidden states over a grid: (K, D * 16).

    Args:
        hidden: (K, D, rows, columns), or (K, tokens, D), whose last tokens are the patches of a square image.
    """
    if hidden.ndim == 3:
        side = math.isqrt(hidden.shape[1])
        hidden = (
            hidden[:, -side * side :].transpose(1, 2).reshape(len(hidden), -1, side, side)
        )  # (K, D, side, side)
    return functional.adaptive_avg_pool2d(hidden, GRID).flatten(1)


def _wrong_size(module: nn.Module, size_px: int) -> ConfigError:
    config: Any = module.config
    return ConfigError(
        f"{config.model_type} supports only the image size of its training",
        got=f"model.size_px = {size_px}",
        fix=f"Set model.size_px={_trained_px(module)}",
    )


def _trained_px(module: nn.Module) -> int | None:
    """Return the image size of a network's training in pixels, if its configuration contains it."""
    config: Any = module.config
    size = getattr(config, "image_size", None) or getattr(config, "crop_size", None)
    return int(size[0]) if isinstance(size, list | tuple) else size


def _has_option(module: nn.Module, name: str) -> bool:
    return name in inspect.signature(module.forward).parameters
