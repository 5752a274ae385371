"""Build a model from its configuration, or from what its checkpoint says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from reactometer.config import ModelConfig
from reactometer.errors import ConfigError
from reactometer.machine import keep_freed_memory
from reactometer.models.architectures import get_architecture, get_modalities
from reactometer.models.audio_encoders import ContourEncoder, LogMelEncoder, SpeechEncoder, StepConvolution
from reactometer.models.backbones import Backbone, describe_backbone, load_backbone, rebuild_backbone
from reactometer.models.heads import FaceEncoder, PrecomputedFeatures, VoiceEncoder, build_head
from reactometer.models.model import Pretrained, ReactionModel, output_layer
from reactometer.models.vision_encoders import ClipEncoder, FrameEncoder

Encoders = tuple[FaceEncoder | None, VoiceEncoder | None]
"""What encodes face and voice; ``None`` for a modality that the model does not use."""


def load_encoders(
    config: ModelConfig, given: Mapping[str, int] | None = None, nets: Mapping[str, Any] | None = None
) -> Encoders:
    """Load the encoders that a configuration names.

    Args:
        config: names the architecture and its encoders.
        given: number of given features per step, by modality; they need no encoder.
        nets: what :func:`describe_encoders` said of a model's networks; they are built from it, without their weights.

    Raises:
        ConfigError: the architecture is unknown, or the data have no features of a modality that it uses.
        WeightsError: an encoder is not available.
    """
    modalities = get_modalities(config)
    if given is not None:
        sizes = {name: size for name, size in given.items() if name in modalities and size}
        if not sizes:
            raise ConfigError(
                f"model '{config.name}' goes by {' and '.join(modalities)}",
                got=f"features of {' and '.join(name for name, size in given.items() if size)} only",
                fix='Name them with data.face_features or data.voice_features, or use model.name="multimodal"',
            )
        of_voice = StepConvolution if config.voice_encoder == "convolution" else PrecomputedFeatures
        return (
            PrecomputedFeatures(sizes["face"]) if "face" in sizes else None,
            of_voice(sizes["voice"]) if "voice" in sizes else None,
        )

    def net_of(modality: str, name: str, takes: str) -> Backbone:
        return load_backbone(name, takes) if nets is None else rebuild_backbone(nets[modality])

    face: FaceEncoder | None = None
    voice: VoiceEncoder | None = None
    if "face" in modalities:
        system = get_architecture(config)
        takes, encoder = ("clips", ClipEncoder) if system.takes == "clips" else ("pictures", FrameEncoder)
        face = encoder(net_of("face", config.encoder or system.encoder, takes), config.size_px, config.pooling)
    if "voice" in modalities:
        if config.voice_encoder == "convolution":
            fix = 'Use "log-mel", or data.voice_features'
            raise ConfigError('model.voice_encoder = "convolution" is for given features', fix=fix)
        if config.voice_encoder == "contours" and not config.frozen:
            fix = "Add model.frozen=true, so that it is kept"
            raise ConfigError('model.voice_encoder = "contours" has nothing to train', fix=fix)
        fixed = {"log-mel": LogMelEncoder, "contours": ContourEncoder}.get(config.voice_encoder)
        voice = fixed() if fixed else SpeechEncoder(net_of("voice", config.voice_encoder, "sound"))
    return face, voice


def describe_encoders(model: ReactionModel) -> dict[str, Any]:
    """Describe a model's networks of transformers by modality, as JSON can hold it, for :func:`load_encoders`."""
    return {
        name: describe_backbone(Backbone(encoder.net, encoder.settings, encoder.pretrained))
        for name, encoder in (("face", model.face_encoder), ("voice", model.voice_encoder))
        if isinstance(encoder, FrameEncoder | ClipEncoder | SpeechEncoder)
    }


def build_model(config: ModelConfig, encoders: Encoders, label_mean: Sequence[float]) -> ReactionModel:
    """Build a model from its encoders; ``label_mean`` (L,) is its answer for a clip without a usable face or voice."""
    keep_freed_memory()
    face, voice = encoders
    present = {name: encoder for name, encoder in (("face", face), ("voice", voice)) if encoder is not None}
    scaled = [
        name
        for name, encoder in present.items()
        if isinstance(encoder, PrecomputedFeatures | StepConvolution)
        or (config.frozen and isinstance(encoder, Pretrained))
    ]
    head = build_head(config, {name: encoder.feature_size for name, encoder in present.items()}, scaled)
    output = output_layer(head.embedding_size, label_mean, config.dropout)
    return ReactionModel(face, voice, head, output, torch.tensor(label_mean), frozen=config.frozen)
