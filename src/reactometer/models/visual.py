"""The visual networks' heads: the features of a clip's frames -> one vector a clip.

ResNet50 and the visual domain are the paper's (arXiv 2303.10741); everything here is our choice.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reactometer.models.pooling import masked_moments
from reactometer.models.streams import Stream, TimeEmbedding, transformer


class MeanHead(nn.Module):
    """The mean of the features over the frames that show the face: the headline system's, and VideoMAE's."""

    def __init__(self, feature_size: int) -> None:
        super().__init__()
        self.embedding_size = feature_size

    def forward(self, face: Stream, voice: None = None) -> Tensor:
        """(B, D)."""
        mean, _ = masked_moments(face.values, face.mask)
        return mean


class GruHead(nn.Module):
    """A bidirectional GRU (Cho et al. 2014) over the seen frames, and attention pooling over its steps."""

    def __init__(self, feature_size: int, *, hidden: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(feature_size, hidden), nn.LayerNorm(hidden), nn.Dropout(dropout))
        self.time = TimeEmbedding(hidden)
        self.gru = nn.GRU(hidden, hidden, batch_first=True, bidirectional=True)
        self.attention = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.Tanh(), nn.Linear(hidden, 1))
        self.embedding_size = 2 * hidden

    def forward(self, face: Stream, voice: None = None) -> Tensor:
        """(B, 2 * hidden)."""
        stream = seen_first(face)
        steps = self.project(stream.values) + self.time(stream.times_s)  # (B, T, hidden)
        states = self.states(steps, stream.mask)  # (B, T, 2 * hidden)
        scores = self.attention(states).squeeze(2).masked_fill(~stream.mask, -torch.inf)  # (B, T)
        scores = torch.where(stream.mask.any(1, keepdim=True), scores, torch.zeros_like(scores))
        pooled: Tensor = (scores.softmax(1).unsqueeze(2) * states).sum(1)
        return pooled

    def states(self, steps: Tensor, mask: Tensor) -> Tensor:
        """(B, T, 2 * hidden), right where the mask is: each direction begins with the first step that it sees.

        Reversing the seen steps by hand is what packing would do; unlike packing, it can be exported.
        """
        places = torch.arange(steps.shape[1], device=steps.device)  # (T,)
        last = mask.sum(1, keepdim=True) - 1  # (B, 1)
        turned = torch.where(mask, last - places, places).unsqueeze(2).expand_as(steps)  # (B, T, hidden)
        back = self._run(steps.gather(1, turned), "_reverse").gather(1, turned)
        return torch.cat((self._run(steps, ""), back), dim=2)

    def _run(self, steps: Tensor, direction: str) -> Tensor:
        """(B, T, hidden) the states of one direction of the GRU."""
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        weights = [getattr(self.gru, f"{kind}_l0{direction}") for kind in kinds]
        start = steps.new_zeros((1, len(steps), self.gru.hidden_size))
        states, _ = torch.gru(steps, start, weights, True, 1, 0.0, False, False, True)
        return states


class TransformerHead(nn.Module):
    """A temporal transformer: a regression token attends to the seen frames, which carry their real times.

    The token begins as their mean, and what attention adds is learned: with few clips it learns more (docs/results.md).
    """

    def __init__(self, feature_size: int, *, hidden: int, layers: int, attention_heads: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(feature_size, hidden), nn.LayerNorm(hidden), nn.Dropout(dropout))
        self.time = TimeEmbedding(hidden)
        self.token = nn.Parameter(torch.randn(hidden) * 0.02)
        self.blocks = transformer(hidden, layers, attention_heads, dropout)
        self.embedding_size = hidden

    def forward(self, face: Stream, voice: None = None) -> Tensor:
        """(B, hidden)."""
        steps = self.project(face.values) + self.time(face.times_s)  # (B, T, hidden)
        token = (self.token + masked_moments(steps, face.mask)[0]).unsqueeze(1)  # (B, 1, hidden)
        unseen = nn.functional.pad(~face.mask, (1, 0), value=False)  # (B, 1 + T)
        attended: Tensor = self.blocks(torch.cat((token, steps), dim=1), src_key_padding_mask=unseen)[:, 0]
        return attended


VisualHead = MeanHead | GruHead | TransformerHead


def seen_first(stream: Stream) -> Stream:
    """The steps of each clip with those in the mask first, in their order."""
    places = torch.arange(stream.mask.shape[1], device=stream.mask.device)  # (T,)
    order = torch.where(stream.mask, places, places + len(places)).argsort(dim=1)  # (B, T)
    values = stream.values.gather(1, order.unsqueeze(2).expand_as(stream.values))
    return Stream(values, stream.mask.gather(1, order), stream.times_s.gather(1, order))
