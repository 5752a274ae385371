"""Checkpoints and ensembles: writing, loading, and the refusal of damaged ones."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from item_of import item_of
from reactometer.data.cache import PreparedSet
from reactometer.data.inputs import MediaReader, split_parts
from reactometer.errors import ModelError, OutputError
from reactometer.inference.checkpoint import DESCRIPTION_FILE, join_models, load_model
from reactometer.inference.conformal import (
    Bins,
    IsotonicMap,
    ModalityIntervals,
    Uncertainty,
    save_uncertainty,
)
from reactometer.inference.runtime import DEVICES
from reactometer.inference.scores import Score, average_scores, join_parts
from reactometer.inference.scoring import score_split
from reactometer.io import format_json, parse_json_object, sha256_of
from reactometer.models.batches import collate
from reactometer.models.registry import load_network
from reactometer.paths import STARTER

SURE = Uncertainty(0.9, {"face": ModalityIntervals(20, 20, Bins((), (0.3,)), Bins((), (0.1,)), 0.4)}, {})

Edit = Callable[[dict[str, Any]], object]


def _changed(source: Path, folder: Path, edit: Edit) -> Path:
    """Copy a checkpoint and edit its description."""
    shutil.copytree(source, folder)
    description = parse_json_object((folder / DESCRIPTION_FILE).read_bytes())
    edit(description)
    (folder / DESCRIPTION_FILE).write_text(format_json(description))
    return folder


def _refusal(folder: Path | str, device: str = "cpu") -> str:
    with pytest.raises(ModelError) as caught:
        load_model(folder, device)
    return str(caught.value)


@pytest.fixture
def small(features_folder: Path, tmp_path: Path) -> Path:
    """Copy a checkpoint of precomputed features."""
    return Path(shutil.copytree(features_folder, tmp_path / "small"))


@pytest.fixture
def copy(model_folder: Path, tmp_path: Path) -> Path:
    """Copy a trained checkpoint of face and voice."""
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


def test_contents_of_a_checkpoint(small: Path) -> None:
    text = (small / "model.json").read_text()
    assert text == json.dumps(json.loads(text), indent=2) + "\n"
    loaded = load_model(str(small), "cpu")
    assert loaded.description == {
        "format": 5,
        "reactometer": version("reactometer"),
        "labels": ["Joy", "Fear"],
        "config": loaded.config.model_dump(mode="json"),
        "inputs": {
            "face": {"kind": "features", "feature_size": 3},
            "voice": {"kind": "features", "feature_size": 2},
        },
        "precision": "float32",
        "n_parameters": sum(parameter.numel() for parameter in load_network(small)[0].parameters()),
        "encoders": {},
        "data": {"clips": 3},
        "metrics": {"mae": 0.1},
        "proof": {},
        "sha256": {name: sha256_of(small / name) for name in ("weights.safetensors", "head.onnx")},
    }
    assert {file.name for file in small.iterdir()} == {"model.json", "head.onnx", "weights.safetensors"}
    assert (loaded.labels, loaded.config.model.hidden) == (("Joy", "Fear"), 8)
    assert (loaded.device, loaded.precision, loaded.is_frozen) == ("cpu", "float32", False)
    assert (loaded.ensemble, loaded.members, loaded.uncertainty) == ((), (loaded,), None)
    assert loaded.networks.feature_sizes == {"face": 3, "voice": 2}
    save_uncertainty(small, SURE)
    assert load_model(small).uncertainty == SURE


def test_a_trained_checkpoint_explains_itself(model_folder: Path) -> None:
    files = {"face.onnx", "head.onnx", "weights.safetensors"}
    names = {file.name for file in model_folder.iterdir()}
    assert names == {"model.json", "screening.safetensors", *files}
    about = json.loads((model_folder / "model.json").read_text())
    assert about["labels"][0] == "Adoration"
    assert about["config"]["model"]["name"] == "multimodal"
    assert about["data"]["n_train_clips"] == 24
    assert about["metrics"]["split"] == "val"
    assert about["sha256"] == {name: sha256_of(model_folder / name) for name in files}
    assert max(about["proof"]["differences"].values()) < 1e-5


@pytest.mark.slow(20)
def test_graphs_score_clips_as_their_weights_do(
    frozen_folder: Path, model_folder: Path, prepared: PreparedSet
) -> None:
    """One model caches features beside the clips; the other, of face and log-mel, was trained end to end."""
    for folder in (frozen_folder, model_folder):
        loaded, (network, _) = load_model(folder, "cpu"), load_network(folder)
        loaded = replace(loaded, screening=None)
        scores, _ = score_split(loaded, prepared, "test", progress=False)
        rows, read = prepared.split("test"), MediaReader(loaded.sampling)
        items = [read(rows[part.index], part, None) for part in split_parts(rows)]
        with torch.inference_mode():
            expected = network(collate(items, len(loaded.labels)))
        np.testing.assert_allclose([score.intensities for score in scores], expected, atol=1e-5, rtol=0)
        assert expected.std(0).min() > (1e-3 if folder is frozen_folder else 0.0)


def test_loading_needs_no_network_and_writes_nothing(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    before = {file: file.stat().st_mtime_ns for file in model_folder.rglob("*")}
    load_model(model_folder)
    load_model(STARTER)
    assert {file: file.stat().st_mtime_ns for file in model_folder.rglob("*")} == before


def test_a_recalibrated_model_recalibrates_intensities(features_folder: Path) -> None:
    score = Score(np.array([0.4, 0.8], np.float32), ("face",))
    loaded, halved = load_model(features_folder), IsotonicMap((0.0, 1.0), (0.0, 0.5))
    assert loaded.intensities_of(score) is score.intensities
    sure = replace(SURE, recalibration=(halved, halved))
    assert replace(loaded, uncertainty=sure).intensities_of(score) == pytest.approx([0.2, 0.4])


def test_an_unknown_device_is_refused_with_the_known_ones(features_folder: Path) -> None:
    assert load_model(features_folder, "cpu").device == "cpu"
    for wrong in ("gpu9", "cuda:one", "auto:1"):
        assert _refusal(features_folder, wrong).startswith(f"unknown device '{wrong}'. ")
    assert all(name in _refusal(features_folder, "gpu9") for name in DEVICES)
    assert "Did you mean 'cuda'?" in _refusal(features_folder, "cudo")


def test_an_unsupported_device_is_refused_with_an_installation_hint(features_folder: Path) -> None:
    missing = [
        name for name, provider in DEVICES.items() if provider not in onnxruntime.get_available_providers()
    ]
    for device in [*missing, f"{missing[0]}:1"]:
        message = _refusal(features_folder, device)
        assert message.startswith(f"device '{device}' is not available (got ONNX Runtime with cpu")
        assert "onnxruntime-gpu" in message and "--device cpu" in message


def test_a_device_without_its_driver_is_refused_and_auto_takes_the_cpu(
    features_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime falls back to the CPU, for example if its CUDA package finds no driver."""
    here = onnxruntime.get_available_providers()
    device = next(name for name, provider in DEVICES.items() if provider not in here)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*here, DEVICES[device]])
    with pytest.warns(UserWarning, match="provider"):
        message = _refusal(features_folder, device)
    fallback = f"got ONNX Runtime falls back from {DEVICES[device]} to "
    assert message.startswith(f"device '{device}' cannot be used ({fallback}")
    monkeypatch.setattr("reactometer.inference.runtime.AUTOMATIC", (device, "cpu"))
    with pytest.warns(UserWarning, match="provider"):
        assert load_model(features_folder, "auto").device == "cpu"


def test_a_graph_that_is_missing_or_changed_is_refused(copy: Path) -> None:
    for name in ("face.onnx", "head.onnx"):
        whole = (copy / name).read_bytes()
        (copy / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert f"{copy / name}: not the file that model.json names (got SHA-256" in _refusal(copy)
        (copy / name).unlink()
        assert _refusal(copy).startswith(f"{copy}: damaged checkpoint: no {name}")
        (copy / name).write_bytes(whole)
    (copy / "weights.safetensors").unlink()
    assert load_model(copy).labels  # only training needs them


def test_a_graph_of_another_model_is_refused(copy: Path, features_folder: Path, tmp_path: Path) -> None:
    """The SHA-256 differs; with a matching SHA-256, inputs and outputs differ."""
    shutil.copy(features_folder / "head.onnx", copy / "head.onnx")
    assert f"{copy / 'head.onnx'}: not the file that model.json names" in _refusal(copy)
    digest = sha256_of(copy / "head.onnx")
    other = _changed(copy, tmp_path / "other", lambda about: about["sha256"].update({"head.onnx": digest}))
    message = _refusal(other)
    assert message.startswith(f"{other / 'head.onnx'}: inputs do not fit model.json (got ")
    assert "'voice': ('float', (2,))" in message and "'voice': ('float', (64,))" in message


@pytest.mark.parametrize(
    ("edit", "graph"),
    [
        (lambda about: about.update(labels=["Joy", "Awe"]), "head.onnx"),
        (lambda about: about["inputs"].pop("voice"), "head.onnx"),
        (lambda about: about["inputs"]["voice"].update(kind="features", feature_size=65), "head.onnx"),
        (lambda about: about["config"]["model"].update(size_px=64), "face.onnx"),
        (lambda about: about["inputs"]["face"].update(kind="clips", n_frames=16), "face.onnx"),
    ],
)
def test_a_description_of_other_graphs_is_refused(
    model_folder: Path, tmp_path: Path, edit: Edit, graph: str
) -> None:
    folder = _changed(model_folder, tmp_path / "model", edit)
    message = _refusal(folder)
    assert message.startswith(f"{folder / graph}: ") and "do not fit model.json (got " in message


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1.5, -0.1])
def test_a_graph_with_invalid_intensities_raises_an_error(features_folder: Path, wrong: float) -> None:
    networks = load_model(features_folder, "cpu").networks
    outputs = [np.array([[0.5, wrong]], np.float32)]
    opening = Future[Any]()
    opening.set_result(SimpleNamespace(run=lambda *_: outputs))
    networks = replace(networks, head=replace(networks.head, opening=opening))
    times_s = np.zeros(1, np.float32)
    item = item_of(
        np.zeros((1, 3), np.float32), np.ones(1, bool), times_s, np.zeros((1, 2), np.float32), times_s
    )
    with pytest.raises(ModelError, match=r"returns invalid intensities .*expected 0 to 1"):
        networks.score([item])


@pytest.mark.parametrize(
    "labels",
    [
        [],
        "Joy",
        {"Joy": 1},
        ["1", 1],
        ["Joy", "Joy"],
        ["Joy", ""],
        ["Joy\n", "Fear"],
        ["Joy", "x" * 101],
        ["=1", "Joy"],
    ],
)
def test_invalid_labels_are_refused(features_folder: Path, tmp_path: Path, labels: object) -> None:
    folder = _changed(features_folder, tmp_path / "model", lambda about: about.update(labels=labels))
    assert "damaged checkpoint: model.json: labels" in _refusal(folder)


def test_labels_of_1_to_100_characters_are_accepted(features_folder: Path, tmp_path: Path) -> None:
    labels = ["J", "x" * 100]
    folder = _changed(features_folder, tmp_path / "model", lambda about: about.update(labels=labels))
    assert list(load_model(folder).labels) == labels


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda about: about.update(format=99), "another format of checkpoint"),
        (lambda about: about.update(format="4"), "another format of checkpoint"),
        (lambda about: about.pop("format"), "another format of checkpoint"),
        (lambda about: about.pop("inputs"), "inputs: Field required"),
        (lambda about: about["inputs"]["face"].update(kind="code"), "inputs.face.kind"),
        (lambda about: about["inputs"]["face"].update(feature_size="3"), "inputs.face.feature_size"),
        (lambda about: about.update(encoders=[1]), "encoders"),
        (lambda about: about["config"]["model"].update(evil=1), "config.model.evil"),
        (lambda about: about.update(sha256={"head.onnx": 3}), "sha256.head.onnx"),
        (lambda about: about.update(sha256={}), "not the file that model.json names"),
        (lambda about: about.update(precision="int4"), "precision"),
    ],
)
def test_a_changed_description_is_refused(
    features_folder: Path, tmp_path: Path, edit: Edit, message: str
) -> None:
    assert message in _refusal(_changed(features_folder, tmp_path / "model", edit))


@pytest.mark.parametrize(
    "text", ["[" * 200_000, "{", "\xff\xfe", '{"format": NaN}', "null", "[]", " " * (2**24 + 1)]
)
def test_an_invalid_description_is_refused(small: Path, text: str) -> None:
    (small / "model.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match=r"damaged|another format"):
        load_model(small)


def test_a_folder_without_a_checkpoint_is_refused(small: Path, tmp_path: Path) -> None:
    assert "no such checkpoint" in _refusal(str(tmp_path / "nowhere"))
    assert "not a checkpoint: no model.json" in _refusal(tmp_path)
    assert f"it is a file. hint: Use {small}" in _refusal(small / "model.json")
    small.rename(tmp_path / "model")
    assert f"Use {tmp_path / 'model'}" in _refusal(tmp_path)


def test_an_ensemble_contains_unchanged_members(features_folder: Path, tmp_path: Path) -> None:
    def edit(about: dict[str, Any]) -> None:
        about["config"]["training"]["seed"] = 1
        about["config"]["model"]["hidden"] = 16  # members may differ in size

    other = _changed(features_folder, tmp_path / "other", edit)
    folder = join_models([features_folder, str(other)], str(tmp_path / "joint"))
    assert folder == tmp_path / "joint"
    assert {path.name for path in folder.iterdir()} == {"00", "01", "model.json"}
    for name, source in (("00", features_folder), ("01", other)):
        for file in source.iterdir():
            assert (folder / name / file.name).read_bytes() == file.read_bytes()
    shutil.rmtree(other)  # a copy needs its source no more
    joint, first = load_model(folder), load_model(features_folder)
    assert joint.description == {
        "format": 5,
        "reactometer": version("reactometer"),
        "labels": ["Joy", "Fear"],
        "members": ["00", "01"],
    }
    assert (joint.labels, joint.sampling, joint.config) == (first.labels, first.sampling, first.config)
    assert [member.config.training.seed for member in joint.members] == [0, 1]
    save_uncertainty(folder, SURE)
    joint = load_model(folder)
    assert (joint.uncertainty, joint.ensemble[0].uncertainty) == (SURE, None)


def test_equal_graphs_of_members_are_opened_once(model_folder: Path, tmp_path: Path) -> None:
    """The members share a frozen encoder and differ in their heads."""
    head = onnx.load(model_folder / "head.onnx")
    head.doc_string = "another one"
    onnx.save(head, tmp_path / "head.onnx")
    digest = sha256_of(tmp_path / "head.onnx")
    other = _changed(
        model_folder, tmp_path / "other", lambda about: about["sha256"].update({"head.onnx": digest})
    )
    shutil.copy(tmp_path / "head.onnx", other)
    joint = load_model(join_models([model_folder, other, other], tmp_path / "joint"), "cpu")
    faces, heads = (
        [id(graph.session) for graph in graphs]
        for graphs in zip(
            *((one.networks.encoders["face"], one.networks.head) for one in joint.members), strict=True
        )
    )
    assert len(set(faces)) == 1
    assert heads[0] != heads[1] == heads[2]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda about: about.update(labels=["Joy", "Anger"]),
            "labels differ from {} (got ('Joy', 'Anger'); expected ('Joy', ",
        ),
        (
            lambda about: about["config"]["data"].update(features={"face": "AU*"}),
            "inputs of stream 'face' differ from {} (got ([], 'AU*'); expected ([], None)",
        ),
    ],
)
def test_different_models_are_not_joined(
    features_folder: Path, tmp_path: Path, edit: Edit, message: str
) -> None:
    other = _changed(features_folder, tmp_path / "other", edit)
    with pytest.raises(ModelError) as caught:
        join_models([features_folder, other], tmp_path / "joint")
    assert str(caught.value).startswith(f"{other}: {message.format(features_folder)}")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]  # nothing half-made is left


def test_invalid_ensembles_are_refused(features_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"ensemble needs several models \(got 1; expected at least 2"):
        join_models([features_folder], tmp_path / "joint")
    joint = join_models([features_folder, features_folder], tmp_path / "joint")
    for folders in ([joint, features_folder], [features_folder, joint]):
        with pytest.raises(ModelError, match=rf"{joint}.*ensemble"):
            join_models(folders, tmp_path / "more")
    before = (joint / "model.json").read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        join_models([features_folder, features_folder], joint)
    assert (joint / "model.json").read_bytes() == before


@pytest.mark.parametrize("members", [[], 3, ["."], [".."], ["../model"], ["0\n"], [0], None])
def test_an_ensemble_with_odd_members_is_refused(
    features_folder: Path, tmp_path: Path, members: object
) -> None:
    joint = join_models([features_folder, features_folder], tmp_path / "joint")
    assert "members" in _refusal(
        _changed(joint, tmp_path / "odd", lambda about: about.update(members=members))
    )


def test_an_ensemble_with_a_damaged_member_is_refused(features_folder: Path, tmp_path: Path) -> None:
    folder = join_models([features_folder, features_folder], tmp_path / "joint")
    (folder / "01" / "head.onnx").write_bytes(b"")
    assert _refusal(folder).startswith(f"{folder}/01/head.onnx: ")
    shutil.rmtree(folder / "01")
    assert _refusal(folder).startswith(f"{folder}/01: ")
    (folder / "01").symlink_to(folder)
    assert "ensemble of ensembles" in _refusal(folder)


def test_parts_are_weighted_by_length_and_empty_parts_are_ignored() -> None:
    def score(value: float, has_input: bool = True) -> Score:
        return Score(np.array([value], np.float32), ("face",) if has_input else ())

    assert join_parts([(60.0, score(0.2)), (30.0, score(0.8))]).intensities[0] == pytest.approx(0.4)
    assert join_parts([(60.0, score(0.5, False)), (30.0, score(0.8))]).intensities[0] == pytest.approx(0.8)
    nothing = join_parts([(60.0, score(0.5, False))])
    assert not nothing.has_input
    assert nothing.intensities[0] == pytest.approx(0.5)


def test_scores_of_several_models_are_averaged_per_clip() -> None:
    def scores(*values: float) -> list[Score]:
        return [Score(np.array([value, 1.0], np.float32), ("face",)) for value in values]

    joined = average_scores([scores(0.2, 0.4), scores(0.0, 0.8)])
    assert [score.intensities.tolist() for score in joined] == [
        pytest.approx([0.1, 1]),
        pytest.approx([0.6, 1]),
    ]
    with pytest.raises(ValueError, match="zip"):
        average_scores([scores(0.2), scores(0.2, 0.4)])
