"""Weights of a checkpoint: the network is built from them as it was, and damaged ones are refused with their
reason."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from reactometer.errors import ModelError
from reactometer.inference.checkpoint import join_models
from reactometer.io import format_json, parse_json_object
from reactometer.models.registry import load_network, save_weights

WEIGHTS = "weights.safetensors"


@pytest.fixture
def small(features_folder: Path, tmp_path: Path) -> Path:
    """A checkpoint of given features, to be changed at will."""
    return Path(shutil.copytree(features_folder, tmp_path / "small"))


def _change(folder: Path, **changes: object) -> Path:
    """The folder with other values in its description."""
    description = parse_json_object((folder / "model.json").read_text())
    (folder / "model.json").write_text(format_json({**description, **changes}))
    return folder


def _with_weights(folder: Path, data: bytes) -> Path:
    """The folder with other weights that its description names."""
    (folder / WEIGHTS).write_bytes(data)
    return _change(folder, sha256={WEIGHTS: sha256(data).hexdigest()})


def test_a_network_is_built_as_it_was(small: Path) -> None:
    network, description = load_network(small)
    assert description == parse_json_object((small / "model.json").read_text())
    assert (small / WEIGHTS).stat().st_mode & 0o777 == 0o644
    assert not any(module.training for module in network.modules())
    stored = load_file(small / WEIGHTS)
    assert set(stored) == set(network.state_dict())
    assert all(torch.equal(stored[name], weights) for name, weights in network.state_dict().items())


def test_in_half_precision_matrices_alone_are_kept(small: Path, tmp_path: Path) -> None:
    network, _ = load_network(small)
    before = {name: weights.clone() for name, weights in network.state_dict().items()}
    save_weights(network, tmp_path / WEIGHTS, "float16")
    stored = load_file(tmp_path / WEIGHTS)
    halved = {name for name, tensor in stored.items() if tensor.dtype == torch.float16}
    assert halved == {name for name, weights in network.named_parameters() if weights.ndim > 1}
    assert {tensor.dtype for name, tensor in stored.items() if name not in halved} == {torch.float32}
    for name, weights in network.state_dict().items():
        assert weights.dtype == torch.float32 and torch.equal(weights, stored[name].float())
        assert torch.equal(weights, before[name].half().float() if name in halved else before[name])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("attn_implementation", "evil/kernel"),
        ("_experts_implementation", "eager2"),
        ("attn_implementation", {"": "evil/kernel"}),
        ("architecture", "hub:evil/net"),
    ],
)
@pytest.mark.parametrize("depth", [1, 2])
def test_an_encoder_that_asks_for_code(small: Path, setting: str, value: object, depth: int) -> None:
    about: dict[str, object] = {setting: value}
    for _ in range(depth):
        about = {"config": about}
    with pytest.raises(ModelError, match="refers to code"):
        load_network(_change(small, encoders={"face": about}))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("attn_implementation", value) for value in (None, True, False, "eager", "sdpa")),
        ("architecture", "resnet50"),
        ("name", "hub:a name"),
    ],
)
def test_an_encoder_that_asks_for_none(small: Path, setting: str, value: object) -> None:
    assert load_network(_change(small, encoders={"face": {"config": {setting: value}}}))


@pytest.mark.parametrize(
    "changes",
    [
        {"sha256": {WEIGHTS: "f" * 64}},
        {"sha256": {}},
        {"sha256": [1]},
        {"labels": ["Joy"]},
        {"inputs": {}},
        {"inputs": [1]},
        {"inputs": {"face": {"kind": "features", "feature_size": 4}}},
        {"config": {"model": {"name": "multimodal", "evil": 1}}},
        {"config": {"model": {"name": "multimodal", "hidden": 16}}},
    ],
)
def test_weights_of_another_network_are_refused(small: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"damaged|not the file that model.json names"):
        load_network(_change(small, **changes))


def test_without_weights_there_is_no_network(small: Path, tmp_path: Path) -> None:
    joint = join_models([small, small], tmp_path / "joint")
    (small / WEIGHTS).unlink()
    for folder in (small, joint, tmp_path):
        with pytest.raises(ModelError, match=f"{folder}: no model.json and {WEIGHTS}"):
            load_network(folder)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(small: Path, number: float) -> None:
    weights = load_file(small / WEIGHTS)
    name = next(name for name, tensor in weights.items() if tensor.is_floating_point())
    weights[name].view(-1)[0] = number
    with pytest.raises(ModelError, match=f"damaged.*not finite.*{name}"):
        load_network(_with_weights(small, save(weights)))


class _Harmful:
    """Unpickled, it would write a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("harm-was-done"),))


def test_a_pickle_is_no_weights(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"output.weight": _Harmful()}, tmp_path / "pickle.pt")
    (small / "pytorch_model.bin").write_bytes(pickle.dumps(_Harmful()))
    for data in ((tmp_path / "pickle.pt").read_bytes(), pickle.dumps(_Harmful())):
        with pytest.raises(ModelError, match="damaged"):
            load_network(_with_weights(small, data))
    assert not (tmp_path / "harm-was-done").exists()


@pytest.mark.parametrize("length", [2**63, 2**32, 10, 0])
def test_a_head_that_lies_is_refused(small: Path, length: int) -> None:
    head = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    for data in (struct.pack("<Q", length) + head, struct.pack("<Q", len(head)) + head):
        with pytest.raises(ModelError, match="damaged"):
            load_network(_with_weights(small, data))
