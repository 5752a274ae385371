"""Evaluation counts every clip of the split, once, at once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reactometer.config import Config
from reactometer.data.cache import PreparedSet, write_index
from reactometer.data.inputs import MediaReader
from reactometer.errors import DataError, ModelError, ScoreError
from reactometer.evaluation.bootstrap import Resampling, bootstrap_mean_pearson
from reactometer.evaluation.evaluate import evaluate
from reactometer.inference import scoring
from reactometer.inference.checkpoint import join_models, load_model
from reactometer.inference.scoring import score_rows
from reactometer.inference.screening import hide
from reactometer.labels import HUME_REACTION
from reactometer.training.train import train


def test_files_hold_every_clip_and_the_score_follows_from_them(
    model_folder: Path, prepared: PreparedSet, tmp_path: Path
) -> None:
    """The score is recomputed from ``predictions.csv`` and the dataset's table with SciPy."""
    evaluation = evaluate(model_folder, prepared.folder, out=tmp_path / "out", progress=False)
    table = pd.read_csv(tmp_path / "out" / "predictions.csv").set_index("File_ID")
    assert list(table.columns) == list(HUME_REACTION)
    assert list(table.index) == [row.clip.clip_id for row in prepared.split("test")]
    targets = np.array([row.clip.labels for row in prepared.split("test")])
    content = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert content["n_clips"] == len(targets) == evaluation.metrics.n_clips
    assert content["split"] == "test"
    for index, label in enumerate(HUME_REACTION):
        if content["pearson"][label] is not None:
            expected = stats.pearsonr(targets[:, index], table[label]).statistic
            assert content["pearson"][label] == pytest.approx(expected, abs=1e-4)
        assert content["mae"][label] == pytest.approx(
            np.abs(targets[:, index] - table[label]).mean(), abs=1e-6
        )


@pytest.mark.slow
def test_intervals_are_by_person_if_people_are_known(
    frozen_folder: Path, prepared: PreparedSet, tmp_path: Path
) -> None:
    evaluation = evaluate(frozen_folder, prepared.folder, split="all", out=tmp_path, progress=False)
    intervals = json.loads((tmp_path / "metrics.json").read_text())["intervals"]
    people = {row.clip.person for row in prepared.rows}
    assert (intervals["unit"], intervals["n_units"], intervals["n_resamples"]) == (
        "person",
        len(people),
        2000,
    )
    targets = np.array([row.clip.labels for row in prepared.rows])
    expected = bootstrap_mean_pearson(
        targets,
        evaluation.predictions[list(HUME_REACTION)].to_numpy(),
        resampling=Resampling(groups=[row.clip.person for row in prepared.rows]),
    )
    assert intervals["mean"]["pearson"] == pytest.approx(asdict(expected))
    by_clip = evaluate(frozen_folder, prepared.folder, split="all", by="clip", n_resamples=50, progress=False)
    assert by_clip.intervals is not None
    assert (by_clip.intervals.n_units, by_clip.intervals.n_resamples) == (40, 50)
    none = evaluate(frozen_folder, prepared.folder, n_resamples=0, out=tmp_path, progress=False)
    assert none.intervals is json.loads((tmp_path / "metrics.json").read_text())["intervals"] is None
    with pytest.raises(DataError, match="cannot be resampled by 'persons'"):
        evaluate(frozen_folder, prepared.folder, by="persons", progress=False)


@pytest.mark.slow
def test_a_data_set_that_was_not_prepared_gives_the_same(
    model_folder: Path, prepared: PreparedSet, excerpt: Callable[..., Path], tmp_path: Path
) -> None:
    one = evaluate(model_folder, prepared.folder, progress=False)
    other = evaluate(model_folder, excerpt(test=10), progress=False)
    pd.testing.assert_frame_equal(one.predictions, other.predictions)


@pytest.mark.slow
def test_an_unreadable_clip_counts_with_the_training_mean(
    model_folder: Path, prepared: PreparedSet, excerpt: Callable[..., Path], tmp_path: Path
) -> None:
    data = excerpt(test=5)
    broken = sorted((data / "test" / "mp4").iterdir())[0]
    broken.write_bytes(b"broken")
    evaluation = evaluate(model_folder, data, progress=False)
    n_test = len(list((data / "test" / "mp4").iterdir()))
    assert evaluation.metrics.n_clips == len(evaluation.predictions) == n_test
    assert len(evaluation.failed) == 1
    assert broken.name in evaluation.failed[0]
    assert evaluation.without_input == (f"[{broken.stem}]",)
    answer = evaluation.predictions[list(HUME_REACTION)].to_numpy()[0]
    np.testing.assert_allclose(answer, _training_mean(prepared), atol=1e-6)


@pytest.mark.slow
def test_a_split_without_labels_is_predicted_and_val_is_the_default(
    model_folder: Path, excerpt: Callable[..., Path], tmp_path: Path
) -> None:
    data = excerpt(train=2, val=6, test=4)
    table = pd.read_csv(data / "data_info.csv", dtype=str)
    table.loc[table.Split == "Test", list(HUME_REACTION)] = ""
    table.to_csv(data / "data_info.csv", index=False)
    evaluation = evaluate(model_folder, data, progress=False)
    assert evaluation.split == "val"
    everything = evaluate(model_folder, data, split="all", in_sample=True, progress=False)
    assert len(everything.predictions) == len(table) == 12
    assert everything.metrics.n_clips == 8
    assert everything.n_without_labels == 4
    with pytest.raises(ScoreError, match="too few clips with labels"):
        evaluate(model_folder, data, split="test", progress=False)


def test_a_modality_can_be_taken_away(model_folder: Path, prepared: PreparedSet) -> None:
    both = evaluate(model_folder, prepared.folder, progress=False).predictions
    face = evaluate(model_folder, prepared.folder, without="voice", progress=False)
    voice = evaluate(model_folder, prepared.folder, without="face", progress=False)
    assert not np.allclose(both.iloc[:, 1:], face.predictions.iloc[:, 1:])
    assert not np.allclose(face.predictions.iloc[:, 1:], voice.predictions.iloc[:, 1:])
    mute = [row.clip.clip_id for row in prepared.split("test") if not row.has_sound]
    assert list(voice.without_input) == mute


def test_wrong_input_is_named(
    model_folder: Path, prepared: PreparedSet, excerpt: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"tset.*'test'"):
        evaluate(model_folder, prepared.folder, split="tset", progress=False)
    with pytest.raises(ModelError, match=r"smell.*face and voice"):
        evaluate(model_folder, prepared.folder, without="smell", progress=False)
    data = excerpt(test=1)
    (tmp_path / "other.csv").write_text(f"path,Joy\n{min(data.rglob('*.mp4'))},1\n", encoding="utf-8")
    with pytest.raises(DataError, match="no column for label 'Adoration'"):
        evaluate(model_folder, tmp_path / "other.csv", progress=False)
    from reactometer.data.prepare import prepare

    settings = prepared.settings.model_copy(update={"rate_hz": 3.0})
    otherwise = prepare(data, tmp_path / "otherwise", settings=settings, workers=1, progress=False)
    with pytest.raises(ModelError, match=r"rate_hz=3\.0.*rate_hz=4\.0"):
        evaluate(model_folder, otherwise.folder, progress=False)


def _training_mean(prepared: PreparedSet) -> np.ndarray:
    return np.asarray(np.mean(np.array([row.clip.labels for row in prepared.split("train")]), axis=0))


def _answers(model: Path, data: Path, **options: object) -> np.ndarray:
    table = evaluate(model, data, progress=False, **options).predictions  # type: ignore[arg-type]
    return table[list(HUME_REACTION)].to_numpy()


@pytest.mark.parametrize("without", [None, "face", "voice"])
def test_cached_features_of_a_frozen_encoder_give_the_scores_of_the_media(
    frozen_folder: Path, prepared: PreparedSet, without: str | None
) -> None:
    loaded = load_model(frozen_folder)
    hidden = [without] if without else []
    reader = MediaReader(loaded.sampling, encode=lambda item: loaded.networks.encode(hide(item, *hidden)))
    scores = score_rows(loaded.networks, prepared.split("test"), reader)
    answers = _answers(frozen_folder, prepared.folder, without=without)
    np.testing.assert_allclose(answers, [score.intensities for score in scores], atol=1e-5)
    assert answers.std(axis=0).min() > 1e-3
    if without:
        assert np.abs(answers - _answers(frozen_folder, prepared.folder)).max() > 1e-3


def test_frozen_features_follow_a_clip_that_changed(
    frozen_folder: Path, prepared: PreparedSet, tmp_path: Path
) -> None:
    """If two prepared clips are swapped, their cached features are swapped too."""
    folder = Path(shutil.copytree(prepared.folder, tmp_path / "own"))
    before = _answers(frozen_folder, folder)
    one, other = (folder / "clips" / row.file.name for row in prepared.split("test")[:2] if row.file)
    one_bytes, other_bytes = one.read_bytes(), other.read_bytes()
    one.write_bytes(other_bytes)
    other.write_bytes(one_bytes)
    np.testing.assert_allclose(
        _answers(frozen_folder, folder), before[[1, 0, *range(2, len(before))]], atol=1e-5
    )


def test_a_duplicate_id_does_not_blind_a_frozen_model_to_the_first_clip(
    frozen_folder: Path, prepared: PreparedSet, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(prepared.folder, tmp_path / "own"))
    row = prepared.split("test")[0]
    twice = replace(row, clip=replace(row.clip, problem="duplicate id"), file=None, duration_s=0.0)
    write_index(replace(prepared, folder=folder, rows=(*prepared.rows, twice)))
    evaluation = evaluate(frozen_folder, folder, progress=False)
    assert evaluation.without_input == (row.clip.clip_id,)
    answers = evaluation.predictions[list(HUME_REACTION)].to_numpy()
    np.testing.assert_allclose(answers[0], _answers(frozen_folder, prepared.folder)[0], atol=1e-6)
    np.testing.assert_allclose(answers[-1], _training_mean(prepared), atol=1e-6)


def test_the_batch_size_changes_no_score(
    frozen_folder: Path, prepared: PreparedSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = _answers(frozen_folder, prepared.folder)
    for batch_size in (1, 4):
        monkeypatch.setattr(scoring, "BATCH_SIZE", batch_size)
        np.testing.assert_allclose(_answers(frozen_folder, prepared.folder), answers, atol=1e-5)


@pytest.mark.slow
def test_an_ensemble_scores_the_mean_of_its_members(
    model_folder: Path,
    frozen_folder: Path,
    prepared: PreparedSet,
    lively: Callable[..., Path],
    tmp_path: Path,
) -> None:
    members = [frozen_folder, lively(model_folder, tmp_path / "a", seed=1)]
    joint = join_models(members, tmp_path / "joint")
    intensities = [_answers(member, prepared.folder) for member in members]
    assert np.abs(intensities[0] - intensities[1]).max() > 0.01
    np.testing.assert_allclose(_answers(joint, prepared.folder), np.mean(intensities, axis=0), atol=1e-6)
    alone = [_answers(member, prepared.folder, without="face") for member in members]
    np.testing.assert_allclose(
        _answers(joint, prepared.folder, without="face"), np.mean(alone, axis=0), atol=1e-6
    )
    mute = evaluate(joint, prepared.folder, split="all", without="face", progress=False)
    assert list(mute.without_input) == [row.clip.clip_id for row in prepared.rows if not row.has_sound]


@pytest.mark.slow
def test_normalisation_per_person_is_reported(
    frozen_folder: Path, prepared: PreparedSet, lively: Callable[..., Path], tmp_path: Path
) -> None:
    """All test clips taken for one person's: their features move, and the files say so."""
    folder = Path(shutil.copytree(prepared.folder, tmp_path / "own"))
    rows = tuple(replace(row, clip=replace(row.clip, person="Ann")) for row in prepared.rows)
    write_index(replace(prepared, folder=folder, rows=rows))
    model = lively(frozen_folder, tmp_path / "model", person_norm=True)
    evaluation = evaluate(model, folder, out=tmp_path / "out", progress=False)
    note = json.loads((tmp_path / "out" / "metrics.json").read_text())["person_norm"]
    assert note == evaluation.person_norm
    assert note.startswith("10 clips normalised per person (1 people)")
    assert np.abs(_answers(model, folder) - _answers(frozen_folder, folder)).max() > 1e-3


def _table(path: Path, names: tuple[str, ...], n_clips: int = 20) -> Path:
    generator = np.random.default_rng(0)
    table = pd.DataFrame(generator.uniform(size=(n_clips, len(names))), columns=list(names))
    table.insert(0, "clip", [f"{number:03d}" for number in range(n_clips)])
    table.insert(
        1, "split", [("train", "train", "train", "val", "test")[number % 5] for number in range(n_clips)]
    )
    table[list(HUME_REACTION)] = generator.uniform(size=(n_clips, 7)).round(3)
    table.to_csv(path, index=False)
    return path


@pytest.mark.slow
def test_features_that_are_not_the_model_s_are_refused(
    small_config: Config, model_folder: Path, prepared: PreparedSet, tmp_path: Path
) -> None:
    table = _table(tmp_path / "table.csv", ("AU1", "AU2", "voice_1"))
    data = {"path": table, "cache": tmp_path / "cache", "features": {"face": "AU*", "voice": "voice_*"}}
    config = small_config.model_copy(
        update={
            "data": small_config.data.model_copy(update=data),
            "training": small_config.training.model_copy(update={"out": tmp_path / "run", "epochs": 1}),
        }
    )
    model = train(config=config, progress=False)
    assert len(evaluate(model, table, progress=False).predictions) == 4
    assert (
        len(evaluate(model, tmp_path / "cache", progress=False).predictions) == 4
    )  # as prepared in training
    other = _table(tmp_path / "other.csv", ("AU1", "AU2", "AU4", "voice_1"))
    message = r"other input than.*got {}.*expected {}"
    narrow, wide = r"face \(2 features", r"face \(3 features"
    with pytest.raises(DataError, match=message.format(wide, narrow)):
        evaluate(model, other, progress=False)
    with pytest.raises(DataError, match="no tables in this folder"):
        evaluate(model, prepared.folder, progress=False)
    with pytest.raises(DataError, match=message.format(narrow, "face and voice")):
        evaluate(model_folder, tmp_path / "cache", progress=False)
