"""The catalogue: sizes and costs of the architectures against published figures."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from reactometer.models.backbones import RANDOM_ENCODERS, load_net
from reactometer.models.catalogue import count_multiply_adds
from reactometer.models.pretrained import PRETRAINED

PICTURE, CLIP, SECOND = (1, 3, 224, 224), (1, 16, 3, 224, 224), (1, 16_000)

PUBLISHED = {  # what it takes, an input, millions of parameters without a head, multiply-adds in 10⁹
    "resnet-50": ("pictures", PICTURE, 25.557 - 2.049, 4.09),  # torchvision's table of weights
    "resnet-18": ("pictures", PICTURE, 11.690 - 0.513, 1.81),  # the same
    "vit-base": ("pictures", PICTURE, 86.568 - 0.769, 17.56),  # the same
    "convnext-tiny": ("pictures", PICTURE, 28.589 - 0.769, 4.46),  # the same
    "dinov2-base": ("pictures", PICTURE, 86.6, None),  # timm's table of results
    "siglip-base": ("pictures", PICTURE, 92.9, None),  # the same
    "videomae-base": ("clips", CLIP, 87.0, 180.0),  # arXiv 2203.12602
    "hubert-base": ("sound", SECOND, 94.7, None),  # arXiv 2105.01051 (SUPERB)
    "wav2vec2-base": ("sound", SECOND, 95.0, None),  # the same
    "wavlm-base": ("sound", SECOND, 94.7, None),  # arXiv 2110.13900
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_architectures_are_as_large_and_as_costly_as_published(name: str) -> None:
    takes, shape, parameters, multiply_adds = PUBLISHED[name]
    with torch.device("meta"):
        module = load_net(f"random:{name}", takes).module.eval()
    assert sum(parameter.numel() for parameter in module.parameters()) / 1e6 == pytest.approx(parameters, rel=0.01)
    if multiply_adds:
        assert count_multiply_adds(module, torch.empty(shape)) / 1e9 == pytest.approx(multiply_adds, rel=0.005)


def test_multiply_adds_are_those_of_the_products_alone() -> None:
    class Attention(nn.Module):
        def forward(self, steps: torch.Tensor) -> torch.Tensor:
            return functional.scaled_dot_product_attention(steps, steps, steps)

    assert count_multiply_adds(nn.Sequential(nn.Linear(3, 5), nn.ReLU()), torch.zeros(7, 3)) == 7 * 3 * 5
    assert count_multiply_adds(nn.Conv2d(3, 8, 3, padding=1), torch.zeros(2, 3, 10, 10)) == 2 * 10 * 10 * 8 * 3 * 9
    assert count_multiply_adds(Attention(), torch.zeros(1, 2, 6, 4)) == 2 * 2 * 6 * 6 * 4


def test_counting_computes_and_moves_nothing() -> None:
    layer = nn.Linear(2, 2)
    count_multiply_adds(layer, torch.zeros(1, 2))
    assert layer.weight.device.type == "cpu"


def test_every_pretrained_encoder_has_an_architecture_and_says_where_it_stands() -> None:
    for name, weights in PRETRAINED.items():
        assert weights.architecture in RANDOM_ENCODERS, name
        assert weights.licence in {"Apache-2.0", "CC-BY-NC-4.0", "see its model card"}, name
        assert weights.pretrained_on, name
