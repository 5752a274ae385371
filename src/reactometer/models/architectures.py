"""The known architectures and pretrained encoders."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from reactometer.config import Config, ModelConfig
from reactometer.data.cache import MEDIA
from reactometer.errors import ConfigError, suggestion
from reactometer.inference.scores import join_names


@dataclass(frozen=True)
class Architecture:
    """A default encoder, the kind of its input, and the head that joins its features."""

    encoder: str  # the default
    input_kind: Literal["frames", "clips"]
    head: Literal["mean", "gru", "transformer", "cross-modal"]
    summary: str


ARCHITECTURES: Mapping[str, Architecture] = {
    "resnet50": Architecture(
        "microsoft/resnet-50", "frames", "mean", "ResNet50 per frame, mean over the frames with a face"
    ),
    "resnet50-gru": Architecture(
        "microsoft/resnet-50", "frames", "gru", "ResNet50 per frame, bidirectional GRU, attention"
    ),
    "vit-transformer": Architecture(
        "google/vit-base-patch16-224-in21k", "frames", "transformer", "ViT per frame, temporal transformer"
    ),
    "videomae": Architecture(
        "MCG-NJU/videomae-base-finetuned-kinetics", "clips", "mean", "VideoMAE over 16 frames"
    ),
    "multimodal": Architecture(
        "microsoft/resnet-50",
        "frames",
        "cross-modal",
        "ResNet50 per frame, log-mel network, cross-modal transformer",
    ),
}
"""The architectures by name: the paper's setting, with four visual networks and one of face and voice."""


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
"""Licences of well-known encoders of the Hugging Face Hub. Any other encoder of the Hub works by name."""


def get_architecture(config: ModelConfig) -> Architecture:
    """Return the architecture that a configuration names.

    Raises:
        ConfigError: the name is unknown, or the architecture does not support ``config.modalities``.
    """
    if config.name not in ARCHITECTURES:
        raise ConfigError(f"no model '{config.name}'", fix=suggestion(config.name, ARCHITECTURES))
    architecture = ARCHITECTURES[config.name]
    if config.modalities != "all" and architecture.head != "cross-modal":
        raise ConfigError(
            f"model '{config.name}' uses the face only",
            got=f"model.modalities = {config.modalities!r}",
            fix='Remove model.modalities, or set model.name="multimodal"',
        )
    return architecture


def choose_streams(config: ModelConfig, available: Collection[str] = MEDIA) -> tuple[str, ...]:
    """Return the names of the streams that the configured model uses, sorted, from those of a dataset.

    Raises:
        ConfigError: the dataset has none of them, or ``config.modalities`` names others.
    """
    if get_architecture(config).head != "cross-modal":
        names: Collection[str] = ("face",)
    else:
        names = available if config.modalities == "all" else _listed(config)
    if not names or not set(names) <= set(available):
        raise ConfigError(
            f"the dataset lacks a stream that model '{config.name}' uses",
            got=join_names(sorted(available)),
            expected=join_names(sorted(names)) or "at least one stream",
            fix='Set data.features, model.modalities or model.name="multimodal"',
        )
    return tuple(sorted(names))


def _listed(config: ModelConfig) -> tuple[str, ...]:
    return (config.modalities,) if isinstance(config.modalities, str) else config.modalities


def reads_length(config: Config) -> bool:
    """Return whether the configured model can read a clip's length instead of the reaction.

    Measured on features of noise: docs/benchmarks/leaks.md.

    Raises:
        ConfigError: as :func:`get_architecture`.
    """
    model, head = config.model, get_architecture(config.model).head
    uses_voice = head == "cross-modal" and not {"all", "voice"}.isdisjoint(_listed(model))
    uses_times = (
        head in ("gru", "transformer")
        or (uses_voice and model.voice_encoder == "convolution")
        or (head == "cross-modal" and model.layers > 0)
    )
    return model.times == "seconds" and uses_times
