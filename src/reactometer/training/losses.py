"""Losses of predicted intensities; all have the same arguments.

``intensities`` are (B, L) in [0, 1], ``targets`` (B, L) in [0, 1], and ``mask`` is (B,) bool: the clip has
labels and a face or a voice. Clips outside the mask are ignored. A loss is a scalar; 0, with a gradient of 0,
for an empty mask.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reactometer.evaluation.metrics import MIN_CLIPS, MIN_STD

MIN_VARIANCE = 1e-6
"""Added to the variance of intensities, because a standard deviation far below 0.001 is no signal."""


def masked_mse(intensities: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Return the mean squared error over the clips in the mask."""
    weight = mask.to(intensities.dtype).unsqueeze(1)  # (B, 1)
    squares = (intensities - targets).square() * weight  # (B, L)
    return squares.sum() / (weight.sum() * targets.shape[1]).clamp(min=1.0)


def pearson_loss(intensities: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Average 1 − Pearson's r over the L labels; a label that is constant in the batch adds 0.

    The r of a batch is a noisy stand-in for the r of all clips. Constant intensities have r = 0 and a finite
    gradient towards the targets; with fewer than 3 clips in the mask the loss is 0.
    """
    predicted, expected = _select_valid(intensities, targets, mask)  # (K, V) both
    predicted = predicted - predicted.mean(0)
    expected = expected - expected.mean(0)
    variance = (predicted.square().mean(0) + MIN_VARIANCE) * expected.square().mean(0)  # (V,), above 0
    r = (predicted * expected).mean(0) / variance.sqrt()
    return (1.0 - r).sum() / targets.shape[1]


def ccc_loss(intensities: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Average 1 − Lin's concordance (Biometrics 45, 1989) over the L labels, with 1/n moments.

    A label that is constant in the batch adds 0; with fewer than 3 clips in the mask the loss is 0.
    """
    predicted, expected = _select_valid(intensities, targets, mask)  # (K, V) both
    bias = predicted.mean(0) - expected.mean(0)
    predicted = predicted - predicted.mean(0)
    expected = expected - expected.mean(0)
    scale = predicted.square().mean(0) + expected.square().mean(0) + bias.square()  # (V,), above 0
    return (1.0 - 2.0 * (predicted * expected).mean(0) / scale).sum() / targets.shape[1]


LOSSES = {"mse": (masked_mse,), "mse+pearson": (masked_mse, pearson_loss), "ccc": (ccc_loss,)}
"""Terms of each loss, by its name in ``training.loss``."""


def reaction_loss(intensities: Tensor, targets: Tensor, mask: Tensor, *, name: str) -> Tensor:
    """Compute the sum of the terms of a loss, a key of :data:`LOSSES`."""
    return torch.stack([term(intensities, targets, mask) for term in LOSSES[name]]).sum()


def _select_valid(intensities: Tensor, targets: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Select the K clips in the mask and the V labels that vary: (K, V) both; V = 0 if K < 3."""
    precise = intensities.to(torch.promote_types(intensities.dtype, torch.float32))  # half has too few digits
    predicted, expected = precise[mask], targets[mask]  # (K, L) both
    if len(predicted) < MIN_CLIPS:
        return predicted[:, :0], expected[:, :0]
    varies = expected.amax(0) - expected.amin(0) > MIN_STD  # (L,)
    return predicted[:, varies], expected[:, varies]
