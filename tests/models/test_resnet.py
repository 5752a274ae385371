"""The ResNet that model folders are read into, against transformers' own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from reactometer.models.backbones import ResNet, is_known, rebuild_net

SMALL = {"embedding_size": 8, "hidden_sizes": [8, 16, 24], "depths": [1, 2, 1]}


@pytest.mark.parametrize(
    "settings",
    [
        {"layer_type": "basic"},
        {"layer_type": "basic", "downsample_in_first_stage": True},
        {"layer_type": "bottleneck"},
        {"layer_type": "bottleneck", "downsample_in_bottleneck": True},
    ],
)
def test_it_answers_as_transformers_does(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    theirs: Any = AutoModel.from_config(AutoConfig.for_model("resnet", **SMALL, **settings))
    for name, statistics in theirs.named_buffers():
        if statistics.is_floating_point():  # so that batch norms change something
            statistics.copy_(torch.rand(statistics.shape) + (0.5 if name.endswith("var") else -0.5))
    ours = ResNet(theirs.config.to_dict())
    ours.load_state_dict(theirs.state_dict())
    pixels = torch.randn(2, 3, 50, 61)
    for mode in (False, True):
        expected, answer = theirs.train(mode)(pixels), ours.train(mode)(pixels)
        torch.testing.assert_close(answer.last_hidden_state, expected.last_hidden_state, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(answer.pooler_output, expected.pooler_output, atol=1e-6, rtol=1e-5)


def test_what_it_does_not_build_is_left_to_transformers() -> None:
    other = AutoConfig.for_model("resnet", **SMALL, hidden_act="gelu").to_dict()
    assert not is_known(other)
    net = rebuild_net({"config": other, "has_pooler": True, "settings": {}, "pretrained": False})
    assert type(net.module).__name__ == "ResNetModel"
