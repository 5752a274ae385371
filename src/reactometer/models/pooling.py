"""Masked sequence -> mean and standard deviation over time."""

from __future__ import annotations

from torch import Tensor


def masked_moments(sequence: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over time of what the mask holds.

    Args:
        sequence: (B, T, D) float.
        mask: (B, T) bool.

    Returns:
        Two tensors (B, D); zeros (and a tiny spread) where a row's mask is empty.
    """
    weight = mask.unsqueeze(2).to(sequence.dtype)  # (B, T, 1)
    count = weight.sum(1).clamp(min=1.0)  # (B, 1)
    mean = (sequence * weight).sum(1) / count
    variance = ((sequence - mean.unsqueeze(1)).square() * weight).sum(1) / count
    return mean, (variance + 1e-6).sqrt()
