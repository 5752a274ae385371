"""Networks of every kind, small enough for a test, and what is shown and played to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

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
    "timesformer": {**LAYERS, **PATCHES, "num_frames": 4},
    "vivit": {**LAYERS, "image_size": 64, "num_frames": 8, "tubelet_size": [2, 16, 16]},
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
SOUND: dict[str, dict[str, Any]] = {kind: {**LAYERS, **CONVOLUTIONS} for kind in ("hubert", "wav2vec2", "wavlm")}


def saved(folder: Path, kind: str, settings: dict[str, Any], preparation: dict[str, Any] | None = None) -> Path:
    """A folder as the hub holds it: a network of that kind with weights that are nobody's default."""
    torch.manual_seed(3)
    AutoModel.from_config(AutoConfig.for_model(kind, **settings)).save_pretrained(folder)
    if preparation:
        (folder / "preprocessor_config.json").write_text(json.dumps(preparation))
    return folder


def pictures(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8))


def waveforms(*lengths: int) -> tuple[Tensor, Tensor]:
    """Blocks of noise (B, N, 320), each row louder than the last, with rubbish behind its end; and the mask."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    generator = torch.Generator().manual_seed(1)
    loudness = 0.05 * torch.arange(1, len(lengths) + 1)[:, None, None]
    noise = torch.randn((*mask.shape, 320), generator=generator) * loudness
    return torch.where(mask.unsqueeze(2), noise, torch.tensor(7.0)), mask


def reference(folder: Path) -> nn.Module:
    net: nn.Module = AutoModel.from_pretrained(folder).eval()
    return net
