"""Random changes of face crops that leave what they show as it is, the same for all frames of a clip."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class AugmentationLimits:
    """The largest change of each kind; all are our choice."""

    zoom: float
    shift: float  # share of the side
    rotation_rad: float
    light: float  # share of the range
    contrast: float
    tint: float  # of each colour, share of the range


CLIP_LIMITS = AugmentationLimits(zoom=0.05, shift=0.03, rotation_rad=0.05, light=0.06, contrast=0.15, tint=0.03)
"""Of clips, whose crops are aligned and few."""


def augment(frames: Tensor, most: AugmentationLimits = CLIP_LIMITS) -> Tensor:
    """Mirror, move, zoom, tilt and light the crops of each clip at random.

    What is random is drawn on the processor, the same for a GPU: it would take longer to ask it for so few numbers.

    Args:
        frames: (B, T, C, H, W) uint8, RGB or one channel of grey.
        most: the largest changes.

    Returns:
        The same shape and dtype; all frames of a clip changed alike, clips differently.
    """
    clips, steps, colours, height, width = frames.shape
    transforms = _transforms(clips, most).to(frames.device, non_blocking=True)
    gain, lift = 1.0 + _uniform((clips, 1), most.contrast), 255.0 * _uniform((clips, 1), most.light)
    light = torch.cat((gain, 127.5 + lift + 255.0 * _uniform((clips, colours), most.tint)), dim=1)  # (B, 1 + C)
    light = light.to(frames.device, non_blocking=True).view(clips, 1, 1 + colours, 1, 1)
    gain, middle = light[:, :, :1], light[:, :, 1:]  # middle: what a grey of 127.5 becomes, of each colour
    with torch.autocast(frames.device.type, enabled=False):  # bfloat16 knows places to a quarter of a pixel
        grid = functional.affine_grid(transforms, [clips, colours, height, width], align_corners=False)
    grid = grid.repeat_interleave(steps, dim=0)  # (B * T, H, W, 2)
    pixels = frames.flatten(0, 1).float()  # (B * T, C, H, W)
    moved = functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    moved = moved.view(clips, steps, colours, height, width).sub_(127.5)  # (B, T, C, H, W)
    return torch.addcmul(middle, moved, gain).round_().clamp_(0, 255).to(torch.uint8)


def _transforms(clips: int, most: AugmentationLimits) -> Tensor:
    """One affine map a clip, (B, 2, 3), from the new picture's coordinates to the old one's."""
    scale = 1.0 + _uniform((clips,), most.zoom)
    angle = _uniform((clips,), most.rotation_rad)
    mirror = torch.where(torch.rand(clips) < 0.5, -1.0, 1.0)
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    shift = 2.0 * _uniform((clips, 2), most.shift)
    rows = torch.stack((cosine * mirror, -sine, shift[:, 0], sine * mirror, cosine, shift[:, 1]), dim=1)  # (B, 6)
    return rows.view(clips, 2, 3)


def _uniform(shape: tuple[int, ...], largest: float) -> Tensor:
    return (torch.rand(shape) * 2.0 - 1.0) * largest
