"""Prediction: files as a whole and over time, streamed, and every bad one named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from reactometer.data.cache import PreparedSet
from reactometer.errors import ConfigError
from reactometer.evaluation.evaluate import evaluate
from reactometer.inference.predictor import predict
from reactometer.media import stream
from reactometer.models.folder import load_model
from reactometer.records import Prediction


@pytest.fixture(scope="module")
def videos(simulated: Path) -> list[Path]:
    return sorted((simulated / "test" / "mp4").iterdir())


def test_a_file_gets_the_numbers_that_evaluation_gives_it(
    model_folder: Path, prepared: PreparedSet, videos: list[Path]
) -> None:
    table = evaluate(model_folder, prepared.folder, progress=False).predictions.set_index("File_ID")
    for prediction in predict(videos, model_folder, progress=False):
        expected = table.loc[f"[{Path(prediction.path).stem}]"].to_numpy(dtype=float)
        assert prediction.status == "ok"
        np.testing.assert_allclose(prediction.intensities or (), expected, atol=1e-5)


def test_windows_cover_the_file(model_folder: Path, videos: list[Path]) -> None:
    (prediction,) = predict(videos[:1], model_folder, window_s=0.5, hop_s=0.25, progress=False)
    assert [window.start_s for window in prediction.windows] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.25][
        : len(prediction.windows)
    ]
    assert prediction.windows[-1].end_s == pytest.approx(prediction.duration_s, abs=0.11)
    assert prediction.frames_read == 15
    assert all(0.0 <= value <= 1.0 for window in prediction.windows for value in window.intensities or ())


def test_without_a_timeline_the_whole_stays_the_same(model_folder: Path, videos: list[Path]) -> None:
    (one,), (other,) = (predict(videos[:1], model_folder, timeline=kind, progress=False) for kind in (True, False))
    assert one.intensities == pytest.approx(other.intensities, abs=1e-6)
    assert other.windows == ()


def test_bad_files_are_named_and_the_others_go_on(model_folder: Path, videos: list[Path], tmp_path: Path) -> None:
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
    predictions = predict(files, model_folder, progress=False)
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
    """With parts of half a second, the clip of 1.5 s is the mean of its three parts, each a window of the timeline."""
    from reactometer.inference import predictor

    part = stream.WindowShape(0.5, 0.5)
    monkeypatch.setattr(predictor, "PART", part)
    (prediction,) = predict(videos[:1], model_folder, window_s=0.5, hop_s=0.5, progress=False)
    lengths = [window.end_s - window.start_s for window in prediction.windows]
    expected = np.average([window.intensities or () for window in prediction.windows], axis=0, weights=lengths)
    assert len(prediction.windows) == 3
    np.testing.assert_allclose(prediction.intensities or (), expected, atol=1e-6)


def test_windows_that_make_no_sense_are_refused(model_folder: Path, videos: list[Path]) -> None:
    with pytest.raises(ConfigError, match=r"window and hop do not fit \(got window 1.0 s, hop 2.0 s"):
        predict(videos, model_folder, window_s=1.0, hop_s=2.0)
    with pytest.raises(ConfigError, match=r"prepare\.rate_hz cannot be used \(got -1\.0"):
        predict(videos, model_folder, rate_hz=-1.0)
    with pytest.raises(ConfigError, match="window and hop do not fit"):
        predict(videos, model_folder, hop_s=0.0)


def _by_name(predictions: list[Prediction]) -> dict[str, Prediction]:
    return {Path(prediction.path).name: prediction for prediction in predictions}


@pytest.mark.shared
def test_the_real_clips_say_what_they_show(model_folder: Path, shared_data: Path) -> None:
    """Frames as in the containers (98 less 3 that an edit list hides), faces where there are some, silence named."""
    model = load_model(model_folder)
    clips = _by_name(predict(sorted((shared_data / "clips").iterdir()), model, rate_hz=10.0, progress=False))
    assert {name: clip.frames_read for name, clip in clips.items()} == {
        "WolfgangLanger_Pexels.mp4": 472,
        "face_noface.mov": 169,
        "no_face.mp4": 95,
        "single_face.mp4": 72,
    }
    assert all(clip.status == "ok" for name, clip in clips.items() if name != "no_face.mp4")
    assert clips["no_face.mp4"].face_share == 0.0
    assert clips["WolfgangLanger_Pexels.mp4"].has_sound is False
    assert 0.2 < (clips["face_noface.mov"].face_share or 0.0) < 0.95
    shares = [window.face_share for window in clips["face_noface.mov"].windows]
    assert max(shares) > 0.9
    assert min(shares) == 0.0


@pytest.mark.shared
def test_the_position_among_files_changes_nothing(model_folder: Path, shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "clips" / "single_face.mp4"
    again = Path(shutil.copy(path, tmp_path / "again.mp4"))
    first, _, last = predict([path, shared_data / "clips" / "no_face.mp4", again], model_folder, progress=False)
    assert first.intensities == pytest.approx(last.intensities, abs=1e-6)
    assert [window.intensities for window in first.windows] == [window.intensities for window in last.windows]
