"""Model folders pushed to a Hub and pulled from it: the same scores bit for bit, nothing else, nothing wrong kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from small_hub import TOKEN, SmallHub, look_at, running_hub
from small_weights import damage
from typer.testing import CliRunner

from reactometer.cli import app
from reactometer.config import Config
from reactometer.data.batches import Item, collate
from reactometer.errors import ConfigError, ModelError, OutputError, WeightsError
from reactometer.io import format_json, parse_json_object
from reactometer.models.card import model_card
from reactometer.models.folder import join_models, load_model, save_model
from reactometer.models.hub import pull, push
from reactometer.models.zoo import build_model, load_encoders

NAME = "anna/faces"
MODEL = {"README.md", "model.json", "weights.safetensors"}


def make(folder: Path, **model: object) -> Path:
    """A model folder of random weights, with metrics that no one measured."""
    settings = {"name": "resnet50", "encoder": "random:resnet-tiny", "size_px": 32, "n_frames": 4, **model}
    config = Config.model_validate({"model": settings})
    network = build_model(config.model, load_encoders(config.model), [0.2, 0.6])
    torch.nn.init.normal_(next(network.output.parameters()), std=0.5)
    scores = {"pearson": 0.25, "ccc": 0.125, "mae": 0.0625}
    metrics = {"split": "val", "n_clips": 7, **{key: {"Joy": value, "Fear": None} for key, value in scores.items()}}
    metrics |= {f"mean_{key}": value for key, value in scores.items()}
    data = {"name": "seen-nowhere", "n_train_clips": 24, "n_val_clips": 7}
    return save_model(folder, network, ["Joy", "Fear"], config, data=data, metrics=metrics)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(5)
    return make(tmp_path_factory.mktemp("source") / "model")


@pytest.fixture
def model(source: Path, tmp_path: Path) -> Path:
    """A copy of the model folder, which a test may change."""
    return Path(shutil.copytree(source, tmp_path / "model"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallHub]:
    with running_hub(tmp_path / "hub", monkeypatch) as server:
        yield server


def scores(folder: Path) -> list[torch.Tensor]:
    """What each member of a model says of two clips, one with a frame that is not seen."""
    generator = np.random.default_rng(0)
    nothing = np.zeros((0, 64), np.float32)
    items = [
        Item(
            generator.integers(0, 255, (4, 3, 32, 32), dtype=np.uint8),
            np.array([True, seen, True, True]),
            np.arange(4, dtype=np.float32),
            nothing,
            nothing[:, 0],
        )
        for seen in (True, False)
    ]
    with torch.inference_mode():
        return [member.network(collate(items, 2)) for member in load_model(folder, "cpu").each]


def same(folder: Path, other: Path) -> bool:
    return all(torch.equal(one, two) for one, two in zip(scores(folder), scores(other), strict=True))


def inside(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_what_was_pushed_and_pulled_scores_the_same_bit_for_bit(hub: SmallHub, model: Path, tmp_path: Path) -> None:
    (model / "secret.txt").write_text("mine")
    (model / "old.pt").write_bytes(b"\x80\x04.")
    kept = {"degradation.json", "degradation.png"}
    for name in kept:
        (model / name).write_text("how the score falls")
    pushed = push(model, NAME)
    assert (pushed.url, pushed.revision, pushed.wrote_card) == (f"{hub.url}/{NAME}", hub.revision(NAME), True)
    assert set(hub.commits[NAME][-1]) == {*MODEL, *kept, ".gitattributes"}
    assert NAME not in hub.private
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert pull(NAME, tmp_path / "pulled") == tmp_path / "pulled"
    assert inside(tmp_path / "pulled") == {*MODEL, *kept}
    assert same(tmp_path / "pulled", model)
    assert not torch.equal(*scores(model)[0])


def test_an_ensemble_goes_with_its_members_and_a_later_model_leaves_none_of_them(
    hub: SmallHub, model: Path, tmp_path: Path
) -> None:
    other = make(tmp_path / "other")
    joint = join_models([model, other], tmp_path / "joint")
    push(joint, NAME)
    pull(NAME, tmp_path / "pulled")
    members = {f"{member}/{file}" for member in ("00", "01") for file in ("model.json", "weights.safetensors")}
    assert inside(tmp_path / "pulled") == {"README.md", "model.json", *members}
    assert same(tmp_path / "pulled", joint)
    assert "An ensemble of 2 models" in (tmp_path / "pulled" / "README.md").read_text()
    push(model, NAME)
    assert set(hub.commits[NAME][-1]) == {*MODEL, ".gitattributes"}


def test_a_revision_stays_what_it_was(hub: SmallHub, model: Path, tmp_path: Path) -> None:
    first = push(model, NAME)
    other = make(tmp_path / "other")
    second = push(other, NAME)
    assert first.revision != second.revision
    assert same(pull(NAME, tmp_path / "first", revision=first.revision), model)
    assert same(pull(NAME, tmp_path / "newest"), other)
    with pytest.raises(WeightsError, match=r"'anna/faces'.*revision"):
        pull(NAME, tmp_path / "none", revision="v9")


def test_the_card_says_what_the_model_says_of_itself(source: Path) -> None:
    loaded = load_model(source, "cpu")
    card = model_card(loaded, NAME)
    header = card.split("---\n")[1]
    assert header == 'library_name: "reactometer"\ntags: ["emotional-reaction-intensity"]\n'
    for text in (
        "# faces\n",
        "each of 2 labels (Joy, Fear)",
        f"reactometer pull {NAME} model\nreactometer predict --model model video.mp4",
        "System: resnet50. face: resnet of transformers; joined by: mean.",
        "Trained on seen-nowhere: 24 clips to learn from, 7 to choose on. Seed 0.",
        "Scores on the 7 clips of the val split, on which its epoch was chosen:",
        "| Joy | 0.2500 | 0.1250 | 0.0625 |",
        "| Fear | undefined | undefined | undefined |",
        "| mean | 0.2500 | 0.1250 | 0.0625 |",
    ):
        assert text in card
    description = json.loads((source / "model.json").read_text())
    description["encoders"]["face"]["pretrained"] = True
    config = loaded.config.model_copy(update={"model": loaded.config.model.model_copy(update={"encoder": None})})
    card = model_card(type(loaded)(loaded.network, loaded.labels, loaded.sampling, config, description), NAME)
    assert 'base_model: ["microsoft/resnet-50"]\n' in card
    assert "Started from microsoft/resnet-50, licence: Apache-2.0." in card


def test_a_card_of_ones_own_is_left_alone(hub: SmallHub, model: Path) -> None:
    (model / "README.md").write_text("Mine.")
    assert not push(model, NAME).wrote_card
    assert hub.commits[NAME][-1]["README.md"] == b"Mine."


def test_private_means_private(hub: SmallHub, model: Path) -> None:
    push(model, NAME, private=True)
    assert NAME in hub.private
    push(model, NAME, private=True)
    push(model, "anna/open")
    commits = len(hub.commits["anna/open"])
    with pytest.raises(OutputError, match=r"'anna/open'.*public"):
        push(model, "anna/open", private=True)
    assert len(hub.commits["anna/open"]) == commits


def test_a_model_that_is_damaged_is_not_pushed(hub: SmallHub, model: Path) -> None:
    damage(model / "weights.safetensors")
    with pytest.raises(ModelError, match=r"model\.json"):
        push(model, NAME)
    assert hub.commits == {}
    assert not (model / "README.md").exists()


@pytest.mark.parametrize("name", ["faces", "anna/", "/faces", "a/b/c", "anna/fa ces", "../x y"])
def test_what_is_no_name_of_a_repository_is_refused(hub: SmallHub, model: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="repository"):
        push(model, name)
    with pytest.raises(ConfigError, match=r"got .*; expected OWNER/NAME"):
        pull(name, tmp_path / "out")
    assert hub.asked == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("weights", rf"{NAME}/weights\.safetensors: not the weights that model\.json names"),
        ("no weights", rf"{NAME}: not a model folder: no weights\.safetensors"),
        ("no description", rf"'{NAME}' on the Hub is no model folder: no model\.json"),
        (
            "kernel",
            r"its encoder asks for code or a network from elsewhere \(got attn_implementation = 'evil/kernel'\)",
        ),
    ],
)
def test_a_wrong_model_never_stays(hub: SmallHub, model: Path, tmp_path: Path, wrong: str, message: str) -> None:
    if wrong == "weights":
        hub.damaged.add("weights.safetensors")
    elif wrong == "kernel":
        description = parse_json_object((model / "model.json").read_text())
        description["encoders"]["face"]["config"]["attn_implementation"] = "evil/kernel"
        (model / "model.json").write_text(format_json(description))
    else:
        (model / ("model.json" if wrong == "no description" else "weights.safetensors")).unlink()
    hub.put(NAME, model)
    with pytest.raises(ModelError, match=message) as caught:
        pull(NAME, tmp_path / "pulled")
    assert str(tmp_path / ".pulled") not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"model", "hub"}


def test_code_of_a_repository_is_neither_fetched_nor_run(hub: SmallHub, model: Path, tmp_path: Path) -> None:
    description = parse_json_object((model / "model.json").read_text())
    description["encoders"]["face"]["config"]["auto_map"] = {"AutoModel": "modeling.Evil", "AutoConfig": "evil--a.B"}
    (model / "model.json").write_text(format_json(description))
    (model / "modeling.py").write_text("raise SystemExit")
    (model / "weights.pt").write_bytes(b"\x80\x04.")
    hub.put(NAME, model)
    pull(NAME, tmp_path / "pulled")
    assert inside(tmp_path / "pulled") == {"model.json", "weights.safetensors"}
    assert not [path for _, path, _ in hub.asked if path.endswith((".py", ".pt"))]


def test_what_is_there_is_not_pulled_over(hub: SmallHub, model: Path, tmp_path: Path) -> None:
    push(model, NAME)
    hub.asked.clear()
    out = tmp_path / "mine"
    out.write_text("a file")
    with pytest.raises(OutputError, match="exists already"):
        pull(NAME, out)
    assert out.read_text() == "a file"
    assert hub.asked == []


@pytest.mark.parametrize(("status", "advice"), [(401, "hf auth login"), (403, "hf auth login"), (500, "network")])
def test_a_refusal_is_told_in_one_line(hub: SmallHub, model: Path, status: int, advice: str) -> None:
    hub.refused["/api/repos/create"] = status
    with pytest.raises(OutputError, match=f"cannot push to '{NAME}' on {hub.url}") as caught:
        push(model, NAME)
    assert advice in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_a_network_both_say_so(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look_at("http://127.0.0.1:9", tmp_path / "hub", monkeypatch)
    with pytest.raises(OutputError, match=r"cannot push.*http://127\.0\.0\.1:9"):
        push(model, NAME)
    with pytest.raises(WeightsError, match=r"cannot fetch.*http://127\.0\.0\.1:9"):
        pull(NAME, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_commands_do_the_same_and_say_what_comes_next(hub: SmallHub, model: Path, tmp_path: Path) -> None:
    run, out = CliRunner().invoke, tmp_path / "pulled"
    pushed = run(app, ["push", str(model), NAME, "--private"])
    assert pushed.exit_code == 0, pushed.output
    assert f"model: {hub.url}/{NAME}" in pushed.output
    assert "wrote README.md" in pushed.output
    assert NAME in hub.private
    revision = hub.revision(NAME)
    assert f"next: reactometer pull {NAME} OUT --revision {revision}" in pushed.output
    pulled = run(app, ["pull", NAME, str(out), "--revision", revision])
    assert pulled.exit_code == 0, pulled.output
    assert f"next: reactometer predict --model {out} VIDEO" in pulled.output
    assert same(out, model)
    assert run(app, ["weights", "verify", str(out)]).exit_code == 0
    damage(out / "weights.safetensors")
    wrong = run(app, ["weights", "verify", str(out)])
    assert wrong.exit_code == 1
    assert "0 of 1 are right" in wrong.stdout
