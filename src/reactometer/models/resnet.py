"""The ResNet of a model folder, equal to transformers' own, without the seconds that importing that takes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

EXPANSION = 4
"""A bottleneck's inner width is its outer one divided by this (He et al., arXiv 1512.03385)."""


class Description(SimpleNamespace):
    """The configuration of a network, as transformers would hold it."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return dict(vars(self))


class ResNet(nn.Module):
    """He et al., arXiv 1512.03385, of basic or bottleneck blocks; parameters are named as in transformers' ResNetModel.

    That one makes and trains every ResNet of this package; this one reads what it was trained to. A test holds both to
    the same numbers.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = Description(**config)
        stem = _Convolution(config["num_channels"], config["embedding_size"], 7, stride=2)
        self.embedder = nn.Sequential(OrderedDict(embedder=stem, pooler=nn.MaxPool2d(3, stride=2, padding=1)))
        stages = [_stage(config, *sizes, place) for place, sizes in enumerate(_sizes(config))]
        self.encoder = nn.Sequential(OrderedDict(stages=nn.Sequential(*stages)))
        self.pooler = nn.AdaptiveAvgPool2d((1, 1))

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        """(K, 3, H, W) float32, normalised -> ``last_hidden_state`` (K, D, H / 32, W / 32), ``pooler_output``.

        The last is (K, D, 1, 1); the sides of the first are rounded up.
        """
        maps = self.encoder(self.embedder(pixel_values))
        return SimpleNamespace(last_hidden_state=maps, pooler_output=self.pooler(maps))


def is_known(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is of a network that :class:`ResNet` builds."""
    return config.get("model_type") == "resnet" and config.get("hidden_act") == "relu"


class _Convolution(nn.Module):
    """Convolution and batch norm; then what is below 0 is cut off, unless told otherwise."""

    def __init__(self, before: int, after: int, kernel: int = 3, *, stride: int = 1, cuts: bool = True) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
        self.normalization = nn.BatchNorm2d(after)
        self.activation = nn.ReLU() if cuts else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        changed: Tensor = self.activation(self.normalization(self.convolution(maps)))
        return changed


class _Block(nn.Module):
    """Convolutions whose result is added to what came in."""

    def __init__(self, layer: nn.Sequential, before: int, after: int, stride: int) -> None:
        super().__init__()
        changes = before != after or stride != 1
        self.shortcut = _Convolution(before, after, 1, stride=stride, cuts=False) if changes else nn.Identity()
        self.layer = layer
        self.activation = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        added: Tensor = self.activation(self.layer(maps) + self.shortcut(maps))
        return added


def _sizes(config: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Channels before and after each stage."""
    return list(pairwise([config["embedding_size"], *config["hidden_sizes"]]))


def _stage(config: Mapping[str, Any], before: int, after: int, place: int) -> nn.Module:
    stride = 2 if place or config["downsample_in_first_stage"] else 1
    blocks = [
        _block(config, before if number == 0 else after, after, stride if number == 0 else 1)
        for number in range(config["depths"][place])
    ]
    return nn.Sequential(OrderedDict(layers=nn.Sequential(*blocks)))


def _block(config: Mapping[str, Any], before: int, after: int, stride: int) -> _Block:
    if config["layer_type"] == "basic":
        layer = nn.Sequential(_Convolution(before, after, stride=stride), _Convolution(after, after, cuts=False))
    else:
        inner, early = after // EXPANSION, bool(config["downsample_in_bottleneck"])
        layer = nn.Sequential(
            _Convolution(before, inner, 1, stride=stride if early else 1),
            _Convolution(inner, inner, stride=1 if early else stride),
            _Convolution(inner, after, 1, cuts=False),
        )
    return _Block(layer, before, after, stride)
