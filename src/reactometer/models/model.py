"""The whole network: encoders, a head, and an output layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reactometer.data.power_transform import Power
from reactometer.inference.runtime import StreamInput
from reactometer.models.audio_encoders import ContourEncoder, LogMelEncoder, SpeechEncoder, StepConvolution
from reactometer.models.batches import Batch, Stream
from reactometer.models.heads import (
    CrossModalHead,
    Encoder,
    FeatureScaler,
    PrecomputedFeatures,
    VisualHead,
    encode_stream,
)
from reactometer.models.onnx_encoder import OnnxEncoder
from reactometer.models.vision_encoders import ClipEncoder, FrameEncoder

Pretrained = FrameEncoder | OnnxEncoder | ClipEncoder | SpeechEncoder | ContourEncoder
"""Encoders that can be frozen; the small networks over log-mel and features are always trained."""

Head = VisualHead | CrossModalHead


class ReactionModel(nn.Module):
    """Any of the architectures: an encoder per modality, a head that joins them, and an output layer."""

    label_mean: Tensor
    encoders: Any  # of type nn.ModuleDict: Encoder by stream
    scales: Any  # of type nn.ModuleDict: FeatureScaler by stream

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        head: Head,
        output: nn.Module,
        label_mean: Tensor,
        *,
        frozen: bool,
        freeze_batch_norm: bool = False,
        times: str = "seconds",
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.scales = nn.ModuleDict(
            {
                name: FeatureScaler(getattr(encoder, "input_size", encoder.feature_size))
                for name, encoder in encoders.items()
            }
        )
        self.head = head
        self.output = output
        self.register_buffer("label_mean", label_mean)
        self.frozen = [
            name for name, encoder in encoders.items() if frozen and isinstance(encoder, Pretrained)
        ]
        for name in self.frozen:
            self.encoders[name].requires_grad_(False)
        self.powers: Mapping[str, Sequence[Power]] = {}  # of features from tables, by stream
        self.freeze_batch_norm = freeze_batch_norm
        self.times = times

    def describe_inputs(self) -> dict[str, StreamInput]:
        """Describe the inputs of the exported graphs by stream."""
        inputs = {}
        for name, encoder in self.encoders.items():
            n_frames = encoder.n_frames if isinstance(encoder, ClipEncoder) else 0
            size = len(self.scales[name].mean)
            powers = [*self.powers.get(name, ())]
            kind = encoder.input_kind
            inputs[name] = StreamInput(kind=kind, feature_size=size, n_frames=n_frames, powers=powers)
        return inputs

    def forward(self, batch: Batch) -> Tensor:
        """Predict the intensities of a batch (B, L); the training mean for a clip without input."""
        return self.predict_from_embedding(self.head(self.streams(batch)), batch)

    def predict_from_embedding(self, embedding: Tensor, batch: Batch) -> Tensor:
        """Predict intensities (B, L) from embeddings; the training mean for a clip without input."""
        intensities = torch.sigmoid(self.output(embedding))  # (B, L)
        return torch.where(self.has_input(batch).unsqueeze(1), intensities, self.label_mean)

    def streams(self, batch: Batch) -> dict[str, Stream]:
        """Encode each stream as standardised features, or with a network whose input is standardised."""
        streams = {}
        for name, encoder in self.encoders.items():
            stream = batch.streams[name]
            if self.times == "none":
                stream = stream._replace(times_s=torch.zeros_like(stream.times_s))
            stream = self.scales[name].scale_stream(encode_stream(encoder, stream, batch.face_indices))
            streams[name] = (
                encoder(stream) if isinstance(encoder, LogMelEncoder | StepConvolution) else stream
            )
        return streams

    def has_input(self, batch: Batch) -> Tensor:
        """Return (B,) bool: the clip contains a stream that this model uses."""
        return self.stream_mask(batch).any(1)

    def stream_mask(self, batch: Batch) -> Tensor:
        """Return (B, S) bool: the clip contains each of the streams that this model uses."""
        return torch.stack([batch.streams[name].mask.any(1) for name in self.encoders], dim=1)

    def head_only(self, *, all_encoders: bool = False) -> ReactionModel:
        """Return a model with the same head, scalers and output layer for features of the frozen encoders.

        With ``all_encoders``, it expects features of all encoders of images and speech. Networks over log-mel
        or precomputed steps stay in the model.
        """
        encoders: dict[str, Any] = dict(self.encoders)
        replaced = self.frozen
        if all_encoders:
            replaced = [name for name, encoder in encoders.items() if isinstance(encoder, Pretrained)]
        if not replaced:
            return self
        encoders |= {name: PrecomputedFeatures(encoders[name].feature_size) for name in replaced}
        model = ReactionModel(
            encoders, self.head, self.output, self.label_mean, frozen=False, times=self.times
        )
        model.scales, model.powers = self.scales, self.powers
        return model.train(self.training)

    def train(self, mode: bool = True) -> ReactionModel:
        """Set the mode of all modules; frozen encoders and batch norms stay in evaluation mode."""
        super().train(mode)
        for name in self.frozen:
            self.encoders[name].eval()
        for encoder in self.encoders.values() if self.freeze_batch_norm else ():
            for module in batch_norms(encoder):
                module.eval()
        return self


def batch_norms(encoder: Any) -> list[nn.Module]:
    """Return the batch norms of a pretrained encoder; random weights need the statistics of batches."""
    if not encoder.pretrained:
        return []
    return [module for module in encoder.modules() if isinstance(module, _BatchNorm)]


def build_output_layer(n_features: int, label_mean: Sequence[float], dropout: float) -> nn.Module:
    """Build dropout and a linear layer whose initial output is the logit of each label's training mean."""
    linear = nn.Linear(n_features, len(label_mean))
    nn.init.normal_(linear.weight, std=0.01)
    with torch.no_grad():
        linear.bias.copy_(torch.logit(torch.tensor(label_mean).clamp(0.01, 0.99)))
    return nn.Sequential(nn.Dropout(dropout), linear)
