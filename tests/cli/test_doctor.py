"""The command doctor: a working machine is reported as such, and a problem comes with a hint."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from reactometer.cli.doctor import FINE, WRONG, Finding, check_folders, check_packages, check_runtime


def _doctor(**variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "reactometer", "doctor"]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=300, check=False)


def _by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@pytest.mark.slow
def test_a_working_machine_predicts_a_clip(tmp_path: Path) -> None:
    done = _doctor(REACTOMETER_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stdout
    assert WRONG not in done.stdout
    assert "Happiness" in done.stdout


@pytest.mark.slow
def test_a_problem_is_printed_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = _doctor(REACTOMETER_CACHE=str(tmp_path / "file" / "cache"))
    lines = done.stdout.splitlines()
    index = next(index for index, line in enumerate(lines) if line.startswith("WRONG  cache: "))
    assert "cannot be written" in lines[index]
    assert "REACTOMETER_CACHE" in lines[index + 1]
    assert (lines[-1], done.returncode) == ("1 to fix", 1)


def test_a_full_disk_is_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 10**12, 0))
    monkeypatch.chdir(tmp_path)
    finding = _by_name(list(check_folders()))["this folder"]
    assert finding.state == WRONG and "0 bytes free" in finding.message


def test_packages_are_compared_with_the_requirements() -> None:
    findings = _by_name(list(check_packages()))
    assert findings["packages"].state == FINE and "onnxruntime 1" in findings["packages"].message
    assert "torch" not in findings["packages"].message and "torch 2" in findings["extra train"].message
    assert "pandas" in findings["extra train"].message, "an extra includes others"
    assert "extra dev" not in findings


def test_the_runtime_is_reported_with_its_execution_providers() -> None:
    finding = _by_name(list(check_runtime()))["ONNX Runtime"]
    assert finding.state == FINE
    assert finding.message.startswith(f"{version('onnxruntime')}, execution providers ")
    assert "CPUExecutionProvider" in finding.message


def test_a_runtime_that_cannot_be_imported_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (finding,) = check_runtime()
    assert finding.state == WRONG and "pip install" in finding.hint
