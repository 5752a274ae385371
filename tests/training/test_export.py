"""Exported graphs equal PyTorch for every kind of network; a graph that differs is not kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

from item_of import item_of
from reactometer.cli.app import app
from reactometer.config import Config, ModelConfig
from reactometer.data.cache import MEDIA, PreparedSet
from reactometer.data.inputs import BLOCK_SIZE, Item, all_steps
from reactometer.data.person_norm import FeatureStats
from reactometer.errors import DataError, ModelError
from reactometer.inference.checkpoint import LoadedModel, load_model
from reactometer.inference.graph_check import check_graph
from reactometer.inference.runtime import StreamInput, open_graph, session_options, signatures_of
from reactometer.models.architectures import ARCHITECTURES
from reactometer.models.heads import CrossModalHead
from reactometer.models.model import ReactionModel
from reactometer.models.registry import build_model, load_encoders, load_network
from reactometer.training import export as export_module
from reactometer.training.export import differences, prove, read_items, write_checkpoint
from reactometer.training.quantise import encoder_inputs, quantise_graph
from small_networks import CLIPS, PICTURES, saved

SIZE_PX, LABELS = 64, ("Joy", "Fear")
TINY = {"videomae": "random:videomae-tiny", "vit-transformer": "random:vit-tiny"}
NETWORKS: dict[str, dict[str, Any]] = {
    **{name: {"name": name, "encoder": TINY.get(name, "random:resnet-tiny")} for name in ARCHITECTURES},
    "contours": {"name": "multimodal", "modalities": ["voice"], "voice_encoder": "contours", "frozen": True},
    "hubert": {"name": "multimodal", "modalities": ["voice"], "voice_encoder": "random:hubert-tiny"},
    "convolution": {"name": "multimodal", "voice_encoder": "convolution", "given": {"face": 5, "voice": 3}},
    "streams": {"name": "multimodal", "given": {"au": 5, "pose": 3, "text": 16}},
    "given": {"name": "resnet50-gru", "given": {"face": 5}, "hidden": 128},
    "pictures-siglip": {"name": "resnet50", "encoder": PICTURES["siglip"]},
    "clips-vjepa2": {"name": "videomae", "encoder": CLIPS["vjepa2"]},
}
"""Every system, every kind of stream, and of each kind of encoder the one with the most unusual operators."""


IN_EIGHT_BITS = ("resnet50", "pictures-siglip", "clips-vjepa2", "hubert")


def _network(folder: Path, name: str, seed: int = 0, **settings: object) -> tuple[ReactionModel, ModelConfig]:
    """Build a network whose answers vary, and return its configuration."""
    torch.manual_seed(seed)
    about = {"size_px": SIZE_PX, "hidden": 8, "layers": 1, **NETWORKS[name], **settings}
    feature_dims = about.pop("given", None)
    for key in ("encoder", "voice_encoder"):
        if isinstance(about.get(key), dict):  # a network to be made
            about[key] = str(saved(folder / key, name.split("-")[1], about[key]))
    config = ModelConfig.model_validate(about)
    network = build_model(
        config, load_encoders(config, feature_dims or {}, () if feature_dims else MEDIA), [0.2, 0.5]
    ).eval()
    for parameter in network.output.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    for key, buffer in network.named_buffers():  # of batch norm, as after training
        if key.endswith("running_mean"):
            torch.nn.init.uniform_(buffer, -0.1, 0.1)
        elif key.endswith("running_var"):
            torch.nn.init.uniform_(buffer, 0.5, 2.0)
    if isinstance(network.head, CrossModalHead) and network.head.attends:
        torch.nn.init.ones_(network.head.gate)
    return network, config


def _write(folder: Path, network: ReactionModel, model: ModelConfig, **training: object) -> LoadedModel:
    config = Config.model_validate({"model": model, "training": training})
    return load_model(write_checkpoint(folder, network, LABELS, config, data={}, metrics={}), "cpu")


def _items(inputs: Mapping[str, StreamInput]) -> Iterator[Item]:
    """Yield what a clip may be for a model: of several lengths, with frames unseen, silent, a single
    frame."""
    rng = np.random.default_rng(0)
    face, voice = inputs.get("face"), inputs.get("voice")
    for n_frames, n_blocks in ((5, 40), (9, 0), (1, 73), (12, 60)):
        seen = rng.random(n_frames) > 0.3
        seen[-1] = True
        frames: np.ndarray = rng.integers(0, 256, (n_frames, 3, SIZE_PX, SIZE_PX), dtype=np.uint8)
        if face and face.kind == "features":
            frames = rng.normal(size=(n_frames, face.feature_size)).astype(np.float32)
        sound = voice and voice.kind in ("waveform", "contours")
        size = BLOCK_SIZE if sound else voice.feature_size if voice else 1
        steps = rng.normal(scale=0.1 if sound else 3.0, size=(n_blocks, size)).astype(np.float32)
        times_s = (np.arange(n_frames) / 4).astype(np.float32), (np.arange(n_blocks) / 50).astype(np.float32)
        values = frames * seen.reshape(-1, *[1] * (frames.ndim - 1))
        item = item_of(values, seen, times_s[0], steps, times_s[1])
        others = {
            name: all_steps(rng.normal(size=(n_frames, stream.feature_size)).astype(np.float32), times_s[0])
            for name, stream in inputs.items()
            if name not in MEDIA
        }
        yield item.with_steps(others)


def _operators_when_open(file: Path, folder: Path) -> set[str]:
    """Return the operators that ONNX Runtime computes after its own optimisation, as the package opens a
    graph."""
    options = session_options(1, is_foldable=check_graph(file))
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return {node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_graphs_are_the_networks_and_their_encoders_in_eight_bits_follow(name: str, tmp_path: Path) -> None:
    network, config = _network(tmp_path, name)
    loaded = _write(tmp_path / "model", network, config)
    items = list(_items(loaded.networks.inputs))
    assert max(differences(network, loaded.networks, items).values()) < 1e-5
    intensities = loaded.networks.score([loaded.networks.encode(item) for item in items])
    assert intensities.std(axis=0).min() > 1e-4
    for file in (tmp_path / "model").glob("*.onnx"):
        assert "BatchNormalization" not in _operators_when_open(file, tmp_path)
        assert b"site-packages" not in file.read_bytes()
        assert str(Path(export_module.__file__).parent).encode() not in file.read_bytes()
    for stream, encoder in loaded.networks.encoders.items() if name in IN_EIGHT_BITS else ():
        file, inputs = (
            tmp_path / "model" / f"{stream}.onnx",
            list(encoder_inputs(loaded.networks, stream, items)),
        )
        before = [encoder(*arrays.values())[0].ravel() for arrays in inputs]
        quantise_graph(file, inputs)
        signatures = signatures_of(loaded.networks.inputs, SIZE_PX, len(LABELS))
        eight = open_graph(file, *signatures[file.name], "cpu")
        after = [eight(*arrays.values())[0].ravel() for arrays in inputs]
        assert np.corrcoef(np.concatenate(after), np.concatenate(before))[0, 1] > 0.98


@pytest.mark.slow(25)
def test_networks_of_one_architecture_are_translated_once_and_keep_their_own_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, config = _network(tmp_path, "given")
    _write(tmp_path / "first", first, config)
    with monkeypatch.context() as patch:
        patch.setattr(torch.onnx, "export", None)
        for seed in (0, 1):
            network, _ = _network(tmp_path, "given", seed)
            loaded = _write(tmp_path / str(seed), network, config)
            items = list(_items(loaded.networks.inputs))
            assert max(differences(network, loaded.networks, items).values()) < 1e-5
    graphs = [(tmp_path / name / "head.onnx").read_bytes() for name in ("first", "0", "1")]
    assert graphs[0] == graphs[1] != graphs[2]
    network, config = _network(tmp_path, "given", hidden=4)  # another architecture
    assert (
        max(differences(network, _write(tmp_path / "other", network, config).networks, items).values()) < 1e-5
    )


@pytest.mark.slow(12)
def test_the_training_sets_mean_and_spread_are_in_the_head(tmp_path: Path) -> None:
    network, config = _network(tmp_path, "given", person_norm=True)
    rng = np.random.default_rng(0)
    moments = FeatureStats(rng.normal(size=5).astype(np.float32), rng.uniform(1, 2, 5).astype(np.float32))
    whole, stats = Config.model_validate({"model": config}), {"face": moments}
    folder = write_checkpoint(
        tmp_path / "model", network, LABELS, whole, data={}, metrics={}, training_stats=stats
    )
    (stream, known), *others = load_model(folder, "cpu").networks.training_stats.items()
    assert (stream, others) == ("face", [])
    assert np.array_equal(known.mean, moments.mean)
    assert np.array_equal(known.std, moments.std)
    assert _write(tmp_path / "plain", network, config).networks.training_stats == {}


@pytest.mark.slow
def test_weights_in_half_precision_are_stored_so_and_computed_in_single(tmp_path: Path) -> None:
    network, config = _network(tmp_path, "multimodal")
    single = _write(tmp_path / "single", network, config)
    half = _write(
        tmp_path / "half", network, config, store="float16"
    )  # which rounds the network's weights, too
    items = list(_items(half.networks.inputs))
    assert max(differences(network, half.networks, items).values()) < 1e-5
    assert max(differences(network, single.networks, items).values()) > 1e-5
    for name in ("face.onnx", "head.onnx", "weights.safetensors"):
        assert (tmp_path / "half" / name).stat().st_size < 0.75 * (tmp_path / "single" / name).stat().st_size
    for name in ("single", "half"):
        assert "BatchNormalization" not in _operators_when_open(tmp_path / name / "face.onnx", tmp_path)


def test_a_weight_that_was_changed_behind_its_graph_is_refused(
    model_folder: Path, prepared: PreparedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(model_folder, tmp_path / "copy"))
    network, _ = load_network(copy)
    monkeypatch.setattr(export_module, "PROOF_CLIPS", 2)
    prove(copy, network, prepared)
    proof = json.loads((copy / "model.json").read_text())["proof"]
    assert proof["n_clips"] == 2
    assert max(proof["differences"].values()) < 1e-5
    with torch.no_grad():
        next(network.output.parameters())[0] += 0.5
    with pytest.raises(ModelError, match=r"predict different intensities.*a difference of .*at most 0\.0001"):
        prove(copy, network, prepared)
    assert json.loads((copy / "model.json").read_text())["proof"] == proof
    with monkeypatch.context() as patch:
        patch.setattr(
            export_module, "differences", lambda *_: {"whole clips": 1e-7, "one frame": float("nan")}
        )
        with pytest.raises(ModelError, match="one frame"):
            prove(copy, network, prepared)
    none = [replace(row, file=None) for row in prepared.rows]
    with pytest.raises(DataError, match="no clip contains input"):
        prove(copy, network, replace(prepared, rows=tuple(none)))


def test_weights_without_graphs_are_exported(
    model_folder: Path, prepared: PreparedSet, tmp_path: Path
) -> None:
    bare = shutil.copytree(model_folder, tmp_path / "bare", ignore=shutil.ignore_patterns("*.onnx"))
    with pytest.raises(ModelError, match=r"no .*onnx.*reactometer model export DATA -m .*bare"):
        load_model(bare)
    result = CliRunner().invoke(
        app, ["model", "export", str(prepared.folder), "-m", str(bare), "-o", str(tmp_path / "whole")]
    )
    assert result.exit_code == 0, result.output
    exported, expected = (load_model(folder, "cpu").networks for folder in (tmp_path / "whole", model_folder))
    item = next(read_items(load_model(model_folder, "cpu"), prepared, "val", 1))
    np.testing.assert_allclose(
        exported.score([exported.encode(item)]), expected.score([expected.encode(item)]), atol=1e-6
    )
