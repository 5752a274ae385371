"""The known architectures and pretrained encoders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from reactometer.config import ModelConfig
from reactometer.errors import ConfigError, suggestion

STARTER_NAME = "starter"
"""Encoder name of the small expression backbone of the model inside the package."""


@dataclass(frozen=True)
class Architecture:
    """One of the systems: what its encoder takes, what joins its features, and what it is."""

    encoder: str  # the default one
    takes: Literal["frames", "clips"]
    head: Literal["mean", "gru", "transformer", "cross-modal"]
    summary: str


ARCHITECTURES: Mapping[str, Architecture] = {
    "resnet50": Architecture("microsoft/resnet-50", "frames", "mean", "ResNet50 a frame, mean over the seen frames"),
    "resnet50-gru": Architecture(
        "microsoft/resnet-50", "frames", "gru", "ResNet50 a frame, bidirectional GRU, attention"
    ),
    "vit-transformer": Architecture(
        "google/vit-base-patch16-224-in21k", "frames", "transformer", "ViT a frame, temporal transformer"
    ),
    "videomae": Architecture(
        "MCG-NJU/videomae-base-finetuned-kinetics", "clips", "mean", "VideoMAE over 16 frames at once"
    ),
    "multimodal": Architecture(
        "microsoft/resnet-50", "frames", "cross-modal", "ResNet50 a frame, log-mel network, cross-modal transformer"
    ),
}
"""The paper's setting, four visual networks and one of vision and sound; all but ResNet50 is our choice of network."""


ENCODER_LICENCES: Mapping[str, str] = {
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


def get_architecture(config: ModelConfig) -> Architecture:
    """The system that a configuration names.

    Raises:
        ConfigError: there is none of that name, or it cannot do what else is asked for.
    """
    if config.name not in ARCHITECTURES:
        raise ConfigError(f"no model '{config.name}'", fix=suggestion(config.name, ARCHITECTURES))
    system = ARCHITECTURES[config.name]
    if config.modalities != "both" and system.head != "cross-modal":
        raise ConfigError(
            f"model '{config.name}' goes by the face alone",
            fix='Leave model.modalities out, or use name = "multimodal"',
        )
    return system


def get_modalities(config: ModelConfig) -> tuple[str, ...]:
    """The modalities ("face", "voice") that reach the configured model."""
    if get_architecture(config).head != "cross-modal":
        return ("face",)
    return ("face", "voice") if config.modalities == "both" else (config.modalities,)
