"""Model folders: they come back as they were, and a damaged one is refused with its reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from reactometer.data.batches import MediaReader
from reactometer.data.cache import PreparedSet
from reactometer.errors import ModelError, OutputError
from reactometer.models.folder import load_model, save_model
from reactometer.models.scoring import Score, join_parts, score_rows


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
    from reactometer.config import Config

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
        return Score(0, torch.tensor([value]).numpy(), has_evidence)

    assert join_parts(7, [(60.0, score(0.2)), (30.0, score(0.8))]).intensities[0] == pytest.approx(0.4)
    assert join_parts(7, [(60.0, score(0.5, False)), (30.0, score(0.8))]).intensities[0] == pytest.approx(0.8)
    nothing = join_parts(7, [(60.0, score(0.5, False))])
    assert (nothing.number, nothing.has_evidence) == (7, False)
    assert nothing.intensities[0] == pytest.approx(0.5)


def test_an_existing_folder_is_never_written_over(model_folder: Path) -> None:
    from reactometer.config import Config

    loaded = load_model(model_folder)
    before = (model_folder / "model.json").read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        save_model(model_folder, loaded.network, loaded.labels, Config(), data={}, metrics={})
    assert (model_folder / "model.json").read_bytes() == before


def test_what_is_no_model_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model folder"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"not a model folder: no model\.json"):
        load_model(tmp_path)


def test_the_run_around_a_model_points_to_it(model_folder: Path) -> None:
    with pytest.raises(ModelError, match=rf"no model\.json\. Give {model_folder}"):
        load_model(model_folder.parent)


def test_changed_weights_are_refused(copy: Path) -> None:
    weights = bytearray((copy / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "weights.safetensors").write_bytes(weights)
    with pytest.raises(ModelError, match=r"not the weights that model\.json names \(got SHA-256"):
        load_model(copy)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", 99, "another format of model folder"),
        ("labels", ["a"], "damaged model folder"),
        ("encoders", {}, "damaged model folder"),
        ("config", {"model": {"name": "resnet50", "evil": 1}, "prepare": {}}, "damaged model folder"),
    ],
)
def test_a_changed_description_is_refused(copy: Path, key: str, value: object, message: str) -> None:
    description = json.loads((copy / "model.json").read_text())
    (copy / "model.json").write_text(json.dumps({**description, key: value}))
    with pytest.raises(ModelError, match=message):
        load_model(copy)


def test_an_unknown_device_is_refused(model_folder: Path) -> None:
    with pytest.raises(ModelError, match="device 'gpu9' cannot be used"):
        load_model(model_folder, "gpu9")
