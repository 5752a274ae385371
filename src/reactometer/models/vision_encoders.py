"""Picture and clip encoders: face crops -> features, with any vision network of transformers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from reactometer.errors import WeightsError
from reactometer.models.backbones import Net, describe_net, load_net

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

LUMA = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
"""Share of each colour in a grey picture (Rec. ITU-R BT.601), as OpenCV and Pillow have it."""

GRID = (4, 4)
"""Places kept by the pooling "grid": in aligned crops, where something moves tells brow from mouth."""

MAPS_OF_CLIPS = ("videomae", "vjepa2")
"""Clip encoders whose hidden states are a map and nothing else: moment by moment, row by row."""


class Pixels(nn.Module):
    """Pictures as a network was trained on them: normalised, grey if they were, resized where it takes one size."""

    mean: Tensor
    std: Tensor

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__()
        mean, std = settings.get("image_mean") or IMAGENET_MEAN, settings.get("image_std") or IMAGENET_STD
        if settings.get("do_normalize") is False:
            mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        scale = 255.0 * (settings.get("rescale_factor") or 1 / 255)
        shift = float(settings.get("offset", scale > 1.5))  # ViViT's pictures are in [-1, 1] before normalisation
        mean, std = (np.array(one, np.float32).reshape(1, 3, 1, 1) for one in (mean, std))
        self.register_buffer("mean", torch.tensor((mean + shift) / scale))
        self.register_buffer("std", torch.tensor(std / scale))
        self.grey = bool(settings.get("do_grayscale"))
        self.side_px: int | None = None

    def forward(self, frames: Tensor) -> Tensor:
        """(..., 3, H, W) uint8 RGB -> float32 of the same shape, or of sides ``side_px`` where that is given."""
        pixels = frames.float() / 255.0
        if self.grey:
            pixels = (pixels * LUMA.to(pixels)).sum(-3, keepdim=True)  # (..., 1, H, W)
        pixels = (pixels - self.mean) / self.std
        if self.side_px is None:
            return pixels
        side = (self.side_px, self.side_px)
        resized = functional.interpolate(pixels.flatten(0, -4), side, mode="bilinear", antialias=True)
        return resized.view(*pixels.shape[:-2], *side)


class FrameEncoder(nn.Module):
    """A vision network of transformers with its normalisation inside: uint8 pictures -> one feature vector each.

    Pictures of another size than it was trained on stay as they are if it takes them, with its position embeddings
    interpolated, and are resized if not. A forward pass measures both that and the number of features.
    """

    def __init__(self, net: Net, size_px: int, pooling: str = "network") -> None:
        super().__init__()
        self.net = net.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.settings, self.pretrained, self.pooling = net.settings, net.pretrained, pooling
        self.pixels = Pixels(net.settings)
        self.options = {}
        if _trained_px(net.module) not in (None, size_px) and _takes_option(net.module, "interpolate_pos_encoding"):
            self.options["interpolate_pos_encoding"] = True
        try:
            self.feature_size = self._measure(size_px)
        except (ValueError, RuntimeError, AssertionError):  # how transformers refuses a size
            self.pixels.side_px = _trained_px(net.module)
            self.feature_size = self._measure(size_px)

    def forward(self, frames: Tensor) -> Tensor:
        """Encode pictures.

        Args:
            frames: (K, 3, H, W) uint8 RGB.

        Returns:
            (K, D) float32: with pooling "network" its own pooled output, or the mean of its last hidden states where
            it has none that was trained; with "grid" the means over a grid of 4 x 4 places of its last map, place
            after place.
        """
        pixels = self.pixels(frames).contiguous(memory_format=torch.channels_last)
        output = self.net(pixel_values=pixels, **self.options)
        hidden: Tensor = output.last_hidden_state  # (K, tokens, D), or (K, D, rows, columns) of a convolutional network
        if self.pooling == "grid":
            return functional.adaptive_avg_pool2d(_as_map(hidden), GRID).flatten(1)  # (K, D * 16)
        pooled: Tensor | None = getattr(output, "pooler_output", None)
        if pooled is not None:
            return pooled.mean((2, 3)) if pooled.ndim == 4 else pooled  # (K, D)
        return hidden.mean(1) if hidden.ndim == 3 else hidden.flatten(2).mean(2)

    def describe(self) -> dict[str, Any]:
        """Describe the encoder for :func:`~reactometer.models.registry.rebuild_encoders`, as JSON can hold it."""
        return {**describe_net(Net(self.net, self.settings, self.pretrained)), "pooling": self.pooling}

    @torch.no_grad()
    def _measure(self, size_px: int) -> int:
        training = self.training
        size = int(self.eval()(torch.zeros((1, 3, size_px, size_px), dtype=torch.uint8)).shape[1])
        self.train(training)
        return size


class ClipEncoder(nn.Module):
    """A space-time network of transformers with its normalisation inside: the seen frames of a clip -> one vector.

    Pictures of another size than it was trained on are resized: their places and moments are numbered together.
    """

    def __init__(self, net: Net, size_px: int, pooling: str = "network") -> None:
        super().__init__()
        config: Any = net.module.config
        self.net = net.module
        self.settings, self.pretrained, self.pooling = net.settings, net.pretrained, pooling
        self.pixels = Pixels(net.settings)
        if size_px != _trained_px(net.module):
            self.pixels.side_px = _trained_px(net.module)
        self.options = {"skip_predictor": True} if _takes_option(net.module, "skip_predictor") else {}  # V-JEPA 2's
        self.n_frames = int(getattr(config, "num_frames", None) or config.frames_per_clip)
        self.feature_size = int(config.hidden_size)
        self.grid_shape: tuple[int, int] | None = None
        if pooling == "grid":
            self.grid_shape = _moments_and_side(net.module, self.n_frames)
            self.feature_size *= GRID[0] * GRID[1]

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Encode clips.

        Args:
            frames: (B, T, 3, H, W) uint8 RGB.
            mask: (B, T) bool: the frame shows the face; what lies outside it has no effect.

        Returns:
            (B, D) float32: with pooling "network" the mean of the last hidden states; with "grid" their means over
            time and a grid of 4 x 4 places, place after place; zeros where the mask is empty.
        """
        features = torch.zeros((len(frames), self.feature_size), device=frames.device)
        seen = mask.any(1)  # (B,)
        if seen.any():
            features[seen] = self.encode(spread_frames(frames[seen], mask[seen], self.n_frames))
        return features

    def encode(self, frames: Tensor) -> Tensor:
        """(K, n_frames, 3, H, W) uint8 RGB, all of them seen -> (K, D) float32: what is exported."""
        output = self.net(**{str(self.net.main_input_name): self.pixels(frames)}, **self.options)
        return self._pool(output.last_hidden_state.float())

    def _pool(self, hidden: Tensor) -> Tensor:
        """(K, tokens, D of the network) -> (K, D)."""
        if self.grid_shape is None:
            return hidden.mean(1)
        moments, side = self.grid_shape
        over_time = hidden.view(hidden.shape[0], moments, side * side, -1).mean(1)  # (K, side * side, D of the network)
        return functional.adaptive_avg_pool2d(_as_map(over_time), GRID).flatten(1)

    def describe(self) -> dict[str, Any]:
        """Describe the encoder for :func:`~reactometer.models.registry.rebuild_encoders`, as JSON can hold it."""
        return {**describe_net(Net(self.net, self.settings, self.pretrained)), "pooling": self.pooling}


def load_frame_encoder(name: str, size_px: int, pooling: str = "network") -> FrameEncoder:
    """Load a frame encoder by a name of :func:`~reactometer.models.backbones.load_net`.

    Raises:
        WeightsError: the encoder is not available, or does not take images.
    """
    return FrameEncoder(load_net(name, "pictures"), size_px, pooling)


def load_clip_encoder(name: str, size_px: int, pooling: str = "network") -> ClipEncoder:
    """Load a clip encoder (VideoMAE, TimeSformer, ViViT, V-JEPA 2) by name, as :func:`load_frame_encoder` does."""
    return ClipEncoder(load_net(name, "clips"), size_px, pooling)


def spread_frames(frames: Tensor, mask: Tensor, n_frames: int) -> Tensor:
    """``n_frames`` of the frames in the mask, in order and evenly spread; some more than once where they are fewer.

    Args:
        frames: (B, T, 3, H, W).
        mask: (B, T) bool, no row empty.

    Returns:
        (B, n_frames, 3, H, W).
    """
    count = mask.sum(1, keepdim=True)  # (B, 1)
    rank = (2 * torch.arange(n_frames, device=mask.device) + 1) * count // (2 * n_frames)  # (B, n_frames)
    seen_first = (~mask).long().argsort(dim=1, stable=True)  # (B, T)
    place = seen_first.gather(1, rank)  # (B, n_frames)
    return frames[torch.arange(len(frames), device=mask.device).unsqueeze(1), place]


def _as_map(hidden: Tensor) -> Tensor:
    """Last hidden states as (K, D, rows, columns); the patches of a square picture are a transformer's last tokens."""
    if hidden.ndim == 4:
        return hidden
    side = math.isqrt(hidden.shape[1])
    return hidden[:, -side * side :].transpose(1, 2).reshape(hidden.shape[0], -1, side, side)  # (K, D, side, side)


def _moments_and_side(module: nn.Module, n_frames: int) -> tuple[int, int]:
    """Shape of the map that a clip encoder's hidden states are: moments, and patches along a side of the picture."""
    config: Any = module.config
    if config.model_type not in MAPS_OF_CLIPS:
        raise WeightsError(
            f"a clip encoder of the kind '{config.model_type}' has no pooling \"grid\"",
            expected=f"one of the kind {' or '.join(MAPS_OF_CLIPS)}",
            fix='Use model.pooling = "network"',
        )
    return n_frames // config.tubelet_size, (_trained_px(module) or 0) // config.patch_size


def _trained_px(module: nn.Module) -> int | None:
    """Side of the pictures that a network was made for, pixels, where its configuration says."""
    config: Any = module.config
    size = getattr(config, "image_size", None) or getattr(config, "crop_size", None)
    return int(size[0]) if isinstance(size, list | tuple) else size


def _takes_option(module: nn.Module, name: str) -> bool:
    return name in inspect.signature(module.forward).parameters
