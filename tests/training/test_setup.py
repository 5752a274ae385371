"""Setting up a fit: frozen features computed once, scales without labels, folds, settings that do not go
together."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything

from reactometer.config import Config
from reactometer.data.cache import PreparedRow, PreparedSet
from reactometer.data.inputs import ClipPart, MediaReader, split_parts
from reactometer.data.person_norm import PersonReader
from reactometer.data.prepare import open_data
from reactometer.errors import ConfigError, DataError
from reactometer.evaluation.evaluate import evaluate
from reactometer.media.audio_features import MEL_BANDS
from reactometer.models.audio_encoders import LogMelEncoder
from reactometer.models.heads import CrossModalHead, PrecomputedFeatures
from reactometer.models.model import ReactionModel
from reactometer.training import setup
from reactometer.training.setup import MIN_MOMENT_STD, TrainingSetup, build_training
from reactometer.training.train import train


def _config(
    small_config: Config, run: Path | None = None, folds: int = 0, fold: int = 0, **model: Any
) -> Config:
    data = {"path": small_config.data.cache, "folds": folds, "fold": fold}
    return small_config.model_copy(
        update={
            "data": small_config.data.model_copy(update=data),
            "model": small_config.model.model_copy(update=model),
            "training": small_config.training.model_copy(update={"out": run, "epochs": 1}),
        }
    )


def _set_up(config: Config, prepared: PreparedSet) -> TrainingSetup:
    torch.manual_seed(0)
    return build_training(config, prepared, progress=False)


@pytest.mark.slow
def test_frozen_features_are_computed_once(
    small_config: Config, prepared: PreparedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second run and an evaluation find them, by PyTorch and by the graph; other weights do not."""
    data_folder = Path(
        shutil.copytree(prepared.folder, tmp_path / "own", ignore=shutil.ignore_patterns("features"))
    )

    def config(name: str) -> Config:
        config = _config(small_config, tmp_path / name, frozen=True)
        return config.model_copy(update={"data": config.data.model_copy(update={"path": data_folder})})

    model = train(config=config("one"), progress=False)
    files = {file: file.stat().st_mtime_ns for file in (data_folder / "features").rglob("*.safetensors")}
    splits = sorted(folder.name for folder in (data_folder / "features").glob("*/*"))
    assert splits == ["train", "val", "val"]  # the second val by the graph, for the intervals

    def again(*_: object) -> None:
        raise AssertionError("the encoder ran again")

    monkeypatch.setattr(MediaReader, "__call__", again)
    evaluate(model, data_folder, split="val", progress=False)
    for seed in (0, 1):  # the first draws the same weights
        seed_everything(seed, verbose=False)
        with pytest.raises(AssertionError, match="the encoder ran again") if seed else nullcontext():
            build_training(
                config("two"),
                open_data(
                    small_config.data.model_copy(update={"path": data_folder}),
                    small_config.prepare,
                    progress=False,
                ),
                progress=False,
            )
    assert {file: file.stat().st_mtime_ns for file in files} == files


def test_a_split_of_unreadable_clips_names_the_first_reason(
    small_config: Config, prepared: PreparedSet
) -> None:
    problem = "cannot read a.mp4"
    rows = tuple(replace(row, file=None, clip=replace(row.clip, problem=problem)) for row in prepared.rows)
    with pytest.raises(DataError, match=rf"24 clips.*24 are unreadable.*the first: {problem}"):
        _set_up(_config(small_config), replace(prepared, rows=rows))


@pytest.mark.parametrize(
    ("accelerator", "frozen", "expected"),
    [
        ("auto", True, ["cuda", "cpu"]),
        ("cpu", True, ["cpu", "cpu"]),
        ("gpu", False, []),
    ],
)
def test_frozen_features_are_computed_where_the_training_will_be(
    small_config: Config,
    prepared: PreparedSet,
    monkeypatch: pytest.MonkeyPatch,
    accelerator: str,
    frozen: bool,
    expected: list[str],
) -> None:
    """A GPU is not needed: like one, each move gives the model buffers of its own."""
    moves: list[str] = []

    def move(model: ReactionModel, device: str) -> ReactionModel:
        moves.append(device)
        model._apply(torch.clone)  # type: ignore[no-untyped-call]
        return model

    monkeypatch.setattr(setup, "on_gpu", lambda settings: settings.accelerator != "cpu")
    monkeypatch.setattr(ReactionModel, "to", move)
    config = _config(small_config, frozen=frozen)
    config = config.model_copy(
        update={"training": config.training.model_copy(update={"accelerator": accelerator})}
    )
    training_setup = _set_up(config, prepared)
    assert moves == expected
    assert training_setup.trainable.label_mean is training_setup.model.label_mean
    assert training_setup.trainable.scales["face"] is training_setup.model.scales["face"]


def test_the_head_is_trained_on_features_and_saved_with_its_encoder(
    small_config: Config, prepared: PreparedSet
) -> None:
    setup = _set_up(_config(small_config, frozen=True), prepared)
    assert isinstance(setup.trainable.encoders["face"], PrecomputedFeatures)
    assert not isinstance(setup.model.encoders["face"], PrecomputedFeatures)
    assert setup.trainable.head is setup.model.head
    assert setup.trainable.encoders["voice"] is setup.model.encoders["voice"]
    assert setup.trainable.training
    assert setup.data.val[0].streams["face"].values.ndim == 2


def test_scales_are_the_mean_and_spread_of_the_train_clips(
    small_config: Config, prepared: PreparedSet
) -> None:
    """Of frozen features and of the log-mel spectrogram; an encoder that is trained along has none before
    it."""
    setup = _set_up(_config(small_config, frozen=True), prepared)
    items = [setup.data.train.load_item(row, part, None) for row, part in _train_parts(setup)]
    frames, voice = (
        np.concatenate([item.streams["face"].visible for item in items]),
        [item.streams["voice"].values for item in items],
    )
    np.testing.assert_allclose(setup.model.scales["face"].mean, frames.mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(setup.model.scales["face"].std[:5], frames.std(axis=0)[:5], rtol=1e-3)
    assert isinstance(setup.model.encoders["voice"], LogMelEncoder)
    np.testing.assert_allclose(
        setup.model.scales["voice"].mean, np.concatenate(voice).mean(axis=0), rtol=1e-4
    )
    other = _set_up(_config(small_config), prepared).model
    assert other.scales["face"].std.tolist() == [1.0] * len(other.scales["face"].std)
    np.testing.assert_allclose(other.scales["voice"].mean, setup.model.scales["voice"].mean, rtol=1e-5)


def test_pooled_fixed_features_have_a_scale_of_their_own(small_config: Config, prepared: PreparedSet) -> None:
    """The mean and spread over train clips; a stream that is trained along keeps the identity."""
    setup = _set_up(_config(small_config, frozen=True), prepared)
    head, scale = setup.model.head, setup.model.scales["face"]
    assert isinstance(head, CrossModalHead)
    assert scale is not None
    items = [setup.data.train.load_item(row, part, None) for row, part in _train_parts(setup)]
    steps = [(item.streams["face"].visible - scale.mean.numpy()) / scale.std.numpy() for item in items]
    means = np.array([values.mean(axis=0) for values in steps if len(values)])
    size = means.shape[1]
    moments: Any = head.moment_scales["face"]
    np.testing.assert_allclose(moments.mean[:size], means.mean(axis=0), atol=1e-3)
    expected = means.std(axis=0).clip(min=MIN_MOMENT_STD)
    np.testing.assert_allclose(moments.std[:size], expected, rtol=1e-2)
    other = _set_up(_config(small_config), prepared).model.head
    assert isinstance(other, CrossModalHead)
    assert not other.moment_scales


def _train_parts(setup: TrainingSetup) -> list[tuple[PreparedRow, ClipPart]]:
    rows = setup.data.train.rows
    return [(rows[part.index], part) for part in split_parts(rows)]


@pytest.mark.parametrize("frozen", [False, True])
def test_a_speech_encoder_gets_the_waveform(
    small_config: Config, prepared: PreparedSet, frozen: bool
) -> None:
    config = _config(small_config, voice_encoder="random:hubert-tiny", modalities=("voice",), frozen=frozen)
    setup = _set_up(config, prepared)
    item = setup.data.val[0]
    assert item.streams["voice"].values.shape[1] == (64 if frozen else 320)
    assert (setup.model.scales["voice"].std == 1).all() != frozen
    assert not item.has("face")


def test_folds_deal_train_and_val_anew_and_find_their_features(
    small_config: Config, prepared: PreparedSet
) -> None:
    everyone = {row.clip.clip_id for name in ("train", "val") for row in prepared.split(name)}
    held_out: list[str] = []
    for fold in range(3):
        data = _set_up(_config(small_config, folds=3, fold=fold, frozen=True), prepared).data
        train_ids, val_ids = ({row.clip.clip_id for row in rows} for rows in (data.train.rows, data.val.rows))
        assert train_ids | val_ids == everyone
        assert not {row.clip.person for row in data.train.rows} & {row.clip.person for row in data.val.rows}
        assert all(data.val[i].streams["face"].values.ndim == 2 for i in range(len(data.val.rows)))
        held_out += val_ids
    assert sorted(held_out) == sorted(everyone)
    with pytest.raises(ConfigError, match=r"data\.fold=3"):
        _set_up(_config(small_config, folds=3, fold=3), prepared)


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"name": "resnet50"},
        {"modalities": ("face",)},
        {"modalities": ("voice",), "voice_encoder": "random:hubert-tiny"},
    ],
)
def test_normalising_per_person_needs_features_that_stay(
    small_config: Config, prepared: PreparedSet, model: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=r"person_norm.*model\.frozen=true"):
        _set_up(_config(small_config, person_norm=True, **model), prepared)


@pytest.mark.parametrize("model", [{"frozen": True}, {"modalities": ("voice",)}])
def test_train_and_val_are_normalised_per_person(
    small_config: Config, prepared: PreparedSet, model: dict[str, Any]
) -> None:
    setup = _set_up(_config(small_config, person_norm=True, **model), prepared)
    assert isinstance(setup.data.train.load_item, PersonReader)
    assert isinstance(setup.data.val.load_item, PersonReader)
    assert setup.data.val[0].streams["voice"].values.shape[1] == MEL_BANDS


def test_without_normalising_media_are_read_as_they_are(small_config: Config, prepared: PreparedSet) -> None:
    setup = _set_up(_config(small_config), prepared)
    assert not isinstance(setup.data.train.load_item, PersonReader)
    assert setup.data.val[0].streams["face"].values.dtype == np.uint8
    assert setup.trainable is setup.model


def test_constant_labels_on_val_are_reported(small_config: Config, prepared: PreparedSet) -> None:
    with pytest.warns(UserWarning, match=r"constant on val.*Adoration, Surprise"):
        _set_up(_config(small_config), prepared)


def test_activations_are_not_recomputed_through_the_statistics_of_a_batch(
    small_config: Config, prepared: PreparedSet
) -> None:
    """A batch norm would see chunks of the batch, and count each twice."""
    training = small_config.training.model_copy(update={"gradient_checkpointing": True})
    for encoder, freezes in (("random:resnet-tiny", True), ("starter", False), ("starter", True)):
        config = _config(small_config, encoder=encoder, freeze_batch_norm=freezes, frozen=False, size_px=64)
        config = config.model_copy(update={"training": training})
        message = r"batch norms in 'resnet'.*model\.freeze_batch_norm=true"
        is_fixed = (encoder, freezes) == ("starter", True)
        with nullcontext() if is_fixed else pytest.raises(ConfigError, match=message):
            encoder_of_face: Any = _set_up(config, prepared).trainable.encoders["face"]
            assert encoder_of_face.checkpointing
