"""Fixtures of runs: a folder of videos, a check of its results, and an S3-compatible server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from pyarrow import fs

from fixtures_of_serving import free_port
from reactometer.batch.result_store import JOURNAL
from reactometer.inference.predictor import predict_files
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
    """Compares a run's tables with a plain prediction, row by row; each content is there once, and nothing
    else is."""

    def check_run(out: Path, videos: Path, address: str | None = None) -> None:
        """``address``: the folder or URI of ``videos`` on the command line."""
        paths = [path for path in sorted(videos.rglob("*.mp4")) if path.name != "broken.mp4"]
        names = {str(path): f"{address or videos}/{path.relative_to(videos)}" for path in paths}
        plain = [replace(one, path=names[one.path]) for one in predict_files(paths, progress=False)]
        index = pd.read_csv(out / "files.csv")
        expected = pd.DataFrame(clip_rows(plain)).drop(columns="face")
        pd.testing.assert_frame_equal(index[expected.columns], expected, check_dtype=False, rtol=0, atol=1e-5)
        timeline = pd.read_csv(out / "timeline.csv").sort_values(["path", "start_s"], ignore_index=True)
        once = [one for one in sorted(plain, key=lambda one: one.path) if not one.path.endswith("again.mp4")]
        windows = pd.DataFrame(timeline_rows(once)).drop(columns="face")
        pd.testing.assert_frame_equal(
            timeline[windows.columns], windows, check_dtype=False, rtol=0, atol=1e-5
        )
        lines = [line for file in (out / JOURNAL).iterdir() for line in file.read_text().splitlines()]
        records = [json.loads(line) for line in lines]
        hashes = [
            one["sha256"] for one in records if not one["predictions"][0]["status"].startswith("failed")
        ]
        assert sorted(hashes) == sorted(set(index["sha256"]))
        assert not [file for file in out.rglob("*") if PART in file.name]

    return check_run


@pytest.fixture(scope="session")
def bucket(wait_for: Callable[[Callable[[], bool]], None]) -> Iterator[str]:
    """The address of a bucket of a real S3-compatible server, a separate process that keeps all objects in
    memory."""
    server = f"http://127.0.0.1:{free_port()}"
    variables = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
    variables |= {"AWS_ENDPOINT_URL": server, "AWS_EC2_METADATA_DISABLED": "true"}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", server.rpartition(":")[2]]

    def answers() -> bool:
        try:
            request = urllib.request.Request(f"{server}/bucket", method="PUT")
            return bool(urllib.request.urlopen(request, timeout=5).status == 200)
        except OSError:
            return False

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryFile() as log:
        for name, value in variables.items():
            patch.setenv(name, value)
        with subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ}) as process:
            wait_for(answers)
            yield "s3://bucket"
            process.kill()


@pytest.fixture
def put(bucket: str) -> Callable[[Path, str], str]:
    """Uploads a folder, and returns its address."""

    def put(folder: Path, name: str) -> str:
        filesystem, path = fs.FileSystem.from_uri(f"{bucket}/{name}")
        fs.copy_files(str(folder), path, destination_filesystem=filesystem)
        return f"{bucket}/{name}"

    return put
