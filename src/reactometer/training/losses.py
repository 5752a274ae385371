"""How far intensities are from the labels."""

from __future__ import annotations

from torch import Tensor


def masked_mse(intensities: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over the clips that count.

    Args:
        intensities: (B, L) in [0, 1].
        targets: (B, L) in [0, 1].
        mask: (B,) bool: the clip has labels and shows or says something; the others do not teach.

    Returns:
        A scalar; 0, with a gradient of 0, where no clip counts.
    """
    weight = mask.to(intensities.dtype).unsqueeze(1)  # (B, 1)
    squares = (intensities - targets).square() * weight  # (B, L)
    return squares.sum() / (weight.sum() * targets.shape[1]).clamp(min=1.0)
