"""The starter model, which is a distribution of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lossless import RATE_HZ, write
from reactometer.cli.app import app, main
from reactometer.data.inputs import Item
from reactometer.inference.checkpoint import FILES, LoadedModel, load_model
from reactometer.inference.inputs import encoded_clips
from reactometer.inference.prediction import Prediction
from reactometer.inference.predictor import predict_files
from reactometer.inference.scoring import score_items
from reactometer.labels import BASIC
from reactometer.media.faces import load_detector
from reactometer.media.segments import MAX_SEGMENT, stream_windows
from reactometer.media.tracking import track_face
from reactometer.paths import STARTER, find_checkpoint
from reactometer.synthetic.clip import clip_plan, render_clip
from reactometer.types import SOUND_RATE_HZ, ByteArray, FloatArray


@pytest.fixture(scope="module")
def starter() -> LoadedModel:
    return load_model("starter")


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ByteArray, FloatArray]:
    """Write a video of a synthetic person who speaks for six seconds; return path, frames and sound."""
    clips = [render_clip(clip_plan(number)) for number in (3, 3)]
    frames = np.concatenate([clip[0] for clip in clips])
    waveform = np.concatenate([clip[1] for clip in clips]).astype(np.float32)
    return write(tmp_path_factory.mktemp("talk") / "talk.mkv", frames, waveform), frames, waveform


def test_the_starter_is_small_and_has_a_card(starter: LoadedModel) -> None:
    folder = find_checkpoint(STARTER)
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 14_000_000
    assert {file.name for file in folder.iterdir()} == {
        *("LICENSE", "README.md", "speech.safetensors"),
        *FILES,
    } - {"voice.onnx"}
    assert starter.labels == BASIC
    assert starter.uses_face and starter.uses_voice
    assert max(starter.description["proof"]["differences"].values()) < 1e-5
    card = (folder / "README.md").read_text(encoding="utf-8")
    for phrase in (
        "FER2013",
        "EmoDB",
        "licence",
        "must not",
        "95 %",
        "Calibration",
        "How sure it is",
        *BASIC,
    ):
        assert phrase in card
    description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    paths = [description["config"]["data"]["path"], description["config"]["model"]["encoder"]]
    assert not any(Path(path).is_absolute() for path in paths)  # of whoever trained it


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu9", "error: unknown device 'gpu9'. hint: Known names: auto, cpu, cuda"),
        ("qnn", "error: device 'qnn' is not available"),
    ],
)
def test_an_unusable_device_is_a_one_line_error(
    device: str,
    message: str,
    talk: tuple[Path, ByteArray, FloatArray],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["reactometer", "predict", str(talk[0]), "--device", device])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert " ".join(capsys.readouterr().err.split()).startswith(message)


def test_the_starter_is_the_default_model(talk: tuple[Path, ByteArray, FloatArray], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["predict", str(talk[0]), "--out", str(tmp_path / "clips.json")])
    assert result.exit_code == 0
    assert "the starter model was trained" in " ".join(result.stderr.split())
    (row,) = json.loads((tmp_path / "clips.json").read_text(encoding="utf-8"))
    assert row["status"] == "ok"
    assert all(0.0 <= row[label] <= 1.0 for label in BASIC)


@pytest.mark.slow
def test_predict_imports_nothing_slow(talk: tuple[Path, ByteArray, FloatArray]) -> None:
    """Importing these packages takes longer than a prediction."""
    code = (
        "import sys; from reactometer import load_model; one = load_model('starter').predict(sys.argv[1]); "
        "slow = ('torch', 'transformers', 'lightning', 'onnx', 'pandas', 'pyarrow', 'scipy', 'matplotlib', "
        "'sympy'); "
        "print(one.status, *[name for name in slow if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(talk[0])], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["ok"]


def _items(starter: LoadedModel, path: Path) -> list[Item]:
    settings = starter.config.prepare
    detector = load_detector("haar")
    track = partial(track_face, detector=detector, rate_hz=settings.rate_hz, size_px=settings.size_px)
    clips = [clip for _, clip in stream_windows(path, track, [MAX_SEGMENT])]
    return list(encoded_clips(starter, clips))


@pytest.fixture(scope="module")
def items(
    starter: LoadedModel, talk: tuple[Path, ByteArray, FloatArray], tmp_path_factory: pytest.TempPathFactory
) -> list[Item]:
    """Return features of the video, of its first two seconds, and of three seconds without sound."""
    path, frames, waveform = talk
    folder = tmp_path_factory.mktemp("items")
    short = write(folder / "short.mkv", frames[:20], waveform[: 2 * SOUND_RATE_HZ])
    mute = write(folder / "mute.mkv", frames[:30], np.zeros(3 * SOUND_RATE_HZ, np.float32))
    return [_items(starter, file)[0] for file in (path, short, mute)]


@pytest.mark.parametrize("batch_size", [2, 7])
def test_scores_do_not_depend_on_the_batch(starter: LoadedModel, items: list[Item], batch_size: int) -> None:
    def scores(batch_size: int) -> list[FloatArray]:
        repeated = [items[index] for index in (0, 1, 2, 1, 0, 2, 0)]
        return [score.intensities for score in score_items(starter.networks, repeated, batch_size)]

    together = scores(batch_size)
    for batched, single in zip(together, scores(1), strict=True):
        assert batched == pytest.approx(single, abs=1e-5)
    assert together[0] == pytest.approx(together[6], abs=1e-5)
    assert together[1] == pytest.approx(together[3], abs=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-3


@pytest.mark.slow
def test_a_window_saved_as_a_file_has_the_same_intensities(
    talk: tuple[Path, ByteArray, FloatArray], tmp_path: Path
) -> None:
    path, frames, waveform = talk
    piece = write(
        tmp_path / "piece.mkv",
        frames[2 * RATE_HZ : 4 * RATE_HZ],
        waveform[2 * SOUND_RATE_HZ : 4 * SOUND_RATE_HZ],
    )
    (whole,), (cut,) = (
        predict_files([file], progress=False, window_s=2.0, hop_s=1.0) for file in (path, piece)
    )
    window = whole.windows[2]
    assert (window.start_s, window.end_s) == (2.0, 4.0)
    assert cut.intensities == pytest.approx(window.intensities, abs=1e-5)
    assert cut.windows[0].intensities == pytest.approx(window.intensities, abs=1e-5)


def _by_name(predictions: list[Prediction]) -> dict[str, Prediction]:
    return {Path(prediction.path).name: prediction for prediction in predictions}


@pytest.mark.slow
@pytest.mark.shared
def test_the_real_clips_are_plausible_and_steady(shared_data: Path, tmp_path: Path) -> None:
    """A smile raises Happiness; windows without a face are marked; a clip without a face has no face
    score."""
    files = sorted((shared_data / "clips").iterdir())
    again = Path(shutil.copy(files[-1], tmp_path / "again.mp4"))
    clips = _by_name(predict_files([*files, again], progress=False))
    smile = clips["single_face.mp4"]
    assert smile.intensities is not None
    assert BASIC[int(np.argmax(smile.intensities))] == "Happiness"
    assert clips["again.mp4"].intensities == pytest.approx(smile.intensities, abs=1e-5)
    nobody = clips["no_face.mp4"]
    assert nobody.face_share == 0.0
    assert nobody.status == "no usable face or voice"
    leaving = clips["face_noface.mov"]
    assert any(window.face_share == 0.0 for window in leaving.windows)
    for clip in (clips["WolfgangLanger_Pexels.mp4"], smile):
        values = np.array([window.intensities for window in clip.windows if window.intensities])  # (K, L)
        assert np.abs(np.diff(values, axis=0)).mean() < 0.1
