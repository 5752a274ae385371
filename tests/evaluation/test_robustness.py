"""A model's score where clips are harder to read: its two ends are what ``evaluate`` measures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from reactometer.config import Config
from reactometer.data.cache import FEATURES, PreparedSet
from reactometer.evaluation import robustness
from reactometer.evaluation.evaluate import Evaluation, evaluate
from reactometer.evaluation.metrics import Metrics
from reactometer.evaluation.robustness import Curves, measure_robustness
from reactometer.inference.checkpoint import join_models, load_model
from reactometer.training.train import train


@pytest.fixture(autouse=True)
def _few_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two levels of each nuisance, where more would show no more."""
    for name, levels in {
        "HIDDEN_SHARES": (0.5, 1.0),
        "SNR_DB": (0,),
        "SIDES_PX": (48, 14, 8),
        "RATE_STEPS": (2, 10),
    }.items():
        monkeypatch.setattr(robustness, name, levels)


def _pearson(metrics: Metrics) -> np.ndarray:
    return np.array(metrics.pearson, dtype=np.float64)  # None: not a number


def _scores(metrics: Metrics) -> np.ndarray:
    return np.array((*metrics.pearson, *metrics.ccc, *metrics.mae), dtype=np.float64)


def _same(metrics: Metrics, evaluation: Evaluation) -> None:
    np.testing.assert_allclose(_scores(metrics), _scores(evaluation.metrics), atol=1e-6)


def _run(model: Path, prepared: PreparedSet, out: Path) -> Curves:
    out.mkdir(exist_ok=True)
    return measure_robustness(load_model(model), prepared, "test", out, n_resamples=100, progress=False)


def _cached_files(prepared: PreparedSet) -> set[Path]:
    return set((prepared.folder / FEATURES).rglob("*"))


@pytest.mark.slow
def test_the_last_points_of_the_curves_equal_evaluate_without_a_modality(
    model_folder: Path,
    frozen_folder: Path,
    prepared: PreparedSet,
    lively: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """No face is ``--without face``, no sound ``--without voice``, and features of changed clips are not
    cached.

    Of an ensemble: one member that was trained whole, and one behind a frozen encoder.
    """
    model = join_models([lively(model_folder, tmp_path / "lively"), frozen_folder], tmp_path / "joint")
    whole, faceless, silent = (
        evaluate(model, prepared.folder, split="test", without=without, n_resamples=0, progress=False)
        for without in (None, "face", "voice")
    )
    before = _cached_files(prepared)
    by_corruption = _run(model, prepared, tmp_path / "out")
    assert _cached_files(prepared) == before
    curves = {name.split(",")[0]: points for name, points in by_corruption.items()}
    assert list(curves) == ["face hidden", "face crop", "frames per second", "white noise", "room noise"]
    for first, *rest in curves.values():
        _same(first.metrics, whole)
        assert (first.loss.value, first.loss.low, first.loss.high) == (0.0, 0.0, 0.0)
        assert np.nanmax(np.abs(_scores(rest[-1].metrics) - _scores(first.metrics))) > 1e-4
        for point in rest:
            lost = np.nanmean(_pearson(first.metrics)) - np.nanmean(_pearson(point.metrics))
            assert point.loss.value == pytest.approx(lost, abs=1e-6)
    assert [point.level for point in curves["face crop"]] == ["unchanged", "14", "8"]
    _same(curves["face hidden"][-1].metrics, faceless)
    _same(curves["white noise"][-1].metrics, silent)


@pytest.mark.slow
def test_curves_are_written(frozen_folder: Path, prepared: PreparedSet, tmp_path: Path) -> None:
    curves = _run(frozen_folder, prepared, tmp_path)
    _same(
        next(iter(curves.values()))[0].metrics,
        evaluate(frozen_folder, prepared.folder, split="test", n_resamples=0, progress=False),
    )
    content = json.loads((tmp_path / "robustness.json").read_text())
    assert {name: len(points) for name, points in content["curves"].items()} == {
        name: len(points) for name, points in curves.items()
    }
    assert (content["data"], content["split"]) == (prepared.folder.name, "test")
    point = content["curves"]["white noise, signal-to-noise ratio"][1]
    assert (point["level"], point["intervals"]["unit"]) == ("0 dB", "person")
    assert point["metrics"]["labels"] == list(prepared.labels)
    assert point["loss"]["low"] <= point["loss"]["value"] <= point["loss"]["high"]
    assert (tmp_path / "robustness.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_corruptions_of_unused_modalities_are_left_out(
    small_config: Config, prepared: PreparedSet, tmp_path: Path
) -> None:
    """Without a face, a face-only model predicts the training mean: Pearson is undefined, the loss
    complete."""
    for modality in ("face", "voice"):
        config = small_config.model_copy(
            update={
                "data": small_config.data.model_copy(update={"path": prepared.folder}),
                "model": small_config.model.model_copy(
                    update={"modalities": (modality,), "modality_dropout": 0.0}
                ),
                "training": small_config.training.model_copy(
                    update={"out": tmp_path / modality, "epochs": 1}
                ),
            }
        )
        curves = _run(train(config=config, progress=False), prepared, tmp_path / "out")
        touched = {name.split(" ")[0] for name in curves}
        assert touched == ({"face", "frames"} if modality == "face" else {"white", "room"})
        first, *_, last = next(iter(curves.values()))
        assert last.metrics.mean_pearson is None
        assert last.intervals.mean["pearson"] is None
        assert last.loss.value == pytest.approx(np.nanmean(_pearson(first.metrics)), abs=1e-6)
