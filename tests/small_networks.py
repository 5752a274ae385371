"""Networks of every kind, small enough for a test, and what is shown and played to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForVideoClassification,
)

from reactometer.models.audio_encoders import SpeechEncoder
from reactometer.models.backbones import load_backbone
from reactometer.models.batches import Stream
from reactometer.models.heads import Encoder, encode_stream
from reactometer.models.vision_encoders import ClipEncoder, FrameEncoder

LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
PATCHES = {"image_size": 64, "patch_size": 16}
CONVOLUTIONS = {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
TEXT = {**LAYERS, "vocab_size": 50, "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 1}

PICTURES: dict[str, dict[str, Any]] = {
    "vit": {**LAYERS, **PATCHES},
    "dinov2": {**LAYERS, **PATCHES},
    "convnext": {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
    "siglip": {"vision_config": {**LAYERS, **PATCHES}, "text_config": TEXT},
    "clip": {"vision_config": {**LAYERS, **PATCHES}, "text_config": TEXT},
}
CLIPS: dict[str, dict[str, Any]] = {
    "videomae": {**LAYERS, **PATCHES, "num_frames": 8},
    "vjepa2": {
        "crop_size": 64,
        "patch_size": 16,
        "frames_per_clip": 8,
        "hidden_size": 48,  # heads of 16: its rotary embedding needs them to be wide
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "pred_hidden_size": 48,
        "pred_num_attention_heads": 2,
        "pred_num_hidden_layers": 1,
    },
}
PREPARATION = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_normalize": True}
SOUND: dict[str, dict[str, Any]] = {
    kind: {**LAYERS, **CONVOLUTIONS} for kind in ("hubert", "wav2vec2", "wavlm")
}


def saved(
    folder: Path, kind: str, settings: dict[str, Any], preparation: dict[str, Any] | None = None
) -> Path:
    """A folder as the hub holds it: a network of that kind with weights that are nobody's default."""
    torch.manual_seed(3)
    AutoModel.from_config(AutoConfig.for_model(kind, **settings)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({**PREPARATION, **(preparation or {})}))
    return folder


def saved_classifier(folder: Path, kind: str, settings: dict[str, Any]) -> Any:
    """A folder with a classifier of images or clips, all weights random, and the classifier."""
    torch.manual_seed(3)
    auto = AutoModelForVideoClassification if kind in CLIPS else AutoModelForImageClassification
    classifier: Any = auto.from_config(AutoConfig.for_model(kind, **settings, num_labels=5)).eval()
    for parameter in classifier.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    classifier.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPARATION))
    return classifier


def pictures(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8))


def waveforms(*lengths: int) -> tuple[Tensor, Tensor]:
    """Blocks of noise (B, N, 320), each row louder than the last, with rubbish behind its end; and the
    mask."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    generator = torch.Generator().manual_seed(1)
    loudness = 0.05 * torch.arange(1, len(lengths) + 1)[:, None, None]
    noise = torch.randn((*mask.shape, 320), generator=generator) * loudness
    return torch.where(mask.unsqueeze(2), noise, torch.tensor(7.0)), mask


def frame_encoder(name: str, size_px: int, pooling: str = "network") -> FrameEncoder:
    return FrameEncoder(load_backbone(name, "images"), size_px, pooling)


def clip_encoder(name: str, size_px: int, pooling: str = "network") -> ClipEncoder:
    return ClipEncoder(load_backbone(name, "clips"), size_px, pooling)


def speech_encoder(name: str) -> SpeechEncoder:
    return SpeechEncoder(load_backbone(name, "audio"))


def encode(encoder: Encoder, values: Tensor, mask: Tensor) -> Tensor:
    """Encode a stream (B, T, ...) as a batch has it."""
    stream = Stream(values, mask, torch.zeros(mask.shape))
    return encode_stream(encoder, stream, mask.flatten().nonzero().flatten()).values


def encode_clips(encoder: ClipEncoder, frames: Tensor, mask: Tensor) -> Tensor:
    """(B, D): the clips (B, T, 3, H, W) as a batch has them."""
    return encode(encoder, frames, mask)[:, 0]


def encode_speech(encoder: SpeechEncoder, voice: Tensor, mask: Tensor) -> Tensor:
    """(B, N, D): the sound (B, N, 320) as a batch has it."""
    return encode(encoder, voice, mask)


def reference(folder: Path) -> nn.Module:
    net: nn.Module = AutoModel.from_pretrained(folder).eval()
    return net
