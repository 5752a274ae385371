"""Augmentation of single face images: larger geometric and colour changes, random erasing, covers, mixup."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Beta

from reactometer.training.augmentation import augment

MAX_CHANGES = {"zoom": 0.2, "shift": 0.1, "rotation_rad": 0.2, "light": 0.1, "contrast": 0.35, "tint": 0.03}
"""Larger than for the aligned crops of clips: the images are found photographs, and there are many."""

ERASED_SHARE = (0.15, 0.5)
"""Sides of an erased rectangle, as shares of the image's sides."""


COVER_AT = ((0.5, 0.76), (0.27, 0.54), (0.73, 0.54))
"""Mouth and eyes, as shares of the image's sides (x, y): where hands, masks, glasses and microphones are."""

COVER_RADII = (0.15, 0.4)
"""Half axes of a cover, as shares of the side."""


def change(images: Tensor, strength: float) -> Tensor:
    """Mirror, move, zoom, rotate and relight each of (B, C, H, W) uint8 images; 1 is up to
    :data:`MAX_CHANGES`."""
    limits = {name: strength * limit for name, limit in MAX_CHANGES.items()}
    return augment(images.unsqueeze(1), limits).squeeze(1)


def erase(images: Tensor, chance: float) -> Tensor:
    """Fill a rectangle of some images with grey (random erasing, Zhong et al., arXiv 1708.04896).

    Args:
        images: (B, C, H, W) uint8.
        chance: probability that an image loses a rectangle.

    Returns:
        The same shape and dtype.
    """
    n, _, *sides = images.shape
    erased = torch.rand(n, 1, 1) < chance  # (B, 1, 1)
    inside = []
    for side in sides:
        low, high = ERASED_SHARE
        length = side * (low + (high - low) * torch.rand(n, 1))  # (B, 1)
        start = (side - length) * torch.rand(n, 1)
        position = torch.arange(side)
        inside.append((position >= start) & (position < start + length))  # (B, side)
    rectangle = erased & inside[0].unsqueeze(2) & inside[1].unsqueeze(1)  # (B, H, W)
    return images.masked_fill(rectangle.unsqueeze(1).to(images.device), 128)


def cover(images: Tensor, chance: float) -> Tensor:
    """Cover the mouth, an eye or another part of some images by a tilted ellipse.

    Its tone is mostly near the image's mean, as that of a hand, and is shaded from one side to the other.

    Args:
        images: (B, C, H, W) uint8.
        chance: probability that an image is covered.

    Returns:
        The same shape and dtype.
    """
    n, _, height, width = images.shape
    elsewhere = 0.15 + 0.7 * torch.rand(n, 2)
    places = torch.tensor(COVER_AT)[torch.randint(len(COVER_AT), (n,))] + 0.2 * torch.rand(n, 2) - 0.1
    centre = torch.where(torch.rand(n, 1) < 0.7, places, elsewhere)  # (B, 2)
    low, high = COVER_RADII
    radii = low + (high - low) * torch.rand(n, 2)
    angle = torch.pi * torch.rand(n, 1, 1)
    x = (torch.arange(width) + 0.5).view(1, 1, -1) / width - centre[:, :1, None]
    y = (torch.arange(height) + 0.5).view(1, -1, 1) / height - centre[:, 1:, None]
    across = (x * angle.cos() + y * angle.sin()) / radii[:, :1, None]  # (B, H, W)
    along = (y * angle.cos() - x * angle.sin()) / radii[:, 1:, None]
    covered = (across**2 + along**2 < 1) & (torch.rand(n, 1, 1) < chance)
    tone = images.float().mean((1, 2, 3)) * (0.6 + 0.8 * torch.rand(n))
    tone = torch.where(torch.rand(n) < 0.7, tone, 255 * torch.rand(n)).view(n, 1, 1)
    shaded = tone * (1 + 0.5 * (torch.rand(n, 1, 1) - 0.5) * across) + 8 * torch.randn(n, height, width)
    shaded = shaded.clamp(0, 255).to(torch.uint8)
    return torch.where(covered.unsqueeze(1), shaded.unsqueeze(1), images)


def mix(images: Tensor, targets: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Blend each image and its target with another (mixup, Zhang et al., arXiv 1710.09412).

    Each image has a different share, of at least 0.5 (as in MixMatch, arXiv 1905.02249).

    Args:
        images: (B, C, H, W).
        targets: (B, classes) float32.
        alpha: of the distribution Beta(alpha, alpha) of the shares; 0: no mixup.
    """
    n = len(targets)
    if alpha == 0 or n < 2:
        return images, targets
    share = Beta(alpha, alpha).sample((n, 1)).to(targets.device)  # (B, 1)
    share = torch.maximum(share, 1.0 - share)
    order = torch.randperm(n)
    partner = torch.empty_like(order)
    partner[order] = order.roll(1)  # one random cycle: each partner is another image
    partner = partner.to(targets.device)
    weight = share.view(n, 1, 1, 1)
    images = weight * images + (1.0 - weight) * images[partner]
    return images, share * targets + (1.0 - share) * targets[partner]
