"""Model folders: they come back as they were, alone or joined, and a damaged one is refused with its reason."""

from __future__ import annotations

import json
import pickle
import shutil
import socket
import struct
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

from reactometer.config import Config
from reactometer.data.batches import MediaReader
from reactometer.data.cache import PreparedSet
from reactometer.errors import ModelError, OutputError
from reactometer.io import format_json, parse_json_object, sha256_of
from reactometer.models.folder import LoadedModel, choose_device, join_models, load_model, save_model
from reactometer.models.registry import build_model, load_encoders, sampling_of
from reactometer.models.scores import Score, average_scores, join_parts
from reactometer.models.scoring import score_rows
from reactometer.models.uncertainty import Basis, Curve, Uncertainty, save_uncertainty
from reactometer.paths import STARTER

SURE = Uncertainty(0.9, {"face": Basis(20, (0.1, 0.3))}, {})

Change = Callable[[str, object], Path]


def _save_small(folder: Path, labels: tuple[str, ...] = ("Joy", "Fear"), **sections: dict[str, object]) -> Path:
    """A network over three features of the face and two of the voice, its weights as they are drawn."""
    torch.manual_seed(0)
    model = {"name": "multimodal", "hidden": 8, "attention_heads": 2, **sections.pop("model", {})}
    config = Config.model_validate({"model": model, **sections})
    network = build_model(config.model, load_encoders(config.model, {"face": 3, "voice": 2}), [0.5] * len(labels))
    return save_model(folder, network, labels, config, data={"clips": 3}, metrics={"mae": 0.1})


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return _save_small(tmp_path / "small")


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
        "format": 3,
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
    folder = _save_small(tmp_path / "half", training={"store": "float16"})
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
        "format": 3,
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
    assert _refusal(small, engine="onnx").startswith(told)
    assert "Did you mean 'onnx'?" in _refusal(small, engine="onx")


def test_what_is_joined_goes_together(small: Path, tmp_path: Path) -> None:
    other = _save_small(tmp_path / "other", labels=("Joy", "Anger"))
    with pytest.raises(ModelError) as caught:
        join_models([small, other], tmp_path / "joint")
    told = "(got ('Joy', 'Anger'); expected ('Joy', 'Fear'))."
    assert str(caught.value) == f"{other}: another labels than {small} {told}"
    for what, sections in (
        ("sampling", {"model": {"n_frames": 5}}),
        ("preparation", {"prepare": {"rate_hz": 9.0}}),
        ("kind of features", {"data": {"face_features": "AU*"}}),
    ):
        other = _save_small(tmp_path / what, **sections)
        with pytest.raises(ModelError) as caught:
            join_models([small, other], tmp_path / "joint")
        assert str(caught.value).startswith(f"{other}: another {what} than {small} (got ")
    with pytest.raises(ModelError) as caught:
        join_models([small], tmp_path / "joint")
    assert "an ensemble needs several models" in str(caught.value)
    wider = _save_small(tmp_path / "wider", model={"hidden": 16})  # how a member is made is its own affair
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


def test_what_is_no_model_folder(small: Path, tmp_path: Path, change: Change) -> None:
    assert "no such model folder" in _refusal(str(tmp_path / "nowhere"))
    assert "no model.json" in _refusal(tmp_path)
    folder = Path(shutil.copytree(small, tmp_path / "model"))
    assert f"Give {folder}" in _refusal(tmp_path)
    (folder / "weights.safetensors").unlink()
    assert "no weights.safetensors" in _refusal(folder)
    for other in (1, 2, "3", None):
        assert "another format" in _refusal(change("format", other))
    for text in ("[]", "{", " " * (2**24 + 1)):
        (small / "model.json").write_text(text)
        assert "damaged" in _refusal(small)


def test_devices() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(ModelError, match="gpu9"):
        choose_device("gpu9")


def test_intensities_are_recalibrated_where_the_model_was(small: Path) -> None:
    score = Score(0, np.array([0.4, 0.8], np.float32), saw=True, heard=False)
    loaded, halved = load_model(small), Curve((0.0, 1.0), (0.0, 0.5))
    assert loaded.intensities_of(score) is score.intensities
    sure = replace(SURE, recalibration=(halved, halved))
    assert replace(loaded, uncertainty=sure).intensities_of(score) == pytest.approx([0.2, 0.4])


@pytest.fixture
def copy(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


def test_a_folder_explains_itself(model_folder: Path) -> None:
    assert sorted(path.name for path in model_folder.iterdir()) == ["model.json", "weights.safetensors"]
    about = json.loads((model_folder / "model.json").read_text())
    assert about["labels"][0] == "Adoration"
    assert about["config"]["model"]["name"] == "multimodal"
    assert about["data"]["n_train_clips"] == 24
    assert about["metrics"]["split"] == "val"
    assert len(about["data"]["manifest_sha256"]) == len(about["sha256"]["weights.safetensors"]) == 64


def test_a_model_comes_back_as_it_was_saved(model_folder: Path, prepared: PreparedSet, tmp_path: Path) -> None:
    loaded = load_model(model_folder)
    again = save_model(
        tmp_path / "again",
        loaded.network,
        loaded.labels,
        Config.model_validate(loaded.description["config"]),
        data={},
        metrics={},
    )
    rows = prepared.split("test")
    for one, other in zip(
        score_rows(loaded.network, rows, MediaReader(loaded.sampling)),
        score_rows(load_model(again).network, rows, MediaReader(loaded.sampling)),
        strict=True,
    ):
        assert one.intensities.tolist() == other.intensities.tolist()


def test_half_precision_takes_half_the_room_and_gives_nearly_the_same(
    model_folder: Path, prepared: PreparedSet, tmp_path: Path
) -> None:
    loaded = load_model(model_folder)
    config = Config.model_validate(loaded.description["config"])
    config = config.model_copy(update={"training": config.training.model_copy(update={"store": "float16"})})
    half = save_model(tmp_path / "half", loaded.network, loaded.labels, config, data={}, metrics={})
    sizes = [(folder / "weights.safetensors").stat().st_size for folder in (half, model_folder)]
    assert sizes[0] < 0.6 * sizes[1]
    again = load_model(half)
    assert all(weights.dtype == torch.float32 for weights in again.network.parameters())
    rows, read = prepared.split("test"), MediaReader(loaded.sampling)
    for one, other in zip(score_rows(loaded.network, rows, read), score_rows(again.network, rows, read), strict=True):
        assert one.intensities == pytest.approx(other.intensities, abs=2e-3)


@pytest.mark.parametrize("batch_size", [1, 3, 40])
def test_scores_do_not_depend_on_the_batch_size(model_folder: Path, prepared: PreparedSet, batch_size: int) -> None:
    loaded = load_model(model_folder)
    read = MediaReader(loaded.sampling)
    reference = [score.intensities for score in score_rows(loaded.network, prepared.rows, read)]
    scores = score_rows(loaded.network, prepared.rows, read, batch_size=batch_size)
    for score, expected in zip(scores, reference, strict=True):
        assert score.intensities == pytest.approx(expected, abs=1e-5)


def test_parts_are_joined_by_length_and_empty_ones_do_not_count() -> None:
    def score(value: float, has_evidence: bool = True) -> Score:
        return Score(0, torch.tensor([value]).numpy(), saw=has_evidence, heard=False)

    assert join_parts(7, [(60.0, score(0.2)), (30.0, score(0.8))]).intensities[0] == pytest.approx(0.4)
    assert join_parts(7, [(60.0, score(0.5, False)), (30.0, score(0.8))]).intensities[0] == pytest.approx(0.8)
    nothing = join_parts(7, [(60.0, score(0.5, False))])
    assert (nothing.number, nothing.has_evidence) == (7, False)
    assert nothing.intensities[0] == pytest.approx(0.5)


def test_an_existing_folder_is_never_written_over(model_folder: Path) -> None:
    loaded = load_model(model_folder)
    before = (model_folder / "model.json").read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        save_model(model_folder, loaded.network, loaded.labels, Config(), data={}, metrics={})
    assert (model_folder / "model.json").read_bytes() == before


def test_changed_weights_are_refused(copy: Path) -> None:
    weights = bytearray((copy / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "weights.safetensors").write_bytes(weights)
    with pytest.raises(ModelError, match=r"model\.json.*SHA-256"):
        load_model(copy)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", 99, "another format of model folder"),
        ("labels", ["a"], "damaged model folder"),
        ("labels", ["a", "a", "b", "c", "d", "e", "f"], "labels"),
        ("labels", ["a\nb"], r"a label that is no name: 'a\\nb'"),
        ("labels", ["a" * 101], "a label that is no name"),
        ("labels", ["=cmd()"], r"a label that is no name: '=cmd\(\)'"),
        ("labels", {"a": 1}, "labels"),
        ("encoders", {}, "damaged model folder"),
        ("encoders", [1], "encoders"),
        ("config", {"model": {"name": "resnet50", "evil": 1}, "prepare": {}}, "damaged model folder"),
    ],
)
def test_a_changed_description_is_refused(copy: Path, key: str, value: object, message: str) -> None:
    description = parse_json_object((copy / "model.json").read_text())
    (copy / "model.json").write_text(format_json({**description, key: value}))
    with pytest.raises(ModelError, match=message):
        load_model(copy)


@pytest.mark.parametrize("text", ["[" * 200_000, "{", "\xff\xfe", '{"format": NaN}', "null", "[]"])
def test_a_description_that_is_none_is_refused(copy: Path, text: str) -> None:
    (copy / "model.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match=r"damaged|another format"):
        load_model(copy)


def _with_weights(folder: Path, data: bytes) -> Path:
    """The folder with other weights that its description names."""
    (folder / "weights.safetensors").write_bytes(data)
    description = parse_json_object((folder / "model.json").read_text())
    description["sha256"]["weights.safetensors"] = sha256(data).hexdigest()
    (folder / "model.json").write_text(format_json(description))
    return folder


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(copy: Path, number: float) -> None:
    weights = load_file(copy / "weights.safetensors")
    name = next(name for name, tensor in weights.items() if tensor.is_floating_point())
    weights[name].view(-1)[0] = number
    with pytest.raises(ModelError, match=f"damaged.*no numbers.*{name}"):
        load_model(_with_weights(copy, save(weights)))


class _Harmful:
    """Unpickled, it would write a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("harm-was-done"),))


def test_a_pickle_is_no_weights(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"output.weight": _Harmful()}, tmp_path / "pickle.pt")
    for data in ((tmp_path / "pickle.pt").read_bytes(), pickle.dumps(_Harmful())):
        with pytest.raises(ModelError, match="damaged"):
            load_model(_with_weights(copy, data))
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps(_Harmful()))
    assert not (tmp_path / "harm-was-done").exists()


@pytest.mark.parametrize("length", [2**63, 2**32, 10, 0])
def test_a_head_that_lies_is_refused(copy: Path, length: int) -> None:
    head = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    for data in (struct.pack("<Q", length) + head, struct.pack("<Q", len(head)) + head):
        with pytest.raises(ModelError, match="damaged"):
            load_model(_with_weights(copy, data))


def test_an_ensemble_that_holds_itself_is_refused(model_folder: Path, tmp_path: Path) -> None:
    folder = join_models([model_folder, model_folder], tmp_path / "joint")
    shutil.rmtree(folder / "01")
    (folder / "01").symlink_to(folder)
    with pytest.raises(ModelError, match="ensemble of ensembles"):
        load_model(folder)


def test_loading_writes_nothing_and_asks_no_network(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("it asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    before = {file: file.stat().st_mtime_ns for file in model_folder.rglob("*")}
    load_model(model_folder)
    load_model(STARTER)
    assert {file: file.stat().st_mtime_ns for file in model_folder.rglob("*")} == before


def _save(loaded: LoadedModel, folder: Path, labels: tuple[str, ...] = (), **sections: dict[str, object]) -> Path:
    """A model folder of the same weights with other settings or labels."""
    updates = {name: getattr(loaded.config, name).model_copy(update=own) for name, own in sections.items()}
    config = loaded.config.model_copy(update=updates)
    return save_model(folder, loaded.network, labels or loaded.labels, config, data={}, metrics={})


def test_an_ensemble_holds_its_members_as_they_were(model_folder: Path, tmp_path: Path) -> None:
    other = _save(load_model(model_folder), tmp_path / "other", training={"seed": 1})
    folder = join_models([model_folder, other], tmp_path / "joint")
    assert {path.name for path in folder.iterdir()} == {"00", "01", "model.json"}
    for name, source in (("00", model_folder), ("01", other)):
        for file in source.iterdir():
            assert (folder / name / file.name).read_bytes() == file.read_bytes()
    joint, first = load_model(folder), load_model(model_folder)
    assert joint.description["members"] == ["00", "01"]
    assert joint.description["labels"] == list(first.labels)
    assert (joint.labels, joint.sampling, joint.config) == (first.labels, first.sampling, first.config)
    assert [member.config.training.seed for member in joint.each] == [0, 1]
    assert first.each == (first,)
    shutil.rmtree(other)  # a copy needs its source no more
    assert len(load_model(folder).members) == 2


@pytest.mark.slow
def test_what_does_not_go_together_is_not_joined(model_folder: Path, tmp_path: Path) -> None:
    first = load_model(model_folder)
    with pytest.raises(ModelError, match=r"ensemble.*1; .*2"):
        join_models([model_folder], tmp_path / "joint")
    labels = _save(first, tmp_path / "labels", labels=tuple("abcdefg"))
    with pytest.raises(ModelError, match=rf"{labels}.*labels.*{model_folder}"):
        join_models([model_folder, labels], tmp_path / "joint")
    sampling = _save(first, tmp_path / "sampling", model={"n_frames": 5})
    with pytest.raises(ModelError, match=r"n_frames=5.*n_frames=4"):
        join_models([model_folder, sampling], tmp_path / "joint")
    rate = _save(first, tmp_path / "rate", prepare={"rate_hz": 9.0})
    with pytest.raises(ModelError, match=r"rate_hz=9\.0.*rate_hz=4\.0"):
        join_models([model_folder, rate], tmp_path / "joint")
    assert not (tmp_path / "joint").exists()
    joint = join_models([model_folder, model_folder], tmp_path / "joint")
    for folders in ([joint, model_folder], [model_folder, joint]):
        with pytest.raises(ModelError, match=rf"{joint}.*ensemble"):
            join_models(folders, tmp_path / "more")
    before = (joint / "model.json").read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        join_models([model_folder, model_folder], joint)
    assert (joint / "model.json").read_bytes() == before
    assert not list(tmp_path.glob(".*"))  # nothing half-made is left


@pytest.mark.parametrize("members", [[], 3, ["."], [".."], ["../model"], None])
def test_an_ensemble_with_odd_members_is_refused(model_folder: Path, tmp_path: Path, members: object) -> None:
    folder = join_models([model_folder, model_folder], tmp_path / "joint")
    description = parse_json_object((folder / "model.json").read_text())
    (folder / "model.json").write_text(format_json({**description, "members": members}))
    with pytest.raises(ModelError, match="members"):
        load_model(folder)


def test_an_ensemble_with_a_damaged_member_is_refused(model_folder: Path, tmp_path: Path) -> None:
    folder = join_models([model_folder, model_folder], tmp_path / "joint")
    (folder / "01" / "weights.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"01/weights\.safetensors"):
        load_model(folder)
    shutil.rmtree(folder / "01")
    with pytest.raises(ModelError, match="01: "):
        load_model(folder)


def test_scores_are_averaged_clip_by_clip_whatever_their_order() -> None:
    def scores(*pairs: tuple[int, float]) -> list[Score]:
        return [Score(number, torch.tensor([value, 1.0]).numpy(), saw=True, heard=False) for number, value in pairs]

    joined = average_scores([scores((0, 0.2), (1, 0.4)), scores((1, 0.8), (0, 0.0))])
    assert [score.number for score in joined] == [0, 1]
    assert [score.intensities.tolist() for score in joined] == [pytest.approx([0.1, 1]), pytest.approx([0.6, 1])]
    with pytest.raises(ValueError, match="zip"):
        average_scores([scores((0, 0.2)), scores((0, 0.2), (1, 0.4))])
