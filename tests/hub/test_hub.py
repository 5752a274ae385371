"""Push and download checkpoints, download encoders: identical scores, and no damaged file remains."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_hub import TOKEN, SmallHub, look_at, running_hub
from typer.testing import CliRunner

from item_of import item_of
from reactometer.cli.app import app
from reactometer.config import Config
from reactometer.errors import ConfigError, ModelError, OutputError, WeightsError
from reactometer.hub.hub import download, push
from reactometer.hub.model_card import model_card
from reactometer.inference.checkpoint import join_models, load_model
from reactometer.io import format_json, parse_json_object
from reactometer.models.backbones import load_backbone
from reactometer.models.registry import build_model, load_encoders
from reactometer.paths import find_yunet
from reactometer.training.export import write_checkpoint
from reactometer.types import FloatArray

NAME, FOLDER = "anna/faces", "anna--faces"
FILES = {"model.json", "face.onnx", "head.onnx", "weights.safetensors"}
MODEL = {"README.md", *FILES}


def make(folder: Path, seed: int) -> Path:
    """A checkpoint of random weights, with metrics that no one measured."""
    torch.manual_seed(seed)
    settings = {"name": "resnet50", "encoder": "random:resnet-tiny", "size_px": 32, "n_frames": 4}
    config = Config.model_validate({"model": settings})
    network = build_model(config.model, load_encoders(config.model), [0.2, 0.6]).eval()
    torch.nn.init.normal_(next(network.output.parameters()), std=0.5)
    scores = {"pearson": 0.25, "ccc": 0.125, "mae": 0.0625}
    metrics = {
        "split": "val",
        "n_clips": 7,
        **{key: {"Joy": value, "Fear": None} for key, value in scores.items()},
    }
    metrics |= {f"mean_{key}": value for key, value in scores.items()}
    data = {"name": "seen-nowhere", "n_train_clips": 24, "n_val_clips": 7}
    return write_checkpoint(folder, network, ["Joy", "Fear"], config, data=data, metrics=metrics)


def damage(file: Path) -> None:
    """Change the last bit of a file."""
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("source") / "model", seed=5)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("other") / "model", seed=6)


@pytest.fixture
def model(source: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint, which a test may change."""
    return Path(shutil.copytree(source, tmp_path / "model"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallHub]:
    with running_hub(tmp_path / "hub", monkeypatch) as server:
        yield server


def scores(folder: Path) -> list[FloatArray]:
    """The intensities of two clips by each member of a model; a frame of one clip is not seen."""
    generator = np.random.default_rng(0)
    nothing = np.zeros((0, 64), np.float32)
    items = [
        item_of(
            generator.integers(0, 255, (4, 3, 32, 32), dtype=np.uint8),
            np.array([True, seen, True, True]),
            np.arange(4, dtype=np.float32),
            nothing,
            nothing[:, 0],
        )
        for seen in (True, False)
    ]
    networks = [member.networks for member in load_model(folder, "cpu").members]
    return [network.score([network.encode(item) for item in items])[0] for network in networks]


def same(folder: Path, other: Path) -> bool:
    return all(np.array_equal(one, two) for one, two in zip(scores(folder), scores(other), strict=True))


def inside(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_pushed_and_downloaded_checkpoint_has_identical_scores(
    hub: SmallHub, model: Path, tmp_path: Path
) -> None:
    (model / "secret.txt").write_text("mine")
    (model / "old.pt").write_bytes(b"\x80\x04.")
    extra_files = {"robustness.json", "robustness.png"}
    for name in extra_files:
        (model / name).write_text("how the score falls")
    pushed = push(model, NAME)
    assert pushed == hub.revision(NAME)
    assert set(hub.commits[NAME][-1]) == {*MODEL, *extra_files, ".gitattributes"}
    assert NAME not in hub.private
    assert hub.tokens == {f"Bearer {TOKEN}"}
    copy = download(NAME, tmp_path / "models")
    assert copy == tmp_path / "models" / FOLDER
    assert inside(copy) == {*MODEL, *extra_files}
    assert same(copy, model)
    assert same(download(NAME), model)
    assert not np.array_equal(*scores(model)[0])


def test_an_ensemble_is_pushed_with_its_members_and_a_later_model_replaces_them(
    hub: SmallHub, model: Path, other: Path, tmp_path: Path
) -> None:
    joint = join_models([model, other], tmp_path / "joint")
    push(joint, NAME)
    pulled = download(NAME, tmp_path / "models")
    members = {f"{member}/{file}" for member in ("00", "01") for file in FILES}
    assert inside(pulled) == {"README.md", "model.json", *members}
    assert same(pulled, joint)
    assert "An ensemble of 2 models" in (pulled / "README.md").read_text()
    push(model, NAME)
    assert set(hub.commits[NAME][-1]) == {*MODEL, ".gitattributes"}


def test_weights_may_be_left_out(hub: SmallHub, model: Path, tmp_path: Path) -> None:
    (model / "weights.safetensors").unlink()
    push(model, NAME)
    copy = download(NAME, tmp_path / "models")
    assert inside(copy) == MODEL - {"weights.safetensors"}
    assert same(copy, model)


def test_a_revision_can_be_downloaded_after_a_later_push(
    hub: SmallHub, model: Path, other: Path, tmp_path: Path
) -> None:
    first, second = push(model, NAME), push(other, NAME)
    assert first != second
    assert same(download(NAME, tmp_path / "first", revision=first), model)
    assert same(download(NAME, tmp_path / "newest"), other)
    with pytest.raises(WeightsError, match="revision"):
        download(NAME, tmp_path / "none", revision="v9")


def test_the_card_has_the_facts_of_the_checkpoint(source: Path) -> None:
    loaded = load_model(source, "cpu")
    card = model_card(loaded, NAME)
    for text in (
        "# faces\n",
        "each of 2 labels (Joy, Fear)",
        f"reactometer predict video.mp4 -m {NAME}\n",
        "Architecture: resnet50.",
        "Trained on seen-nowhere: 24 training clips, 7 validation clips. Seed 0.",
        "Scores on the 7 clips of the val split",
        "| Joy | 0.2500 | 0.1250 | 0.0625 |",
        "| Fear | undefined | undefined | undefined |",
        "| mean | 0.2500 | 0.1250 | 0.0625 |",
    ):
        assert text in card
    description = json.loads((source / "model.json").read_text())
    description["encoders"]["face"]["pretrained"] = True
    config = loaded.config.model_copy(
        update={"model": loaded.config.model.model_copy(update={"encoder": None})}
    )
    card = model_card(replace(loaded, config=config, description=description), NAME)
    assert 'base_model: ["microsoft/resnet-50"]\n' in card
    assert "Started from microsoft/resnet-50, licence: Apache-2.0." in card


def test_an_existing_card_is_not_overwritten(hub: SmallHub, model: Path) -> None:
    (model / "README.md").write_text("Mine.")
    push(model, NAME)
    assert hub.commits[NAME][-1]["README.md"] == b"Mine."


def test_private_means_private(hub: SmallHub, model: Path) -> None:
    push(model, NAME, private=True)
    assert NAME in hub.private
    push(model, NAME, private=True)
    push(model, "anna/open")
    commits = len(hub.commits["anna/open"])
    with pytest.raises(OutputError, match="public"):
        push(model, "anna/open", private=True)
    assert len(hub.commits["anna/open"]) == commits


@pytest.mark.parametrize("name", ["face.onnx", "weights.safetensors"])
def test_a_model_that_is_damaged_is_not_pushed(hub: SmallHub, model: Path, name: str) -> None:
    damage(model / name)
    with pytest.raises(ModelError, match=f"{name}: not the file that model.json names"):
        push(model, NAME)
    assert hub.commits == {}
    assert not (model / "README.md").exists()


@pytest.mark.parametrize("name", ["faces", "anna/", "/faces", "a/b/c", "anna/fa ces", "../x y"])
def test_an_invalid_repository_name_is_refused(hub: SmallHub, model: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="OWNER/NAME"):
        push(model, name)
    with pytest.raises(ConfigError, match="OWNER/NAME"):
        download(name, tmp_path / "out")
    assert hub.requests == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("damaged head.onnx", rf"{NAME}/head\.onnx"),
        ("damaged weights.safetensors", rf"{NAME}/weights\.safetensors"),
        ("no face.onnx", rf"{NAME}.*no face\.onnx"),
        ("no model.json", r"model\.json"),
    ],
)
def test_a_wrong_model_never_stays(
    hub: SmallHub, model: Path, tmp_path: Path, wrong: str, message: str
) -> None:
    how, name = wrong.split()
    if how == "damaged":
        hub.damaged.add(name)
    else:
        (model / name).unlink()
    hub.put(NAME, model)
    with pytest.raises((ModelError, WeightsError), match=message) as caught:
        download(NAME, tmp_path / "models")
    assert str(tmp_path) not in str(caught.value)
    assert not list((tmp_path / "models").glob("*"))


def test_code_of_a_repository_is_neither_fetched_nor_run(hub: SmallHub, model: Path, tmp_path: Path) -> None:
    description = parse_json_object((model / "model.json").read_text())
    description["encoders"]["face"]["config"]["auto_map"] = {
        "AutoModel": "modeling.Evil",
        "AutoConfig": "evil--a.B",
    }
    (model / "model.json").write_text(format_json(description))
    (model / "modeling.py").write_text("raise SystemExit")
    (model / "weights.pt").write_bytes(b"\x80\x04.")
    hub.put(NAME, model)
    assert inside(download(NAME, tmp_path / "models")) == FILES
    assert not [path for _, path, _ in hub.requests if path.endswith((".py", ".pt"))]


def test_an_existing_folder_is_not_overwritten(hub: SmallHub, model: Path, tmp_path: Path) -> None:
    push(model, NAME)
    (tmp_path / FOLDER).write_text("a file")
    with pytest.raises(OutputError, match="exists"):
        download(NAME, tmp_path)
    assert (tmp_path / FOLDER).read_text() == "a file"


def test_an_encoder_is_downloaded_without_code_or_pickles_and_then_used(
    hub: SmallHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net: Any = load_backbone("random:resnet-tiny", "images").module
    net.save_pretrained(tmp_path / "net")
    (tmp_path / "net" / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2]}'
    )
    (tmp_path / "net" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    (tmp_path / "net" / "modeling.py").write_text("raise SystemExit")
    hub.put("somebody/tiny", tmp_path / "net")
    wanted = {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert inside(download("somebody/tiny")) == wanted
    copy = download("somebody/tiny", tmp_path / "weights")
    assert inside(copy) == wanted
    assert not [path for _, path, _ in hub.requests if path.endswith((".py", ".bin"))]
    hub.requests.clear()
    monkeypatch.setenv("REACTOMETER_WEIGHTS", str(tmp_path / "weights"))
    assert download("somebody/tiny") == copy
    assert load_backbone("somebody/tiny", "images").pretrained
    assert hub.requests == []


def test_an_encoder_without_safetensors_is_refused(hub: SmallHub, tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "config.json").write_text("{}")
    (tmp_path / "net" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    hub.put("somebody/old", tmp_path / "net")
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        download("somebody/old")


@pytest.mark.shared
def test_yunet_is_copied_into_a_folder_and_then_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = download("yunet", tmp_path / "weights")
    monkeypatch.setenv("REACTOMETER_WEIGHTS", str(tmp_path / "weights"))
    assert find_yunet() == download("yunet") == file


@pytest.mark.parametrize(
    ("status", "advice"), [(401, "hf auth login"), (403, "hf auth login"), (500, "network")]
)
def test_a_refusal_is_an_error_in_one_line(hub: SmallHub, model: Path, status: int, advice: str) -> None:
    hub.refused["/api/repos/create"] = status
    with pytest.raises(OutputError, match=f"cannot push to '{NAME}'") as caught:
        push(model, NAME)
    assert advice in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_a_network_both_say_so(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look_at("http://127.0.0.1:9", tmp_path / "hub", monkeypatch)
    with pytest.raises(OutputError, match="network"):
        push(model, NAME)
    with pytest.raises(WeightsError, match="network"):
        download(NAME, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_commands_push_and_download_and_print_the_next_step(
    hub: SmallHub, model: Path, tmp_path: Path
) -> None:
    run, out = CliRunner().invoke, tmp_path / "models"
    pushed = run(app, ["model", "push", NAME, "-m", str(model), "--private"])
    assert pushed.exit_code == 0, pushed.output
    assert f"model: {hub.url}/{NAME}" in pushed.output
    assert f"model card: {model / 'README.md'}" in pushed.output
    revision = hub.revision(NAME)
    assert f"next: reactometer predict VIDEO -m {NAME}@{revision}" in pushed.output
    downloaded = run(app, ["model", "download", f"{NAME}@{revision}", "-o", str(out)])
    assert downloaded.exit_code == 0, downloaded.output
    assert f"next: reactometer predict VIDEO -m {out / FOLDER}" in downloaded.output
    assert same(out / FOLDER, model)


def test_a_failed_download_is_listed_and_the_other_downloads_continue(
    hub: SmallHub, model: Path, tmp_path: Path
) -> None:
    push(model, NAME)
    result = CliRunner().invoke(app, ["model", "download", "anna/nothing", NAME, "-o", str(tmp_path)])
    assert result.exit_code == 1
    assert "1 failed:\n  anna/nothing" in result.output
    assert (tmp_path / FOLDER / "model.json").is_file()
