"""The heads: features of each stream over time, joined within and across modalities, to one vector per clip."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from reactometer.config import ModelConfig
from reactometer.errors import ConfigError
from reactometer.inference.runtime import spread_places
from reactometer.models.architectures import get_architecture
from reactometer.models.audio_encoders import ContourEncoder, LogMelEncoder, SpeechEncoder, StepConvolution
from reactometer.models.batches import Batch, Stream
from reactometer.models.vision_encoders import ClipEncoder, FrameEncoder


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


GPU_BATCH_MULTIPLE = 16
"""On a GPU, pictures are encoded in multiples of this."""


class PrecomputedFeatures(nn.Module):
    """The place of an encoder where the batch brings features already: of a file, or of a frozen encoder."""

    pretrained = False

    def __init__(self, feature_size: int) -> None:
        super().__init__()
        self.feature_size = feature_size


FaceEncoder = FrameEncoder | ClipEncoder | PrecomputedFeatures
VoiceEncoder = LogMelEncoder | StepConvolution | SpeechEncoder | ContourEncoder | PrecomputedFeatures


def encode_face(encoder: FaceEncoder, batch: Batch) -> Stream:
    """Encode the frames of a batch that show a face: one step a frame, or one a clip."""
    if isinstance(encoder, PrecomputedFeatures):
        return Stream(batch.frames.float(), batch.frame_mask, batch.frame_times_s)
    if isinstance(encoder, FrameEncoder):
        return Stream(encode_frames(encoder, batch.frames, batch.face_indices), batch.frame_mask, batch.frame_times_s)
    values = torch.zeros((len(batch.frames), encoder.feature_size), device=batch.frames.device)
    some = batch.frame_mask.any(1)  # (B,)
    if some.any():
        seen = [own[mask] for own, mask in zip(batch.frames[some], batch.frame_mask[some], strict=True)]
        values[some] = encoder(torch.stack([own[spread_places(len(own), encoder.n_frames)] for own in seen]))
    return Stream(values.unsqueeze(1), some.unsqueeze(1), batch.frame_times_s[:, :1])


def encode_voice(encoder: VoiceEncoder, batch: Batch) -> Stream:
    """Encode the waveforms of a batch; other sound, such as a spectrogram, stays as it is.

    Every clip is heard at its own length: the group norm of speech encoders takes its mean over time, so that padding
    would change every number.
    """
    if not isinstance(encoder, SpeechEncoder):
        return Stream(batch.voice, batch.voice_mask, batch.voice_times_s)
    values = torch.zeros((*batch.voice_mask.shape, encoder.feature_size), device=batch.voice.device)
    for row, heard in enumerate(batch.voice_mask):
        if heard.any():
            values[row, heard] = encoder(batch.voice[row, heard].view(1, -1))[0]  # (N, D)
    return Stream(values, batch.voice_mask, batch.voice_times_s)


def encode_frames(encoder: FrameEncoder, frames: Tensor, seen: Tensor) -> Tensor:
    """Encode only the frames that show a face, without a question to the device that it would have to wait for.

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
        encoded = encoder(pictures[pad_to_multiple(seen) if frames.is_cuda else seen])[: len(seen)]  # (K, D)
        every = len(seen) == len(pictures)  # then each is in its place
        features = encoded if every else features.to(encoded.dtype).index_copy(0, seen, encoded)
    return features.view(*frames.shape[:2], encoder.feature_size)


def pad_to_multiple(seen: Tensor) -> Tensor:
    """So many places more, the first ones again, that their number is a multiple of :data:`GPU_BATCH_MULTIPLE`.

    cuDNN prepares every number of pictures anew, and nearly every batch shows a face in another number of frames: an
    H100 trained on such batches at a third of the speed of others in its first epoch (docs/performance.md).
    """
    more = torch.arange(-len(seen) % GPU_BATCH_MULTIPLE, device=seen.device) % len(seen)
    return torch.cat((seen, seen[more]))


class FeatureScaler(nn.Module):
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

    def __init__(self, size: int) -> None:
        super().__init__()
        periods_s = torch.logspace(math.log10(0.25), math.log10(120.0), 16)
        self.register_buffer("rates", 2.0 * math.pi / periods_s)
        self.project = nn.Linear(2 * len(periods_s), size)

    def forward(self, times_s: Tensor) -> Tensor:
        """(B, T) seconds -> (B, T, size)."""
        angles = times_s.unsqueeze(2) * self.rates  # (B, T, 16)
        embedded: Tensor = self.project(torch.cat((angles.sin(), angles.cos()), dim=2))
        return embedded


def attend(blocks: nn.TransformerEncoder, token: Tensor, steps: Tensor, mask: Tensor) -> Tensor:
    """What tokens (B, hidden) become when each attends to the steps (B, T, hidden) in its mask (B, T)."""
    hidden = nn.functional.pad(~mask, (1, 0), value=False)  # (B, 1 + T)
    attended: Tensor = blocks(torch.cat((token.unsqueeze(1), steps), dim=1), src_key_padding_mask=hidden)[:, 0]
    return attended


def transformer(config: ModelConfig) -> nn.TransformerEncoder:
    """A pre-norm transformer encoder, batch first."""
    size = config.hidden
    layer = nn.TransformerEncoderLayer(
        size, config.attention_heads, 4 * size, config.dropout, "gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, config.layers, nn.LayerNorm(size), enable_nested_tensor=False)


def projection(feature_size: int, config: ModelConfig) -> nn.Sequential:
    """(..., feature_size) -> (..., hidden), normalised."""
    return nn.Sequential(
        nn.Linear(feature_size, config.hidden), nn.LayerNorm(config.hidden), nn.Dropout(config.dropout)
    )


class MeanHead(nn.Module):
    """The mean of the features over the frames that show the face: the headline system's, and VideoMAE's."""

    def __init__(self, feature_size: int, config: ModelConfig) -> None:
        super().__init__()
        self.embedding_size = feature_size

    def forward(self, face: Stream, voice: None = None) -> Tensor:
        """(B, D)."""
        mean, _ = masked_moments(face.values, face.mask)
        return mean


class GruHead(nn.Module):
    """A bidirectional GRU (Cho et al. 2014) over the seen frames, and attention pooling over its steps."""

    def __init__(self, feature_size: int, config: ModelConfig) -> None:
        super().__init__()
        hidden = config.hidden
        self.project = projection(feature_size, config)
        self.time = TimeEmbedding(hidden)
        self.gru = nn.GRU(hidden, hidden, batch_first=True, bidirectional=True)
        self.attention = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.Tanh(), nn.Linear(hidden, 1))
        self.embedding_size = 2 * hidden

    def forward(self, face: Stream, voice: None = None) -> Tensor:
        """(B, 2 * hidden)."""
        stream = move_valid_first(face)
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
        modality_embeddings = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        weights = [getattr(self.gru, f"{kind}_l0{direction}") for kind in modality_embeddings]
        if torch.onnx.is_in_onnx_export():
            return _onnx_gru(steps, *weights)
        start = steps.new_zeros((1, steps.shape[0], self.gru.hidden_size))
        states, _ = torch.gru(steps, start, weights, True, 1, 0.0, False, False, True)
        return states


def _onnx_gru(steps: Tensor, *weights: Tensor) -> Tensor:
    """Name ONNX's GRU (https://onnx.ai/onnx/operators/onnx__GRU.html), as PyTorch exports its own for one length only.

    Args:
        steps: (B, T, hidden).
        weights: of the input and the state, (3 * hidden, hidden) each, and their biases, (3 * hidden,) each; their
            gates are reset, update, new, and ONNX's are update, reset, new.

    Returns:
        (B, T, hidden).
    """
    size, (n_clips, n_steps, _) = weights[1].shape[1], steps.shape
    ordered = [torch.cat((own[size : 2 * size], own[:size], own[2 * size :])) for own in weights]
    states = torch.onnx.ops.symbolic(
        "GRU",
        (steps.transpose(0, 1), ordered[0][None], ordered[1][None], torch.cat(ordered[2:])[None]),
        {"hidden_size": size, "linear_before_reset": 1},
        dtype=steps.dtype,
        shape=(n_steps, 1, n_clips, size),
        version=20,
    )  # (T, 1, B, hidden)
    return states.squeeze(1).transpose(0, 1)


class TransformerHead(nn.Module):
    """A temporal transformer: a regression token attends to the seen frames, which carry their real times.

    The token begins as their mean, and what attention adds is learned: with few clips it learns more (docs/results.md).
    """

    def __init__(self, feature_size: int, config: ModelConfig) -> None:
        super().__init__()
        self.project = projection(feature_size, config)
        self.time = TimeEmbedding(config.hidden)
        self.token = nn.Parameter(torch.randn(config.hidden) * 0.02)
        self.blocks = transformer(config)
        self.embedding_size = config.hidden

    def forward(self, face: Stream, voice: None = None) -> Tensor:
        """(B, hidden)."""
        steps = self.project(face.values) + self.time(face.times_s)  # (B, T, hidden)
        return attend(self.blocks, self.token + masked_moments(steps, face.mask)[0], steps, face.mask)


VisualHead = MeanHead | GruHead | TransformerHead
VISUAL_HEADS: Mapping[str, type[VisualHead]] = {"mean": MeanHead, "gru": GruHead, "transformer": TransformerHead}


def move_valid_first(stream: Stream) -> Stream:
    """The steps of each clip with those in the mask first, in their order."""
    places = torch.arange(stream.mask.shape[1], device=stream.mask.device)  # (T,)
    order = torch.where(stream.mask, places, places + places.shape[0]).argsort(dim=1)  # (B, T)
    values = stream.values.gather(1, order.unsqueeze(2).expand_as(stream.values))
    return Stream(values, stream.mask.gather(1, order), stream.times_s.gather(1, order))


OUTLIER_STDS = 3.0
"""Standard deviations at which features on a standard scale are cut off; our choice."""


class CrossModalHead(nn.Module):
    """Two ways from the streams to one vector, added.

    One sees each modality as a whole (mean and spread over time, a learned vector where it is missing) and needs few
    clips to learn. The other is a transformer whose joining token attends to all steps of face and voice, each with its
    real time and its modality; it begins with no gate and earns it (without layers there is none). Modality dropout
    trains every combination. Vision with audio is the paper's (arXiv 2303.10741); how they are joined is our choice.
    """

    def __init__(self, sizes: Mapping[str, int], standard: Collection[str], config: ModelConfig) -> None:
        super().__init__()
        hidden = config.hidden
        self.modality_dropout = config.modality_dropout
        self.pooled_projections = nn.ModuleDict(
            {name: _project_pooled(size, name in standard, config) for name, size in sizes.items()}
        )
        self.missing_embeddings = nn.ParameterDict({name: nn.Parameter(torch.zeros(hidden)) for name in sizes})
        self.embedding_size = hidden
        join = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(len(sizes) * hidden, hidden), nn.ReLU())
        self.join = join if len(sizes) > 1 else nn.Identity()
        self.attends = config.layers > 0
        if not self.attends:
            return
        self.steps = nn.ModuleDict({name: projection(size, config) for name, size in sizes.items()})
        self.modality_embeddings = nn.ParameterDict({name: nn.Parameter(torch.randn(hidden) * 0.02) for name in sizes})
        self.time = TimeEmbedding(hidden)
        self.token = nn.Parameter(torch.randn(hidden) * 0.02)
        self.blocks = transformer(config)
        self.gate = nn.Parameter(torch.zeros(hidden))

    def forward(self, face: Stream | None, voice: Stream | None) -> Tensor:
        """(B, hidden)."""
        streams = {name: stream for name, stream in (("face", face), ("voice", voice)) if stream is not None}
        streams = self.drop_modality(streams)
        pooled_projections = [
            self._project_pooled(name, stream) for name, stream in streams.items()
        ]  # (B, hidden) each
        joined: Tensor = self.join(torch.cat(pooled_projections, dim=1))  # (B, hidden)
        return joined + self.gate * self._attend(streams) if self.attends else joined

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

    def _project_pooled(self, name: str, stream: Stream) -> Tensor:
        whole = self.pooled_projections[name](
            torch.cat(masked_moments(stream.values, stream.mask), dim=1)
        )  # (B, hidden)
        return torch.where(stream.mask.any(1, keepdim=True), whole, self.missing_embeddings[name])

    def _attend(self, streams: Mapping[str, Stream]) -> Tensor:
        """What the joining token gathers from all steps of all modalities, (B, hidden)."""
        steps = [
            self.steps[name](stream.values) + self.time(stream.times_s) + self.modality_embeddings[name]
            for name, stream in streams.items()
        ]  # (B, T, hidden) each
        mask = torch.cat([stream.mask for stream in streams.values()], dim=1)  # (B, all T)
        return attend(self.blocks, self.token.expand(len(mask), -1), torch.cat(steps, dim=1), mask)


def _project_pooled(feature_size: int, is_scaled: bool, config: ModelConfig) -> nn.Module:
    """Mean and spread of one modality, (B, 2 * feature_size) -> (B, hidden).

    Features on a standard scale get no layer norm, which would take away how much there is of all of them.
    """
    linear = nn.Linear(2 * feature_size, config.hidden)
    if is_scaled:
        return nn.Sequential(
            nn.Hardtanh(-OUTLIER_STDS, OUTLIER_STDS), nn.Dropout(config.input_dropout), linear, nn.GELU()
        )
    return nn.Sequential(nn.LayerNorm(2 * feature_size), linear, nn.ReLU())


def build_head(config: ModelConfig, sizes: Mapping[str, int], standard: Collection[str]) -> VisualHead | CrossModalHead:
    """Build the head that a configuration names.

    Args:
        config: names the architecture.
        sizes: number of features per step, by modality.
        standard: the modalities whose features are on a standard scale.

    Raises:
        ConfigError: ``model.hidden`` cannot be divided among the attention heads.
    """
    kind = get_architecture(config).head
    if kind in ("transformer", "cross-modal") and config.hidden % config.attention_heads:
        raise ConfigError(
            "model.hidden is not divisible by model.attention_heads",
            got=f"{config.hidden} and {config.attention_heads}",
        )
    if kind == "cross-modal":
        return CrossModalHead(sizes, standard, config)
    return VISUAL_HEADS[kind](sizes["face"], config)
