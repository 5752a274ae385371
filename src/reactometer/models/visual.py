"""The visual networks: face crops of a clip -> intensities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reactometer.data.batches import Batch
from reactometer.models.backbones import FrameEncoder, masked_moments


class MeanFrames(nn.Module):
    """The headline system: a frame encoder, the mean of its features over the frames that show the face, a linear head.

    ResNet50 and the visual domain are the paper's (arXiv 2303.10741); mean, head and loss are our choice.
    """

    label_mean: Tensor
    listens = False

    def __init__(self, encoder: FrameEncoder, label_mean: Sequence[float], *, frozen: bool, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.frozen = frozen
        self.dropout = nn.Dropout(dropout)
        self.head = intensity_head(encoder.feature_size, label_mean)
        self.register_buffer("label_mean", torch.tensor(label_mean))
        encoder.requires_grad_(not frozen)

    def forward(self, batch: Batch) -> Tensor:
        """Intensities (B, L) in [0, 1]; the training mean where no frame shows a face."""
        features = encode_seen(self.encoder, batch.frames, batch.frame_mask)  # (B, T, D)
        pooled, _ = masked_moments(features, batch.frame_mask)  # (B, D)
        intensities = torch.sigmoid(self.head(self.dropout(pooled)))  # (B, L)
        return torch.where(self.has_evidence(batch).unsqueeze(1), intensities, self.label_mean)

    def has_evidence(self, batch: Batch) -> Tensor:
        """(B,) bool: the clip shows what this model looks at."""
        return batch.frame_mask.any(1)

    def train(self, mode: bool = True) -> MeanFrames:
        """As usual, but a frozen encoder stays as it is, its running statistics too."""
        super().train(mode)
        self.encoder.train(mode and not self.frozen)
        return self


def encode_seen(encoder: FrameEncoder, frames: Tensor, mask: Tensor) -> Tensor:
    """Encode only the frames that show a face.

    Args:
        encoder: pictures -> features.
        frames: (B, T, 3, H, W) uint8.
        mask: (B, T) bool.

    Returns:
        (B, T, D) float32, zeros outside the mask.
    """
    features = torch.zeros((*mask.shape, encoder.feature_size), device=frames.device)
    if mask.any():
        seen = encoder(frames[mask])  # (K, D)
        features = features.to(seen.dtype).masked_scatter(mask.unsqueeze(2), seen)
    return features


def intensity_head(n_features: int, label_mean: Sequence[float]) -> nn.Linear:
    """A linear layer whose first answer, before a sigmoid, is about the training mean of each label."""
    head = nn.Linear(n_features, len(label_mean))
    nn.init.normal_(head.weight, std=0.01)
    with torch.no_grad():
        head.bias.copy_(torch.logit(torch.tensor(label_mean).clamp(0.01, 0.99)))
    return head
