"""Build a model from its configuration, or from what its checkpoint says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from reactometer.config import ModelConfig
from reactometer.errors import ConfigError
from reactometer.machine import keep_freed_memory
from reactometer.models.architectures import CONTOURS, CONVOLUTION, LOG_MEL, goes_by, system_of
from reactometer.models.audio_encoders import (
    ContourEncoder,
    SpeechEncoder,
    StepConvolution,
    VoiceEncoder,
    load_speech_encoder,
)
from reactometer.models.backbones import rebuild_net
from reactometer.models.heads import FaceInput, Given, VoiceInput, build_head
from reactometer.models.model import Pretrained, ReactionModel, output_layer
from reactometer.models.vision_encoders import ClipEncoder, FrameEncoder, load_clip_encoder, load_frame_encoder


@dataclass(frozen=True)
class Encoders:
    """What encodes each modality; ``None`` for one that the model does not go by."""

    face: FaceInput | None
    voice: VoiceInput | None

    def describe(self) -> dict[str, Any]:
        """What :func:`rebuild_encoders` needs, as JSON can hold it."""
        about = {} if self.face is None else {"face": self.face.describe()}
        if self.voice is not None:
            about["voice"] = {} if isinstance(self.voice, VoiceEncoder) else self.voice.describe()
        return about


def load_encoders(config: ModelConfig, given: Mapping[str, int] | None = None) -> Encoders:
    """Load the encoders that a configuration names, or their stand-ins for ``given`` features per step and modality.

    Raises:
        ConfigError: the architecture is unknown, or the data have no features of a modality that it uses.
        WeightsError: an encoder is not available.
    """
    modalities = goes_by(config)
    if given is not None:
        sizes = {name: size for name, size in given.items() if name in modalities and size}
        if not sizes:
            raise ConfigError(
                f"model '{config.name}' goes by {' and '.join(modalities)}",
                got=f"features of {' and '.join(name for name, size in given.items() if size)} only",
                fix='Name them with data.face_features or data.voice_features, or use model.name="multimodal"',
            )
        of_voice = StepConvolution if config.voice_encoder == CONVOLUTION else Given
        return Encoders(
            Given(sizes["face"]) if "face" in sizes else None, of_voice(sizes["voice"]) if "voice" in sizes else None
        )
    system = system_of(config)
    load_face = load_clip_encoder if system.takes == "clips" else load_frame_encoder
    return Encoders(
        load_face(config.encoder or system.encoder, config.size_px, config.pooling) if "face" in modalities else None,
        _load_voice(config) if "voice" in modalities else None,
    )


def _load_voice(config: ModelConfig) -> VoiceInput:
    if config.voice_encoder == CONVOLUTION:
        raise ConfigError(
            f'model.voice_encoder = "{CONVOLUTION}" is for given features',
            fix=f'Use "{LOG_MEL}", or data.voice_features',
        )
    if config.voice_encoder == CONTOURS and not config.frozen:
        raise ConfigError(
            f'model.voice_encoder = "{CONTOURS}" has nothing to train', fix="Add model.frozen=true, so that it is kept"
        )
    fixed = {LOG_MEL: VoiceEncoder, CONTOURS: ContourEncoder}.get(config.voice_encoder)
    return fixed() if fixed else load_speech_encoder(config.voice_encoder)


def rebuild_encoders(config: ModelConfig, description: Mapping[str, Any]) -> Encoders:
    """Build the encoders that :meth:`Encoders.describe` described, without their weights."""
    face: FaceInput | None = None
    voice: VoiceInput | None = None
    if (about := description.get("face")) is not None:
        if "given" in about:
            face = Given(about["given"])
        else:
            encoder = ClipEncoder if system_of(config).takes == "clips" else FrameEncoder
            face = encoder(rebuild_net(about), config.size_px, about["pooling"])
    if (about := description.get("voice")) is not None:
        if "given" in about:
            voice = Given(about["given"])
        elif "convolution" in about:
            voice = StepConvolution(about["convolution"])
        elif "contours" in about:
            voice = ContourEncoder()
        else:
            voice = VoiceEncoder() if config.voice_encoder == LOG_MEL else SpeechEncoder(rebuild_net(about))
    return Encoders(face, voice)


def build_model(config: ModelConfig, encoders: Encoders, label_mean: Sequence[float]) -> ReactionModel:
    """Build a model from its encoders; ``label_mean`` (L,) is its answer for a clip without a usable face or voice."""
    keep_freed_memory()
    pairs = (("face", encoders.face), ("voice", encoders.voice))
    present = {name: encoder for name, encoder in pairs if encoder is not None}
    standard = [
        name
        for name, encoder in present.items()
        if isinstance(encoder, Given | StepConvolution) or (config.frozen and isinstance(encoder, Pretrained))
    ]
    head = build_head(config, {name: encoder.feature_size for name, encoder in present.items()}, standard)
    output = output_layer(head.embedding_size, label_mean, config.dropout)
    return ReactionModel(encoders.face, encoders.voice, head, output, torch.tensor(label_mean), frozen=config.frozen)
