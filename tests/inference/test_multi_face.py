"""Predictions of several people in one file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lossless import RATE_HZ, write
from reactometer.errors import ConfigError, ModelError
from reactometer.inference.checkpoint import LoadedModel, join_models, load_model
from reactometer.inference.prediction import Prediction
from reactometer.inference.predictor import predict_files
from reactometer.media.faces import load_detector
from reactometer.media.video import read_frames
from reactometer.synthetic.clip import clip_plan, render_clip
from reactometer.types import ByteArray, Detection, FloatArray

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("found_once")]

N_FRAMES, SIDE_PX = 40, 240
NOBODY = np.full((N_FRAMES, SIDE_PX, SIDE_PX, 3), 90, dtype=np.uint8)


def beside(*frames: ByteArray) -> ByteArray:
    return np.concatenate(frames, axis=2)


@pytest.fixture(scope="module")
def actors() -> tuple[ByteArray, ByteArray, FloatArray]:
    """Return four seconds of two synthetic people, (T, H, W, 3) uint8 RGB each, and a voice."""
    plans = [
        clip_plan(index, n_clips=40, duration_s=N_FRAMES / RATE_HZ, size_px=SIDE_PX) for index in (31, 32)
    ]
    assert plans[0].person != plans[1].person
    assert all(all(plan.face_visible) for plan in plans)
    (one, voice), (other, _) = (render_clip(plan) for plan in plans)
    return one, other, voice


@pytest.fixture(scope="module")
def model(model_folder: Path, lively: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model of face and voice whose intensities vary."""
    return lively(model_folder, tmp_path_factory.mktemp("lively") / "model")


@pytest.fixture(scope="module")
def files(actors: tuple[ByteArray, ByteArray, FloatArray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write videos: each person with and without sound; both; both, and one leaves; both, who change
    places."""
    one, other, voice = actors
    folder = tmp_path_factory.mktemp("videos")
    for name, frames in (("one", one), ("other", other)):
        write(folder / f"{name}.mkv", frames, voice)
        write(folder / f"{name}-silent.mkv", frames, None)
    write(folder / "both.mkv", beside(one, other), voice)
    write(folder / "both-silent.mkv", beside(one, other), None)
    gone = other.copy()
    gone[N_FRAMES // 2 :] = 90
    write(folder / "leaves.mkv", beside(one, gone), voice)
    crossing = beside(NOBODY, NOBODY, NOBODY).copy()
    for index, x in enumerate(np.linspace(0, 2 * SIDE_PX, N_FRAMES).round().astype(int)):
        back = 2 * SIDE_PX - x
        crossing[index, :, back : back + SIDE_PX] = other[index]
        crossing[index, :, x + 40 : x + SIDE_PX - 40] = one[index, :, 40:-40]
    write(folder / "cross.mkv", crossing, voice)
    write(folder / "empty.mkv", beside(NOBODY, NOBODY), voice)
    return folder


def predict_file(video: Path, model: LoadedModel | Path, **settings: Any) -> list[Prediction]:
    return predict_files([video], model, rate_hz=RATE_HZ, progress=False, **settings)


def seen(prediction: Prediction) -> list[bool]:
    return [sample.box is not None for sample in prediction.samples]


def differences(one: Prediction, other: Prediction) -> float:
    """Return the largest difference of the intensities of file and windows."""
    rows = [
        (one.intensities, other.intensities),
        *((a.intensities, b.intensities) for a, b in zip(one.windows, other.windows, strict=True)),
    ]
    assert all((a is None) == (b is None) for a, b in rows)
    return max(float(np.abs(np.subtract(a, b)).max()) for a, b in rows if a is not None and b is not None)


def apart(people: list[Prediction], others: list[Prediction]) -> float:
    """Return the mean difference of the files' intensities over people and emotions."""
    pairs = [
        (one.intensities or (), other.intensities or ()) for one, other in zip(people, others, strict=True)
    ]
    return float(np.mean([np.abs(np.subtract(one, other)) for one, other in pairs]))


@pytest.fixture
def half_by_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Detect faces in each half of the frame separately, so that boxes equal those of the single-person
    videos."""
    from reactometer.workers import decoder

    detector = load_detector("haar")

    def detect(rgb: ByteArray) -> list[Detection]:
        return [
            replace(face, box=(face.box[0] + left, *face.box[1:]))
            for left in range(0, rgb.shape[1], SIDE_PX)
            for face in detector(np.ascontiguousarray(rgb[:, left : left + SIDE_PX]))
        ]

    monkeypatch.setattr(decoder, "load_detector", lambda _: detect)


def test_each_person_is_predicted_as_in_a_video_of_their_own(
    files: Path, model: Path, half_by_half: None
) -> None:
    people = predict_file(files / "both-silent.mkv", model, faces="all", isolated=False)
    separate = [
        predict_file(files / f"{name}-silent.mkv", model, isolated=False)[0] for name in ("one", "other")
    ]
    assert [person.face for person in people] == [1, 2]
    for person, expected in zip(people, separate, strict=True):
        assert (person.status, person.face_share, person.notes) == (expected.status, 1.0, expected.notes)
        assert differences(person, expected) < 0.01  # a crop at the edge is shrunk from other pixels
    assert differences(*separate) > 0.03  # the two people differ


def test_the_voice_is_not_used_for_several_people(files: Path, model: Path) -> None:
    """The sound only makes the file a little longer."""
    with_sound, silent = (
        predict_file(files / f"{name}.mkv", model, faces="all") for name in ("both", "both-silent")
    )
    for one, other in zip(with_sound, silent, strict=True):
        assert one.windows[0] == other.windows[0]
        assert (one.has_sound, other.has_sound) == (True, False)
        assert one.notes == ("voice: not used, because the speaker among 2 people is unknown",)


def test_boxes_detected_in_the_whole_frame_change_little(files: Path, model: Path) -> None:
    people = predict_file(files / "both.mkv", model, faces="all")
    separate = [predict_file(files / f"{name}-silent.mkv", model)[0] for name in ("one", "other")]
    assert apart(people, separate) < 0.5 * apart(people, separate[::-1])


def test_a_single_person_is_predicted_as_with_faces_one(files: Path, model: Path) -> None:
    """Include the voice, and windows without a face."""
    (as_one,) = predict_file(files / "one.mkv", model)
    (as_all,) = predict_file(files / "one.mkv", model, faces="all")
    assert differences(as_one, as_all) < 1e-5
    assert replace(as_all, intensities=None, windows=(), face=None) == replace(
        as_one, intensities=None, windows=()
    )
    assert as_all.face == 1
    assert differences(as_one, predict_file(files / "one-silent.mkv", model)[0]) > 0.005  # it is heard


def test_a_file_without_faces_has_one_prediction_by_the_voice(files: Path, model: Path) -> None:
    (as_one,), (as_all,) = (predict_file(files / "empty.mkv", model, faces=faces) for faces in ("one", "all"))
    assert differences(as_one, as_all) < 1e-5
    assert as_all.face is None
    assert as_all.face_share == 0.0


def test_a_person_who_leaves_has_empty_windows(files: Path, model: Path) -> None:
    stays, leaves = predict_file(files / "leaves.mkv", model, faces="all", window_s=1.0, hop_s=0.5)
    assert seen(stays) == [True] * N_FRAMES
    assert seen(leaves) == [True] * (N_FRAMES // 2) + [False] * (N_FRAMES // 2)
    assert [window.face_share for window in leaves.windows] == [1.0] * 3 + [0.5] + [0.0] * 3
    assert [window.intensities is None for window in leaves.windows] == [False] * 4 + [True] * 3
    assert (stays.duration_s, len(stays.windows)) == (leaves.duration_s, len(leaves.windows))


def test_people_who_change_places_keep_their_numbers(files: Path, model: Path) -> None:
    """One person passes in front of the other, who is hidden for a while."""
    front, behind = predict_file(files / "cross.mkv", model, faces="all")
    assert seen(front) == [True] * N_FRAMES
    assert 0.6 < (behind.face_share or 0.0) < 0.95
    for person, direction in ((front, 1), (behind, -1)):
        steps = np.diff([sample.box[0] for sample in person.samples if sample.box is not None])
        assert (direction * steps > -8).all()  # boxes tremble
        assert (direction * steps).sum() > 400
    separate = [predict_file(files / f"{name}-silent.mkv", model)[0] for name in ("one", "other")]
    assert apart([front, behind], separate) < apart([behind, front], separate)


def test_a_brief_face_is_ignored_with_a_note(
    actors: tuple[ByteArray, ByteArray, FloatArray], model: Path, tmp_path: Path
) -> None:
    """The voice of the remaining person is used."""
    one, other, voice = actors
    glimpse = NOBODY.copy()
    glimpse[10:13] = other[10:13]
    video = write(tmp_path / "glimpse.mkv", beside(one, glimpse), voice)
    (person,) = predict_file(video, model, faces="all")
    assert person.notes == ("faces ignored: 1, each visible for less than 1 s",)
    assert person.face == 1
    (silent,) = predict_file(write(tmp_path / "silent.mkv", beside(one, glimpse), None), model, faces="all")
    assert differences(person, silent) > 0.005
    numbers = [
        one.face
        for one in predict_file(
            write(tmp_path / "later.mkv", beside(glimpse, one), voice), model, faces="all"
        )
    ]
    assert numbers == [1]


def test_a_person_between_the_input_frames_is_still_scored(
    actors: tuple[ByteArray, ByteArray, FloatArray], model: Path, tmp_path: Path
) -> None:
    """The model samples 4 frames of a part, at 0.5, 1.5, 2.5 and 3.5 s."""
    one, other, _ = actors
    there = NOBODY.copy()
    there[17:24] = other[17:24]
    there[27:34] = other[27:34]
    _, person = predict_file(write(tmp_path / "a.mkv", beside(one, there), None), model, faces="all")
    assert load_model(model).sampling.n_frames == 4
    assert person.face_share == pytest.approx(14 / 40)
    assert person.status == "ok"


def test_a_file_is_read_once_for_all_faces_and_members(
    files: Path,
    model: Path,
    model_folder: Path,
    lively: Callable[..., Path],
    reads: list[str],
    tmp_path: Path,
) -> None:
    members = [model, lively(model_folder, tmp_path / "a", seed=1)]
    joint = join_models(members, tmp_path / "joint")
    of_all = predict_file(files / "leaves.mkv", joint, faces="all", window_s=1.0, isolated=False)
    assert reads == ["leaves.mkv"]
    by_member = [predict_file(files / "leaves.mkv", member, faces="all", window_s=1.0) for member in members]
    for person, first, second in zip(of_all, *by_member, strict=True):
        mean = np.mean([first.intensities, second.intensities], axis=0)
        np.testing.assert_allclose(person.intensities or (), mean, atol=1e-5)


def test_smoothing_and_baseline_apply_per_person(files: Path, model: Path) -> None:
    settings: dict[str, Any] = {"window_s": 1.0, "hop_s": 0.5, "smooth_s": 1.0, "baseline": "0-1.5s"}
    people = predict_file(files / "leaves.mkv", model, faces="all", **settings)
    plain = predict_file(files / "leaves.mkv", model, faces="all", window_s=1.0, hop_s=0.5)
    for person, before in zip(people, plain, strict=True):
        assert [note.split(":")[0] for note in person.notes] == ["voice", "smoothed", "baseline"]
        assert [one.intensities is None for one in person.windows] == [
            one.intensities is None for one in before.windows
        ]
        assert person.windows[0].intensities != before.windows[0].intensities


def test_invalid_combinations_are_refused_early(files: Path, model: Path) -> None:
    video = files / "both.mkv"
    with pytest.raises(ConfigError, match=r"'al'.*'all'"):
        predict_file(video, Path("nowhere"), faces="al")
    with pytest.raises(ConfigError, match=r"--same-person"):
        predict_file(video, Path("nowhere"), faces="all", people={str(video): "Ann"})


def test_a_voice_model_ignores_faces(files: Path, model_folder: Path) -> None:
    loaded = load_model(model_folder)
    inputs = {"voice": loaded.networks.inputs["voice"]}
    voice = replace(loaded, networks=replace(loaded.networks, inputs=inputs))
    with pytest.raises(ModelError, match=r"voice.*--faces all"):
        predict_file(files / "both.mkv", voice, faces="all")


@pytest.mark.shared
def test_two_real_people_side_by_side_get_about_what_each_alone_gets(
    shared_data: Path, model: Path, tmp_path: Path
) -> None:
    """Two real clips in one frame: detection sees them at half the size, so boxes differ a little."""
    clips = [shared_data / "clips" / name for name in ("WolfgangLanger_Pexels.mp4", "single_face.mp4")]
    frames = [
        np.stack([frame.rgb() for frame in islice(read_frames(clip), 0, 60, 3) if frame.rgb])
        for clip in clips
    ]
    separate = [
        predict_file(write(tmp_path / f"{index}.mkv", clip, None), model)[0]
        for index, clip in enumerate(frames)
    ]
    people = predict_file(write(tmp_path / "both.mkv", beside(*frames), None), model, faces="all")
    assert [(person.face, person.face_share) for person in people] == [(1, 1.0), (2, 1.0)]
    assert apart(people, separate) < 0.5 * apart(people, separate[::-1])
