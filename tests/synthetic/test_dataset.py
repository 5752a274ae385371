"""The synthetic demo dataset: layout, bytes and labels."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
from pathlib import Path
from typing import Literal

import av
import numpy as np
import pytest

from reactometer.errors import ConfigError, OutputError
from reactometer.labels import HUME_REACTION
from reactometer.synthetic.clip import FACE, VOICE, ClipPlan, clip_plan, render_clip
from reactometer.synthetic.dataset import _write_clip, simulate
from reactometer.synthetic.face import ACTIONS
from reactometer.synthetic.voice import PARAMETERS
from reactometer.types import SOUND_RATE_HZ

N_CLIPS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(tmp_path_factory.mktemp("simulated") / "data", n_clips=N_CLIPS, duration_s=1.0, workers=1)


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "data_info.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- files
# -----------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes_in_one_process_and_in_two(folder: Path, tmp_path: Path) -> None:
    again = simulate(tmp_path / "again", n_clips=N_CLIPS, duration_s=1.0, workers=2)
    assert hashes(again) == hashes(folder)
    assert len(hashes(folder)) == N_CLIPS + 2


def test_another_seed_gives_other_clips(folder: Path, tmp_path: Path) -> None:
    other = hashes(simulate(tmp_path / "other", n_clips=4, duration_s=1.0, seed=1, workers=1))
    first = hashes(folder)
    assert "train/mp4/00000.mp4" in other
    assert all(first.get(name) != digest for name, digest in other.items())


def test_the_table_is_abaw5s(folder: Path) -> None:
    lines = (folder / "data_info.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == (
        "File_ID,Split,Adoration,Amusement,Anxiety,Disgust,Empathic-Pain,Fear,Surprise,Age,Country,Person,Stimulus"
    )
    table = rows(folder)
    assert [row["File_ID"] for row in table] == [f"[{index:05d}]" for index in range(N_CLIPS)]
    assert {row["Split"] for row in table} == {"Train", "Val", "Test"}
    assert all(len(row[name].split(".")[1]) == 4 for row in table for name in HUME_REACTION)
    for row in table:
        assert (folder / row["Split"].lower() / "mp4" / f"{row['File_ID'].strip('[]')}.mp4").is_file()


def test_the_videos_have_the_planned_pictures_and_sound(folder: Path) -> None:
    for index in range(N_CLIPS):
        plan = clip_plan(index, n_clips=N_CLIPS, duration_s=1.0)
        frames, _ = render_clip(plan)
        with av.open(str(folder / plan.split / "mp4" / f"{plan.clip_id}.mp4")) as container:
            video = container.streams.video[0]
            assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
            assert video.duration is not None
            assert video.time_base is not None
            assert float(video.duration * video.time_base) == pytest.approx(1.0)
            assert len(container.streams.audio) == (plan.sound != "absent")
            for sound in container.streams.audio:
                assert (sound.codec_context.name, sound.rate, sound.channels) == ("aac", SOUND_RATE_HZ, 1)
            decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video)]
        assert len(decoded) == len(plan.poses) == 10
        assert np.abs(np.stack(decoded).astype(float) - frames).mean() < 8


@pytest.mark.parametrize(("sound", "streams"), [("voice", 1), ("silent", 1), ("absent", 0)])
def test_sound_is_written_as_planned(
    tmp_path: Path, sound: Literal["voice", "silent", "absent"], streams: int
) -> None:
    path = tmp_path / "clip.mp4"
    _write_clip((dataclasses.replace(clip_plan(0, n_clips=N_CLIPS, duration_s=1.0), sound=sound), path))
    with av.open(str(path)) as container:
        assert len(container.streams.audio) == streams
        heard = (
            [np.abs(frame.to_ndarray()).max() for frame in container.decode(audio=0)] if streams else [0.0]
        )
    assert (max(heard) > 0.01) == (sound == "voice")


def test_a_finished_simulation_is_left_as_it_is(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert simulate(folder, n_clips=N_CLIPS, duration_s=1.0, workers=1) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_folder_with_anything_else_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exists already"):
        simulate(folder, n_clips=N_CLIPS, duration_s=1.0, seed=5)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        simulate(tmp_path, n_clips=N_CLIPS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_unusable_setting_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"too few clips.*3.*4"):
        simulate(tmp_path / "out", n_clips=3)
    assert not (tmp_path / "out").exists()


# --- truth
# -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plans() -> list[ClipPlan]:
    return [clip_plan(index) for index in range(480)]


def test_no_person_and_no_stimulus_is_in_two_splits(plans: list[ClipPlan]) -> None:
    for key in ("person", "stimulus"):
        seen = {(getattr(plan, key), plan.split) for plan in plans}
        assert len(seen) == len({name for name, _ in seen})
    shares = {
        split: sum(plan.split == split for plan in plans) / len(plans) for split in ("train", "val", "test")
    }
    assert shares == {"train": 0.6, "val": 0.15, "test": 0.25}


def test_a_stimulus_is_seen_by_several_persons_with_the_same_labels(plans: list[ClipPlan]) -> None:
    by_stimulus: dict[str, list[ClipPlan]] = {}
    for plan in plans:
        by_stimulus.setdefault(plan.stimulus, []).append(plan)
    assert len(by_stimulus) == 160
    for clips in by_stimulus.values():
        assert len({plan.labels for plan in clips}) == 1
        assert len({plan.person for plan in clips}) >= 2


def test_labels_are_intensities_of_one_to_three_emotions(plans: list[ClipPlan]) -> None:
    labels = np.array([plan.labels for plan in plans])
    assert labels.shape == (480, 7)
    assert labels.min() == 0
    assert 0.3 <= labels.max(axis=1).min() <= labels.max() <= 1
    assert set((labels > 0).sum(axis=1).tolist()) == {1, 2, 3}
    for split in ("train", "val", "test"):
        assert labels[[plan.split == split for plan in plans]].std(axis=0).min() > 0.05
    correlation = np.corrcoef(labels.T)
    fear, anxiety, amusement = (HUME_REACTION.index(name) for name in ("Fear", "Anxiety", "Amusement"))
    assert correlation[fear, anxiety] > 0.1 > -0.1 > correlation[fear, amusement]


def test_a_few_clips_are_muted_or_lose_the_face(plans: list[ClipPlan]) -> None:
    assert 0.02 < np.mean([plan.sound != "voice" for plan in plans]) < 0.09
    assert {plan.sound for plan in plans} == {"voice", "silent", "absent"}
    assert 0.06 < np.mean([not all(plan.face_visible) for plan in plans]) < 0.20
    assert all(any(plan.face_visible) for plan in plans)


def test_every_emotion_has_known_actions() -> None:
    assert set(FACE) == set(VOICE) == set(HUME_REACTION)
    assert {name for actions in FACE.values() for name in actions} <= set(ACTIONS)
    assert {name for parameters in VOICE.values() for name in parameters} <= set(PARAMETERS)


def test_the_expression_rises_and_fades() -> None:
    plan = clip_plan(0)
    height = plan.envelope(np.array([0.0, plan.onset_s, 1.5, plan.offset_s, 3.0], np.float32))
    assert height == pytest.approx([0, 0, 1, 1, height[-1]], abs=1e-5)
    assert height[-1] < 0.9
