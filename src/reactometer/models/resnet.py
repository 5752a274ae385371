"""The ResNet of a model folder, equal to transformers' own, without the seconds that importing that takes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

EXPANSION = 4
"""A bottleneck's inner width is its outer one divided by this (He et al., arXiv 1512.03385)."""


class Description(SimpleNamespace):
    """The configuration of a network, as transformers would hold it."""

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON can hold it."""
        return dict(vars(self))


class ResNet(nn.Module):
    """He et al., arXiv 1512.03385, of basic or bottleneck blocks; parameters are named as in transformers' ResNetModel.

    transformers makes and trains every ResNet of this package; this class only loads a trained one. A test holds both
    to the same numbers.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = Description(**config)
        channels = config["embedding_size"]
        stem = _convolution(config["num_channels"], channels, 7, stride=2)
        self.embedder = nn.Sequential(OrderedDict(embedder=stem, pooler=nn.MaxPool2d(3, stride=2, padding=1)))
        stages = nn.Sequential()
        for stage, (width, depth) in enumerate(zip(config["hidden_sizes"], config["depths"], strict=True)):
            layers = nn.Sequential()
            for layer in range(depth):
                halves = layer == 0 and (stage > 0 or config["downsample_in_first_stage"])
                layers.append(_Block(config, channels, width, stride=2 if halves else 1))
                channels = width
            stages.append(nn.Sequential(OrderedDict(layers=layers)))
        self.encoder = nn.Sequential(OrderedDict(stages=stages))
        self.pooler = nn.AdaptiveAvgPool2d((1, 1))

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        """Encode normalised images.

        Args:
            pixel_values: (K, 3, H, W) float32.

        Returns:
            ``last_hidden_state`` (K, D, H / 32, W / 32), sides rounded up, and ``pooler_output`` (K, D, 1, 1).
        """
        maps = self.encoder(self.embedder(pixel_values))
        return SimpleNamespace(last_hidden_state=maps, pooler_output=self.pooler(maps))


def is_known(config: Mapping[str, Any]) -> bool:
    """Return whether :class:`ResNet` builds the network of a configuration."""
    return config.get("model_type") == "resnet" and config.get("hidden_act") == "relu"


class _Block(nn.Module):
    """Two or three convolutions whose result is added to their input."""

    def __init__(self, config: Mapping[str, Any], before: int, after: int, stride: int) -> None:
        super().__init__()
        resizes = before != after or stride != 1
        self.shortcut = _convolution(before, after, 1, stride=stride, activates=False) if resizes else nn.Identity()
        if config["layer_type"] == "basic":
            layers = [_convolution(before, after, stride=stride), _convolution(after, after, activates=False)]
        else:
            inner, early = after // EXPANSION, bool(config["downsample_in_bottleneck"])
            layers = [
                _convolution(before, inner, 1, stride=stride if early else 1),
                _convolution(inner, inner, stride=1 if early else stride),
                _convolution(inner, after, 1, activates=False),
            ]
        self.layer = nn.Sequential(*layers)
        self.activation = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        added: Tensor = self.activation(self.layer(maps) + self.shortcut(maps))
        return added


def _convolution(before: int, after: int, kernel: int = 3, *, stride: int = 1, activates: bool = True) -> nn.Module:
    """Return a convolution with batch norm, and a ReLU if it ``activates``."""
    modules = OrderedDict[str, nn.Module](
        convolution=nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False),
        normalization=nn.BatchNorm2d(after),
    )
    if activates:
        modules["activation"] = nn.ReLU()
    return nn.Sequential(modules)
