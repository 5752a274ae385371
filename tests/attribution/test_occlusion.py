"""Occlusion: hiding a part equals a prediction without the part, and known causes are identified."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from lossless import RATE_HZ, write
from reactometer.attribution import occlusion
from reactometer.attribution.occlusion import Attribution, explain
from reactometer.attribution.report import describe, write_attribution
from reactometer.cli.app import app
from reactometer.config import Config
from reactometer.data.cache import PreparedSet
from reactometer.data.inputs import to_item
from reactometer.errors import ConfigError, MediaError, ModelError, OutputError
from reactometer.evaluation.evaluate import evaluate
from reactometer.inference import predictor
from reactometer.inference.checkpoint import LoadedModel, join_models, load_model, sampling_of
from reactometer.inference.predictor import predict_files
from reactometer.inference.runtime import Graph, Networks, StreamInput
from reactometer.inference.scoring import score_items
from reactometer.labels import BASIC
from reactometer.media import segments
from reactometer.media.faces import load_detector
from reactometer.media.segments import prepare_clip
from reactometer.models.registry import build_model, load_encoders
from reactometer.synthetic.clip import clip_plan, render_clip
from reactometer.training.export import write_checkpoint
from reactometer.types import SOUND_RATE_HZ, ByteArray, FloatArray, PreparedClip

LABELS = ("up", "down", "still")
FRAMES_ONLY = ("resnet50", "resnet50-gru", "vit-transformer")

Checkpoint = Callable[..., Path]


@pytest.fixture(scope="module")
def talk() -> tuple[ByteArray, FloatArray]:
    """Write a video of a synthetic person who speaks for three seconds."""
    plans = (clip_plan(number) for number in range(20))
    frames, waveform, *_ = render_clip(
        next(plan for plan in plans if all(plan.face_visible) and plan.sound == "voice")
    )
    return frames, np.asarray(waveform, np.float32)


@pytest.fixture(scope="module")
def video(talk: tuple[ByteArray, FloatArray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("talk") / "talk.mkv", *talk)


def _config(name: str) -> Config:
    tiny = {"videomae": "random:videomae-tiny", "vit-transformer": "random:vit-tiny"}
    size_px = 64 if name == "videomae" else 32
    small = {"size_px": size_px, "n_frames": 8, "hidden": 16, "encoder": tiny.get(name, "random:resnet-tiny")}
    prepare = {"detector": "haar", "rate_hz": 5.0, "size_px": 48}
    return Config.model_validate({"prepare": prepare, "model": {"name": name, **small}})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """``checkpoint(name, seed=0)``: a system with random weights and an output layer whose answers vary."""

    @cache
    def checkpoint(name: str, seed: int = 0) -> Path:
        config = _config(name)
        torch.manual_seed(seed)
        network = build_model(config.model, load_encoders(config.model), [0.2, 0.5, 0.8]).eval()
        for parameter in network.output.parameters():
            nn.init.normal_(parameter, std=0.3)
        folder = tmp_path_factory.mktemp(name) / "model"
        return write_checkpoint(folder, network, LABELS, config, data={}, metrics={})

    return checkpoint


@pytest.fixture(scope="module")
def clip(video: Path) -> PreparedClip:
    return prepare_clip(video, _config("resnet50").prepare, load_detector("haar"))


def _explain(video: Path, model: LoadedModel | Path, **options: Any) -> Attribution:
    return explain(video, model, progress=False, **options)


@pytest.mark.slow(10)
@pytest.mark.parametrize(
    "name",
    ["videomae", "multimodal", *FRAMES_ONLY],
)
def test_hidden_frames_do_not_reach_the_model(
    name: str, checkpoint: Checkpoint, clip: PreparedClip, video: Path
) -> None:
    """Compare with the networks, whose face mask lacks the hidden frames."""
    model = load_model(checkpoint(name))
    media = to_item(clip, model.sampling)
    attribution = _explain(video, model, face_map=False)
    start_s, end_s = attribution.spans[1]
    face = media.streams["face"]
    mask = face.mask & ((face.times_s < start_s) | (face.times_s >= end_s))
    assert 0 < mask.sum() < face.mask.sum()
    unseen = media.with_steps(
        {"face": face._replace(mask=mask, values=face.values * mask[:, None, None, None])}
    )
    encoded = [model.networks.encode(item) for item in (media, unseen)]
    whole, rest = (score.intensities for item in encoded for score in score_items(model.networks, [item]))
    np.testing.assert_allclose(attribution.windows["face"][1], whole - rest, atol=1e-5)
    assert np.abs(whole - rest).max() > 1e-5


def test_hiding_a_modality_equals_evaluation_without_it(
    model_folder: Path, prepared: PreparedSet, simulated: Path, lively: Callable[..., Path], tmp_path: Path
) -> None:
    model = load_model(lively(model_folder, tmp_path / "lively"))
    clip = sorted((simulated / "test" / "mp4").iterdir())[1]
    attribution = _explain(clip, model, face_map=False)
    for modality in ("face", "voice"):
        scores = evaluate(model, prepared.folder, without=modality, n_resamples=0, progress=False).predictions
        expected = scores.set_index("File_ID").loc[f"[{clip.stem}]"].to_numpy(dtype=float)
        rest = np.array(attribution.prediction.intensities) - attribution.modalities[modality]
        np.testing.assert_allclose(rest, expected, atol=1e-5)


def _texture(images: np.ndarray) -> list[np.ndarray]:
    """(K, 1): how much varies at the mouth of each picture (K, 3, H, W) uint8, in colours from 0 to 1."""
    side = images.shape[-1]
    mouth = images[
        ..., int(0.66 * side) : int(0.82 * side), int(0.35 * side) : int(0.65 * side)
    ] / np.float32(255)
    return [mouth.var(axis=(1, 2, 3), ddof=1)[:, None]]


class _RisesAndFalls:
    """Fake the head's graph: intensities (B, 3) that rise, fall and stay with the mean of the visible
    frames."""

    def __call__(self, frames: np.ndarray, mask: np.ndarray, times_s: np.ndarray) -> list[np.ndarray]:
        sums, counts = (frames * mask[..., None]).sum(axis=1), mask.sum(axis=1, keepdims=True)  # (B, 1) each
        mean = sums / np.maximum(counts, 1)
        return [1 / (1 + np.exp(-mean * np.array([[100.0, -100.0, 0.0]], np.float32)))]  # (B, 3)


@pytest.fixture(scope="module")
def of_the_mouth() -> LoadedModel:
    """Return a model that depends only on the mouth's brightness."""
    config = _config("resnet50")
    config = config.model_copy(
        update={"model": config.model.model_copy(update={"n_frames": 16, "size_px": 48})}
    )
    inputs = {"face": StreamInput(kind="frames", feature_size=1)}
    networks = Networks(inputs, cast(Graph, _RisesAndFalls()), {"face": cast(Graph, _texture)})
    return LoadedModel(networks, LABELS, sampling_of(config.model, inputs), config)


@pytest.fixture(scope="module")
def one_clear_second(talk: tuple[ByteArray, FloatArray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a video of the same person, paler except in the second second."""
    frames = talk[0].astype(np.float32)
    pale = np.ones(len(frames), bool)
    pale[RATE_HZ : 2 * RATE_HZ] = False
    frames[pale] = 128 + 0.4 * (frames[pale] - 128)
    return write(tmp_path_factory.mktemp("pale") / "pale.mkv", frames.astype(np.uint8), None)


def test_a_known_cause_is_found(of_the_mouth: LoadedModel, one_clear_second: Path, tmp_path: Path) -> None:
    attribution = _explain(one_clear_second, of_the_mouth)
    assert attribution.face_map is not None
    assert attribution.face_map.shape == (3, 8, 8)
    part, change = attribution.peak(0) or ("", 0.0)
    assert part == "mouth"
    assert change > 0.05
    assert attribution.face_map[0] == pytest.approx(-attribution.face_map[1], abs=1e-5)
    assert np.abs(attribution.face_map[0, :4]).max() < 1e-6  # brows and eyes change nothing
    assert attribution.peak(2) == ("no single part", 0.0)
    start_s, end_s = attribution.spans[int(np.nanargmax(attribution.windows["face"][:, 0]))]
    assert 1.0 <= start_s < end_s <= 2.0
    lines = describe(attribution)
    assert "raised most by the face at 1." in lines[2]
    assert [line.split()[0] for line in lines[1:] if not line.startswith(" ")] == ["up", "still", "down"]
    assert lines[-5:-3] == ["  no single moment changes it", "  part of the face: no single part +0.00"]
    written = list(write_attribution(attribution, tmp_path / "out"))
    with pytest.raises(OutputError, match="cannot be written"):
        list(write_attribution(attribution, written[0]))
    assert written[1].stat().st_size > 20_000
    table = json.loads(written[0].read_text())
    assert len(table["windows"]) == len(attribution.spans)
    assert table["face_map"]["up"]["peak"] == "mouth"


@pytest.mark.slow
def test_a_span_of_an_ensemble_equals_predict(checkpoint: Checkpoint, video: Path, tmp_path: Path) -> None:
    """Changes of an ensemble are the mean of its members' changes."""
    members = [checkpoint("multimodal"), checkpoint("multimodal", 1)]
    joint = load_model(join_models(members, tmp_path / "joint"))
    (predicted,) = predict_files([video], joint, window_s=2.0, hop_s=1.0, progress=False)
    options = {"span": "1-3s", "face_map": False}
    attribution = _explain(video, joint, **options)
    assert (attribution.start_s, attribution.end_s, attribution.frame_times_s[0] >= 1.0) == (1.0, 3.0, True)
    assert attribution.prediction.intensities == pytest.approx(predicted.windows[1].intensities, abs=1e-5)
    one, other = (_explain(video, member, **options) for member in members)
    for modality in ("face", "voice"):
        mean = (one.windows[modality] + other.windows[modality]) / 2
        np.testing.assert_allclose(attribution.windows[modality], mean, atol=1e-5)


def test_windows_without_input_have_no_change(talk: tuple[ByteArray, FloatArray], tmp_path: Path) -> None:
    """Explain by the starter a video that ends with a black second without sound."""
    frames, waveform = talk[0].copy(), talk[1].copy()
    frames[2 * RATE_HZ :], waveform[int(1.5 * SOUND_RATE_HZ) :] = 0, 0.0
    path = write(tmp_path / "short.mkv", frames, waveform)
    starter = replace(load_model("starter"), screening=None)  # it refuses rendered faces
    attribution = explain(path, starter, face_map=False, progress=False)
    ends_s = np.array(attribution.spans)  # (K, 2)
    for modality, end_s in (("face", 2.0), ("voice", 1.6)):
        assert np.isnan(attribution.windows[modality][ends_s[:, 0] >= end_s]).all()
        assert not np.isnan(attribution.windows[modality][ends_s[:, 1] <= 1.0]).any()
    assert set(attribution.modalities) == {"face", "voice"}
    rows = json.loads(next(iter(write_attribution(attribution, tmp_path))).read_text())["windows"]
    assert rows[-1][BASIC[0]] is None


def test_a_plot_without_face_map(of_the_mouth: LoadedModel, one_clear_second: Path, tmp_path: Path) -> None:
    attribution = _explain(one_clear_second, of_the_mouth, face_map=False)
    assert attribution.face_map is None
    assert not any("part of the face" in line for line in describe(attribution))
    *_, picture = write_attribution(attribution, tmp_path)
    assert picture.stat().st_size > 20_000


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"span": "soon"}, "invalid span.*'soon'.*10-20s"),
        ({"span": "3-2s"}, "invalid span"),
        ({"span": "0-61s"}, "invalid span"),
        ({"span": "7-9s"}, "not in the file.*7 to 9 s"),
    ],
)
def test_invalid_spans_are_refused(
    of_the_mouth: LoadedModel, video: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        _explain(video, of_the_mouth, **options)


@pytest.mark.slow(20)
def test_a_long_file_needs_a_span_that_may_cross_parts(
    checkpoint: Checkpoint, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(checkpoint("multimodal"))
    short = _explain(video, model, span="1.5-2.5s", face_map=False)
    for module in (occlusion, predictor, segments):
        monkeypatch.setattr(module, "MAX_SEGMENT", segments.WindowSpec(2.0, 2.0))
    with pytest.raises(ConfigError, match=r"longer than.*--span"):
        _explain(video, model)
    across = _explain(video, model, span="1.5-2.5s", face_map=False)
    assert across.prediction.intensities == pytest.approx(short.prediction.intensities, abs=1e-6)
    np.testing.assert_allclose(across.windows["voice"], short.windows["voice"], atol=1e-6)


def test_unexplainable_files_raise_errors(of_the_mouth: LoadedModel, video: Path, tmp_path: Path) -> None:
    model = of_the_mouth
    nobody = write(tmp_path / "nobody.mkv", np.zeros((10, 64, 64, 3), np.uint8), None)
    with pytest.raises(MediaError, match="nothing to explain: no face"):
        _explain(nobody, model)
    with pytest.raises(MediaError, match="no such file"):
        _explain(tmp_path / "none.mp4", model)
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(MediaError, match="cannot read"):
        _explain(tmp_path / "text.mp4", model)
    networks = replace(model.networks, inputs={"face": StreamInput(kind="features", feature_size=3)})
    with pytest.raises(ModelError, match="features"):
        _explain(video, replace(model, networks=networks))


def test_the_command_prints_a_summary_and_writes_both_files(video: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["explain", str(video), "--out", str(tmp_path / "out"), "--no-face-map"])
    assert result.exit_code == 0
    assert "talk.mkv, 0.00 to 3.00 s, face in" in result.stdout
    assert "raised most by the" in result.stdout
    assert "part of the face" not in result.stdout
    assert "the starter model was trained" in " ".join(result.stderr.split())
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"attribution.json", "attribution.png"}


@pytest.mark.slow
@pytest.mark.shared
def test_a_real_smile_is_explained_by_the_mouth(shared_data: Path) -> None:
    attribution = explain(shared_data / "clips" / "single_face.mp4", progress=False)
    happiness = attribution.prediction.labels.index("Happiness")
    assert attribution.strongest() == [happiness]
    part, change = attribution.peak(happiness) or ("", 0.0)
    assert (part, change > 0.05) == ("mouth", True)
    assert attribution.prediction.warnings == ("voice not used: no speech",)
    moved = attribution.windows["face"][:, happiness]
    assert attribution.spans[int(moved.argmin())][0] <= 0.5  # before the smile
