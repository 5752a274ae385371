"""The command ``live``; a file that plays stands in for a camera."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from reactometer.cli.app import app
from reactometer.errors import ReactometerError
from reactometer.labels import BASIC

pytestmark = pytest.mark.usefixtures("found_once")

SUMMARY = re.compile(r"(\d+) scores, \d+\.\d per second; (latency \d+ ms \(95%: \d+ ms\); )?dropped \d+")


@pytest.fixture(scope="module")
def video(simulated: Path) -> Path:
    return sorted((simulated / "test" / "mp4").iterdir())[0]


def live(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["live", *map(str, arguments)])


def count(result: Result) -> int:
    """Number of scores."""
    assert result.exit_code == 0, result.output
    summary = SUMMARY.search(result.stdout)
    assert summary, result.output
    return int(summary[1])


def test_a_file_is_scored_as_it_plays(video: Path, tmp_path: Path) -> None:
    result = live(video, "--window", 1, "--out", tmp_path / "live.csv")
    scores = count(result)
    assert scores >= 1
    assert re.search(r"\d\.\d s\n +Anger +█* +0\.\d\d\n.* voice .* Hz, \d+ ms, dropped", result.stdout, re.S)
    table = pd.read_csv(tmp_path / "live.csv")
    assert len(table) == scores
    assert {*BASIC, "latency_ms", "time_s"} <= set(table.columns)
    assert table["end_s"].is_monotonic_increasing


def test_after_so_many_seconds_it_ends(talking: Callable[[int], Path], tmp_path: Path) -> None:
    count(live(talking(20), "--for", 0.5, "--out", tmp_path / "live.csv"))
    assert pd.read_csv(tmp_path / "live.csv")["end_s"].max() < 45.0  # of 60


def test_wrong_options_are_refused(video: Path, tmp_path: Path) -> None:
    for arguments, message in (
        ((video, "--window", 0), "window"),
        ((video, "--out", tmp_path / "live.parquet"), ".csv"),
        (("97",), "camera 97 cannot be opened"),
    ):
        error = live(*arguments).exception
        assert isinstance(error, ReactometerError)
        assert message in str(error)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent otherwise there")
def test_ctrl_c_ends_it_well(
    talking: Callable[[int], Path], tmp_path: Path, wait_for: Callable[[Callable[[], bool]], None]
) -> None:
    """The clip is longer than the test."""
    out = tmp_path / "live.csv"
    command = [sys.executable, "-m", "reactometer", "live", str(talking(20)), "--out", str(out)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        wait_for(lambda: process.poll() is not None or (out.exists() and bool(out.read_text())))
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert "scores, " in printed
    assert "Traceback" not in errors
