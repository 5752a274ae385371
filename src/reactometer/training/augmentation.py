"""Random changes of face crops that keep the expression, the same for all frames of a clip."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

CLIP_LIMITS = {
    "zoom": 0.05,
    "shift": 0.03,
    "rotation_rad": 0.05,
    "light": 0.06,
    "contrast": 0.15,
    "tint": 0.03,
}
"""Maximum size of each random change for clips, whose crops are aligned and few.

The shift is a share of the side; light and tint (of each colour) are shares of the range.
"""


def augment(frames: Tensor, limits: Mapping[str, float] = CLIP_LIMITS) -> Tensor:
    """Mirror, shift, zoom, rotate and relight the crops of each clip at random.

    Args:
        frames: (B, T, C, H, W) uint8, RGB or one channel of grey.
        limits: maximum changes, with the keys of :data:`CLIP_LIMITS`.

    Returns:
        The same shape and dtype; all frames of a clip changed alike, clips differently.
    """
    clips, steps, colours, height, width = frames.shape
    transforms = _sample_transforms(clips, limits).to(
        frames.device, non_blocking=True
    )  # a GPU samples slower
    gain = 1.0 + _uniform((clips, 1), limits["contrast"])
    lift = 255.0 * _uniform((clips, 1), limits["light"])
    light = torch.cat(
        (gain, 127.5 + lift + 255.0 * _uniform((clips, colours), limits["tint"])), dim=1
    )  # (B, 1 + C)
    light = light.to(frames.device, non_blocking=True).view(clips, 1, 1 + colours, 1, 1)
    gain = light[:, :, :1]
    middle = light[:, :, 1:]  # middle: new value of a grey of 127.5, per colour
    with torch.autocast(frames.device.type, enabled=False):  # bfloat16 is exact to a quarter of a pixel only
        grid = functional.affine_grid(transforms, [clips, colours, height, width], align_corners=False)
    grid = grid.repeat_interleave(steps, dim=0)  # (B * T, H, W, 2)
    pixels = frames.flatten(0, 1).float()  # (B * T, C, H, W)
    moved = functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    moved = moved.view(clips, steps, colours, height, width).sub_(127.5)  # (B, T, C, H, W)
    return torch.addcmul(middle, moved, gain).round_().clamp_(0, 255).to(torch.uint8)


def _sample_transforms(clips: int, limits: Mapping[str, float]) -> Tensor:
    """Sample one affine map per clip, (B, 2, 3), from coordinates in the new image to the old image."""
    scale = 1.0 + _uniform((clips,), limits["zoom"])
    angle = _uniform((clips,), limits["rotation_rad"])
    mirror = torch.where(torch.rand(clips) < 0.5, -1.0, 1.0)
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    shift = 2.0 * _uniform((clips, 2), limits["shift"])
    rows = torch.stack(
        (cosine * mirror, -sine, shift[:, 0], sine * mirror, cosine, shift[:, 1]), dim=1
    )  # (B, 6)
    return rows.view(clips, 2, 3)


def _uniform(shape: tuple[int, ...], limit: float) -> Tensor:
    return (torch.rand(shape) * 2.0 - 1.0) * limit
