"""Predict files as a whole and over time."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reactometer.data.cache import PreparedSet
from reactometer.errors import ConfigError, DataError, ModelError, WeightsError
from reactometer.evaluation.evaluate import evaluate
from reactometer.inference.checkpoint import join_models, load_model
from reactometer.inference.prediction import Prediction
from reactometer.inference.predictor import predict_files
from reactometer.inference.runtime import Networks, StreamInput
from reactometer.inference.tables import clip_columns
from reactometer.labels import HUME_REACTION
from reactometer.media import segments

pytestmark = pytest.mark.usefixtures("found_once")


@pytest.fixture(scope="module")
def videos(simulated: Path) -> list[Path]:
    return sorted((simulated / "test" / "mp4").iterdir())


def test_predict_equals_evaluate(model_folder: Path, prepared: PreparedSet, videos: list[Path]) -> None:
    table = evaluate(model_folder, prepared.folder, progress=False).predictions.set_index("File_ID")
    for prediction in predict_files(videos, model_folder, progress=False):
        expected = table.loc[f"[{Path(prediction.path).stem}]"].to_numpy(dtype=float)
        assert prediction.status == "ok"
        np.testing.assert_allclose(prediction.intensities or (), expected, atol=1e-5)


def test_windows_cover_the_file(model_folder: Path, videos: list[Path]) -> None:
    (prediction,) = predict_files(videos[:1], model_folder, window_s=0.5, hop_s=0.25, progress=False)
    assert [window.start_s for window in prediction.windows] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.25][
        : len(prediction.windows)
    ]
    assert prediction.windows[-1].end_s == pytest.approx(prediction.duration_s, abs=0.11)
    assert prediction.frames_read == 15
    assert all(0.0 <= value <= 1.0 for window in prediction.windows for value in window.intensities or ())


def test_a_single_path_is_accepted(model_folder: Path, videos: list[Path]) -> None:
    """A string is one path, not a sequence of letters."""
    (one,) = predict_files([videos[0]], model_folder, timeline=False, progress=False)
    for video in (videos[0], str(videos[0])):
        assert predict_files(video, model_folder, timeline=False, progress=False) == [one]


def test_the_timeline_does_not_change_the_clip_values(model_folder: Path, videos: list[Path]) -> None:
    (one,), (other,) = (
        predict_files(videos[:1], model_folder, timeline=kind, progress=False) for kind in (True, False)
    )
    assert one.intensities == pytest.approx(other.intensities, abs=1e-6)
    assert other.windows == ()


def test_unreadable_files_do_not_stop_the_others(
    model_folder: Path, videos: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "notes.mp4").write_text("not a video")
    (tmp_path / "cut.mp4").write_bytes(videos[0].read_bytes()[:3000])
    files = [
        tmp_path / "empty.mp4",
        videos[0],
        tmp_path / "notes.mp4",
        tmp_path / "missing.mp4",
        tmp_path,
        tmp_path / "cut.mp4",
    ]
    predictions = predict_files(files, model_folder, progress=False)
    assert [prediction.failed for prediction in predictions] == [True, False, True, True, True, True]
    for prediction in predictions:
        if prediction.failed:
            assert prediction.path in prediction.status
            assert "\n" not in prediction.status
            assert prediction.intensities is None
            assert prediction.windows == ()


def test_a_long_file_is_the_mean_of_its_parts(
    model_folder: Path, videos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With parts of half a second, the clip of 1.5 s is the mean of its three parts, each a window of the
    timeline."""
    from reactometer.inference import predictor

    part = segments.WindowSpec(0.5, 0.5)
    monkeypatch.setattr(predictor, "MAX_SEGMENT", part)
    (prediction,) = predict_files(videos[:1], model_folder, window_s=0.5, hop_s=0.5, progress=False)
    lengths = [window.end_s - window.start_s for window in prediction.windows]
    expected = np.average(
        [window.intensities or () for window in prediction.windows], axis=0, weights=lengths
    )
    assert len(prediction.windows) == 3
    np.testing.assert_allclose(prediction.intensities or (), expected, atol=1e-6)


def test_invalid_windows_are_refused(model_folder: Path, videos: list[Path]) -> None:
    with pytest.raises(ConfigError, match=r"window 1.0 s, hop 2.0 s"):
        predict_files(videos, model_folder, window_s=1.0, hop_s=2.0)
    with pytest.raises(ConfigError, match=r"rate_hz.*-1\.0"):
        predict_files(videos, model_folder, rate_hz=-1.0)
    with pytest.raises(ConfigError, match="window and hop"):
        predict_files(videos, model_folder, hop_s=0.0)
    with pytest.raises(ConfigError, match=r"1e-06 s.*0\.01 s"):
        predict_files(videos, model_folder, hop_s=1e-6)


@pytest.fixture(scope="module")
def personal_folder(
    frozen_folder: Path, lively: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Train a model of face and voice with a frozen encoder and person norm."""
    return lively(frozen_folder, tmp_path_factory.mktemp("personal") / "model", person_norm=True)


@pytest.fixture(scope="module")
def of_ann(videos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a dataset of five clips of one person and a sixth of another person."""
    table = pd.DataFrame({"path": videos[:6], "split": "test", "person": ["Ann"] * 5 + ["Ben"]})
    table[list(HUME_REACTION)] = np.random.default_rng(0).uniform(size=(6, 7)).round(3)
    path = tmp_path_factory.mktemp("ann") / "table.csv"
    table.to_csv(path, index=False)
    return path


def _whole(predictions: list[Prediction]) -> np.ndarray:
    assert all(prediction.status == "ok" for prediction in predictions)
    return np.array([prediction.intensities for prediction in predictions])


def _evaluated(model: Path, data: Path) -> np.ndarray:
    table = evaluate(model, data, split="test", progress=False).predictions
    return table[list(HUME_REACTION)].to_numpy()


@pytest.mark.slow
def test_person_norm_in_predict_equals_evaluate(
    personal_folder: Path, of_ann: Path, videos: list[Path]
) -> None:
    people = dict.fromkeys(videos[:5], "Ann") | {videos[5]: "Ben"}
    predictions = predict_files(videos[:6], personal_folder, people=people, progress=False)
    others = predict_files(videos[:6], personal_folder, progress=False)
    np.testing.assert_allclose(_whole(predictions), _evaluated(personal_folder, of_ann), atol=1e-4)
    assert np.abs(_whole(predictions) - _whole(others)).max(axis=1)[:5].min() > 1e-3
    assert predictions[5].intensities == others[5].intensities  # one clip of Ben is too few
    windows = [window.intensities for prediction in predictions[:5] for window in prediction.windows]
    assert windows != [window.intensities for prediction in others[:5] for window in prediction.windows]
    again = predict_files(
        videos[4::-1], personal_folder, people={str(video): "Ann" for video in videos[:5]}, progress=False
    )
    np.testing.assert_allclose(_whole(again)[::-1], _whole(predictions)[:5], atol=1e-5)


@pytest.mark.slow
def test_an_ensemble_with_person_norm_equals_evaluate(
    personal_folder: Path,
    frozen_folder: Path,
    of_ann: Path,
    videos: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One member of the ensemble normalises per person; parts have half a second."""
    from reactometer.inference import predictor

    part = segments.WindowSpec(0.5, 0.5)
    monkeypatch.setattr(predictor, "MAX_SEGMENT", part)
    monkeypatch.setattr(segments, "MAX_SEGMENT", part)
    one, other = personal_folder, frozen_folder
    joint = join_models([one, other], tmp_path / "joint")
    people = dict.fromkeys(videos[:5], "Ann")
    predictions = [
        _whole(predict_files(videos[:5], model, people=people, window_s=0.5, hop_s=0.25, progress=False))
        for model in (one, other, joint)
    ]
    np.testing.assert_allclose(predictions[2], np.mean(predictions[:2], axis=0), atol=1e-6)
    np.testing.assert_allclose(predictions[2], _evaluated(joint, of_ann)[:5], atol=1e-4)


@pytest.mark.slow
def test_people_do_not_matter_without_person_norm(model_folder: Path, videos: list[Path]) -> None:
    predictions = predict_files(
        videos[:5], model_folder, people=dict.fromkeys(videos[:5], "Ann"), progress=False
    )
    assert predictions == predict_files(videos[:5], model_folder, progress=False)


def test_people_of_other_files_are_refused(videos: list[Path]) -> None:
    with pytest.raises(DataError, match=rf"{videos[1].name}.*{videos[0]}"):
        predict_files(
            videos[:2], "nowhere", people={str(videos[0]): "Ann", videos[1].name: "Ann"}, progress=False
        )


@pytest.mark.slow
def test_an_unreadable_file_does_not_stop_person_norm(
    personal_folder: Path, videos: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "bad.mp4").write_text("not a video")
    files = [*videos[:5], tmp_path / "bad.mp4"]
    *predictions, bad = predict_files(
        files, personal_folder, people=dict.fromkeys(files, "Ann"), progress=False
    )
    assert bad.failed
    expected = predict_files(
        videos[:5], personal_folder, people=dict.fromkeys(videos[:5], "Ann"), progress=False
    )
    np.testing.assert_allclose(_whole(predictions), _whole(expected), atol=1e-6)


@pytest.mark.slow
def test_predictions_equal_the_evaluation_table(
    model_folder: Path,
    prepared: PreparedSet,
    videos: list[Path],
    lively: Callable[..., Path],
    tmp_path: Path,
) -> None:
    model = lively(model_folder, tmp_path / "model")
    table = evaluate(model, prepared.folder, progress=False).predictions.set_index("File_ID")
    expected = [table.loc[f"[{video.stem}]"].to_numpy(dtype=float) for video in videos[:4]]
    predictions = predict_files(videos[:4], model, window_s=0.5, hop_s=0.5, progress=False)
    np.testing.assert_allclose(_whole(predictions), expected, atol=1e-5)
    assert [len(prediction.windows) for prediction in predictions] == [3] * 4


@pytest.mark.slow
def test_an_ensemble_averages_its_members(
    model_folder: Path, videos: list[Path], lively: Callable[..., Path], tmp_path: Path
) -> None:
    members = [lively(model_folder, tmp_path / name, seed) for seed, name in enumerate("ab")]
    joint = join_models(members, tmp_path / "joint")
    (tmp_path / "bad.mp4").write_text("not a video")
    files = [*videos[:2], tmp_path / "bad.mp4"]
    one, other, both = (predict_files(files, model, progress=False) for model in (*members, joint))
    np.testing.assert_allclose(_whole(both[:2]), (_whole(one[:2]) + _whole(other[:2])) / 2, atol=1e-6)
    assert np.abs(_whole(one[:2]) - _whole(other[:2])).max() > 0.01
    for index in range(len(both[0].windows)):
        windows = [prediction.windows[index] for prediction in (one[0], other[0], both[0])]
        first, second, mean = (np.array(window.intensities) for window in windows)
        np.testing.assert_allclose(mean, (first + second) / 2, atol=1e-6)
    assert both[2] == one[2]
    assert both[2].failed


@pytest.mark.slow(20)
def test_an_ensemble_reads_a_file_once_for_all_members(
    model_folder: Path, videos: list[Path], lively: Callable[..., Path], reads: list[str], tmp_path: Path
) -> None:
    """Scores of few windows at a time equal those of all windows."""
    joint = join_models([model_folder, lively(model_folder, tmp_path / "a")], tmp_path / "joint")
    predictions = predict_files(videos[:2], joint, window_s=0.5, hop_s=0.25, isolated=False, progress=False)
    assert reads == [video.name for video in videos[:2]]
    windows = predictions[0].windows
    assert [window.start_s for window in windows] == [0.25 * index for index in range(len(windows))]
    assert len(windows) > 3


@pytest.mark.slow(20)
def test_members_with_equal_encoders_share_features(
    model_folder: Path,
    videos: list[Path],
    lively: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    encode, encoded = Networks.encode_frames, list[int]()

    def count(networks: Networks, images: np.ndarray) -> np.ndarray:
        encoded.append(len(images))
        return encode(networks, images)

    monkeypatch.setattr(Networks, "encode_frames", count)
    members = [model_folder, lively(model_folder, tmp_path / "a")]
    one, other = (predict_files(videos[0], member, isolated=False, progress=False) for member in members)
    n_images = sum(encoded) // 2
    encoded.clear()
    joint = join_models(members, tmp_path / "joint")
    both = predict_files(videos[0], joint, isolated=False, progress=False)
    assert sum(encoded) == n_images > 0
    np.testing.assert_allclose(_whole(both), (_whole(one) + _whole(other)) / 2, atol=1e-6)


@pytest.mark.slow(25)
def test_person_norm_reads_a_file_twice(
    personal_folder: Path, frozen_folder: Path, videos: list[Path], reads: list[str], tmp_path: Path
) -> None:
    joint = join_models([personal_folder, frozen_folder, personal_folder], tmp_path / "joint")
    predict_files(videos[:2], joint, people={videos[0]: "Ann"}, isolated=False, progress=False)
    assert reads == [video.name for video in (videos[0], *videos[:2])]
    reads.clear()
    predict_files(videos[:1], frozen_folder, people={videos[0]: "Ann"}, isolated=False, progress=False)
    assert reads == [videos[0].name]


def test_a_feature_model_refuses_media(model_folder: Path, videos: list[Path]) -> None:
    loaded = load_model(model_folder)
    networks = replace(loaded.networks, inputs={"face": StreamInput(kind="features", feature_size=3)})
    with pytest.raises(ModelError, match=r"features.*reactometer evaluate"):
        predict_files(videos[:1], replace(loaded, networks=networks), progress=False)


def _by_name(predictions: list[Prediction]) -> dict[str, Prediction]:
    return {Path(prediction.path).name: prediction for prediction in predictions}


@pytest.mark.slow
@pytest.mark.shared
def test_predictions_of_real_clips(model_folder: Path, shared_data: Path) -> None:
    """Check frame counts (98 less 3 that an edit list hides), visible faces and notes on silence."""
    model = load_model(model_folder)
    clips = _by_name(
        predict_files(sorted((shared_data / "clips").iterdir()), model, rate_hz=2.0, progress=False)
    )
    assert {name: clip.frames_read for name, clip in clips.items()} == {
        "WolfgangLanger_Pexels.mp4": 472,
        "face_noface.mov": 169,
        "no_face.mp4": 95,
        "single_face.mp4": 72,
    }
    assert not any(clip.failed for clip in clips.values())
    assert clips["no_face.mp4"].face_share == 0.0
    assert clips["WolfgangLanger_Pexels.mp4"].has_sound is False
    assert 0.2 < (clips["face_noface.mov"].face_share or 0.0) < 0.95
    shares = [window.face_share for window in clips["face_noface.mov"].windows]
    assert max(shares) > 0.9
    assert min(shares) == 0.0


@pytest.mark.slow
@pytest.mark.shared
def test_the_order_of_files_changes_nothing(model_folder: Path, shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "clips" / "single_face.mp4"
    again = Path(shutil.copy(path, tmp_path / "again.mp4"))
    first, _, last = predict_files(
        [path, shared_data / "clips" / "no_face.mp4", again], model_folder, progress=False
    )
    assert first.intensities == pytest.approx(last.intensities, abs=1e-6)
    assert [window.intensities for window in first.windows] == [window.intensities for window in last.windows]


def test_an_unreadable_file_has_the_usual_columns(tmp_path: Path) -> None:
    """The first prediction determines a table's columns, so an unreadable file must have interval columns,
    too."""
    (prediction,) = predict_files(tmp_path / "nowhere.mp4", progress=False)
    assert prediction.failed
    assert "Happiness_low" in clip_columns(prediction)


def test_a_missing_detector_is_reported_before_decoding(no_yunet: None, model_folder: Path) -> None:
    model = load_model(model_folder)
    prepare = model.config.prepare.model_copy(update={"detector": "yunet"})
    with pytest.raises(WeightsError, match="YuNet"):
        predict_files(
            "a.mp4",
            replace(model, config=model.config.model_copy(update={"prepare": prepare})),
            progress=False,
        )
