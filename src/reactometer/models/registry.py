"""The known architectures and pretrained encoders; build a model from its configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from reactometer.config import ModelConfig
from reactometer.data.batches import Sampling
from reactometer.errors import ConfigError, suggestion
from reactometer.memory import keep_freed_memory
from reactometer.models.audio_encoders import (
    ContourEncoder,
    SpeechEncoder,
    StepConvolution,
    VoiceEncoder,
    load_speech_encoder,
)
from reactometer.models.backbones import rebuild_net
from reactometer.models.heads import CrossModalHead, FaceInput, Given, GruHead, MeanHead, TransformerHead, VoiceInput
from reactometer.models.model import Head, Pretrained, ReactionModel, output_layer
from reactometer.models.vision_encoders import ClipEncoder, FrameEncoder, load_clip_encoder, load_frame_encoder

LOG_MEL, CONVOLUTION, CONTOURS = "log-mel", "convolution", "contours"
"""The voice encoders that need no weights: small networks over the log-mel spectrogram, or over given features; and
contours of timbre, pitch and loudness, with nothing to learn."""


@dataclass(frozen=True)
class System:
    """One of the systems: what its encoder takes, what joins its features, and what it is."""

    encoder: str  # the default one
    takes: Literal["frames", "clips"]
    head: Literal["mean", "gru", "transformer", "cross-modal"]
    summary: str


SYSTEMS: Mapping[str, System] = {
    "resnet50": System("microsoft/resnet-50", "frames", "mean", "ResNet50 a frame, mean over the seen frames"),
    "resnet50-gru": System("microsoft/resnet-50", "frames", "gru", "ResNet50 a frame, bidirectional GRU, attention"),
    "vit-transformer": System(
        "google/vit-base-patch16-224-in21k", "frames", "transformer", "ViT a frame, temporal transformer"
    ),
    "videomae": System("MCG-NJU/videomae-base-finetuned-kinetics", "clips", "mean", "VideoMAE over 16 frames at once"),
    "multimodal": System(
        "microsoft/resnet-50", "frames", "cross-modal", "ResNet50 a frame, log-mel network, cross-modal transformer"
    ),
}
"""The paper's setting, four visual networks and one of vision and sound; all but ResNet50 is our choice of network."""


PRETRAINED: Mapping[str, str] = {
    "microsoft/resnet-50": "Apache-2.0",
    "facebook/convnext-tiny-224": "Apache-2.0",
    "google/vit-base-patch16-224-in21k": "Apache-2.0",
    "facebook/dinov2-base": "Apache-2.0",
    "google/siglip-base-patch16-224": "Apache-2.0",
    "MCG-NJU/videomae-base-finetuned-kinetics": "CC-BY-NC-4.0",
    "facebook/hubert-base-ls960": "Apache-2.0",
    "facebook/wav2vec2-base": "Apache-2.0",
    "microsoft/wavlm-base": "see its model card",
}
"""Well-known encoders of the Hugging Face Hub, and the licence on each model card; you can use any other by name."""


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


def system_of(config: ModelConfig) -> System:
    """The system that a configuration names.

    Raises:
        ConfigError: there is none of that name, or it cannot do what else is asked for.
    """
    if config.name not in SYSTEMS:
        raise ConfigError(f"no model '{config.name}'", fix=suggestion(config.name, SYSTEMS))
    system = SYSTEMS[config.name]
    if config.modalities != "both" and system.head != "cross-modal":
        raise ConfigError(
            f"model '{config.name}' goes by the face alone",
            fix='Leave model.modalities out, or use name = "multimodal"',
        )
    return system


def goes_by(config: ModelConfig) -> tuple[str, ...]:
    """The modalities ("face", "voice") that reach the configured model."""
    if system_of(config).head != "cross-modal":
        return ("face",)
    return ("face", "voice") if config.modalities == "both" else (config.modalities,)


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


def rebuild_encoders(
    config: ModelConfig, description: Mapping[str, Any], *, face_feature_size: int | None = None
) -> Encoders:
    """Build the encoders that :meth:`Encoders.describe` described, without their weights; needs no network connection.

    A forward pass measures the number of features per frame if ``face_feature_size`` is None.
    """
    face: FaceInput | None = None
    voice: VoiceInput | None = None
    if (about := description.get("face")) is not None:
        if "given" in about:
            face = Given(about["given"])
        elif system_of(config).takes == "clips":
            face = ClipEncoder(rebuild_net(about), config.size_px, about["pooling"])
        else:
            net = rebuild_net(about)
            face = FrameEncoder(net, config.size_px, about["pooling"], feature_size=face_feature_size)
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
    head = _head(config, {name: encoder.feature_size for name, encoder in present.items()}, standard)
    output = output_layer(head.embedding_size, label_mean, config.dropout)
    return ReactionModel(encoders.face, encoders.voice, head, output, torch.tensor(label_mean), frozen=config.frozen)


def _head(config: ModelConfig, sizes: Mapping[str, int], standard: Sequence[str]) -> Head:
    kind, hidden, dropout = system_of(config).head, config.hidden, config.dropout
    if kind == "mean":
        return MeanHead(sizes["face"])
    if kind == "gru":
        return GruHead(sizes["face"], hidden=hidden, dropout=dropout)
    if hidden % config.attention_heads:
        raise ConfigError(
            "model.hidden is not divisible by model.attention_heads", got=f"{hidden} and {config.attention_heads}"
        )
    deep = {"layers": config.layers, "attention_heads": config.attention_heads}
    if kind == "transformer":
        return TransformerHead(sizes["face"], hidden=hidden, dropout=dropout, **deep)
    return CrossModalHead(
        sizes,
        standard=standard,
        hidden=hidden,
        dropout=dropout,
        input_dropout=config.input_dropout,
        modality_dropout=config.modality_dropout,
        **deep,
    )


def sampling_of(config: ModelConfig, model: ReactionModel) -> Sampling:
    """What the model is to be shown of a clip."""
    return Sampling(
        config.n_frames,
        config.size_px,
        crop_share=config.crop_share,
        looks=model.looks,
        listens=model.listens,
        hears="samples" if isinstance(model.voice_encoder, SpeechEncoder | ContourEncoder) else "log-mel",
    )
