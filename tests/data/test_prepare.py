"""Preparing a data set: resumable, fresh or stale, every clip accounted for."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from reactometer.config import PrepareConfig
from reactometer.data.cache import PreparedSet, load_clip, open_prepared
from reactometer.data.datasets import read_dataset
from reactometer.data.prepare import _output_file, _prepare_clip, prepare
from reactometer.errors import DataError, OutputError
from reactometer.io import format_json, parse_json_object
from reactometer.media.faces import decode_crop, load_detector
from reactometer.media.segments import prepare_clip
from reactometer.types import Clip

SETTINGS = PrepareConfig(detector="haar", rate_hz=2.0, size_px=48)


def _list_few(simulated: Path, folder: Path) -> Path:
    """Write a CSV with five clips of the synthetic demo dataset."""
    videos = sorted(simulated.rglob("*.mp4"))[:5]
    (folder / "media").mkdir()
    for video in videos:
        shutil.copy(video, folder / "media" / video.name)
    rows = [f"media/{video.name},train,p{i},0.{i},0.5" for i, video in enumerate(videos)]
    (folder / "few.csv").write_text("\n".join(["path,split,person,Joy,Awe", *rows]) + "\n", encoding="utf-8")
    return folder / "few.csv"


@pytest.fixture
def few(simulated: Path, tmp_path: Path) -> Path:
    return _list_few(simulated, tmp_path)


@pytest.fixture(scope="module")
def prepared_few(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedSet:
    """Five prepared clips, only to be read."""
    folder = tmp_path_factory.mktemp("few")
    return _prepare(_list_few(simulated, folder), folder / "out")


def _prepare(data: Path, out: Path, **options: object) -> PreparedSet:
    return prepare(data, out, progress=False, **{"settings": SETTINGS, "workers": 1, **options})  # type: ignore[arg-type]


def test_a_script_without_a_guard_prepares_and_runs_once(few: Path, tmp_path: Path) -> None:
    """Python's spawned processes would run the script again and fail for every clip."""
    script = tmp_path / "mine.py"
    script.write_text(
        "from reactometer import prepare\nprint('once')\n"
        f"rows = prepare({str(few)!r}, {str(tmp_path / 'out')!r}, workers=2, progress=False).rows\n"
        "print([row.clip.problem for row in rows], __file__)\n",
        encoding="utf-8",
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["once", f"{[None] * 5} {script}"]


def test_a_prepared_clip_is_read_back_unchanged(prepared_few: PreparedSet) -> None:
    assert not prepared_few.failed
    for row in prepared_few.rows:
        fresh, stored = prepare_clip(row.clip.path, SETTINGS, load_detector("haar")), load_clip(row)
        assert stored.samples == fresh.samples
        assert (stored.start_s, stored.end_s, stored.frames_read) == (
            fresh.start_s,
            fresh.end_s,
            fresh.frames_read,
        )
        if fresh.waveform is None:
            assert stored.waveform is None
        else:
            assert stored.waveform is not None
            np.testing.assert_array_equal(stored.waveform, fresh.waveform)


def test_an_index_lists_everything(prepared_few: PreparedSet, tmp_path: Path) -> None:
    opened = open_prepared(prepared_few.folder)
    assert opened == prepared_few == prepare(prepared_few.folder, progress=False)
    assert (opened.labels, opened.settings) == (("Joy", "Awe"), SETTINGS)
    assert [row.clip.labels for row in opened.rows] == [(i / 10, 0.5) for i in range(5)]
    assert [row.clip.person for row in opened.rows] == [f"p{i}" for i in range(5)]
    with pytest.raises(DataError, match="not a prepared"):
        open_prepared(tmp_path)
    about = parse_json_object((prepared_few.folder / "cache.json").read_text())
    (tmp_path / "cache.json").write_text(format_json({**about, "format": 99}))
    with pytest.raises(DataError, match=r"damaged.*format.*99"):
        open_prepared(tmp_path)


def _times_ns(folder: Path) -> dict[Path | None, int]:
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*.npz")}


def _is_unchanged(prepared: PreparedSet, before: dict[Path | None, int]) -> list[bool]:
    """Return for each clip whether its file existed before."""
    return [
        row.file is not None and before.get(row.file) == row.file.stat().st_mtime_ns for row in prepared.rows
    ]


@pytest.mark.slow
def test_a_second_run_redoes_only_what_changed(few: Path, tmp_path: Path) -> None:
    prepared = _prepare(few, tmp_path / "out")
    before = _times_ns(tmp_path / "out")
    leftover = tmp_path / "out" / "clips" / ".killed.part"
    leftover.touch()
    assert all(_is_unchanged(_prepare(few, tmp_path / "out"), before))
    assert not leftover.exists()
    os.utime(sorted((tmp_path / "media").iterdir())[2], ns=(1, 1))
    file = prepared.rows[0].file
    assert file is not None
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(DataError, match=r"damaged.*prepare"):
        load_clip(prepared.rows[0])
    assert _is_unchanged(_prepare(few, tmp_path / "out"), before) == [False, True, False, True, True]
    other = PrepareConfig(detector="haar", rate_hz=4.0, size_px=48)
    assert not any(_is_unchanged(_prepare(few, tmp_path / "out", settings=other), before))


def test_a_wrong_path_is_reported_before_the_detector_is_looked_for(no_yunet: None, tmp_path: Path) -> None:
    with warnings.catch_warnings(action="error"), pytest.raises(DataError, match="no such file"):
        prepare(tmp_path / "nowhere", tmp_path / "out", progress=False)


def test_bad_clips_are_reported_and_the_others_are_prepared(few: Path, tmp_path: Path) -> None:
    good = sorted((tmp_path / "media").iterdir())[0]
    (tmp_path / "media" / "empty.mp4").touch()
    (tmp_path / "media" / "text.mp4").write_text("no video")
    (tmp_path / "media" / "cut.mp4").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    with few.open("a", encoding="utf-8") as table:
        table.write("media/missing.mp4,val,,0,0\nmedia/empty.mp4,val,,0,0\nmedia/text.mp4,val,,0,0\n")
        table.write(f"media/cut.mp4,val,,0,0\nmedia/{good.name},val,,0,0\nmedia/x.mp4,val,,7,0\n")
    prepared = _prepare(few, tmp_path / "out")
    problems = {Path(row.clip.clip_id).name: row.clip.problem or "" for row in prepared.failed}
    assert len(prepared.rows) == 11
    assert len(prepared.failed) == 6
    for name, words in {
        "missing.mp4": "missing.mp4",
        "empty.mp4": "empty.mp4",
        "text.mp4": "text.mp4",
        "cut.mp4": "cut.mp4",
        good.name: "duplicate id",
        "x.mp4": "label Joy is not a number in [0, 1] (got '7')",
    }.items():
        assert words in problems[name]
        assert "\n" not in problems[name]
    assert open_prepared(tmp_path / "out") == prepared


def _tone(path: Path, seconds: float) -> None:
    """A sound file of a steady tone, loud enough to tell from any voice in the clips."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", 16_000, layout="mono")
        tone = 20_000 * np.sin(np.arange(int(16_000 * seconds)) / 3.0)
        frame = av.AudioFrame.from_ndarray(tone[None].astype(np.int16), format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_a_sound_file_beside_the_video_replaces_its_sound(
    excerpt: Callable[..., Path], tmp_path: Path
) -> None:
    data = excerpt(train=1, val=2)
    video = sorted((data / "val" / "mp4").iterdir())[0]
    (data / "val" / "wav").mkdir()
    _tone(data / "val" / "wav" / f"{video.stem}.wav", 1.5)
    prepared = _prepare(data, tmp_path / "out")
    row = next(row for row in prepared.rows if row.clip.path == video)
    waveform = load_clip(row).waveform
    assert waveform is not None
    assert np.abs(waveform[:24_000]).mean() == pytest.approx(20_000 / 32_768 * 2 / np.pi, abs=0.01)


def test_crops_of_a_dataset_are_used_unchanged(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders of pictures, in the order of their numbers, two per second, with a sound file; no detector
    runs."""
    crops = tmp_path / "Faces" / "7"
    crops.mkdir(parents=True)
    for number in (1, 2, 10):
        cv2.imwrite(str(crops / f"{number}.png"), np.full((60, 60, 3), 20 * number, np.uint8))
    (crops / "11.jpg").write_bytes(b"no picture")
    (tmp_path / "Faces" / "empty").mkdir()
    _tone(tmp_path / "7.wav", 1.0)
    (tmp_path / "crops.csv").write_text(
        "path,audio,Joy\nFaces/7,7.wav,1\nFaces/empty,,1\nFaces/7/,gone.wav,1\n"
    )
    monkeypatch.setattr("reactometer.data.prepare.load_detector", None)
    rows = [_prepare_clip(SETTINGS, job) for job in _jobs(tmp_path / "crops.csv", tmp_path / "out")]
    clip = load_clip(rows[0])
    assert [sample.time_s for sample in clip.samples] == [0.0, 0.5, 1.0, 1.5]
    assert [sample.state.name for sample in clip.samples] == ["FACE", "FACE", "FACE", "UNREADABLE"]
    pictures = [decode_crop(sample.crop_jpeg) for sample in clip.samples if sample.crop_jpeg]
    assert [round(float(picture.mean())) for picture in pictures] == [20, 40, 200]
    assert pictures[0].shape == (48, 48, 3)
    assert (clip.duration_s, rows[0].has_sound) == (2.0, True)
    assert "no readable face crop (got 0 images" in (rows[1].clip.problem or "")
    assert "gone.wav" in (rows[2].clip.problem or "")


def _jobs(table: Path, out: Path) -> list[tuple[Clip, Path]]:
    (out / "clips").mkdir(parents=True)
    clips = read_dataset(table).clips
    return [(clip, _output_file(out / "clips", SETTINGS, clip)) for clip in clips]


@pytest.mark.slow
def test_a_killed_run_resumes(excerpt: Callable[..., Path], tmp_path: Path) -> None:
    """A real process, killed with SIGKILL in the middle; the second run keeps what was there."""
    data = excerpt(train=10)
    command = [sys.executable, "-m", "reactometer", "prepare", str(data), "--out", str(tmp_path / "out")]
    command += ["--detector", "haar", "--crop-size", "48", "--fps", "2", "--workers", "1"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while len(list((tmp_path / "out").rglob("*.npz"))) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = _times_ns(tmp_path / "out")
    prepared = _prepare(data, tmp_path / "out")
    assert sum(_is_unchanged(prepared, before)) == len(before)
    assert len(prepared.rows) == 10
    assert not prepared.failed


def test_a_folder_with_other_contents_is_unchanged(few: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"contains other files.*--out"):
        _prepare(few, tmp_path)
    with pytest.raises(OutputError, match="cannot be written"):
        _prepare(few, few)


def test_all_clips_of_the_demo_dataset_are_prepared(prepared: PreparedSet) -> None:
    assert len(prepared.rows) == 40
    assert not prepared.failed
    shares = [row.n_faces / row.n_samples for row in prepared.rows]
    assert float(np.mean(shares)) > 0.9
    assert not all(row.has_sound for row in prepared.rows)  # some are muted on purpose
