"""What the tests of runs share: a folder of videos, and what its run must hold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from reactometer.batch.result_store import INDEX_FILE, JOURNAL, TIMELINE
from reactometer.inference.predictor import predict
from reactometer.inference.tables import clip_rows, timeline_rows
from reactometer.io import PART


@pytest.fixture(scope="module")
def videos(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six good files in two folders, two of them with the same content, and one that is no video."""
    folder = tmp_path_factory.mktemp("videos")
    clips = sorted((simulated / "train" / "mp4").glob("*.mp4"))[:5]
    for number, clip in enumerate(clips):
        file = folder / ("a" if number < 3 else "b") / f"{number}.mp4"
        file.parent.mkdir(exist_ok=True)
        shutil.copy(clip, file)
    shutil.copy(clips[0], folder / "b" / "again.mp4")
    (folder / "b" / "broken.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture
def many(videos: Path, tmp_path: Path) -> Path:
    """Forty contents: the good files with another trailer each, which no decoder reads."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(40):
        data = (videos / "a" / f"{number % 3}.mp4").read_bytes()
        free = (8 + 4).to_bytes(4, "big") + b"free" + number.to_bytes(4, "big")  # an MP4 box that is skipped
        (folder / f"{number}.mp4").write_bytes(data + free)
    return folder


@pytest.fixture(scope="session")
def check_run() -> Callable[..., None]:
    """Compares a run's tables with a plain prediction, row by row; each content is there once, and nothing else is."""

    def check_run(out: Path, videos: Path, given: str | None = None) -> None:
        """``given``: the folder of ``videos`` that the run was given."""
        paths = [path for path in sorted(videos.rglob("*.mp4")) if path.name != "broken.mp4"]
        names = {str(path): f"{given or videos}/{path.relative_to(videos)}" for path in paths}
        plain = [replace(one, path=names[one.path]) for one in predict(paths, progress=False)]
        index = pd.read_parquet(out / INDEX_FILE)
        expected = pd.DataFrame(clip_rows(plain)).drop(columns="face")
        pd.testing.assert_frame_equal(index[expected.columns], expected, check_dtype=False, rtol=0, atol=1e-5)
        timeline = pd.read_parquet(out / TIMELINE).sort_values(["path", "start_s"], ignore_index=True)
        once = [one for one in sorted(plain, key=lambda one: one.path) if not one.path.endswith("again.mp4")]
        windows = pd.DataFrame(timeline_rows(once)).drop(columns="face")
        pd.testing.assert_frame_equal(timeline[windows.columns], windows, check_dtype=False, rtol=0, atol=1e-5)
        lines = [line for file in (out / JOURNAL).iterdir() for line in file.read_text().splitlines()]
        records = [json.loads(line) for line in lines]
        kept = [one["sha256"] for one in records if not one["predictions"][0]["status"].startswith("failed")]
        assert sorted(kept) == sorted(set(index["sha256"]))
        assert not [file for file in out.rglob("*") if PART in file.name]

    return check_run
