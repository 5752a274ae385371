"""The public names, and each label spelled in one file."""

from __future__ import annotations

from pathlib import Path

import pytest

import reactometer


def test_public_names() -> None:
    assert set(reactometer.__all__) == {
        "Config",
        "ReactometerError",
        "compare",
        "demo",
        "ensemble",
        "evaluate",
        "load_config",
        "load_model",
        "predict",
        "prepare",
        "submission",
        "train",
    }
    for name in reactometer.__all__:
        assert callable(getattr(reactometer, name))
    with pytest.raises(AttributeError, match="retrain"):
        _ = reactometer.retrain


def test_labels_are_spelled_in_one_file() -> None:
    for file in Path(reactometer.__file__).parent.rglob("*.py"):
        if file.name != "labels.py":
            assert '"Adoration", "Amusement"' not in file.read_text(encoding="utf-8")
