"""A machine that has one small file of weights, and an encoder for it to fetch."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from small_networks import saved

from reactometer import paths
from reactometer.paths import WEIGHT_FILES, WeightFile

CONTENT = b"a detector, say" * 1000
FILE = WeightFile(
    name="tiny",
    file_name="tiny.onnx",
    url="http://127.0.0.1:9/tiny.onnx",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    size_bytes=len(CONTENT),
    licence="MIT",
    source="this test",
)
NAME = "somebody/tiny"
WANTED = ["config.json", "model.safetensors", "preprocessor_config.json"]


def only_tiny(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Leave this machine no weights but FILE, in its cache folder; returns the file."""
    monkeypatch.setattr(paths, "_failures", {})
    monkeypatch.delitem(WEIGHT_FILES, "yunet")
    monkeypatch.setitem(WEIGHT_FILES, FILE.name, FILE)
    monkeypatch.delenv("REACTOMETER_WEIGHTS", raising=False)
    monkeypatch.setenv("REACTOMETER_CACHE", str(cache))
    file = cache / "weights" / FILE.file_name
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT)
    return file


def small_encoder(folder: Path) -> Path:
    """A frame encoder as the Hub holds it, with a pickle and code beside it that nobody is to fetch."""
    shape = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    saved(folder, "resnet", shape, {"image_mean": [0.5] * 3, "image_std": [0.2] * 3})
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    (folder / "modeling.py").write_text("raise SystemExit")
    return folder


def damage(file: Path) -> None:
    """Change the last bit of a file; where it is a link, of what it links to."""
    content = file.read_bytes()
    file.resolve().write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
