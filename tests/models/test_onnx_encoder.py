"""Encoders of other projects as ONNX files: their input, their output, and the whole way to a prediction."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from reactometer.config import Config, ModelConfig
from reactometer.data.cache import PreparedSet
from reactometer.errors import ConfigError, ModelError, ReactometerError, WeightsError
from reactometer.hub.model_card import model_card
from reactometer.inference.checkpoint import load_model
from reactometer.inference.predictor import predict_files
from reactometer.inference.screening import SCREENING_FILE
from reactometer.io import sha256_of
from reactometer.models.onnx_encoder import OnnxEncoder, rebuild_onnx
from reactometer.models.registry import load_encoders, load_network
from reactometer.training.export import export_weights
from reactometer.training.train import train
from small_networks import pictures

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
CAFFE = {"image_mean": [104, 117, 124], "image_std": [1, 1, 1], "rescale_factor": 1}


def _write(
    file: Path,
    settings: Mapping[str, object] | None,
    shape: tuple[int | str, ...] = ("n", 3, 64, 64),
    *,
    output: str = "vector",
    is_old: bool = False,
) -> Path:
    """Write a convolution, its map, the map's mean as a vector, and class scores; and the settings.

    Before version 4 of the format, weights were inputs, too.
    """
    rng = np.random.default_rng(0)
    is_last = shape[1] not in (1, 3, "c")
    n_channels = 1 if 1 in shape[1:] else 3
    kernel = rng.normal(size=(40, n_channels, 7, 7)) / 12
    weights = {"kernel": kernel, "bias": rng.normal(size=40), "classes": rng.normal(size=(40, 8))}
    nodes = [
        helper.make_node("Transpose", ["image"], ["first"], perm=(0, 3, 1, 2) if is_last else (0, 1, 2, 3)),
        helper.make_node("Conv", ["first", "kernel", "bias"], ["conv"], strides=(4, 4)),
        helper.make_node("Relu", ["conv"], ["map"]),
        helper.make_node("GlobalAveragePool", ["map"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["vector"]),
        helper.make_node("MatMul", ["vector", "classes"], ["scores"]),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)]
    if is_old:
        inputs += [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape)
            for name, value in weights.items()
        ]
    graph = helper.make_graph(
        nodes,
        "stranger",
        inputs,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in output.split()],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    opset, version = (9, 3) if is_old else (13, 7)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=version)
    onnx.save(model, file)
    if settings is not None:
        file.with_suffix(".json").write_text(json.dumps(settings))
    return file


def _load(file: Path, size_px: int = 64, **settings: Any) -> OnnxEncoder:
    config = ModelConfig(encoder=str(file), size_px=size_px, **{"frozen": True, **settings})
    encoder = load_encoders(config)["face"]
    assert isinstance(encoder, OnnxEncoder)
    return encoder


def _rgb(images: np.ndarray) -> Any:
    return (images / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))


def _bgr_last(images: np.ndarray) -> Any:
    return images[:, ::-1].transpose(0, 2, 3, 1) - np.array(CAFFE["image_mean"])


def _grey(images: np.ndarray) -> Any:
    return np.tensordot([0.299, 0.587, 0.114], images, (0, 1))[:, None]


INPUTS: dict[str, tuple[tuple[int | str, ...], dict[str, object], Callable[[np.ndarray], Any]]] = {
    "RGB of mean and spread": (("n", 3, 64, 64), {"image_mean": MEAN, "image_std": STD}, _rgb),
    "BGR of 0 to 255, channels last": (
        ("n", 64, 64, 3),
        {**CAFFE, "do_flip_channel_order": True},
        _bgr_last,
    ),
    "grey, of any size": (("n", 1, "h", "w"), {"do_normalize": False, "rescale_factor": 1}, _grey),
    "a batch of one": ((1, 3, 64, 64), {"image_mean": MEAN, "image_std": STD}, _rgb),
    "nothing fixed": (
        ("n", "c", "h", "w"),
        {"image_mean": MEAN, "image_std": STD, "layout": "NCHW"},
        _rgb,
    ),
}


@pytest.mark.parametrize("name", INPUTS)
def test_the_graph_receives_the_input_that_its_settings_describe(name: str, tmp_path: Path) -> None:
    shape, settings, prepare = INPUTS[name]
    file = _write(tmp_path / "net.onnx", settings, shape, is_old=shape[0] == 1)
    images = pictures(3, 3, 64, 64)
    session = onnxruntime.InferenceSession(file)
    expected = [
        session.run(None, {"image": image[None]})[0][0] for image in prepare(images.numpy()).astype("f4")
    ]
    encoder = _load(file)
    np.testing.assert_allclose(encoder(images).numpy(), expected, atol=2e-5 * np.abs(expected).max())
    assert encoder.feature_size == 40


def test_a_map_is_averaged_and_an_inner_tensor_can_be_the_output(tmp_path: Path) -> None:
    settings: dict[str, object] = {"image_mean": MEAN, "image_std": STD}
    images = pictures(2, 3, 64, 64)
    vector = _load(_write(tmp_path / "a.onnx", settings))(images)
    maps = _load(_write(tmp_path / "b.onnx", settings, output="map"))(images)
    inner = _load(_write(tmp_path / "c.onnx", {**settings, "output": "vector"}, output="scores"))(images)
    scores = _load(_write(tmp_path / "d.onnx", {**settings, "output": "scores"}, output="scores"))(images)
    torch.testing.assert_close(maps, vector)
    assert torch.equal(inner, vector)
    assert scores.shape == (2, 8)
    assert b"classes" not in _load(tmp_path / "c.onnx").to_bytes()


def test_what_is_no_frozen_encoder_of_faces_is_refused_with_its_fix(tmp_path: Path) -> None:
    settings: dict[str, object] = {"image_mean": MEAN, "image_std": STD}
    file = tmp_path / "net.onnx"
    good = ("n", 3, 64, 64)
    cases: tuple[tuple[type[ReactometerError], str, dict[str, Any], dict[str, Any]], ...] = (
        (ConfigError, r"model\.frozen = False.*Set model\.frozen=true", {}, {"frozen": False}),
        (ConfigError, r"pooling = 'grid'", {}, {"pooling": "grid"}),
        (ConfigError, r"size_px = 96.*Set model\.size_px=64", {}, {"size_px": 96}),
        (WeightsError, r"no net\.json beside", {"settings": None}, {}),
        (WeightsError, r'scores of a classifier.*8 values.*"output": "vector"', {"output": "scores"}, {}),
        (WeightsError, r'output is unknown.*map, vector.*such as "vector"', {"output": "map vector"}, {}),
        (WeightsError, r"output is unknown.*got nose", {"settings": {**settings, "output": "nose"}}, {}),
        (WeightsError, r'layout.*unknown.*"layout": "NCHW" or', {"shape": ("n", "c", "h", "w")}, {}),
        (WeightsError, r"one of 4 dimensions", {"shape": ("n", 3)}, {}),
        (
            WeightsError,
            r"does not describe faces.*0%.*rescale_factor",
            {"settings": {**settings, "rescale_factor": 1e-6}},
            {},
        ),
    )
    for error, message, about, config in cases:
        _write(file, **{"settings": settings, "shape": good, **about})
        with pytest.raises(error, match=message):
            _load(file, **config)
        file.with_suffix(".json").unlink(missing_ok=True)
    _write(file, settings)
    for name, modalities in (("videomae", "all"), ("multimodal", ["voice"])):
        model = {"name": name, "encoder": str(file), "voice_encoder": str(file), "modalities": modalities}
        with pytest.raises(WeightsError, match=r"an ONNX file encodes images \(expected (clips|audio)\)"):
            load_encoders(ModelConfig.model_validate(model))
    file.write_bytes(b"no graph")
    with pytest.raises(WeightsError, match=r"cannot use this file as an encoder"):
        _load(file)


def test_a_trained_model_contains_its_encoder(
    small_config: Config, prepared: PreparedSet, simulated: Path, tmp_path: Path
) -> None:
    """The original file is deleted after training."""
    settings = {"image_mean": MEAN, "image_std": STD, "licence": "CC-BY-4.0", "source": "a paper"}
    file = _write(tmp_path / "stranger.onnx", settings, ("n", 3, 48, 48))
    digest = sha256_of(file)
    model = {"name": "resnet50", "encoder": str(file), "frozen": True, "pooling": "network"}
    config = small_config.model_copy(
        update={
            "data": small_config.data.model_copy(update={"path": prepared.folder}),
            "model": small_config.model.model_copy(update=model),
            "training": small_config.training.model_copy(update={"out": tmp_path / "run", "epochs": 1}),
        }
    )
    folder = train(config=config, progress=False)
    file.unlink()
    loaded = load_model(folder, "cpu")
    settings = loaded.description["encoders"]["face"]["settings"]
    assert (settings["file"], settings["sha256"], settings["licence"]) == (
        "stranger.onnx",
        digest,
        "CC-BY-4.0",
    )
    assert loaded.description["n_parameters"] > 40 * 3 * 49
    card = model_card(loaded, "somebody/model")
    assert "stranger.onnx, licence: CC-BY-4.0, source: a paper" in card
    assert digest in card
    (folder / SCREENING_FILE).unlink()  # an encoder with random weights finds defects in clear faces
    clip = min((simulated / "test" / "mp4").glob("*.mp4"))
    (prediction,) = predict_files(clip, model=folder, progress=False)
    exported = export_weights(folder, prepared.folder, tmp_path / "exported", progress=False)
    (again,) = predict_files(clip, model=exported, progress=False)
    assert prediction.intensities == again.intensities
    network, _ = load_network(folder)
    assert isinstance(network.encoders["face"], OnnxEncoder)
    assert network.encoders["face"].to_bytes() == (folder / "face.onnx").read_bytes()


def test_a_graph_in_the_weights_of_a_strangers_checkpoint_is_checked(tmp_path: Path) -> None:
    encoder = _load(_write(tmp_path / "net.onnx", {"image_mean": MEAN, "image_std": STD}))
    model = onnx.load_from_string(encoder.to_bytes())
    model.graph.node[0].domain = "evil"
    graph = model.SerializeToString()
    again = rebuild_onnx({**encoder.describe(), "graph_bytes": len(graph)}, 64)
    again.load_state_dict({"graph": torch.frombuffer(bytearray(graph), dtype=torch.uint8)})
    with pytest.raises(ModelError, match="operator of domain 'evil'"):
        again(pictures(1, 3, 64, 64))


@pytest.mark.shared
def test_a_real_strangers_encoder_is_used_as_its_project_uses_it(shared_data: Path, tmp_path: Path) -> None:
    original = shared_data.parent / "weights" / "faceres.onnx"
    (tmp_path / "faceres.onnx").symlink_to(original)
    settings = {
        "image_mean": [103.939, 116.779, 123.68],
        "image_std": [1, 1, 1],
        "rescale_factor": 1,
        "do_flip_channel_order": True,
    }
    (tmp_path / "faceres.json").write_text(json.dumps(settings))
    encoder = _load(tmp_path / "faceres.onnx", 224)
    images = pictures(2, 3, 224, 224)
    session = onnxruntime.InferenceSession(original)
    inputs = images.numpy()[:, ::-1].transpose(0, 2, 3, 1) - np.array(settings["image_mean"])
    (expected,) = session.run(None, {"input_1": inputs.astype(np.float32)})
    np.testing.assert_allclose(encoder(images).numpy(), expected, atol=1e-5)
    assert encoder.settings["sha256"].startswith("ee8735c5")
