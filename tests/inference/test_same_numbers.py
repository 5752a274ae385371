"""The same file has the same numbers, whatever number of threads, process or engine says them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lossless import write
from reactometer.inference.predictor import predict
from reactometer.models.folder import load_model
from reactometer.paths import STARTER
from reactometer.synthetic.clip import clip_plan, render_clip
from reactometer.training.export import export
from reactometer.types import Prediction


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Somebody who turns away, and somebody without a sound."""
    folder = tmp_path_factory.mktemp("people")
    return [write(folder / f"{number}.mkv", *render_clip(clip_plan(number))) for number in (3, 29)]


def _values(table: Path) -> np.ndarray:
    """(rows, columns) of a table's numbers; not a number where there is none."""
    rows = json.loads(table.read_text(encoding="utf-8"))
    numbers = [[value for value in row.values() if not isinstance(value, str | list)] for row in rows]
    return np.array(numbers, dtype=float)


@pytest.mark.slow
def test_one_thread_two_threads_and_once_more(people: list[Path], tmp_path: Path) -> None:
    """Each in a process of its own; with one thread no frame is searched ahead. Once more is the same to the bit."""

    def tables(name: str, threads: int) -> tuple[Path, Path]:
        out = tmp_path / f"{name}.json", tmp_path / f"{name}-timeline.json"
        command = [sys.executable, "-m", "reactometer", "predict", *map(str, people), "--out", str(out[0])]
        limits = {"OMP_NUM_THREADS": str(threads), "PYTHONHASHSEED": str(threads)}
        subprocess.run(
            [*command, "--timeline", str(out[1])], env={**os.environ, **limits}, check=True, capture_output=True
        )
        return out

    one, two, again = tables("one", 1), tables("two", 2), tables("again", 1)
    for first, second, third in zip(one, two, again, strict=True):
        assert first.read_bytes() == third.read_bytes()
        assert np.isfinite(_values(first)).mean() > 0.5
        np.testing.assert_allclose(_values(second), _values(first), atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def with_graphs(people: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The starter model with exported graphs."""
    folder = tmp_path_factory.mktemp("starter") / "model"
    export("starter", people, engine="onnx", out=folder, progress=False)
    return folder


def _numbers(predictions: list[Prediction]) -> np.ndarray:
    """(rows, L) of files, their windows, and both ends of their intervals."""
    rows = []
    for one in predictions:
        ends = zip(*(one.intervals or ()), strict=True)
        windows = [window.intensities for window in one.windows if window.intensities]
        rows += [one.intensities or (), *ends, *windows]
    return np.array(rows)


@pytest.mark.slow
def test_onnx_says_what_pytorch_says_of_whole_files(people: list[Path], with_graphs: Path) -> None:
    """In single precision, of files, windows and intervals; the bar of ``export`` is 1e-4, on fewer ways of showing."""
    slow = predict(people, STARTER, window_s=1.0, hop_s=0.5, progress=False)
    fast = predict(people, load_model(with_graphs, "cpu", "onnx"), window_s=1.0, hop_s=0.5, progress=False)
    assert [(one.status, one.notes, len(one.windows)) for one in slow] == [
        (one.status, one.notes, len(one.windows)) for one in fast
    ]
    np.testing.assert_allclose(_numbers(fast), _numbers(slow), atol=1e-5, rtol=0)
