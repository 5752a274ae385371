"""Mixup of clips' features: each clip becomes a blend of itself and another, and so do its labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Beta


@dataclass(frozen=True)
class Mix:
    """Who is blended with whom, and how much of each; call it on features and on targets alike."""

    share: Tensor  # (B, 1) float32 in [0.5, 1]: share of the clip itself
    partner: Tensor  # (B,) int64

    def __call__(self, values: Tensor) -> Tensor:
        """Blend the rows of ``values``, (B, D) or (B, L)."""
        return self.share * values + (1.0 - self.share) * values[self.partner]


def draw_mix(mask: Tensor, alpha: float) -> Mix | None:
    """Draw partners and shares for one batch, from torch's global generator on the processor.

    Mixup (Zhang et al., arXiv 1710.09412) of hidden features (manifold mixup, Verma et al., arXiv 1806.05236), with a
    share for each clip, folded to at least 0.5 (as in MixMatch, arXiv 1905.02249) so that each clip remains mostly
    itself. Partners form one random circle: each is another clip. A clip that does not count stays as it is.

    Args:
        mask: (B,) bool: the clip has labels and shows or says something.
        alpha: of the Beta(alpha, alpha) that shares are drawn from; 0: no mixup.

    Returns:
        None where there is nothing to mix: ``alpha`` is 0, or fewer than two clips count.
    """
    if alpha == 0:  # before the mask is asked: a GPU that has to answer waits for the processor
        return None
    counted = mask.nonzero().flatten().cpu()  # (K,)
    if len(counted) < 2:
        return None
    drawn = Beta(alpha, alpha).sample((len(counted), 1))  # (K, 1)
    order = counted[torch.randperm(len(counted))]
    share, partner = torch.ones(len(mask), 1), torch.arange(len(mask))
    share[order], partner[order] = torch.maximum(drawn, 1.0 - drawn), order.roll(1)
    return Mix(share.to(mask.device), partner.to(mask.device))
