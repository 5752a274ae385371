"""What is said of a machine: that all is well where it is, and what is to be done where it is not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reactometer.doctor import FINE, LACKING, WRONG, Finding, _folders, _packages, _variables, _weights


def _doctor(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "reactometer", "doctor", *options]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=300, check=False)


def _by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {own.name: own for own in findings}


@pytest.mark.slow
def test_a_machine_that_works_is_told_so(tmp_path: Path) -> None:
    done = _doctor("--json", REACTOMETER_CACHE=str(tmp_path), HF_TOKEN="hf_of_anna")
    told = {own["name"]: own for own in json.loads(done.stdout)}
    assert done.returncode == 0, done.stdout
    assert {own["state"] for own in told.values()} <= {FINE, LACKING}
    assert all(own["remedy"] for own in told.values() if own["state"] != FINE)
    assert "Happiness" in told["a prediction"]["told"]
    assert "hf_of_anna" not in done.stdout


@pytest.mark.slow
def test_what_is_wrong_is_told_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = _doctor(REACTOMETER_CACHE=str(tmp_path / "file" / "cache"))
    lines = done.stdout.splitlines()
    place = next(place for place, line in enumerate(lines) if line.startswith("WRONG  cache: "))
    assert "cannot be written" in lines[place]
    assert lines[place + 1].strip() == "set REACTOMETER_CACHE to a folder that can be written"
    assert (lines[-1], done.returncode) == ("1 to mend", 1)


def test_a_full_disk_is_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 10**12, 0))
    monkeypatch.chdir(tmp_path)
    told = _by_name(list(_folders()))["this folder"]
    assert told.state == WRONG and "0 bytes free" in told.told and told.remedy.startswith("make room")


def test_weights_that_are_not_what_they_should_be_are_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REACTOMETER_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("REACTOMETER_CACHE", str(tmp_path / "cache"))
    assert _by_name(list(_weights()))["weights of yunet"].state == LACKING
    (tmp_path / "yunet_n_320_320.onnx").write_bytes(b"another file")
    told = _by_name(list(_weights()))
    assert told["weights of yunet"].state == WRONG and "weights fetch yunet" in told["weights of yunet"].remedy
    assert told["weights of starter"].state == FINE


def test_packages_are_held_against_what_is_wanted() -> None:
    told = _by_name(list(_packages()))
    assert told["packages"].state == FINE and "torch 2" in told["packages"].told
    assert told["extra onnx"].state == FINE and "extra dev" not in told


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REACTOMETER_DATABASE", "postgresql://anna:sesame@host/jobs")
    monkeypatch.setenv("REACTOMETER_CACHE", "/cache")
    told = _by_name(list(_variables()))
    assert told["REACTOMETER_DATABASE"].told == "set, not shown" and told["REACTOMETER_CACHE"].told == "/cache"
