"""Face and voice together: either one may be missing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reactometer.data.batches import Batch
from reactometer.models.backbones import FrameEncoder, VoiceEncoder, masked_moments
from reactometer.models.visual import encode_seen, intensity_head


class FaceAndVoice(nn.Module):
    """Mean features of the seen frames and of the voice, each projected, joined, and read by a small network.

    A missing modality is replaced by a learned vector, and modality dropout trains that path. Vision with audio is
    the paper's (arXiv 2303.10741); this late joining is our choice.
    """

    label_mean: Tensor
    listens = True

    def __init__(
        self,
        encoder: FrameEncoder,
        label_mean: Sequence[float],
        *,
        frozen: bool,
        hidden: int,
        dropout: float,
        modality_dropout: float,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.voice_encoder = VoiceEncoder()
        self.frozen = frozen
        self.modality_dropout = modality_dropout
        self.face_projection = _projection(2 * encoder.feature_size, hidden)
        self.voice_projection = _projection(self.voice_encoder.feature_size, hidden)
        self.no_face = nn.Parameter(torch.zeros(hidden))
        self.no_voice = nn.Parameter(torch.zeros(hidden))
        self.mix = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * hidden, hidden), nn.ReLU(), nn.Dropout(dropout))
        self.head = intensity_head(hidden, label_mean)
        self.register_buffer("label_mean", torch.tensor(label_mean))
        encoder.requires_grad_(not frozen)

    def forward(self, batch: Batch) -> Tensor:
        """Intensities (B, L) in [0, 1]; the training mean where there is neither face nor voice."""
        has_face, has_voice = self._keep(batch.frame_mask.any(1), batch.voice_mask.any(1))  # (B,) each
        features = encode_seen(self.encoder, batch.frames, batch.frame_mask)  # (B, T, D)
        face = self.face_projection(torch.cat(masked_moments(features, batch.frame_mask), dim=1))  # (B, hidden)
        voice = self.voice_projection(self.voice_encoder(batch.voice, batch.voice_mask))  # (B, hidden)
        face = torch.where(has_face.unsqueeze(1), face, self.no_face)
        voice = torch.where(has_voice.unsqueeze(1), voice, self.no_voice)
        intensities = torch.sigmoid(self.head(self.mix(torch.cat((face, voice), dim=1))))  # (B, L)
        return torch.where(self.has_evidence(batch).unsqueeze(1), intensities, self.label_mean)

    def has_evidence(self, batch: Batch) -> Tensor:
        """(B,) bool: the clip shows a face or has a voice."""
        return batch.frame_mask.any(1) | batch.voice_mask.any(1)

    def train(self, mode: bool = True) -> FaceAndVoice:
        """As usual, but a frozen encoder stays as it is, its running statistics too."""
        super().train(mode)
        self.encoder.train(mode and not self.frozen)
        return self

    def _keep(self, has_face: Tensor, has_voice: Tensor) -> tuple[Tensor, Tensor]:
        """Modality dropout: in training, a clip that has both loses one of them with the chance asked for."""
        if not self.training or self.modality_dropout == 0.0:
            return has_face, has_voice
        both = has_face & has_voice
        draw = torch.rand(has_face.shape, device=has_face.device)  # (B,)
        lose_face = both & (draw < self.modality_dropout / 2)
        lose_voice = both & (draw >= self.modality_dropout / 2) & (draw < self.modality_dropout)
        return has_face & ~lose_face, has_voice & ~lose_voice


def _projection(n_features: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(n_features), nn.Linear(n_features, hidden), nn.ReLU())
