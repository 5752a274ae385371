"""The whole network: encoders, a head, and an output layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reactometer.inference.runtime import FaceInput, VoiceInput
from reactometer.models.audio_encoders import ContourEncoder, LogMelEncoder, SpeechEncoder, StepConvolution
from reactometer.models.batches import Batch, Stream
from reactometer.models.heads import (
    CrossModalHead,
    FaceEncoder,
    FeatureScaler,
    PrecomputedFeatures,
    VisualHead,
    VoiceEncoder,
    encode_face,
    encode_voice,
)
from reactometer.models.onnx_encoder import OnnxEncoder
from reactometer.models.vision_encoders import ClipEncoder, FrameEncoder

Pretrained = FrameEncoder | OnnxEncoder | ClipEncoder | SpeechEncoder | ContourEncoder
"""Encoders that can be frozen; the small networks over log-mel and features are always trained."""

Head = VisualHead | CrossModalHead


class ReactionModel(nn.Module):
    """Any of the architectures: an encoder per modality, a head that joins them, and an output layer."""

    label_mean: Tensor

    def __init__(
        self,
        face: FaceEncoder | None,
        voice: VoiceEncoder | None,
        head: Head,
        output: nn.Module,
        label_mean: Tensor,
        *,
        frozen: bool,
        freeze_batch_norm: bool = False,
        times: str = "seconds",
    ) -> None:
        super().__init__()
        self.face_encoder, self.voice_encoder = face, voice
        self.uses_face = face is not None
        self.uses_voice = voice is not None
        self.face_scale = FeatureScaler(face.feature_size) if face else None
        self.voice_scale = FeatureScaler(getattr(voice, "input_size", voice.feature_size)) if voice else None
        self.head = head
        self.output = output
        self.register_buffer("label_mean", label_mean)
        self.frozen = [encoder for encoder in (face, voice) if frozen and isinstance(encoder, Pretrained)]
        for encoder in self.frozen:
            encoder.requires_grad_(False)
        self.freeze_batch_norm = freeze_batch_norm
        self.times = times

    @property
    def scales(self) -> dict[str, FeatureScaler]:
        """The feature scaler of each modality."""
        pairs = (("face", self.face_scale), ("voice", self.voice_scale))
        return {name: scale for name, scale in pairs if scale is not None}

    def describe_inputs(self) -> tuple[FaceInput | None, VoiceInput | None]:
        """Describe the inputs of the exported graphs for face and voice."""
        sizes = {name: len(scale.mean) for name, scale in self.scales.items()}
        face = voice = None
        if encoder := self.face_encoder:
            n_frames = encoder.n_frames if isinstance(encoder, ClipEncoder) else 0
            face = FaceInput(kind=encoder.input_kind, feature_size=sizes["face"], n_frames=n_frames)
        if self.voice_encoder:
            voice = VoiceInput(kind=self.voice_encoder.input_kind, feature_size=sizes["voice"])
        return face, voice

    def forward(self, batch: Batch) -> Tensor:
        """Predict the intensities of a batch: (B, L) in [0, 1], the training mean for a clip without face and
        voice."""
        return self.predict_from_embedding(self.head(*self.streams(batch)), batch)

    def predict_from_embedding(self, embedding: Tensor, batch: Batch) -> Tensor:
        """Predict intensities (B, L) from embeddings; the training mean for a clip without input."""
        intensities = torch.sigmoid(self.output(embedding))  # (B, L)
        return torch.where(self.has_input(batch).unsqueeze(1), intensities, self.label_mean)

    def streams(self, batch: Batch) -> tuple[Stream | None, Stream | None]:
        """Encode face and voice as standardised features, or with networks whose input is standardised."""
        if self.times == "none":
            batch = batch._replace(
                frame_times_s=torch.zeros_like(batch.frame_times_s),
                voice_times_s=torch.zeros_like(batch.voice_times_s),
            )
        face = voice = None
        if self.face_encoder is not None and self.face_scale is not None:
            face = self.face_scale.scale_stream(encode_face(self.face_encoder, batch))
        if self.voice_encoder is not None and self.voice_scale is not None:
            voice = self.voice_scale.scale_stream(encode_voice(self.voice_encoder, batch))
            if isinstance(self.voice_encoder, LogMelEncoder | StepConvolution):
                voice = self.voice_encoder(voice)
        return face, voice

    def has_input(self, batch: Batch) -> Tensor:
        """Return (B,) bool: the clip contains a face or a voice that this model uses."""
        return self.modality_mask(batch).any(1)

    def modality_mask(self, batch: Batch) -> Tensor:
        """Return (B, 2) bool: the clip contains a face, and a voice, that this model uses."""
        has_face = batch.frame_mask.any(1) & self.uses_face
        has_voice = batch.voice_mask.any(1) & self.uses_voice
        return torch.stack((has_face, has_voice), dim=1)

    def head_only(self, *, all_encoders: bool = False) -> ReactionModel:
        """Return a model with the same head, scalers and output layer for features of the frozen encoders.

        With ``all_encoders``, it expects features of all encoders of images and speech. Networks over log-mel
        or precomputed steps stay in the model.
        """
        face, voice = self.face_encoder, self.voice_encoder
        replaced = self.frozen
        if all_encoders:
            replaced = [encoder for encoder in (face, voice) if isinstance(encoder, Pretrained)]
        if not replaced:
            return self
        if face and face in replaced:
            face = PrecomputedFeatures(face.feature_size)
        if voice and voice in replaced:
            voice = PrecomputedFeatures(voice.feature_size)
        model = ReactionModel(
            face, voice, self.head, self.output, self.label_mean, frozen=False, times=self.times
        )
        model.face_scale, model.voice_scale = self.face_scale, self.voice_scale
        return model.train(self.training)

    def train(self, mode: bool = True) -> ReactionModel:
        """Set the mode of all modules; frozen encoders and batch norms stay in evaluation mode."""
        super().train(mode)
        for encoder in self.frozen:
            encoder.eval()
        if self.freeze_batch_norm:
            for module in batch_norms(self.face_encoder):
                module.eval()
        return self


def batch_norms(encoder: nn.Module | None) -> list[nn.Module]:
    """Return the batch norms of a pretrained encoder; random weights need the statistics of batches."""
    if encoder is None or not encoder.pretrained:
        return []
    return [module for module in encoder.modules() if isinstance(module, _BatchNorm)]


def build_output_layer(n_features: int, label_mean: Sequence[float], dropout: float) -> nn.Module:
    """Build dropout and a linear layer whose initial output is the logit of each label's training mean."""
    linear = nn.Linear(n_features, len(label_mean))
    nn.init.normal_(linear.weight, std=0.01)
    with torch.no_grad():
        linear.bias.copy_(torch.logit(torch.tensor(label_mean).clamp(0.01, 0.99)))
    return nn.Sequential(nn.Dropout(dropout), linear)
