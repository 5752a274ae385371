"""Evaluation counts every clip of the split, once, at once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reactometer.data.cache import PreparedSet
from reactometer.errors import DataError, ModelError, ScoreError
from reactometer.evaluation.evaluate import evaluate
from reactometer.labels import HUME_REACTION


def test_files_hold_every_clip_and_the_score_follows_from_them(
    model_folder: Path, prepared: PreparedSet, tmp_path: Path
) -> None:
    """The score is recomputed from ``predictions.csv`` and the data set's own table with SciPy."""
    evaluation = evaluate(model_folder, prepared.folder, out=tmp_path / "out", progress=False)
    table = pd.read_csv(tmp_path / "out" / "predictions.csv").set_index("File_ID")
    assert list(table.columns) == list(HUME_REACTION)
    assert list(table.index) == [row.clip.clip_id for row in prepared.split("test")]
    truth = np.array([row.clip.labels for row in prepared.split("test")])
    said = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert said["n_clips"] == len(truth) == evaluation.metrics.n_clips
    assert said["split"] == "test"
    for place, label in enumerate(HUME_REACTION):
        if said["pearson"][label] is not None:
            expected = stats.pearsonr(truth[:, place], table[label]).statistic
            assert said["pearson"][label] == pytest.approx(expected, abs=1e-5)
        assert said["mae"][label] == pytest.approx(np.abs(truth[:, place] - table[label]).mean(), abs=1e-6)


def test_a_data_set_that_was_not_prepared_gives_the_same(
    model_folder: Path, prepared: PreparedSet, simulated: Path, tmp_path: Path
) -> None:
    one = evaluate(model_folder, prepared.folder, progress=False)
    other = evaluate(model_folder, simulated, cache=tmp_path / "cache", progress=False)
    pd.testing.assert_frame_equal(one.predictions, other.predictions)


def test_an_unreadable_clip_counts_with_the_training_mean(model_folder: Path, simulated: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(simulated, tmp_path / "data"))
    broken = sorted((data / "test" / "mp4").iterdir())[0]
    broken.write_bytes(b"broken")
    evaluation = evaluate(model_folder, data, cache=tmp_path / "cache", progress=False)
    n_test = len(list((data / "test" / "mp4").iterdir()))
    assert evaluation.metrics.n_clips == len(evaluation.predictions) == n_test
    assert len(evaluation.failed) == 1
    assert broken.name in evaluation.failed[0]
    assert evaluation.without_evidence == (f"[{broken.stem}]",)
    table = pd.read_csv(simulated / "data_info.csv")
    mean = table[table.Split == "Train"][list(HUME_REACTION)].mean().to_numpy()
    answer = evaluation.predictions[list(HUME_REACTION)].to_numpy()[0]
    np.testing.assert_allclose(answer, mean, atol=1e-6)


def test_a_split_whose_labels_are_withheld_is_predicted_and_val_is_the_default(
    model_folder: Path, simulated: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(simulated, tmp_path / "data"))
    table = pd.read_csv(data / "data_info.csv", dtype=str)
    table.loc[table.Split == "Test", list(HUME_REACTION)] = ""
    table.to_csv(data / "data_info.csv", index=False)
    evaluation = evaluate(model_folder, data, cache=tmp_path / "cache", progress=False)
    assert evaluation.split == "val"
    everything = evaluate(model_folder, data, split="all", cache=tmp_path / "cache", progress=False)
    assert len(everything.predictions) == 40
    assert everything.metrics.n_clips == 40 - int((table.Split == "Test").sum())
    assert everything.n_without_labels == int((table.Split == "Test").sum())
    with pytest.raises(ScoreError, match="too few clips with labels"):
        evaluate(model_folder, data, split="test", cache=tmp_path / "cache", progress=False)


def test_a_modality_can_be_taken_away(model_folder: Path, prepared: PreparedSet) -> None:
    both = evaluate(model_folder, prepared.folder, progress=False).predictions
    face = evaluate(model_folder, prepared.folder, without="voice", progress=False)
    voice = evaluate(model_folder, prepared.folder, without="face", progress=False)
    assert not np.allclose(both.iloc[:, 1:], face.predictions.iloc[:, 1:])
    assert not np.allclose(face.predictions.iloc[:, 1:], voice.predictions.iloc[:, 1:])
    mute = [row.clip.clip_id for row in prepared.split("test") if not row.has_sound]
    assert list(voice.without_evidence) == mute


def test_what_does_not_fit_is_named(model_folder: Path, prepared: PreparedSet, simulated: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no split 'tset'.*Did you mean 'test'\?"):
        evaluate(model_folder, prepared.folder, split="tset", progress=False)
    with pytest.raises(ModelError, match=r"no modality 'smell' \(expected face or voice\)"):
        evaluate(model_folder, prepared.folder, without="smell", progress=False)
    (tmp_path / "other.csv").write_text(f"path,Joy\n{next(simulated.rglob('*.mp4'))},1\n", encoding="utf-8")
    with pytest.raises(DataError, match="no column for label 'Adoration'"):
        evaluate(model_folder, tmp_path / "other.csv", progress=False)
    from reactometer.data.prepare import prepare

    settings = prepared.settings.model_copy(update={"rate_hz": 3.0})
    otherwise = prepare(simulated, tmp_path / "otherwise", settings=settings, progress=False)
    with pytest.raises(ModelError, match=r"prepared otherwise.*got rate_hz=3\.0, size_px=48; expected rate_hz=4\.0"):
        evaluate(model_folder, otherwise.folder, progress=False)
