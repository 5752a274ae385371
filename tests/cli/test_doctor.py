"""The command doctor: a working machine is reported as such, and a problem comes with a hint."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reactometer.cli.doctor import describe_packages


def _doctor(**variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "reactometer", "doctor"]
    return subprocess.run(
        command, env=os.environ | variables, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.slow
def test_a_working_machine_predicts_a_clip(tmp_path: Path) -> None:
    done = _doctor(REACTOMETER_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stdout
    assert "WRONG" not in done.stdout
    assert "Happiness" in done.stdout
    assert "execution providers" in done.stdout and "CPUExecutionProvider" in done.stdout


@pytest.mark.slow
def test_a_problem_is_printed_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = _doctor(REACTOMETER_CACHE=str(tmp_path / "file" / "cache"))
    lines = done.stdout.splitlines()
    index = next(index for index, line in enumerate(lines) if line.startswith("WRONG  cache: "))
    assert "cannot be written" in lines[index]
    assert "REACTOMETER_CACHE" in lines[index + 1]
    assert (lines[-1], done.returncode) == ("1 to fix", 1)


def test_packages_are_compared_with_the_requirements() -> None:
    required = describe_packages("")
    assert "onnxruntime 1" in required and "torch" not in required
    assert "torch 2" in describe_packages("train")
