"""Graphs of every kind of network: what ONNX Runtime and OpenVINO make of them, at other sizes than the exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_networks import CLIPS, PICTURES, SOUND, saved
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from reactometer.config import ModelConfig
from reactometer.models.engines import open_graph
from reactometer.models.graphs import JOINT, Graph, graphs_of, quantise_graph, write_graph
from reactometer.models.streams import Stream
from reactometer.models.visual import GruHead, seen_first
from reactometer.models.zoo import SYSTEMS, build_model, load_encoders

TINY = {"videomae": "random:videomae-tiny", "vit-transformer": "random:vit-tiny"}
NETWORKS: dict[str, dict[str, Any]] = {
    **{name: {"name": name, "encoder": TINY.get(name, "random:resnet-tiny")} for name in SYSTEMS},
    "contours": {"name": "multimodal", "encoder": "random:resnet-tiny", "voice_encoder": "contours", "frozen": True},
    "voice": {"name": "multimodal", "modalities": "voice"},
    **{f"pictures-{kind}": {"name": "resnet50", "encoder": PICTURES[kind]} for kind in PICTURES},
    **{f"clips-{kind}": {"name": "videomae", "encoder": CLIPS[kind]} for kind in CLIPS},
    **{f"sound-{kind}": {"name": "multimodal", "modalities": "voice", "voice_encoder": SOUND[kind]} for kind in SOUND},
}
SIZE_PX = 64


def _graphs(name: str, folder: Path) -> dict[str, Graph]:
    torch.manual_seed(0)
    settings = {"size_px": SIZE_PX, "hidden": 8, "attention_heads": 2, "layers": 1, **NETWORKS[name]}
    for key in ("encoder", "voice_encoder"):
        if isinstance(settings.get(key), dict):  # a network to be made
            settings[key] = str(saved(folder / key, name.split("-")[1], settings[key]))
    config = ModelConfig.model_validate(settings)
    return graphs_of(build_model(config, load_encoders(config), [0.2, 0.5]).eval(), SIZE_PX)


def _inputs(graph: Graph, clips: int, steps: int) -> list[Tensor]:
    generator, sizes = torch.Generator().manual_seed(steps), {"clips": clips, "samples": 320 * steps}
    drawn = []
    for example, frees in graph.inputs.values():
        shape = [sizes.get(free, steps) if free else size for free, size in zip(frees, example.shape, strict=True)]
        if example.dtype == torch.uint8:
            drawn.append(torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8))
        elif example.dtype == torch.bool:
            drawn.append(torch.rand(shape, generator=generator) > 0.3)
        else:
            drawn.append(torch.randn(shape, generator=generator))
    return drawn


def _check(name: str, folder: Path) -> None:
    for kind, graph in _graphs(name, folder).items():
        file = folder / f"{kind}.onnx"
        write_graph(graph, file)
        runs = {engine: open_graph(file, engine) for engine in ("onnx", "openvino")}
        for clips, steps in ((1, 1), (3, 17), (2, 40)):
            inputs = _inputs(graph, clips, steps)
            with torch.inference_mode():
                expected = graph.module(*inputs).numpy()
            for engine, run in runs.items():
                got = run(*(tensor.numpy() for tensor in inputs))
                bound = 1e-5 * max(1.0, np.abs(expected).max())
                np.testing.assert_allclose(got, expected, atol=bound, rtol=0, err_msg=f"{name} {kind} {engine}")
        if kind != JOINT:
            _check_eight_bits(graph, file)


def _check_eight_bits(graph: Graph, file: Path) -> None:
    """Eight bits say nearly the same in both runtimes: no operator is one that either of them gets wrong."""
    examples = [_inputs(graph, 4, steps) for steps in range(30, 38)]
    quantise_graph(graph, file, [[tensor.numpy() for tensor in own] for own in examples])
    with torch.inference_mode():
        expected = graph.module(*examples[0]).numpy()
    for engine in ("onnx-int8", "openvino-int8"):
        got = open_graph(file, engine)(*(tensor.numpy() for tensor in examples[0]))
        assert np.corrcoef(got.ravel(), expected.ravel())[0, 1] > 0.98, engine


@pytest.mark.slow
def test_graphs_of_frames_and_contours_are_the_networks(tmp_path: Path) -> None:
    _check("contours", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_graphs_are_the_networks(name: str, tmp_path: Path) -> None:
    _check(name, tmp_path)


def test_the_gru_sees_what_a_packed_one_sees() -> None:
    torch.manual_seed(0)
    head = GruHead(6, hidden=5, dropout=0.0).eval()
    mask = torch.tensor([[1, 0, 1, 1, 0, 1, 1], [0, 0, 0, 0, 1, 0, 0], [1] * 7, [0] * 7]).bool()
    steps = torch.randn(4, 7, 5)
    stream = seen_first(Stream(steps, mask, torch.zeros(4, 7)))
    packed = pack_padded_sequence(
        stream.values, stream.mask.sum(1).clamp(min=1), batch_first=True, enforce_sorted=False
    )
    expected, _ = pad_packed_sequence(head.gru(packed)[0], batch_first=True, total_length=7)
    got = head.states(stream.values, stream.mask)
    torch.testing.assert_close(got[stream.mask], expected[stream.mask])
