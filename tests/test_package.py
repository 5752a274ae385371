"""The public names, and each label spelled in one file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import reactometer


def test_public_names() -> None:
    assert set(reactometer.__all__) == {
        "Config",
        "ReactometerError",
        "audit",
        "compare",
        "crossval",
        "demo",
        "ensemble",
        "evaluate",
        "explain",
        "load_config",
        "load_model",
        "prepare",
        "read_run",
        "report",
        "split",
        "submission",
        "train",
    }
    for name in reactometer.__all__:
        assert callable(getattr(reactometer, name))
    with pytest.raises(AttributeError, match="retrain"):
        _ = reactometer.retrain


def test_onnx_runtime_keeps_no_device_id_and_sends_nothing(tmp_path: Path) -> None:
    """Its telemetry, where its build has one, begins by writing a device ID into the home folder."""
    switches = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    variables = {name: value for name, value in os.environ.items() if name not in switches}
    variables |= {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", "import reactometer.inference.runtime"], env=variables, check=True)
    assert not list(tmp_path.iterdir())


def test_labels_are_spelled_in_one_file() -> None:
    for file in Path(reactometer.__file__).parent.rglob("*.py"):
        if file.name != "labels.py":
            assert '"Adoration", "Amusement"' not in file.read_text(encoding="utf-8")
