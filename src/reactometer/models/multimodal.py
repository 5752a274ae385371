"""Face and voice on one clock, joined by a cross-modal transformer; either one may be missing."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from reactometer.models.pooling import masked_moments
from reactometer.models.streams import Stream, TimeEmbedding, transformer

OUTLIER = 3.0
"""Standard deviations at which features on a standard scale are cut off; our choice."""


class CrossModalHead(nn.Module):
    """Two ways from the streams to one vector, added.

    One sees each modality as a whole (mean and spread over time, a learned vector where it is missing) and needs few
    clips to learn. The other is a transformer whose joining token attends to all steps of face and voice, each with its
    real time and its modality; it begins with no say and earns it (without layers there is none). Modality dropout
    trains every combination. Vision with audio is the paper's (arXiv 2303.10741); how they are joined is our choice.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        *,
        standard: Collection[str] = (),
        hidden: int,
        layers: int,
        attention_heads: int,
        dropout: float,
        input_dropout: float,
        modality_dropout: float,
    ) -> None:
        super().__init__()
        self.modality_dropout = modality_dropout
        self.wholes = nn.ModuleDict(
            {
                name: _standard_whole(size, hidden, input_dropout) if name in standard else _whole(size, hidden)
                for name, size in sizes.items()
            }
        )
        self.missing = nn.ParameterDict({name: nn.Parameter(torch.zeros(hidden)) for name in sizes})
        self.embedding_size = hidden
        join = nn.Sequential(nn.Dropout(dropout), nn.Linear(len(sizes) * hidden, hidden), nn.ReLU())
        self.join = join if len(sizes) > 1 else nn.Identity()
        self.attends = layers > 0
        if not self.attends:
            return
        self.steps = nn.ModuleDict({name: _steps(size, hidden, dropout) for name, size in sizes.items()})
        self.kinds = nn.ParameterDict({name: nn.Parameter(torch.randn(hidden) * 0.02) for name in sizes})
        self.time = TimeEmbedding(hidden)
        self.token = nn.Parameter(torch.randn(hidden) * 0.02)
        self.blocks = transformer(hidden, layers, attention_heads, dropout)
        self.say = nn.Parameter(torch.zeros(hidden))

    def forward(self, face: Stream | None, voice: Stream | None) -> Tensor:
        """(B, hidden)."""
        streams = {name: stream for name, stream in (("face", face), ("voice", voice)) if stream is not None}
        streams = self.drop_modality(streams)
        wholes = [self._whole(name, stream) for name, stream in streams.items()]  # (B, hidden) each
        joined: Tensor = self.join(torch.cat(wholes, dim=1))  # (B, hidden)
        return joined + self.say * self._attend(streams) if self.attends else joined

    def drop_modality(self, streams: Mapping[str, Stream]) -> dict[str, Stream]:
        """In training, a clip that has both modalities loses one of them with the chance asked for."""
        if not self.training or self.modality_dropout == 0.0 or len(streams) < 2:
            return dict(streams)
        has = {name: stream.mask.any(1) for name, stream in streams.items()}  # (B,) each
        both = has["face"] & has["voice"]
        draw = torch.rand(both.shape, device=both.device)  # (B,)
        lost = {
            "face": both & (draw < self.modality_dropout / 2),
            "voice": both & (draw >= self.modality_dropout / 2) & (draw < self.modality_dropout),
        }
        return {name: stream._replace(mask=stream.mask & ~lost[name].unsqueeze(1)) for name, stream in streams.items()}

    def _whole(self, name: str, stream: Stream) -> Tensor:
        whole = self.wholes[name](torch.cat(masked_moments(stream.values, stream.mask), dim=1))  # (B, hidden)
        return torch.where(stream.mask.any(1, keepdim=True), whole, self.missing[name])

    def _attend(self, streams: Mapping[str, Stream]) -> Tensor:
        """What the joining token gathers from all steps of all modalities, (B, hidden)."""
        steps = [
            self.steps[name](stream.values) + self.time(stream.times_s) + self.kinds[name]
            for name, stream in streams.items()
        ]  # (B, T, hidden) each
        token = self.token.expand(len(steps[0]), 1, -1)  # (B, 1, hidden)
        absent = torch.cat([~stream.mask for stream in streams.values()], dim=1)  # (B, all T)
        absent = nn.functional.pad(absent, (1, 0), value=False)  # (B, 1 + all T)
        attended: Tensor = self.blocks(torch.cat((token, *steps), dim=1), src_key_padding_mask=absent)[:, 0]
        return attended


def _whole(feature_size: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(2 * feature_size), nn.Linear(2 * feature_size, hidden), nn.ReLU())


def _standard_whole(feature_size: int, hidden: int, dropout: float) -> nn.Module:
    """For features on a standard scale: no layer norm, which would take away how much there is of all of them."""
    return nn.Sequential(
        nn.Hardtanh(-OUTLIER, OUTLIER), nn.Dropout(dropout), nn.Linear(2 * feature_size, hidden), nn.GELU()
    )


def _steps(feature_size: int, hidden: int, dropout: float) -> nn.Module:
    return nn.Sequential(nn.Linear(feature_size, hidden), nn.LayerNorm(hidden), nn.Dropout(dropout))
