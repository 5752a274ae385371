"""Real trainings on the small synthetic demo dataset: learning, stopping, resuming, reproducibility."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from reactometer.config import Config
from reactometer.data.cache import PreparedSet
from reactometer.errors import ConfigError, DataError, OutputError, WeightsError
from reactometer.models.registry import load_network
from reactometer.training.optim import warmup_cosine
from reactometer.training.setup import build_training
from reactometer.training.train import train


def _with(config: Config, out: Path, data: Path | None = None, **training: object) -> Config:
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={"path": data or config.data.cache}),
            "training": config.training.model_copy(update={"out": out, **training}),
        }
    )


def _weights(model: Path) -> dict[str, torch.Tensor]:
    return load_file(model / "weights.safetensors")


def test_a_run_keeps_its_model_logs_and_checkpoints(model_folder: Path) -> None:
    run = model_folder.parent
    log = pd.read_csv(run / "logs" / "metrics.csv")
    losses = log["train_loss"].dropna().tolist()
    assert len(losses) == 2
    assert losses[1] < losses[0]
    assert log["val_mean_ccc"].notna().sum() == 2
    assert list((run / "logs").glob("events.out.tfevents.*"))
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert Config.model_validate_json((run / "config.json").read_text()).model.name == "multimodal"


def test_the_validation_score_belongs_to_the_saved_weights(model_folder: Path, prepared: PreparedSet) -> None:
    """What model.json says of validation equals a fresh evaluation of the saved folder."""
    from reactometer.evaluation.evaluate import evaluate

    metrics = evaluate(model_folder, prepared.folder, split="val", progress=False).metrics
    said = json.loads((model_folder / "model.json").read_text())["metrics"]
    assert said["mean_pearson"] == pytest.approx(metrics.mean_pearson, abs=1e-4)
    assert said["n_clips"] == metrics.n_clips == len(prepared.split("val"))


@pytest.mark.slow
def test_a_stopped_run_resumes_to_the_same_end(
    small_config: Config, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the second of two epochs, then again: the same weights as without the stop."""
    config = _with(small_config, tmp_path / "stopped")

    from reactometer.training.module import ReactionModule

    step = ReactionModule.training_step

    def interrupted(task: ReactionModule, batch: object, number: int) -> torch.Tensor:
        if task.current_epoch == 1:
            raise KeyboardInterrupt
        return step(task, batch, number)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(ReactionModule, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(config=config, progress=False)
    assert not (tmp_path / "stopped" / "model").exists()
    resumed = _weights(train(config=config, progress=False))
    for name, tensor in _weights(model_folder).items():
        torch.testing.assert_close(resumed[name], tensor, atol=1e-6, rtol=1e-5)


@pytest.mark.slow(7)
def test_a_frozen_encoder_from_an_offline_folder_trains_its_head(
    small_config: Config, prepared: PreparedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights folder stands in for the network: the encoder comes from it as it is, and stays so."""
    from reactometer.models.backbones import load_backbone
    from reactometer.models.vision_encoders import FrameEncoder

    torch.manual_seed(7)
    offline = tmp_path / "weights" / "somebody--resnet"
    net: Any = load_backbone("random:resnet-tiny", "images").module
    net.save_pretrained(offline)
    (offline / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}'
    )
    monkeypatch.setenv("REACTOMETER_WEIGHTS", str(tmp_path / "weights"))
    config = _with(small_config, tmp_path / "run", epochs=1)
    model = {"name": "resnet50", "encoder": "somebody/resnet", "frozen": True, "pooling": "network"}
    folder = train(
        config=config.model_copy(update={"model": config.model.model_copy(update=model)}), progress=False
    )
    pretrained, trained = load_file(offline / "model.safetensors"), _weights(folder)
    moved = [
        name
        for name, tensor in pretrained.items()
        if not torch.equal(trained[f"encoders.face.net.{name}"], tensor)
    ]
    assert moved == []
    monkeypatch.delenv("REACTOMETER_WEIGHTS")
    encoder = load_network(folder)[0].encoders["face"]  # the folder is not needed any more
    assert isinstance(encoder, FrameEncoder)
    assert encoder.pixels.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    assert encoder.pretrained


def test_a_finished_run_is_returned_and_one_of_another_configuration_is_refused(
    small_config: Config, model_folder: Path
) -> None:
    config = _with(small_config, model_folder.parent, data=small_config.data.path)
    before = (model_folder / "weights.safetensors").stat().st_mtime_ns
    assert train(config=config, progress=False) == model_folder
    other = config.model_copy(update={"model": config.model.model_copy(update={"dropout": 0.5})})
    with pytest.raises(OutputError, match=r"another configuration.*model.dropout=0.5 instead of .*--fresh"):
        train(config=other, progress=False)
    assert (model_folder / "weights.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
def test_overwriting_deletes_the_earlier_run_only_when_the_new_one_can_start(
    small_config: Config, model_folder: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(model_folder.parent, tmp_path / "run"))
    (run / "notes.txt").write_text("mine")
    config = _with(small_config, run, epochs=1)
    unknown = config.model_copy(
        update={"model": config.model.model_copy(update={"encoder": "random:nothing"})}
    )
    with pytest.raises(WeightsError, match="no encoder"):
        train(config=unknown, fresh=True, progress=False)
    before = (run / "model" / "weights.safetensors").stat().st_mtime_ns
    model = train(config=config, fresh=True, progress=False)
    assert (model / "weights.safetensors").stat().st_mtime_ns > before
    assert (run / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("accelerator", ["cuda", "gpu9"])
def test_a_missing_device_is_reported_before_any_work(
    small_config: Config, tmp_path: Path, accelerator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(
        ConfigError, match=f"training.accelerator = '{accelerator}'.*training.accelerator=auto"
    ):
        train(
            config=_with(small_config, tmp_path / "run", data=tmp_path / "no", accelerator=accelerator),
            progress=False,
        )


def test_data_and_settings_are_arguments(small_config: Config, model_folder: Path) -> None:
    """A finished run is returned, so nothing trains here."""
    config = small_config.model_copy(update={"data": Config().data})
    path = json.loads((model_folder.parent / "config.json").read_text())["data"]["path"]
    assert train(path, config, out=model_folder.parent, progress=False) == model_folder
    with pytest.raises(ConfigError, match="Did you mean 'epochs'"):
        train(path, config, epoch=3)


def test_what_cannot_be_trained_on_is_named(small_config: Config, prepared: PreparedSet) -> None:
    with pytest.raises(ConfigError, match=r"no dataset.*data\.path"):
        train(config=Config(), progress=False)

    def with_val(labels: list[float]) -> PreparedSet:
        val = [
            replace(row, clip=replace(row.clip, labels=(label,) * len(prepared.labels)))
            for row, label in zip(prepared.split("val"), labels, strict=False)
        ]
        return replace(prepared, rows=(*prepared.split("train"), *val))

    for labels, words in (([0.5, 0.6], r"'val' is too small.*2 .*3"), ([0.5] * 3, r"no label varies.*'val'")):
        with pytest.raises(DataError, match=words):
            build_training(small_config, with_val(labels), progress=False)


def test_the_rate_warms_up_and_falls_as_a_cosine() -> None:
    rates = [warmup_cosine(step, steps=100, warmup=10) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 11)
    assert max(rates) == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
