"""Occlusion: hidden parts change predictions as the model itself does without them, and known causes are found."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from lossless import RATE_HZ, write
from reactometer.cli.app import app
from reactometer.config import Config
from reactometer.data.batches import to_item
from reactometer.data.cache import PreparedSet
from reactometer.errors import ConfigError, MediaError, ModelError, OutputError
from reactometer.evaluation.evaluate import evaluate
from reactometer.explain import occlusion
from reactometer.explain.occlusion import Attribution, explain
from reactometer.explain.report import describe, write_attribution
from reactometer.inference import predictor
from reactometer.inference.predictor import predict
from reactometer.labels import BASIC
from reactometer.media import segments
from reactometer.media.faces import load_detector
from reactometer.media.segments import prepare_clip
from reactometer.models.backbones import Net
from reactometer.models.folder import LoadedModel, join_models, load_model, save_model
from reactometer.models.heads import MeanHead
from reactometer.models.model import ReactionModel, output_layer
from reactometer.models.registry import SYSTEMS, build_model, load_encoders, sampling_of
from reactometer.models.scoring import score_items
from reactometer.models.vision_encoders import FrameEncoder
from reactometer.synthetic.clip import clip_plan, render_clip
from reactometer.types import SOUND_RATE_HZ, ByteArray, FloatArray, PreparedClip

LABELS = ("up", "down", "still")


@pytest.fixture(scope="module")
def talk() -> tuple[ByteArray, FloatArray]:
    """A drawn person who speaks for three seconds."""
    plans = (clip_plan(number) for number in range(20))
    frames, waveform, *_ = render_clip(next(plan for plan in plans if all(plan.face_visible) and plan.sound == "voice"))
    return frames, np.asarray(waveform, np.float32)


@pytest.fixture(scope="module")
def video(talk: tuple[ByteArray, FloatArray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("talk") / "talk.mkv", *talk)


def _config(name: str, **model: object) -> Config:
    tiny = {"videomae": "random:videomae-tiny", "vit-transformer": "random:vit-tiny"}
    small = {"size_px": 32, "n_frames": 8, "hidden": 16, "encoder": tiny.get(name, "random:resnet-tiny")}
    prepare = {"detector": "haar", "rate_hz": 5.0, "size_px": 48}
    return Config.model_validate({"prepare": prepare, "model": {"name": name, **small, **model}})


def _model(name: str, **model: object) -> LoadedModel:
    """One of the systems with random weights, and with an output layer whose answers vary."""
    config = _config(name, **model)
    torch.manual_seed(0)
    network = build_model(config.model, load_encoders(config.model), [0.2, 0.5, 0.8]).eval()
    for parameter in network.output.parameters():
        nn.init.normal_(parameter, std=0.3)
    return LoadedModel(network, LABELS, sampling_of(config.model, network), config)


@pytest.fixture(scope="module")
def clip(video: Path) -> PreparedClip:
    return prepare_clip(video, _config("resnet50").prepare, load_detector("haar"))


def _explain(video: Path, model: LoadedModel | Path, **options: Any) -> Attribution:
    return explain(video, model, progress=False, **options)


@pytest.mark.parametrize(("name", "frozen"), [*((name, False) for name in SYSTEMS), ("multimodal", True)])
def test_hidden_frames_are_as_if_unseen(name: str, frozen: bool, clip: PreparedClip, video: Path) -> None:
    """Compared with the network itself, given the pictures with fewer of them seen."""
    model = _model(name, frozen=frozen)
    media = to_item(clip, model.sampling)
    own = _explain(video, model, face_map=False)
    start_s, end_s = own.spans[1]
    kept = media.seen & ((media.times_s < start_s) | (media.times_s >= end_s))
    assert 0 < kept.sum() < media.seen.sum()
    unseen = replace(media, seen=kept, frames=media.frames * kept[:, None, None, None])
    whole, rest = (score.intensities for item in (media, unseen) for score in score_items(model.network, [item]))
    np.testing.assert_allclose(own.stretches["face"][1], whole - rest, atol=1e-5)
    assert np.abs(whole - rest).max() > 1e-5


def test_a_hidden_modality_is_what_evaluation_without_it_says(
    model_folder: Path, prepared: PreparedSet, simulated: Path, lively: Callable[..., Path], tmp_path: Path
) -> None:
    model = load_model(lively(model_folder, tmp_path / "lively"))
    clip = sorted((simulated / "test" / "mp4").iterdir())[1]
    own = _explain(clip, model, face_map=False)
    for modality in ("face", "voice"):
        scores = evaluate(model, prepared.folder, without=modality, n_resamples=0, progress=False).predictions
        expected = scores.set_index("File_ID").loc[f"[{clip.stem}]"].to_numpy(dtype=float)
        rest = np.array(own.prediction.intensities) - own.modalities[modality]
        np.testing.assert_allclose(rest, expected, atol=1e-5)


class _Texture(nn.Module):
    """How much varies in one region of a picture, twice: a network whose cause is known."""

    config = SimpleNamespace()

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        side = pixel_values.shape[-1]
        mouth = pixel_values[..., int(0.66 * side) : int(0.82 * side), int(0.35 * side) : int(0.65 * side)]
        return SimpleNamespace(last_hidden_state=mouth.var(dim=(1, 2, 3))[:, None, None, None])  # (K, 1, 1, 1)


@pytest.fixture(scope="module")
def of_the_mouth() -> LoadedModel:
    """Rises and falls with what varies at the mouth, in colours from 0 to 1."""
    config = _config("resnet50", n_frames=16, size_px=48)
    encoder = FrameEncoder(Net(_Texture(), {"do_normalize": False}, False), 48)
    output = output_layer(1, [0.5, 0.5, 0.5], 0.0)
    network = ReactionModel(encoder, None, MeanHead(1), output, torch.full((3,), 0.5), frozen=False).eval()
    with torch.no_grad():
        output[-1].weight.copy_(torch.tensor([[100.0], [-100.0], [0.0]]))  # type: ignore[index]
    return LoadedModel(network, LABELS, sampling_of(config.model, network), config)


@pytest.fixture(scope="module")
def one_clear_second(talk: tuple[ByteArray, FloatArray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same person, paler but for the second second."""
    frames = talk[0].astype(np.float32)
    pale = np.ones(len(frames), bool)
    pale[RATE_HZ : 2 * RATE_HZ] = False
    frames[pale] = 128 + 0.4 * (frames[pale] - 128)
    return write(tmp_path_factory.mktemp("pale") / "pale.mkv", frames.astype(np.uint8), None)


def test_a_known_cause_is_found(of_the_mouth: LoadedModel, one_clear_second: Path, tmp_path: Path) -> None:
    own = _explain(one_clear_second, of_the_mouth)
    assert own.face_map is not None
    assert own.face_map.shape == (3, 8, 8)
    part, change = own.peak(0) or ("", 0.0)
    assert part == "mouth"
    assert change > 0.05
    assert own.face_map[0] == pytest.approx(-own.face_map[1], abs=1e-5)
    assert np.abs(own.face_map[0, :4]).max() < 1e-6  # brows and eyes change nothing
    assert own.peak(2) == ("no part by itself", 0.0)
    start_s, end_s = own.spans[int(np.nanargmax(own.stretches["face"][:, 0]))]
    assert 1.0 <= start_s < end_s <= 2.0
    said = describe(own)
    assert "raised most by the face at 1." in said[2]
    assert [line.split()[0] for line in said[1:] if not line.startswith(" ")] == ["up", "still", "down"]
    assert said[-5:-3] == ["  no moment changes it by itself", "  part of the face: no part by itself +0.00"]
    written = list(write_attribution(own, tmp_path / "out"))
    with pytest.raises(OutputError, match="cannot be written"):
        list(write_attribution(own, written[0]))
    assert written[1].stat().st_size > 20_000
    table = json.loads(written[0].read_text())
    assert len(table["stretches"]) == len(own.spans)
    assert table["face_map"]["up"]["peak"] == "mouth"


@pytest.mark.slow
def test_a_stretch_is_what_predict_says_of_it_in_an_ensemble(video: Path, tmp_path: Path) -> None:
    """And what is hidden changes it by the mean of what it changes in the members."""
    members = [_model("multimodal"), _model("multimodal")]
    for seed, member in enumerate(members):
        torch.manual_seed(seed)
        nn.init.normal_(next(member.network.output.parameters()), std=1.0)
        save_model(tmp_path / f"{seed}", member.network, LABELS, member.config, data={}, metrics={})
    joint = load_model(join_models([tmp_path / "0", tmp_path / "1"], tmp_path / "joint"))
    (predicted,) = predict([video], joint, window_s=2.0, hop_s=1.0, progress=False)
    options = {"span": "1-3s", "face_map": False}
    own = _explain(video, joint, **options)
    assert (own.start_s, own.end_s, own.frame_times_s[0] >= 1.0) == (1.0, 3.0, True)
    assert own.prediction.intensities == pytest.approx(predicted.windows[1].intensities, abs=1e-5)
    one, other = (_explain(video, tmp_path / name, **options) for name in ("0", "1"))
    for modality in ("face", "voice"):
        mean = (one.stretches[modality] + other.stretches[modality]) / 2
        np.testing.assert_allclose(own.stretches[modality], mean, atol=1e-5)


def test_where_there_is_nothing_to_hide_there_is_no_number(talk: tuple[ByteArray, FloatArray], tmp_path: Path) -> None:
    """The starter model: a second of black, the sound ends before it."""
    frames, waveform = talk[0].copy(), talk[1].copy()
    frames[2 * RATE_HZ :], waveform[int(1.5 * SOUND_RATE_HZ) :] = 0, 0.0
    path = write(tmp_path / "short.mkv", frames, waveform)
    own = explain(path, face_map=False, progress=False)
    ends_s = np.array(own.spans)  # (K, 2)
    for modality, end_s in (("face", 2.0), ("voice", 1.6)):
        assert np.isnan(own.stretches[modality][ends_s[:, 0] >= end_s]).all()
        assert not np.isnan(own.stretches[modality][ends_s[:, 1] <= 1.0]).any()
    assert set(own.modalities) == {"face", "voice"}
    rows = json.loads(next(iter(write_attribution(own, tmp_path))).read_text())["stretches"]
    assert rows[-1][BASIC[0]] is None


def test_without_a_map_of_the_face_there_is_still_a_picture(
    of_the_mouth: LoadedModel, one_clear_second: Path, tmp_path: Path
) -> None:
    own = _explain(one_clear_second, of_the_mouth, face_map=False)
    assert own.face_map is None
    assert not any("part of the face" in line for line in describe(own))
    *_, picture = write_attribution(own, tmp_path)
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
def test_invalid_spans_are_refused(video: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        _explain(video, _model("resnet50"), **options)


def test_a_long_file_needs_a_stretch_which_may_lie_in_two_parts(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model("multimodal")
    short = _explain(video, model, span="0.5-1.5s", face_map=False)
    for module in (occlusion, predictor, segments):
        monkeypatch.setattr(module, "PART", segments.WindowShape(1.0, 1.0))
    with pytest.raises(ConfigError, match=r"longer than.*--span"):
        _explain(video, model)
    across = _explain(video, model, span="0.5-1.5s", face_map=False)
    assert across.prediction.intensities == pytest.approx(short.prediction.intensities, abs=1e-6)
    np.testing.assert_allclose(across.stretches["voice"], short.stretches["voice"], atol=1e-6)


def test_what_cannot_be_explained_is_told_of(video: Path, tmp_path: Path) -> None:
    model = _model("resnet50")
    nobody = write(tmp_path / "nobody.mkv", np.zeros((10, 64, 64, 3), np.uint8), None)
    with pytest.raises(MediaError, match="nothing to explain: no face"):
        _explain(nobody, model)
    with pytest.raises(MediaError, match="no such file"):
        _explain(tmp_path / "none.mp4", model)
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(MediaError, match="cannot read"):
        _explain(tmp_path / "text.mp4", model)
    given = build_model(model.config.model, load_encoders(model.config.model, {"face": 3}), [0.5] * 3)
    with pytest.raises(ModelError, match="features"):
        _explain(video, replace(model, network=given))


def test_the_command_prints_words_and_writes_both_files(video: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["explain", str(video), "--out", str(tmp_path / "out"), "--no-map"])
    assert result.exit_code == 0
    assert "talk.mkv, 0.00 to 3.00 s, face in" in result.stdout
    assert "without the face" in result.stdout
    assert "part of the face" not in result.stdout
    assert "by the starter model" in " ".join(result.stderr.split())
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"attribution.json", "attribution.png"}


@pytest.mark.slow
@pytest.mark.shared
def test_a_real_smile_is_in_the_mouth_and_not_in_the_voice(shared_data: Path) -> None:
    own = explain(shared_data / "clips" / "single_face.mp4", progress=False)
    happiness = own.prediction.labels.index("Happiness")
    assert own.strongest() == [happiness]
    part, change = own.peak(happiness) or ("", 0.0)
    assert (part, change > 0.05) == ("mouth", True)
    assert own.modalities["face"][happiness] > 0.2 > own.modalities["voice"][happiness]
    moved = own.stretches["face"][:, happiness]
    assert own.spans[int(moved.argmin())][0] < 0.5  # before the smile
