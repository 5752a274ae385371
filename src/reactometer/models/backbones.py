"""Frame and voice encoders: pictures or sound -> features. Frame encoders come from transformers, by name or path."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from reactometer.errors import WeightsError, suggestion
from reactometer.media.voice import MEL_BANDS

RANDOM = "random:"
"""Prefix that asks, by name, for random weights."""

RANDOM_ENCODERS: Mapping[str, Mapping[str, Any]] = {
    "resnet-50": {"model_type": "resnet"},
    "resnet-18": {
        "model_type": "resnet",
        "hidden_sizes": [64, 128, 256, 512],
        "depths": [2, 2, 2, 2],
        "layer_type": "basic",
    },
    "resnet-tiny": {
        "model_type": "resnet",
        "embedding_size": 16,
        "hidden_sizes": [24, 48, 96],
        "depths": [1, 1, 1],
        "layer_type": "basic",
    },
}
"""Architectures to be had with random weights and no download: ResNets (He et al. 2016), the last one our choice."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


GRID = (4, 4)
"""Places kept by the pooling "grid": in aligned crops, where something moves tells brow from mouth."""


class FrameEncoder(nn.Module):
    """A vision network of transformers with its normalisation inside: uint8 pictures -> one feature vector each."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        size_px: int,
        pooling: str,
        pretrained: bool,
    ) -> None:
        super().__init__()
        self.pooling = pooling
        self.net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.pretrained = pretrained
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self.feature_size = self._measure(size_px)

    def forward(self, frames: Tensor) -> Tensor:
        """Encode pictures.

        Args:
            frames: (K, 3, H, W) uint8 RGB.

        Returns:
            (K, D) float32: with pooling "network" its own pooled output, or the mean of its last hidden states where
            it has none; with "grid" the means over a grid of 4 x 4 places of its last map, place after place.
        """
        pixels = (frames.float() / 255.0 - self.mean) / self.std
        output = self.net(pixel_values=pixels.contiguous(memory_format=torch.channels_last))
        if self.pooling == "grid":
            return functional.adaptive_avg_pool2d(output.last_hidden_state, GRID).flatten(1)  # (K, channels * 16)
        pooled: Tensor | None = getattr(output, "pooler_output", None)
        if pooled is not None:
            return pooled.flatten(1)  # (K, D)
        hidden: Tensor = output.last_hidden_state  # (K, tokens, D), or (K, D, rows, columns) of a convolutional network
        return hidden.mean(1) if hidden.ndim == 3 else hidden.flatten(2).mean(2)

    def describe(self) -> dict[str, Any]:
        """What :func:`rebuild_frame_encoder` needs, as JSON can hold it."""
        config: Any = self.net.config
        return {
            "config": config.to_dict(),
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
            "pooling": self.pooling,
            "pretrained": self.pretrained,
        }

    @torch.no_grad()
    def _measure(self, size_px: int) -> int:
        training = self.training
        size = int(self.eval()(torch.zeros((1, 3, size_px, size_px), dtype=torch.uint8)).shape[1])
        self.train(training)
        return size


def load_frame_encoder(name: str, size_px: int, pooling: str = "network") -> FrameEncoder:
    """Get a frame encoder by name.

    Args:
        name: a model on the Hugging Face Hub (``microsoft/resnet-50``), looked for in the offline folder
            ``$REACTOMETER_WEIGHTS/<owner>--<name>`` first, then in the local Hugging Face cache and on the network;
            a folder with ``config.json`` and ``model.safetensors``; or ``random:NAME`` with a name of
            :data:`RANDOM_ENCODERS` for random weights.
        size_px: side of the pictures it will be given, pixels.
        pooling: "network" or "grid", see :meth:`FrameEncoder.forward`.

    Raises:
        WeightsError: no such encoder, it cannot be fetched, or it does not take pictures. No code of a model's
            repository is run and no pickle is read.
    """
    from transformers import AutoModel

    if name.startswith(RANDOM):
        preset = name.removeprefix(RANDOM)
        if preset not in RANDOM_ENCODERS:
            raise WeightsError(f"no encoder '{name}'", fix=suggestion(preset, RANDOM_ENCODERS))
        net = _untrained(RANDOM_ENCODERS[preset])
        return FrameEncoder(net, IMAGENET_MEAN, IMAGENET_STD, size_px=size_px, pooling=pooling, pretrained=False)
    source = _locate(name)
    try:
        net = AutoModel.from_pretrained(source, use_safetensors=True, trust_remote_code=False)
        mean, std = _normalisation(source)
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"encoder '{name}' cannot be loaded: {str(error).splitlines()[0]}",
            fix=f"Check the name and the network; or put its config.json and model.safetensors into the folder "
            f"$REACTOMETER_WEIGHTS/{name.replace('/', '--')}; or ask for random weights with "
            f"'{RANDOM}resnet-50'",
        ) from error
    if net.main_input_name != "pixel_values":
        raise WeightsError(f"encoder '{name}' takes {net.main_input_name}", expected="a network that takes pictures")
    return FrameEncoder(net, mean, std, size_px=size_px, pooling=pooling, pretrained=True)


def rebuild_frame_encoder(description: Mapping[str, Any], size_px: int) -> FrameEncoder:
    """The encoder that :meth:`FrameEncoder.describe` told of, its weights still to be filled in; needs no network."""
    net = _untrained(description["config"])
    return FrameEncoder(
        net,
        description["mean"],
        description["std"],
        size_px=size_px,
        pooling=description["pooling"],
        pretrained=bool(description["pretrained"]),
    )


def _untrained(settings: Mapping[str, Any]) -> nn.Module:
    """The network that a configuration of transformers describes, with random weights."""
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(**{key: value for key, value in settings.items() if key != "transformers_version"})
    net: nn.Module = AutoModel.from_config(config)
    return net


def _locate(name: str) -> str:
    """A folder that holds the encoder, if there is one; else the name, for the hub and its cache."""
    offline = os.environ.get("REACTOMETER_WEIGHTS")
    candidates = [Path(name).expanduser()] + ([Path(offline) / name.replace("/", "--")] if offline else [])
    return next((str(folder) for folder in candidates if (folder / "config.json").is_file()), name)


def _normalisation(source: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation per channel from the encoder's own file; ImageNet's where it brings none."""
    from transformers.utils.hub import cached_file

    file = cached_file(source, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
    settings = json.loads(Path(file).read_text(encoding="utf-8")) if file else {}
    return settings.get("image_mean", IMAGENET_MEAN), settings.get("image_std", IMAGENET_STD)


class VoiceEncoder(nn.Module):
    """A small convolutional network over the log-mel spectrogram; our choice, trained from random weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: Sequence[int] = (16, 32, 48, 64)) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((MEL_BANDS,), -8.0))
        self.register_buffer("std", torch.full((MEL_BANDS,), 3.0))
        sizes = [1, *channels]
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()
            )
            for before, after in pairwise(sizes)
        )
        self.feature_size = 2 * channels[-1] * MEL_BANDS // 2 ** len(channels)

    def forward(self, voice: Tensor, mask: Tensor) -> Tensor:
        """Encode sound.

        Args:
            voice: (B, N, M) float32 log-mel.
            mask: (B, N) bool; what lies outside it has no effect.

        Returns:
            (B, D) float32: mean and standard deviation over time; zeros where the mask is empty.
        """
        maps = ((voice - self.mean) / self.std).unsqueeze(1)  # (B, 1, N, M)
        for block in self.blocks:
            maps = block(maps * mask[:, None, :, None])  # (B, channels, N / 2, M / 2) each time
            mask = mask[:, ::2]
        steps = maps.transpose(1, 2).flatten(2)  # (B, N / 16, channels * M / 16)
        return torch.cat(masked_moments(steps, mask), dim=1)  # (B, D)


def masked_moments(sequence: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over time of what the mask holds.

    Args:
        sequence: (B, T, D) float.
        mask: (B, T) bool.

    Returns:
        Two tensors (B, D); zeros (and a tiny spread) where a row's mask is empty.
    """
    weight = mask.unsqueeze(2).to(sequence.dtype)  # (B, T, 1)
    count = weight.sum(1).clamp(min=1.0)  # (B, 1)
    mean = (sequence * weight).sum(1) / count
    variance = ((sequence - mean.unsqueeze(1)).square() * weight).sum(1) / count
    return mean, (variance + 1e-6).sqrt()
