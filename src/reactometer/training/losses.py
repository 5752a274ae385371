"""How far intensities are from the labels; every loss takes them alike.

``intensities`` are (B, L) in [0, 1], ``targets`` (B, L) in [0, 1], and ``mask`` is (B,) bool: the clip has labels and
shows or says something; the others do not teach. A loss is a scalar; 0, with a gradient of 0, where nothing counts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reactometer.evaluation.metrics import MIN_CLIPS, MIN_STD

MIN_VARIANCE = 1e-6
"""Added to the variance of intensities, whose spread is no signal where it is well below 0.001."""


def masked_mse(intensities: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Return the mean squared error over the clips that count."""
    weight = mask.to(intensities.dtype).unsqueeze(1)  # (B, 1)
    squares = (intensities - targets).square() * weight  # (B, L)
    return squares.sum() / (weight.sum() * targets.shape[1]).clamp(min=1.0)


def pearson_loss(intensities: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Mean over the L labels of 1 − Pearson's r over the batch; a label that does not vary in it adds 0.

    The r of a batch is a noisy stand-in for the r of all clips. Constant intensities have r = 0 and a finite gradient
    towards the targets; with fewer than 3 clips that count the loss is 0.
    """
    guess, truth = _select_valid(intensities, targets, mask)  # (K, V) both
    guess, truth = guess - guess.mean(0), truth - truth.mean(0)
    variance = (guess.square().mean(0) + MIN_VARIANCE) * truth.square().mean(0)  # (V,), above 0
    r = (guess * truth).mean(0) / variance.sqrt()
    return (1.0 - r).sum() / targets.shape[1]


def ccc_loss(intensities: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Mean over the L labels of 1 − Lin's concordance (Biometrics 45, 1989) over the batch, with 1/n moments.

    A label that does not vary in the batch adds 0; with fewer than 3 clips that count the loss is 0.
    """
    guess, truth = _select_valid(intensities, targets, mask)  # (K, V) both
    bias = guess.mean(0) - truth.mean(0)
    guess, truth = guess - guess.mean(0), truth - truth.mean(0)
    scale = guess.square().mean(0) + truth.square().mean(0) + bias.square()  # (V,), above 0
    return (1.0 - 2.0 * (guess * truth).mean(0) / scale).sum() / targets.shape[1]


LOSSES = {"mse": (masked_mse,), "mse+pearson": (masked_mse, pearson_loss), "ccc": (ccc_loss,)}
"""Kinds of loss, and what is summed for each."""


def reaction_loss(intensities: Tensor, targets: Tensor, mask: Tensor, *, kind: str) -> Tensor:
    """Return the loss of a kind, a key of :data:`LOSSES`."""
    return torch.stack([part(intensities, targets, mask) for part in LOSSES[kind]]).sum()


def _select_valid(intensities: Tensor, targets: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The K clips that count, and of them the V labels that vary: (K, V) both; V = 0 where K < 3."""
    precise = intensities.to(torch.promote_types(intensities.dtype, torch.float32))  # half has too few digits
    guess, truth = precise[mask], targets[mask]  # (K, L) both
    if len(guess) < MIN_CLIPS:
        return guess[:, :0], truth[:, :0]
    varies = truth.amax(0) - truth.amin(0) > MIN_STD  # (L,)
    return guess[:, varies], truth[:, varies]
