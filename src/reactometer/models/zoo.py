"""Name -> model: the only place that knows them all."""

from __future__ import annotations

from collections.abc import Sequence

from reactometer.config import ModelConfig
from reactometer.data.batches import Sampling
from reactometer.errors import ConfigError, suggestion
from reactometer.models.backbones import FrameEncoder
from reactometer.models.multimodal import FaceAndVoice
from reactometer.models.visual import MeanFrames

ReactionModel = MeanFrames | FaceAndVoice

NAMES = {
    "resnet50": "a frame encoder and the mean over the seen frames (face)",
    "multimodal": "a frame encoder and a voice encoder, joined (face and voice)",
}


def build_model(config: ModelConfig, encoder: FrameEncoder, label_mean: Sequence[float]) -> ReactionModel:
    """Put a model together from its parts.

    Args:
        config: which model, and its settings.
        encoder: the frame encoder.
        label_mean: (L,) mean of each label over the training clips: the answer where there is nothing to go by.

    Raises:
        ConfigError: no model of that name.
    """
    if config.name == "resnet50":
        return MeanFrames(encoder, label_mean, frozen=config.frozen, dropout=config.dropout)
    if config.name == "multimodal":
        return FaceAndVoice(
            encoder,
            label_mean,
            frozen=config.frozen,
            hidden=config.hidden,
            dropout=config.dropout,
            modality_dropout=config.modality_dropout,
        )
    raise ConfigError(f"no model '{config.name}'", fix=suggestion(config.name, NAMES))


def sampling_of(config: ModelConfig, model: ReactionModel) -> Sampling:
    """What the model is to be shown of a clip."""
    return Sampling(config.n_frames, config.size_px, listens=model.listens)
