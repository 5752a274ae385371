"""The starter's recipe on small images: it learns, resumes, and ``train`` takes the encoder that it
writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from reactometer.config import load_config
from reactometer.data.cache import PreparedSet
from reactometer.inference.checkpoint import load_model
from reactometer.training.train import train
from small_networks import frame_encoder

RECIPE = Path(__file__).parents[1] / "recipes" / "starter"
CONFIG = """
[backbone]
encoder = "random:resnet-tiny"
size_px = 32
dropout = 0.0
[images]
mixup = 0.2
[training]
epochs = 8
batch_size = 16
accumulate = 1
learning_rate = 3e-3
ema_decay = 0.9
"""


def _write_mouths(folder: Path) -> None:
    """Write grey discs with a mouth that points up or down: train and test as Parquet, val as a folder per
    class."""
    random = np.random.default_rng(0)
    for split, n in (("train", 120), ("val", 40), ("test", 40)):
        rows = []
        for number in range(n):
            glad = number % 2 == 0
            pixels = random.integers(0, 90, (32, 32)).astype(np.uint8)
            cv2.circle(pixels, (16, 16), 13, 150, -1)
            cv2.ellipse(
                pixels, (16, 18 if glad else 25), (7, 5), 0, *((0, 180) if glad else (180, 360)), 20, 2
            )
            image, label = cv2.imencode(".png", pixels)[1].tobytes(), "glad" if glad else "sad"
            rows.append({"image": image, "label": label})
            if split == "val":
                (folder / "val" / label).mkdir(parents=True, exist_ok=True)
                (folder / "val" / label / f"{number}.png").write_bytes(image)
        if split != "val":
            pd.DataFrame(rows).to_parquet(folder / f"{split}.parquet")


@pytest.fixture
def pretrain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run the recipe's program with options; returns what it prints."""
    monkeypatch.syspath_prepend(str(RECIPE))
    monkeypatch.chdir(tmp_path)

    def pretrain(*options: str) -> str:
        from pretrain import main

        monkeypatch.setattr(sys, "argv", ["pretrain.py", "small.toml", "--faces", "faces", *options])
        main()
        return capsys.readouterr().out

    return pretrain


@pytest.mark.slow
def test_it_learns_and_train_takes_what_it_writes(
    prepared: PreparedSet, tmp_path: Path, pretrain: Callable[..., str]
) -> None:
    (tmp_path / "faces").mkdir()
    _write_mouths(tmp_path / "faces")
    (tmp_path / "small.toml").write_text(CONFIG, encoding="utf-8")
    assert "val: accuracy" in pretrain()
    backbone = tmp_path / "runs" / "small" / "backbone"
    before = load_file(backbone / "model.safetensors")
    assert "val: accuracy" in pretrain()  # without training again
    assert "test: accuracy" in pretrain("--test")
    after = load_file(backbone / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    scores = json.loads((backbone / "expressions.json").read_text(encoding="utf-8"))["scores"]
    assert scores["val"]["accuracy"] > 0.9
    assert np.sum(scores["test"]["confusion"]) == 40

    assert frame_encoder(str(backbone), 48).pixels.grey
    path, cache = tmp_path / "starter.toml", prepared.folder
    path.write_text((RECIPE / "starter.toml").read_text(encoding="utf-8"), encoding="utf-8")
    config = load_config(path, [f"data.path={cache}", f"model.encoder={backbone}", "training.epochs=1"])
    out = config.training.model_copy(update={"out": tmp_path / "run", "store": "float32"})
    model = train(config=config.model_copy(update={"training": out}), progress=False)
    stored = load_file(model / "weights.safetensors")
    assert all(torch.equal(stored[f"encoders.face.net.{name}"], weight) for name, weight in before.items())
    loaded, crops = (
        load_model(model),
        np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), dtype=np.uint8),
    )
    assert [stream.kind for stream in loaded.networks.inputs.values()] == ["frames", "contours"]
    assert max(loaded.description["proof"]["differences"].values()) < 1e-5
    with torch.inference_mode():
        expected = frame_encoder(str(backbone), 64).eval()(torch.from_numpy(crops)).numpy()
    np.testing.assert_allclose(loaded.networks.encode_frames(crops), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet-small", "resnet-small-64"])
def test_its_configurations_are_valid(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECIPE))
    import tomllib

    from pretrain import PretrainingConfig

    config = PretrainingConfig.model_validate(
        tomllib.loads((RECIPE / f"{name}.toml").read_text(encoding="utf-8"))
    )
    assert config.training.accumulate == 1


@pytest.fixture
def compose(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The recipe's module that composes clips."""
    monkeypatch.syspath_prepend(str(RECIPE))
    import compose

    return compose


def test_voices_are_chosen_by_emotion_and_strength(compose: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    takes = [("fearful", 1), ("fearful", 2), ("neutral", 1), ("happy", 2)]
    table = pd.DataFrame(takes, columns=["emotion", "level"]).assign(actor=7, audio=[b"0", b"1", b"2", b"3"])
    monkeypatch.setattr(compose, "decode_sound", lambda audio: audio)  # which take it is
    voices, rng = compose.Voices(table, ()), np.random.default_rng(0)
    chosen = [voices.choose(rng, "Fear", strength) for strength in (0.5, 0.9, 0.2)]
    assert chosen == [("ravdess-07", b"0"), ("ravdess-07", b"1"), ("ravdess-07", b"2")]


def test_a_changed_voice_keeps_its_length_and_its_speech(compose: Any) -> None:
    times_s = np.arange(16_000) / 16_000
    voice = 0.2 * np.sin(2 * np.pi * 440 * times_s) * (times_s > 0.5)
    for seed in range(12):  # rooms, noise, telephone, Opus and AAC
        changed = compose.change_sound(np.random.default_rng(seed), voice)
        assert changed.shape == voice.shape
        assert changed[8000:].std() > 2 * changed[:7000].std()


def test_planned_strengths_are_those_of_one_or_two_emotions(compose: Any) -> None:
    plans = np.array([compose.plan(np.random.default_rng(seed)) for seed in range(200)])
    assert plans.min() == 0
    assert plans.max() <= 1
    assert set((plans > 0).sum(axis=1)) == {0, 1, 2}
