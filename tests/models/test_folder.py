"""Model folders: they come back as they were, alone or joined, and a damaged one is refused with its reason."""

from __future__ import annotations

import json
import pickle
import shutil
import socket
import struct
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from reactometer.config import Config
from reactometer.data.batches import MediaReader
from reactometer.data.cache import PreparedSet
from reactometer.errors import ModelError, OutputError
from reactometer.io import format_json, parse_json_object
from reactometer.models.folder import LoadedModel, join_models, load_model, save_model
from reactometer.models.registry import build_model, load_encoders
from reactometer.models.scores import Score, average_scores, join_parts
from reactometer.models.scoring import score_rows
from reactometer.paths import STARTER


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


def test_what_is_no_model_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model folder"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"model\.json"):
        load_model(tmp_path)


def test_the_run_around_a_model_points_to_it(model_folder: Path) -> None:
    with pytest.raises(ModelError, match=rf"model\.json.*{model_folder}"):
        load_model(model_folder.parent)


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


def test_an_unknown_device_is_refused(model_folder: Path) -> None:
    with pytest.raises(ModelError, match="gpu9"):
        load_model(model_folder, "gpu9")


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


def test_models_of_other_features_are_not_joined(model_folder: Path, tmp_path: Path) -> None:
    """Nor is one of features with one of media, though both are shown frames and sound."""
    first = load_model(model_folder)
    config = first.config.model_copy(update={"data": first.config.data.model_copy(update={"face_features": "AU*"})})
    given = load_encoders(config.model, {"face": 3, "voice": 2})
    network = build_model(config.model, given, [0.5] * 7)
    one = _save(replace(first, network=network, config=config), tmp_path / "one")
    other = _save(replace(first, network=network, config=config), tmp_path / "other", data={"face_features": "pose_*"})
    assert load_model(one).sampling == first.sampling
    for folder in (model_folder, other):
        with pytest.raises(ModelError, match=rf"features.*{one}.*'AU\*'"):
            join_models([one, folder], tmp_path / "joint")
    assert load_model(join_models([one, one], tmp_path / "joint")).network.given_sizes == {"face": 3, "voice": 2}


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
