"""A small model folder, never trained: all that it holds, and how a changed one is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

from reactometer.config import Config
from reactometer.errors import ModelError
from reactometer.io import format_json, parse_json_object, sha256_of
from reactometer.models.folder import choose_device, join_models, load_model, save_model
from reactometer.models.registry import build_model, load_encoders, sampling_of
from reactometer.models.scores import Score
from reactometer.models.uncertainty import Basis, Curve, Uncertainty, save_uncertainty

SURE = Uncertainty(0.9, {"face": Basis(20, (0.1, 0.3))}, {})

Change = Callable[[str, object], Path]


def _save(folder: Path, labels: tuple[str, ...] = ("Joy", "Fear"), **sections: dict[str, object]) -> Path:
    """A network over three features of the face and two of the voice, its weights as they are drawn."""
    torch.manual_seed(0)
    model = {"name": "multimodal", "hidden": 8, "attention_heads": 2, **sections.pop("model", {})}
    config = Config.model_validate({"model": model, **sections})
    network = build_model(config.model, load_encoders(config.model, {"face": 3, "voice": 2}), [0.5] * len(labels))
    return save_model(folder, network, labels, config, data={"clips": 3}, metrics={"mae": 0.1})


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return _save(tmp_path / "small")


@pytest.fixture
def change(small: Path) -> Change:
    """Sets one key of the description."""

    def change(key: str, value: object) -> Path:
        description = parse_json_object((small / "model.json").read_text())
        (small / "model.json").write_text(format_json({**description, key: value}))
        return small

    return change


def _refusal(folder: Path | str, device: str = "cpu", engine: str = "torch") -> str:
    with pytest.raises(ModelError) as caught:
        load_model(folder, device, engine)
    return str(caught.value)


def test_all_that_a_folder_holds(small: Path) -> None:
    weights, text = small / "weights.safetensors", (small / "model.json").read_text()
    assert text == json.dumps(json.loads(text), indent=2) + "\n"
    loaded = load_model(small)
    assert list(json.loads(text)) == [
        *("format", "reactometer", "labels"),
        *("config", "encoders", "data", "metrics", "sha256"),
    ]
    assert parse_json_object(text) == loaded.description
    assert loaded.description == {
        "format": 2,
        "reactometer": version("reactometer"),
        "labels": ["Joy", "Fear"],
        "config": loaded.config.model_dump(mode="json"),
        "encoders": {"face": {"given": 3}, "voice": {"given": 2}},
        "data": {"clips": 3},
        "metrics": {"mae": 0.1},
        "sha256": {"weights.safetensors": sha256_of(weights)},
    }
    assert weights.stat().st_mode & 0o777 == 0o644
    assert {path.name for path in small.iterdir()} == {"model.json", "weights.safetensors"}


def test_a_loaded_model_is_ready(small: Path) -> None:
    loaded = load_model(str(small), "cpu")
    assert not any(module.training for module in loaded.network.modules())
    assert {weights.device.type for weights in loaded.network.parameters()} == {"cpu"}
    assert (loaded.labels, loaded.config.model.hidden) == (("Joy", "Fear"), 8)
    assert loaded.sampling == sampling_of(loaded.config.model, loaded.network)
    assert (loaded.members, loaded.uncertainty, loaded.engine) == ((), None, "torch")
    kept = load_file(small / "weights.safetensors")
    assert set(kept) == set(loaded.network.state_dict())
    assert all(torch.equal(kept[name], own) for name, own in loaded.network.state_dict().items())
    save_uncertainty(small, SURE)
    assert load_model(small).uncertainty == SURE


def test_in_half_precision_matrices_alone_are_kept(tmp_path: Path) -> None:
    folder = _save(tmp_path / "half", training={"store": "float16"})
    kept, network = load_file(folder / "weights.safetensors"), load_model(folder).network
    halved = {name for name, tensor in kept.items() if tensor.dtype == torch.float16}
    assert halved == {name for name, weights in network.named_parameters() if weights.ndim > 1}
    assert {tensor.dtype for name, tensor in kept.items() if name not in halved} == {torch.float32}
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32}


def test_an_ensemble_is_its_members_and_what_it_says_of_itself(small: Path, tmp_path: Path) -> None:
    joint = join_models([small, str(small)], str(tmp_path / "joint"))
    assert joint == tmp_path / "joint"
    loaded = load_model(joint, "cpu")
    assert loaded.description == {
        "format": 2,
        "reactometer": version("reactometer"),
        "labels": ["Joy", "Fear"],
        "members": ["00", "01"],
    }
    assert (len(loaded.members), loaded.each, loaded.uncertainty) == (2, loaded.members, None)
    save_uncertainty(joint, SURE)
    loaded = load_model(joint)
    assert (loaded.uncertainty, loaded.members[0].uncertainty) == (SURE, None)


def test_members_are_loaded_onto_the_device_and_with_the_engine_asked_for(small: Path, tmp_path: Path) -> None:
    joint = join_models([small, small], tmp_path / "joint")
    assert _refusal(joint, "gpu9").startswith("device 'gpu9' cannot be used: ")
    assert _refusal(joint, engine="onnx").startswith(f"{joint / '00'} has no engine 'onnx'.")


def test_an_engine_is_taken_from_the_folder_where_it_is_of_its_weights(small: Path) -> None:
    """Features that are given need no encoder, and so the engine no graph."""
    own = load_model(small).description["sha256"]["weights.safetensors"]
    about = {"graphs": {}, "weights_sha256": own}
    folder = small / "engines" / "onnx"
    folder.mkdir(parents=True)
    (folder / "engine.json").write_text(json.dumps(about))
    assert load_model(small, "cpu", "auto").engine == "onnx"
    assert load_model(small, "cpu").engine == "torch"
    (folder / "engine.json").write_text(json.dumps({**about, "weights_sha256": "0" * 64}))
    told = f"{folder}: made of other weights (got 000000000000; expected {own[:12]}). "
    assert _refusal(small, engine="onnx") == told + "Delete its folder and export again."
    assert _refusal(small, engine="onx") == "no engine 'onx'. Did you mean 'onnx'?"


@pytest.mark.parametrize("members", [[], 3, ["."], ["00", "../small"]])
def test_odd_members(change: Change, members: object) -> None:
    folder = change("members", members)
    assert "members" in _refusal(folder)


def test_an_ensemble_is_of_models_alone(small: Path, tmp_path: Path) -> None:
    joint = join_models([small, small], tmp_path / "joint")
    more = join_models([small, small], tmp_path / "more")
    shutil.rmtree(more / "01")
    shutil.copytree(joint, more / "01")
    assert _refusal(more) == f"{more}: an ensemble of ensembles. Join the members themselves."
    with pytest.raises(ModelError) as caught:
        join_models([small, joint], tmp_path / "third")
    assert str(caught.value) == f"{joint}: an ensemble already. Name its members instead."


def test_what_is_joined_goes_together(small: Path, tmp_path: Path) -> None:
    other = _save(tmp_path / "other", labels=("Joy", "Anger"))
    with pytest.raises(ModelError) as caught:
        join_models([small, other], tmp_path / "joint")
    told = "(got ('Joy', 'Anger'); expected ('Joy', 'Fear'))."
    assert str(caught.value) == f"{other}: another labels than {small} {told}"
    for what, sections in (
        ("sampling", {"model": {"n_frames": 5}}),
        ("preparation", {"prepare": {"rate_hz": 9.0}}),
        ("kind of features", {"data": {"face_features": "AU*"}}),
    ):
        other = _save(tmp_path / what, **sections)
        with pytest.raises(ModelError) as caught:
            join_models([small, other], tmp_path / "joint")
        assert str(caught.value).startswith(f"{other}: another {what} than {small} (got ")
    with pytest.raises(ModelError) as caught:
        join_models([small], tmp_path / "joint")
    assert str(caught.value) == "an ensemble needs several models (got 1; expected at least 2 model folders)."
    wider = _save(tmp_path / "wider", model={"hidden": 16})  # how a member is made is its own affair
    assert len(load_model(join_models([small, wider], tmp_path / "joint")).members) == 2


@pytest.mark.parametrize(
    "labels",
    [
        [],
        "Joy",
        ["1", 1],
        ["Joy", "Joy"],
        ["Joy", ""],
        ["Joy", 3],
        ["Joy\n", "Fear"],
        ["Joy", "x" * 101],
        ["=1", "Joy"],
    ],
)
def test_labels_that_are_no_names(change: Change, labels: object) -> None:
    assert "damaged model folder: model.json: labels" in _refusal(change("labels", labels))


def test_labels_of_one_letter_and_of_a_hundred_are_names(change: Change) -> None:
    assert load_model(change("labels", ["J", "x" * 100])).labels == ("J", "x" * 100)


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
def test_an_encoder_that_asks_for_code(change: Change, setting: str, value: object, depth: int) -> None:
    about: dict[str, object] = {setting: value}
    for _ in range(depth):
        about = {"given": 3, "config": about}
    assert "asks for code" in _refusal(change("encoders", {"face": about, "voice": {"given": 2}}))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("attn_implementation", value) for value in (None, True, False, "eager", "sdpa")),
        ("architecture", "resnet50"),
        ("name", "hub:a name"),
    ],
)
def test_an_encoder_that_asks_for_none(change: Change, setting: str, value: object) -> None:
    encoders = {"face": {"given": 3, "config": {setting: value}}, "voice": {"given": 2}}
    assert load_model(change("encoders", encoders)).labels == ("Joy", "Fear")


def test_weights_that_are_other_than_described(small: Path, change: Change) -> None:
    own = load_model(small).description["sha256"]["weights.safetensors"]
    for value in ({"weights.safetensors": "f" * 64}, {}):
        refusal = _refusal(change("sha256", value))
        assert "not the weights that model.json names" in refusal and own[:12] in refusal


def test_weights_that_are_no_numbers_are_named(small: Path, change: Change) -> None:
    weights = load_file(small / "weights.safetensors")
    name = sorted(weights)[0]
    weights[name].view(-1)[-1] = torch.nan
    (small / "weights.safetensors").write_bytes(save(weights))
    folder = change("sha256", {"weights.safetensors": sha256_of(small / "weights.safetensors")})
    assert f"no numbers, in {name}" in _refusal(folder)


def test_what_is_no_model_folder(small: Path, tmp_path: Path, change: Change) -> None:
    assert "no such model folder" in _refusal(str(tmp_path / "nowhere"))
    assert "no model.json" in _refusal(tmp_path)
    folder = Path(shutil.copytree(small, tmp_path / "model"))
    assert f"Give {folder}" in _refusal(tmp_path)
    (folder / "weights.safetensors").unlink()
    assert "no weights.safetensors" in _refusal(folder)
    for other in (1, 3, "2", None):
        assert "another format" in _refusal(change("format", other))
    for text in ("[]", "{", " " * (2**24 + 1)):
        (small / "model.json").write_text(text)
        assert "damaged" in _refusal(small)


def test_an_unknown_setting_is_named(change: Change) -> None:
    assert "config.model.evil" in _refusal(change("config", {"model": {"name": "resnet50", "evil": 1}}))


def test_devices() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(RuntimeError) as theirs:
        torch.empty(0, device="gpu9")
    said = str(theirs.value).splitlines()[0].rstrip(".")
    with pytest.raises(ModelError) as caught:
        choose_device("gpu9")
    assert str(caught.value) == f"device 'gpu9' cannot be used: {said}. Use 'auto' or 'cpu'."


def test_intensities_are_recalibrated_where_the_model_was(small: Path) -> None:
    score = Score(0, np.array([0.4, 0.8], np.float32), saw=True, heard=False)
    loaded, halved = load_model(small), Curve((0.0, 1.0), (0.0, 0.5))
    assert loaded.intensities_of(score) is score.intensities
    sure = replace(SURE, recalibration=(halved, halved))
    assert replace(loaded, uncertainty=sure).intensities_of(score) == pytest.approx([0.2, 0.4])
