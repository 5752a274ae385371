"""The heads: they join the features of each stream over time, and across modalities, into one vector per
clip."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Final

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from reactometer.config import ModelConfig
from reactometer.errors import ConfigError
from reactometer.inference.runtime import spread_indices
from reactometer.models.architectures import get_architecture
from reactometer.models.audio_encoders import ContourEncoder, LogMelEncoder, SpeechEncoder, StepConvolution
from reactometer.models.batches import Stream
from reactometer.models.onnx_encoder import OnnxEncoder
from reactometer.models.vision_encoders import ClipEncoder, FrameEncoder

ATTENTION_HEADS = 4
"""Number of attention heads of the transformers."""


def masked_moments(sequence: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the mean and the standard deviation over the steps in the mask.

    Args:
        sequence: (B, T, D) float.
        mask: (B, T) bool.

    Returns:
        Two tensors (B, D); zeros (and a standard deviation of 0.001) if a row's mask is empty.
    """
    weight = mask.unsqueeze(2).to(sequence.dtype)  # (B, T, 1)
    count = weight.sum(1).clamp(min=1.0)  # (B, 1)
    mean = (sequence * weight).sum(1) / count
    variance = ((sequence - mean.unsqueeze(1)).square() * weight).sum(1) / count
    return mean, (variance + 1e-6).sqrt()


GPU_BATCH_MULTIPLE = 16
"""Images per encoder call on a GPU are a multiple of this."""


class PrecomputedFeatures(nn.Module):
    """Placeholder for an encoder if the batch contains features: from a file, or from a frozen encoder."""

    pretrained = False
    input_kind: Final = "features"

    def __init__(self, feature_size: int) -> None:
        super().__init__()
        self.feature_size = feature_size


MediaEncoder = FrameEncoder | OnnxEncoder | ClipEncoder | SpeechEncoder
"""Encoders that are graphs of their own in a checkpoint."""

Encoder = MediaEncoder | LogMelEncoder | StepConvolution | ContourEncoder | PrecomputedFeatures
"""The encoder of one stream."""


def encode_stream(encoder: Encoder, stream: Stream, face_indices: Tensor) -> Stream:
    """Encode images or waveforms of a batch; a spectrogram and features are returned unchanged.

    Args:
        encoder: of this stream. A clip encoder returns one step per clip.
        stream: of a batch.
        face_indices: indices of the frames that show the face, see :class:`Batch`.
    """
    if isinstance(encoder, FrameEncoder | OnnxEncoder):
        return stream._replace(values=encode_frames(encoder, stream.values, face_indices))
    if isinstance(encoder, ClipEncoder):
        return _encode_clips(encoder, stream)
    if isinstance(encoder, SpeechEncoder):
        return _encode_waveforms(encoder, stream)
    return stream._replace(values=stream.values.float())


def _encode_clips(encoder: ClipEncoder, stream: Stream) -> Stream:
    values = torch.zeros((len(stream.values), encoder.feature_size), device=stream.values.device)
    has_face = stream.mask.any(1)  # (B,)
    if has_face.any():
        clips = [
            frames[mask] for frames, mask in zip(stream.values[has_face], stream.mask[has_face], strict=True)
        ]
        inputs = torch.stack([frames[spread_indices(len(frames), encoder.n_frames)] for frames in clips])
        values[has_face] = run_encoder(encoder, inputs, 1)
    return Stream(values.unsqueeze(1), has_face.unsqueeze(1), stream.times_s[:, :1])


def _encode_waveforms(encoder: SpeechEncoder, stream: Stream) -> Stream:
    """Encode clips one by one without padding, because the group norm of speech encoders averages over
    time."""
    values = torch.zeros((*stream.mask.shape, encoder.feature_size), device=stream.values.device)
    for i, mask in enumerate(stream.mask):
        if mask.any():
            values[i, mask] = run_encoder(encoder, stream.values[i, mask].view(1, -1), 1)[0]  # (N, D)
    return stream._replace(values=values)


def encode_frames(encoder: FrameEncoder | OnnxEncoder, frames: Tensor, face_indices: Tensor) -> Tensor:
    """Encode only the frames that show a face, without a synchronisation with the device.

    Args:
        frames: (B, T, 3, H, W) uint8.
        face_indices: (K,) int64: indices of the frames that show a face, among all B * T.

    Returns:
        (B, T, D) float32 (bfloat16 in mixed precision), zeros for frames without a face.
    """
    images = frames.flatten(0, 1)
    n_faces = len(face_indices)  # (B * T, 3, H, W)
    features = torch.zeros((len(images), encoder.feature_size), device=frames.device)
    if n_faces:
        indices = pad_to_multiple(face_indices) if frames.is_cuda else face_indices
        encoded = run_encoder(encoder, images[indices], GPU_BATCH_MULTIPLE)[:n_faces]  # (K, D)
        is_complete = n_faces == len(images)
        features = encoded if is_complete else features.to(encoded.dtype).index_copy(0, face_indices, encoded)
    return features.view(*frames.shape[:2], encoder.feature_size)


def run_encoder(encoder: MediaEncoder, inputs: Tensor, chunk_size: int) -> Tensor:
    """Encode inputs; with ``encoder.checkpointing``, recompute the activations of one chunk at a time."""
    if not (encoder.checkpointing and torch.is_grad_enabled()):
        features: Tensor = encoder(inputs)
        return features
    return torch.cat(
        [checkpoint(encoder, chunk, use_reentrant=False) for chunk in torch.split(inputs, chunk_size)]
    )


def pad_to_multiple(indices: Tensor) -> Tensor:
    """Repeat the first indices until their number is a multiple of :data:`GPU_BATCH_MULTIPLE`.

    cuDNN sets up each new batch size, and the number of faces differs in nearly every batch: without padding,
    the first epoch on an H100 ran at a third of the speed (docs/project/lab-notes.md).
    """
    padding = torch.arange(-len(indices) % GPU_BATCH_MULTIPLE, device=indices.device) % len(indices)
    return torch.cat((indices, indices[padding]))


class FeatureScaler(nn.Module):
    """Standardisation of each feature with the training set's mean and standard deviation; initially the
    identity."""

    mean: Tensor
    std: Tensor

    def __init__(self, feature_size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(feature_size))
        self.register_buffer("std", torch.ones(feature_size))

    def forward(self, features: Tensor) -> Tensor:
        """Standardise features (..., feature_size)."""
        return (features - self.mean) / self.std

    def scale_stream(self, stream: Stream) -> Stream:
        """Standardise the values of a stream; zeros outside the mask."""
        return stream._replace(values=self(stream.values) * stream.mask.unsqueeze(2))


class TimeEmbedding(nn.Module):
    """Embedding of times; they are zeros unless ``model.times`` is "seconds".

    Sines and cosines (Vaswani et al. 2017, but of times instead of indices) with periods from 0.25 to 120
    (s), through a linear layer.
    """

    rates: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        periods_s = torch.logspace(math.log10(0.25), math.log10(120.0), 16)
        self.register_buffer("rates", 2.0 * math.pi / periods_s)
        self.project = nn.Linear(2 * len(periods_s), size)

    def forward(self, times_s: Tensor) -> Tensor:
        """Embed times (B, T) in seconds as (B, T, size)."""
        angles = times_s.unsqueeze(2) * self.rates  # (B, T, 16)
        embedded: Tensor = self.project(torch.cat((angles.sin(), angles.cos()), dim=2))
        return embedded


def attend(blocks: nn.TransformerEncoder, token: Tensor, steps: Tensor, mask: Tensor) -> Tensor:
    """Update tokens (B, hidden) by attention to the steps (B, T, hidden) in their mask (B, T)."""
    ignored = nn.functional.pad(~mask, (1, 0), value=False)  # (B, 1 + T)
    attended: Tensor = blocks(torch.cat((token.unsqueeze(1), steps), dim=1), src_key_padding_mask=ignored)[
        :, 0
    ]
    return attended


def build_transformer(config: ModelConfig) -> nn.TransformerEncoder:
    """Build a pre-norm transformer encoder, batch first."""
    size = config.hidden
    layer = nn.TransformerEncoderLayer(
        size, ATTENTION_HEADS, 4 * size, config.dropout, "gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, config.layers, nn.LayerNorm(size), enable_nested_tensor=False)


def build_projection(feature_size: int, config: ModelConfig) -> nn.Sequential:
    """Build a projection of (..., feature_size) to (..., hidden) with layer norm and dropout."""
    return nn.Sequential(
        nn.Linear(feature_size, config.hidden), nn.LayerNorm(config.hidden), nn.Dropout(config.dropout)
    )


class MeanHead(nn.Module):
    """The mean of the features over the frames that show the face; used with ResNet50 and VideoMAE."""

    def __init__(self, feature_size: int, config: ModelConfig) -> None:
        super().__init__()
        self.embedding_size = feature_size

    def forward(self, streams: Mapping[str, Stream]) -> Tensor:
        """Return (B, D)."""
        mean, _ = masked_moments(streams["face"].values, streams["face"].mask)
        return mean


class GruHead(nn.Module):
    """A bidirectional GRU (Cho et al. 2014) over the frames that show the face, with attention pooling."""

    def __init__(self, feature_size: int, config: ModelConfig) -> None:
        super().__init__()
        hidden = config.hidden
        self.n_steps = config.n_frames
        self.project = build_projection(feature_size, config)
        self.time = TimeEmbedding(hidden)
        self.gru = nn.GRU(hidden, hidden, batch_first=True, bidirectional=True)
        self.attention = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.Tanh(), nn.Linear(hidden, 1))
        self.embedding_size = 2 * hidden

    def forward(self, streams: Mapping[str, Stream]) -> Tensor:
        """Return (B, 2 * hidden)."""
        stream = spread_steps(streams["face"], self.n_steps)
        steps = self.project(stream.values) + self.time(stream.times_s)  # (B, T, hidden)
        states, _ = self.gru(steps)  # (B, T, 2 * hidden)
        pooled: Tensor = (self.attention(states).softmax(1) * states).sum(1)
        return pooled


class TransformerHead(nn.Module):
    """A temporal transformer whose regression token attends to the frames that show the face, with their
    times.

    The token starts as their mean and attention adds to it, which learns more from few clips
    (docs/project/lab-notes.md).
    """

    def __init__(self, feature_size: int, config: ModelConfig) -> None:
        super().__init__()
        self.n_steps = config.n_frames
        self.project = build_projection(feature_size, config)
        self.time = TimeEmbedding(config.hidden)
        self.token = nn.Parameter(torch.randn(config.hidden) * 0.02)
        self.blocks = build_transformer(config)
        self.embedding_size = config.hidden

    def forward(self, streams: Mapping[str, Stream]) -> Tensor:
        """Return (B, hidden)."""
        face = streams["face"]
        steps = self.project(face.values) + self.time(face.times_s)  # (B, T, hidden)
        token = self.token + masked_moments(steps, face.mask)[0]
        spread = spread_steps(face._replace(values=steps), self.n_steps)
        return attend(self.blocks, token, spread.values, spread.mask)


VisualHead = MeanHead | GruHead | TransformerHead
VISUAL_HEADS: Mapping[str, type[VisualHead]] = {
    "mean": MeanHead,
    "gru": GruHead,
    "transformer": TransformerHead,
}


def move_valid_first(stream: Stream) -> Stream:
    """Move the steps in the mask to the front of each clip, in their order."""
    positions = torch.arange(stream.mask.shape[1], device=stream.mask.device)  # (T,)
    order = torch.where(stream.mask, positions, positions + positions.shape[0]).argsort(dim=1)  # (B, T)
    values = stream.values.gather(1, order.unsqueeze(2).expand_as(stream.values))
    return Stream(values, stream.mask.gather(1, order), stream.times_s.gather(1, order))


def spread_steps(stream: Stream, count: int) -> Stream:
    """Take ``count`` steps of the mask, evenly spread; some repeatedly if there are fewer.

    A GRU and attention can count their steps, so a varying number would reveal the length of the clip.
    """
    valid, n_steps = move_valid_first(stream), stream.mask.sum(1, keepdim=True)  # (B, 1)
    positions = 2 * torch.arange(count, device=stream.mask.device) + 1  # (count,)
    index = positions * n_steps // (2 * count)  # (B, count), as spread_indices
    values = valid.values.gather(1, index.unsqueeze(2).expand(-1, -1, stream.values.shape[2]))
    return Stream(values, (n_steps > 0).expand_as(index), valid.times_s.gather(1, index))


OUTLIER_STDS = 3.0
"""Standardised features are clipped to this many standard deviations."""


class CrossModalHead(nn.Module):
    """The sum of a pooled path and a gated transformer, for any number of streams (arXiv 2303.10741 has face
    and voice).

    The pooled path uses the mean and the standard deviation over time of each stream (a learned vector if
    it is missing) and learns from few clips. In the transformer, a token attends to all steps of all
    streams, with their times and names. Its gate starts at zero; without layers there is no transformer.
    Modality dropout trains it for missing streams.
    """

    def __init__(self, sizes: Mapping[str, int], scaled: Collection[str], config: ModelConfig) -> None:
        super().__init__()
        hidden = config.hidden
        self.modality_dropout = config.modality_dropout
        self.n_steps = config.n_frames
        # A clip's mean varies much less than its steps, whose scale would leave it small.
        self.moment_scales = nn.ModuleDict({name: FeatureScaler(2 * sizes[name]) for name in scaled})
        self.pooled_projections = nn.ModuleDict(
            {name: _build_pooled_projection(size, name in scaled, config) for name, size in sizes.items()}
        )
        self.missing_embeddings = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(hidden)) for name in sizes}
        )
        self.embedding_size = hidden
        join = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(len(sizes) * hidden, hidden), nn.ReLU())
        self.join = join if len(sizes) > 1 else nn.Identity()
        self.attends = config.layers > 0
        if not self.attends:
            return
        self.steps = nn.ModuleDict({name: build_projection(size, config) for name, size in sizes.items()})
        self.modality_embeddings = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(hidden) * 0.02) for name in sizes}
        )
        self.time = TimeEmbedding(hidden)
        self.token = nn.Parameter(torch.randn(hidden) * 0.02)
        self.blocks = build_transformer(config)
        self.gate = nn.Parameter(torch.zeros(hidden))

    def forward(self, streams: Mapping[str, Stream]) -> Tensor:
        """Return (B, hidden)."""
        streams = self.drop_modality(streams)
        pooled = [self._project_pooled(name, stream) for name, stream in streams.items()]  # (B, hidden) each
        joined: Tensor = self.join(torch.cat(pooled, dim=1))  # (B, hidden)
        return joined + self.gate * self._attend(streams) if self.attends else joined

    def drop_modality(self, streams: Mapping[str, Stream]) -> dict[str, Stream]:
        """In training, remove a random stream of clips that have several, with the configured probability."""
        if not self.training or self.modality_dropout == 0.0 or len(streams) < 2:
            return dict(streams)
        present = torch.stack([stream.mask.any(1) for stream in streams.values()], dim=1)  # (B, S)
        chance = torch.rand(present.shape, device=present.device)
        chosen = torch.where(present, chance, -1.0).argmax(1)  # (B,): index of a random present stream
        drops = torch.rand(chosen.shape, device=present.device) < self.modality_dropout
        drops &= present.sum(1) > 1  # (B,)
        return {
            name: stream._replace(mask=stream.mask & ~(drops & (chosen == index)).unsqueeze(1))
            for index, (name, stream) in enumerate(streams.items())
        }

    def _project_pooled(self, name: str, stream: Stream) -> Tensor:
        moments = torch.cat(masked_moments(stream.values, stream.mask), dim=1)  # (B, 2 * D)
        if name in self.moment_scales:
            moments = self.moment_scales[name](moments)
        pooled = self.pooled_projections[name](moments)  # (B, hidden)
        return torch.where(stream.mask.any(1, keepdim=True), pooled, self.missing_embeddings[name])

    def _attend(self, streams: Mapping[str, Stream]) -> Tensor:
        """Return the token (B, hidden) after attention to steps of all streams."""
        streams = {name: spread_steps(stream, self.n_steps) for name, stream in streams.items()}
        steps = [
            self.steps[name](stream.values) + self.time(stream.times_s) + self.modality_embeddings[name]
            for name, stream in streams.items()
        ]  # (B, T, hidden) each
        mask = torch.cat([stream.mask for stream in streams.values()], dim=1)  # (B, all T)
        return attend(self.blocks, self.token.expand(len(mask), -1), torch.cat(steps, dim=1), mask)


def _build_pooled_projection(feature_size: int, is_scaled: bool, config: ModelConfig) -> nn.Module:
    """Build the projection of one modality's mean and standard deviation (B, 2 * feature_size) to (B,
    hidden).

    Standardised features get no layer norm, because it would remove their overall level.
    """
    linear = nn.Linear(2 * feature_size, config.hidden)
    if is_scaled:
        return nn.Sequential(
            nn.Hardtanh(-OUTLIER_STDS, OUTLIER_STDS), nn.Dropout(config.input_dropout), linear, nn.GELU()
        )
    return nn.Sequential(nn.LayerNorm(2 * feature_size), linear, nn.ReLU())


def build_head(
    config: ModelConfig, sizes: Mapping[str, int], scaled: Collection[str]
) -> VisualHead | CrossModalHead:
    """Build the head that a configuration names, from the number of features per step by stream.

    Raises:
        ConfigError: ``model.hidden`` is not a multiple of :data:`ATTENTION_HEADS`.
    """
    head = get_architecture(config).head
    if head in ("transformer", "cross-modal") and config.hidden % ATTENTION_HEADS:
        raise ConfigError(
            "model.hidden does not fit the transformer",
            got=config.hidden,
            expected=f"a multiple of {ATTENTION_HEADS}, the number of attention heads",
        )
    if head == "cross-modal":
        return CrossModalHead(sizes, scaled, config)
    return VISUAL_HEADS[head](sizes["face"], config)
