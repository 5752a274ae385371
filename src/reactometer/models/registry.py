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
from reactometer.models.audio_encoders import ContourEncoder, SpeechEncoder, StepConvolution, VoiceEncoder
from reactometer.models.backbones import Net, describe_net, load_net, rebuild_net
from reactometer.models.heads import FaceInput, Given, VoiceInput, build_head
from reactometer.models.model import Pretrained, ReactionModel, output_layer
from reactometer.models.vision_encoders import ClipEncoder, FrameEncoder


@dataclass(frozen=True)
class Encoders:
    """What encodes each modality; ``None`` for one that the model does not go by."""

    face: FaceInput | None
    voice: VoiceInput | None


def load_encoders(
    config: ModelConfig, given: Mapping[str, int] | None = None, nets: Mapping[str, Any] | None = None
) -> Encoders:
    """Load the encoders that a configuration names.

    Args:
        config: names the architecture and its encoders.
        given: number of given features per step, by modality; they need no encoder.
        nets: what :func:`describe_nets` said of a model's networks; they are built from it, without their weights.

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

    def net_of(modality: str, name: str, takes: str) -> Net:
        return load_net(name, takes) if nets is None else rebuild_net(nets[modality])

    face: FaceInput | None = None
    voice: VoiceInput | None = None
    if "face" in modalities:
        system = system_of(config)
        takes, encoder = ("clips", ClipEncoder) if system.takes == "clips" else ("pictures", FrameEncoder)
        face = encoder(net_of("face", config.encoder or system.encoder, takes), config.size_px, config.pooling)
    if "voice" in modalities:
        _check_voice_encoder(config)
        fixed = {LOG_MEL: VoiceEncoder, CONTOURS: ContourEncoder}.get(config.voice_encoder)
        voice = fixed() if fixed else SpeechEncoder(net_of("voice", config.voice_encoder, "sound"))
    return Encoders(face, voice)


def _check_voice_encoder(config: ModelConfig) -> None:
    if config.voice_encoder == CONVOLUTION:
        raise ConfigError(
            f'model.voice_encoder = "{CONVOLUTION}" is for given features',
            fix=f'Use "{LOG_MEL}", or data.voice_features',
        )
    if config.voice_encoder == CONTOURS and not config.frozen:
        raise ConfigError(
            f'model.voice_encoder = "{CONTOURS}" has nothing to train', fix="Add model.frozen=true, so that it is kept"
        )


def describe_nets(model: ReactionModel) -> dict[str, Any]:
    """Describe a model's networks of transformers by modality, as JSON can hold it, for :func:`load_encoders`."""
    return {
        name: describe_net(Net(encoder.net, encoder.settings, encoder.pretrained))
        for name, encoder in (("face", model.face_encoder), ("voice", model.voice_encoder))
        if isinstance(encoder, FrameEncoder | ClipEncoder | SpeechEncoder)
    }


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
