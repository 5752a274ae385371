"""Streams: what an encoder makes of one modality, and the small layers that every head reads them with."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from reactometer.data.batches import Batch
from reactometer.models.encoders import ClipEncoder, FrameEncoder
from reactometer.models.voice_encoders import ContourEncoder, SpeechEncoder, StepConvolution, VoiceEncoder

GPU_STEP = 16
"""On a GPU, pictures are encoded in multiples of this."""


class Stream(NamedTuple):
    """Features of one modality over time."""

    values: Tensor  # (B, T, D) float32, zeros outside the mask
    mask: Tensor  # (B, T) bool
    times_s: Tensor  # (B, T) float32, from the beginning of the clip


class Given(nn.Module):
    """The place of an encoder where the batch brings features already: of a file, or of a frozen encoder."""

    pretrained = False

    def __init__(self, feature_size: int) -> None:
        super().__init__()
        self.feature_size = feature_size

    def describe(self) -> dict[str, int]:
        """What is needed to make it again, as JSON can hold it."""
        return {"given": self.feature_size}


FaceInput = FrameEncoder | ClipEncoder | Given
VoiceInput = VoiceEncoder | StepConvolution | SpeechEncoder | ContourEncoder | Given


def face_stream(encoder: FaceInput, batch: Batch) -> Stream:
    """Encode the frames of a batch that show a face: one step a frame, or one a clip."""
    if isinstance(encoder, Given):
        return Stream(batch.frames.float(), batch.frame_mask, batch.frame_times_s)
    if isinstance(encoder, FrameEncoder):
        return Stream(encode_seen(encoder, batch.frames, batch.seen), batch.frame_mask, batch.frame_times_s)
    values = encoder(batch.frames, batch.frame_mask).unsqueeze(1)  # (B, 1, D)
    return Stream(values, batch.frame_mask.any(1, keepdim=True), batch.frame_times_s[:, :1])


def voice_stream(encoder: VoiceInput, batch: Batch) -> Stream:
    """Encode the sound of a batch."""
    if isinstance(encoder, Given):
        return Stream(batch.voice, batch.voice_mask, batch.voice_times_s)
    timed = (batch.voice_times_s,) if isinstance(encoder, StepConvolution) else ()
    values, mask = encoder(batch.voice, batch.voice_mask, *timed)  # (B, T, D), (B, T)
    return Stream(values, mask, batch.voice_times_s[:, :: encoder.stride][:, : mask.shape[1]])


def encode_seen(encoder: FrameEncoder, frames: Tensor, seen: Tensor) -> Tensor:
    """Encode only the frames that show a face.

    How many these are is known without a question to the device: a GPU that has to answer waits for the processor.

    Args:
        encoder: pictures -> features.
        frames: (B, T, 3, H, W) uint8.
        seen: (K,) int64: places of the frames that show a face, among all B * T.

    Returns:
        (B, T, D) float32 (bfloat16 in mixed precision), zeros where no face is seen.
    """
    pictures = frames.flatten(0, 1)  # (B * T, 3, H, W)
    features = torch.zeros((len(pictures), encoder.feature_size), device=frames.device)
    if len(seen):
        encoded = encoder(pictures[fill_up(seen) if frames.is_cuda else seen])[: len(seen)]  # (K, D)
        every = len(seen) == len(pictures)  # then each is in its place
        features = encoded if every else features.to(encoded.dtype).index_copy(0, seen, encoded)
    return features.view(*frames.shape[:2], encoder.feature_size)


def fill_up(seen: Tensor) -> Tensor:
    """So many places more, the first ones again, that their number is a multiple of :data:`GPU_STEP`.

    cuDNN prepares every number of pictures anew, and nearly every batch shows a face in another number of frames: an
    H100 trained on such batches at a third of the speed of others in its first epoch (docs/performance.md).
    """
    more = torch.arange(-len(seen) % GPU_STEP, device=seen.device) % len(seen)
    return torch.cat((seen, seen[more]))


class Standardise(nn.Module):
    """Puts every feature on the training set's scale; as it is made, it changes nothing."""

    mean: Tensor
    std: Tensor

    def __init__(self, feature_size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(feature_size))
        self.register_buffer("std", torch.ones(feature_size))

    def forward(self, stream: Stream) -> Stream:
        """The stream with ``(values - mean) / std``, zeros outside the mask."""
        return stream._replace(values=((stream.values - self.mean) / self.std) * stream.mask.unsqueeze(2))


class TimeEmbedding(nn.Module):
    """Real times -> features, so that uneven sampling and gaps are seen.

    Sines and cosines (Vaswani et al. 2017, but of seconds instead of places) with periods from 0.25 s to two minutes,
    through a linear layer.
    """

    rates: Tensor

    def __init__(self, size: int, n_periods: int = 16) -> None:
        super().__init__()
        periods_s = torch.logspace(math.log10(0.25), math.log10(120.0), n_periods)
        self.register_buffer("rates", 2.0 * math.pi / periods_s)
        self.project = nn.Linear(2 * n_periods, size)

    def forward(self, times_s: Tensor) -> Tensor:
        """(B, T) seconds -> (B, T, size)."""
        angles = times_s.unsqueeze(2) * self.rates  # (B, T, n_periods)
        embedded: Tensor = self.project(torch.cat((angles.sin(), angles.cos()), dim=2))
        return embedded


def transformer(size: int, layers: int, attention_heads: int, dropout: float) -> nn.TransformerEncoder:
    """A pre-norm transformer encoder, batch first."""
    layer = nn.TransformerEncoderLayer(
        size, attention_heads, 4 * size, dropout, "gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, layers, nn.LayerNorm(size), enable_nested_tensor=False)
