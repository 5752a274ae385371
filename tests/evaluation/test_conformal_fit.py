"""Calibration of a checkpoint: what evaluate and predict then say, and what cannot be calibrated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reactometer.attribution.occlusion import explain
from reactometer.cli.render_evaluation import print_evaluation, print_uncertainty
from reactometer.data.cache import PreparedSet
from reactometer.errors import ConfigError, DataError, OutputError
from reactometer.evaluation.conformal_fit import calibrate
from reactometer.evaluation.evaluate import evaluate
from reactometer.evaluation.robustness import measure_robustness
from reactometer.inference.checkpoint import join_models, load_model
from reactometer.inference.conformal import NO_BINS, Bins, ModalityIntervals, Uncertainty
from reactometer.inference.predictor import predict_files
from reactometer.io import format_json, parse_json_object
from reactometer.labels import HUME_REACTION

BOUNDS = [f"{label}_{end}" for label in HUME_REACTION for end in ("low", "high")]


@pytest.fixture(scope="module")
def calibrated(frozen_folder: Path, prepared: PreparedSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model whose answers vary, calibrated on all clips of the small data set."""
    out = tmp_path_factory.mktemp("calibrated") / "model"
    calibrate(frozen_folder, prepared.folder, split="all", out=out, progress=False)
    return out


def test_intervals_hold_the_labels_they_were_fitted_to(
    calibrated: Path, prepared: PreparedSet, tmp_path: Path
) -> None:
    """Recompute the coverage from ``intervals.csv`` and the dataset's labels."""
    evaluation = evaluate(calibrated, prepared.folder, split="all", out=tmp_path, progress=False)
    table = pd.read_csv(tmp_path / "intervals.csv")
    targets = np.array([row.clip.labels for row in prepared.rows])
    low, high = table[BOUNDS[::2]].to_numpy(), table[BOUNDS[1::2]].to_numpy()
    is_inside = (low <= targets) & (targets <= high)
    coverage = json.loads((tmp_path / "metrics.json").read_text())["coverage"]
    assert coverage["overall"]["share"]["value"] == pytest.approx(is_inside.mean())
    assert is_inside.mean() >= 0.9
    by_label = list(coverage["by_label"].values())
    assert [item["share"]["value"] for item in by_label] == pytest.approx(is_inside.mean(axis=0))
    assert [item["width"] for item in by_label] == pytest.approx((high - low).mean(axis=0))
    predictions = evaluation.predictions[list(HUME_REACTION)].to_numpy()
    strongest = is_inside[np.arange(len(is_inside)), predictions.argmax(axis=1)]
    assert coverage["by_size"]["strongest emotion"]["share"]["value"] == pytest.approx(strongest.mean())
    large = coverage["by_size"]["0.2 to 0.5"]
    assert large["share"]["value"] == pytest.approx(
        is_inside[(predictions >= 0.2) & (predictions < 0.5)].mean()
    )
    assert sum(item["n_labels"] for item in coverage["by_size"].values()) == is_inside.size + len(is_inside)
    assert (tmp_path / "coverage.png").is_file()
    assert evaluation.coverage is not None
    share = evaluation.coverage.overall.share
    assert share.low <= share.value <= share.high


@pytest.mark.slow
def test_predict_gives_the_interval_that_evaluate_gives(
    calibrated: Path, prepared: PreparedSet, tmp_path: Path
) -> None:
    evaluate(calibrated, prepared.folder, split="test", out=tmp_path, progress=False)
    table = pd.read_csv(tmp_path / "intervals.csv", keep_default_na=False)
    row = prepared.split("test")[0]
    (prediction,) = predict_files([row.clip.path], calibrated, progress=False)
    assert prediction.coverage == 0.9
    assert np.array(prediction.intervals).ravel() == pytest.approx(
        table[BOUNDS].iloc[0].to_numpy(float), abs=1e-5
    )
    assert "; ".join(prediction.warnings) == table.warnings[0]
    (smoothed,) = predict_files([row.clip.path], calibrated, smooth_s=2.0, progress=False)
    assert smoothed.intervals == prediction.intervals


def test_each_modality_has_separate_intervals(calibrated: Path, prepared: PreparedSet) -> None:
    sure = load_model(calibrated).uncertainty
    assert sure is not None
    assert set(sure.by_modalities) == {"face and voice", "face", "voice"}
    evaluation = evaluate(calibrated, prepared.folder, split="all", without="voice", progress=False)
    assert evaluation.coverage is not None
    assert set(evaluation.coverage.by_modalities) == {"face"}
    assert evaluation.coverage.by_modalities["face"].share.value >= 0.9


@pytest.mark.slow
def test_recalibration_brings_predictions_to_scale_and_keeps_their_order(
    frozen_folder: Path, prepared: PreparedSet, tmp_path: Path
) -> None:
    before = evaluate(frozen_folder, prepared.folder, split="all", progress=False)
    calibrate(
        frozen_folder, prepared.folder, split="all", recalibrate=True, out=tmp_path / "model", progress=False
    )
    after = evaluate(tmp_path / "model", prepared.folder, split="all", progress=False)
    assert (after.metrics.means["mae"] or 1.0) < (before.metrics.means["mae"] or 0.0)
    raw, recalibrated = (  # each set of modalities has a scale of its own
        evaluate(folder, prepared.folder, split="all", without="voice", n_resamples=0, progress=False)
        for folder in (frozen_folder, tmp_path / "model")
    )
    unusable = {*raw.without_input, *recalibrated.without_input}
    has_face = ~raw.predictions["File_ID"].isin(unusable)
    assert has_face.sum() > 20
    for label in HUME_REACTION:
        order = np.argsort(raw.predictions.loc[has_face, label].to_numpy(), kind="stable")
        values = recalibrated.predictions.loc[has_face, label].to_numpy()
        assert (np.diff(values[order]) >= -1e-6).all()
    rows = prepared.split("all")
    predictions = predict_files(
        [row.clip.path for row in rows], tmp_path / "model", timeline=False, progress=False
    )
    row, prediction = next(pair for pair in zip(rows, predictions, strict=True) if not pair[1].warnings)
    expected = after.predictions.set_index("File_ID").loc[row.clip.clip_id].to_numpy(float)
    assert prediction.intensities == pytest.approx(expected, abs=1e-5)
    curves = measure_robustness(load_model(tmp_path / "model"), prepared, "all", tmp_path, progress=False)
    unchanged = next(iter(curves.values()))[0]
    assert unchanged.metrics.pearson == pytest.approx(after.metrics.pearson, abs=1e-6)
    mute = evaluate(tmp_path / "model", prepared.folder, split="all", without="voice", progress=False)
    explained = explain(row.clip.path, tmp_path / "model", face_map=False, progress=False)
    left = mute.predictions.set_index("File_ID").loc[row.clip.clip_id].to_numpy(float)
    assert explained.modalities["voice"] == pytest.approx(expected - left, abs=1e-5)


def test_clips_that_the_model_learned_from_are_refused(
    prepared: PreparedSet, model_folder: Path, tmp_path: Path
) -> None:
    for split in ("train", "all"):
        with pytest.raises(DataError, match="trained on these clips"):
            calibrate(model_folder, prepared.folder, split=split, out=tmp_path / "a", progress=False)
    swapped = Path(shutil.copytree(model_folder, tmp_path / "swapped"))  # a member of another fold
    about = parse_json_object((swapped / "model.json").read_text())
    clips = about["data"]["clips"]
    about["data"]["clips"] = {"train": clips["val"], "val": clips["train"]}
    (swapped / "model.json").write_text(format_json(about))
    folds = join_models([model_folder, swapped], tmp_path / "folds")
    with pytest.raises(DataError, match="trained on these clips"):
        calibrate(folds, prepared.folder, progress=False)


def test_intervals_fitted_to_the_clips_that_are_scored_are_no_evidence(
    calibrated: Path, prepared: PreparedSet, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, here in (("all", True), ("test", False)):
        evaluation = evaluate(calibrated, prepared.folder, split=split, progress=False)
        assert evaluation.coverage is not None
        assert evaluation.coverage.is_in_sample == here
        print_evaluation(evaluation)
        assert ("fitted to these clips" in capsys.readouterr().out) == here


def test_a_calibration_on_nine_clips_reports_how_far_it_may_be_off(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The true coverage is distributed as Beta(9, 1) over calibrations on nine clips."""
    by_modalities = {
        "face": ModalityIntervals(9, 9, Bins((), (0.2,)), Bins((), (0.2,)), 0.31),
        "voice": ModalityIntervals(5, 5, NO_BINS, NO_BINS, 1.0),
    }
    fitted_on = {"name": "clips", "split": "val", "n_clips": 9, "n_people": 0}
    print_uncertainty(Uncertainty(0.9, by_modalities, fitted_on), "model")
    face, voice = capsys.readouterr().out.splitlines()[1:3]
    assert face.split() == ["face", "9", "2", "9", "0.31", "72%", "to", "99%"]
    assert voice.split() == ["voice", "5", "2", "5", "1.00", "too", "few"]


@pytest.mark.slow
def test_an_ensemble_is_calibrated_as_one(
    frozen_folder: Path, calibrated: Path, prepared: PreparedSet, tmp_path: Path
) -> None:
    both = join_models([frozen_folder, calibrated], tmp_path / "both")
    assert load_model(both).uncertainty is None
    calibrate(both, prepared.folder, split="all", progress=False)
    uncertainty, face_only = load_model(both).uncertainty, load_model(calibrated).uncertainty
    assert uncertainty is not None
    assert face_only is not None
    assert set(uncertainty.by_modalities) == set(face_only.by_modalities)


def test_wrong_calibration_data_are_refused(
    frozen_folder: Path, prepared: PreparedSet, tmp_path: Path
) -> None:
    for recalibrate, least in ((False, 9), (True, 20)):
        with pytest.raises(DataError, match=rf"too few clips.*'val'.*{least}"):
            calibrate(frozen_folder, prepared.folder, recalibrate=recalibrate, progress=False)
    with pytest.raises(DataError, match=r"no split 'vall'.*val"):
        calibrate(frozen_folder, prepared.folder, split="vall", progress=False)
    with pytest.raises(ConfigError, match="coverage"):
        calibrate(frozen_folder, prepared.folder, coverage=90, progress=False)
    with pytest.raises(OutputError, match="part of an installed package"):
        calibrate("starter", prepared.folder, progress=False)
    with pytest.raises(OutputError, match="exists"):
        calibrate(frozen_folder, prepared.folder, split="all", out=tmp_path, progress=False)
    assert not (frozen_folder / "uncertainty.json").exists()
