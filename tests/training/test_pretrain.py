"""Pre-training for real, on small drawn pictures: it learns, resumes, reports, and train takes what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from reactometer.cli import app
from reactometer.config import Config, PretrainConfig
from reactometer.data.cache import PreparedSet
from reactometer.errors import ConfigError, OutputError
from reactometer.models.encoders import load_frame_encoder
from reactometer.training.augment import erase
from reactometer.training.expression_report import measure_recognition
from reactometer.training.expressions import ExpressionTask
from reactometer.training.fit import train
from reactometer.training.pretrain import pretrain


@pytest.fixture(scope="module")
def mouths(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey discs with a mouth that points up or down, as Parquet with three splits."""
    folder, random = tmp_path_factory.mktemp("mouths"), np.random.default_rng(0)
    for split, n in (("train", 120), ("val", 40), ("test", 40)):
        rows = []
        for number in range(n):
            glad = number % 2 == 0
            pixels = random.integers(0, 90, (32, 32)).astype(np.uint8)
            cv2.circle(pixels, (16, 16), 13, 150, -1)
            cv2.ellipse(pixels, (16, 18 if glad else 25), (7, 5), 0, *((0, 180) if glad else (180, 360)), 20, 2)
            rows.append({"image": cv2.imencode(".png", pixels)[1].tobytes(), "label": "glad" if glad else "sad"})
        pd.DataFrame(rows).to_parquet(folder / f"{split}.parquet")
    return folder


def _config(data: Path, out: Path, **training: object) -> PretrainConfig:
    settings = {"epochs": 8, "batch_size": 16, "learning_rate": 3e-3, "ema_decay": 0.9, "out": out, **training}
    backbone = {"encoder": "random:resnet-tiny", "size_px": 32, "dropout": 0.0}
    return PretrainConfig.model_validate({"faces": {"path": data}, "backbone": backbone, "training": settings})


@pytest.fixture(scope="module")
def backbone(mouths: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone that has learnt the mouths."""
    return pretrain(_config(mouths, tmp_path_factory.mktemp("run")), progress=False)


def test_it_learns_and_says_how_well(backbone: Path, mouths: Path) -> None:
    report = json.loads((backbone / "expressions.json").read_text())
    assert list(report["scores"]) == ["val"]
    assert report["scores"]["val"]["accuracy"] > 0.9
    assert report["scores"]["val"]["interval"][0] < report["scores"]["val"]["accuracy"]
    assert np.sum(report["scores"]["val"]["confusion"]) == 40
    assert report["data"]["pictures"] == {"train": 120, "val": 40, "test": 40}
    assert "| val | 40 |" in (backbone / "README.md").read_text()
    assert cv2.imread(str(backbone / "confusion.png")) is not None


def test_test_is_scored_when_asked_for_and_without_training_again(mouths: Path, tmp_path: Path) -> None:
    config = _config(mouths, tmp_path / "run", epochs=1)
    folder = pretrain(config, progress=False)
    before = load_file(folder / "model.safetensors")
    assert pretrain(config, test=True, progress=False) == folder
    scores = json.loads((folder / "expressions.json").read_text())["scores"]
    assert list(scores) == ["val", "test"]
    assert scores["test"]["pictures"] == 40
    after = load_file(folder / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(OutputError, match="holds a run"):
        pretrain(config, progress=False)


def test_train_takes_it_by_path_with_its_weights_and_its_preparation(
    backbone: Path, small_config: Config, prepared: PreparedSet, tmp_path: Path
) -> None:
    encoder = load_frame_encoder(str(backbone), 48)
    assert encoder.pretrained
    coloured = torch.tensor([200, 30, 90], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 48, 48)
    luma = round(0.299 * 200 + 0.587 * 30 + 0.114 * 90)
    grey = torch.full((1, 3, 48, 48), luma, dtype=torch.uint8)
    pixels = encoder.pixels(coloured)
    assert torch.equal(pixels[:, 0], pixels[:, 1])
    torch.testing.assert_close(pixels, encoder.pixels(grey), atol=0.01, rtol=0)
    model = {"name": "resnet50", "encoder": str(backbone), "frozen": True, "pooling": "network"}
    config = small_config.model_copy(
        update={
            "data": small_config.data.model_copy(update={"path": prepared.folder}),
            "model": small_config.model.model_copy(update=model),
            "training": small_config.training.model_copy(update={"out": tmp_path / "run", "epochs": 1}),
        }
    )
    kept = load_file(train(config, progress=False) / "weights.safetensors")
    given = load_file(backbone / "model.safetensors")
    assert all(torch.equal(kept[f"face_encoder.net.{name}"], weight) for name, weight in given.items())


@pytest.mark.slow
def test_a_stopped_run_resumes_to_the_same_end(mouths: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pretrain(_config(mouths, tmp_path / "whole", epochs=3, mixup=0.2), progress=False)
    config, step = _config(mouths, tmp_path / "stopped", epochs=3, mixup=0.2), ExpressionTask.training_step

    def interrupted(task: ExpressionTask, batch: object, number: int) -> torch.Tensor:
        if task.current_epoch == 1:
            raise KeyboardInterrupt
        return step(task, batch, number)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(ExpressionTask, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config, progress=False)
    resumed = load_file(pretrain(config, resume=True, progress=False) / "model.safetensors")
    for name, tensor in load_file(whole / "model.safetensors").items():
        torch.testing.assert_close(resumed[name], tensor, atol=1e-6, rtol=1e-5)


def test_the_command(mouths: Path, tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text('[backbone]\nencoder = "random:resnet-tiny"\nsize_px = 32\n')
    options = ["training.epochs=1", "training.batch_size=16", f'training.out="{tmp_path / "run"}"']
    done = CliRunner().invoke(app, ["pretrain", str(tmp_path / "small.toml"), f"faces.path={mouths}", *options])
    assert done.exit_code == 0, done.output
    assert "model.encoder=" in done.stdout


def test_a_key_that_does_not_exist_and_a_test_split_that_does_not_are_told_of(mouths: Path, tmp_path: Path) -> None:
    (tmp_path / "wrong.toml").write_text("[training]\nlabel_smoothin = 0.1\n")
    with pytest.raises(ConfigError, match=r"label_smoothin'.*label_smoothing"):
        pretrain(tmp_path / "wrong.toml")
    for split in ("train", "val"):
        (tmp_path / f"{split}.parquet").write_bytes((mouths / f"{split}.parquet").read_bytes())
    with pytest.raises(ConfigError, match="no test split"):
        pretrain(_config(tmp_path, tmp_path / "run"), test=True, progress=False)


def test_recognition_counts_every_picture_once() -> None:
    classes = np.array([0, 0, 0, 1])
    probabilities = np.array([[[0.9, 0.1]] * 2, [[0.2, 0.8], [0.6, 0.4]], [[0.1, 0.9]] * 2, [[0.3, 0.7]] * 2])
    score = measure_recognition(classes, probabilities, ("a", "b", "c"))
    assert score.accuracy == 0.75
    assert score.without_mirror == 0.5
    assert score.confusion.tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert score.balanced_accuracy == pytest.approx((2 / 3 + 1) / 2)
    # Wilson's interval by its formula, z = 1.959964
    z, n, p = 1.959964, 4, 0.75
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert (score.low, score.high) == pytest.approx(
        ((middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)), abs=1e-6
    )


def test_some_pictures_lose_a_rectangle() -> None:
    torch.manual_seed(0)
    pictures = torch.zeros((200, 3, 20, 30), dtype=torch.uint8)
    lost = (erase(pictures, 0.5) == 128).all(1)  # (200, 20, 30)
    assert 70 < int(lost.any(2).any(1).sum()) < 130
    for one in lost[lost.any(2).any(1)]:
        assert int(one.sum()) == int(one.any(0).sum()) * int(one.any(1).sum())  # a rectangle
        assert 2 <= int(one.any(1).sum()) <= 11
    assert torch.equal(erase(pictures, 0.0), pictures)
