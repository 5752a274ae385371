"""Random changes of face crops that leave the reaction as it is, the same for all frames of a clip."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

ZOOM, SHIFT, ROTATION_RAD = 0.05, 0.03, 0.05
"""Largest change of scale, of place (share of the side), and of tilt; our choice."""

LIGHT, CONTRAST, TINT = 0.06, 0.15, 0.03
"""Largest change of brightness (share of the range), of contrast, and of each colour; our choice."""


def augment(frames: Tensor) -> Tensor:
    """Mirror, move, zoom, tilt and light the crops of each clip at random.

    Args:
        frames: (B, T, 3, H, W) uint8 RGB.

    Returns:
        The same shape and dtype; all frames of a clip changed alike, clips differently.
    """
    if frames.numel() == 0:
        return frames
    clips, steps, _, height, width = frames.shape
    grid = functional.affine_grid(_transforms(clips, frames.device), [clips, 3, height, width], align_corners=False)
    grid = grid.repeat_interleave(steps, dim=0)  # (B * T, H, W, 2)
    pixels = frames.flatten(0, 1).float()  # (B * T, 3, H, W)
    moved = functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    moved = moved.view(clips, steps, 3, height, width)  # (B, T, 3, H, W)
    gain = 1.0 + _uniform((clips, 1, 1, 1, 1), CONTRAST, frames.device)
    lift = 255.0 * _uniform((clips, 1, 1, 1, 1), LIGHT, frames.device)
    tint = 255.0 * _uniform((clips, 1, 3, 1, 1), TINT, frames.device)
    return ((moved - 127.5) * gain + 127.5 + lift + tint).round().clamp(0, 255).to(torch.uint8)


def _transforms(clips: int, device: torch.device) -> Tensor:
    """One affine map a clip, (B, 2, 3), from the new picture's coordinates to the old one's."""
    scale = 1.0 + _uniform((clips,), ZOOM, device)
    angle = _uniform((clips,), ROTATION_RAD, device)
    mirror = torch.where(torch.rand(clips, device=device) < 0.5, -1.0, 1.0)
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    shift = 2.0 * _uniform((clips, 2), SHIFT, device)
    rows = torch.stack((cosine * mirror, -sine, shift[:, 0], sine * mirror, cosine, shift[:, 1]), dim=1)  # (B, 6)
    return rows.view(clips, 2, 3)


def _uniform(shape: tuple[int, ...], largest: float, device: torch.device) -> Tensor:
    return (torch.rand(shape, device=device) * 2.0 - 1.0) * largest
