"""The commands that are killed, with the allowed states of their output before, during and after."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kills import CLI, Case
from reactometer.batch.result_store import JOURNAL
from reactometer.data.cache import open_prepared
from reactometer.errors import DataError
from reactometer.inference.checkpoint import load_model
from reactometer.io import PART

SMALL_FILES = "from reactometer.batch import result_store; result_store.JOURNAL_LINES = 3; "
RUN = [sys.executable, "-c", SMALL_FILES + "from reactometer.cli.app import main; main()"]

CONFIG = """
[prepare]
detector = "haar"
rate_hz = 2.0
size_px = 48
[model]
name = "vit-transformer"
encoder = "random:vit-tiny"
frozen = true
n_frames = 4
size_px = 48
hidden = 16
dropout = 0.2
[training]
epochs = 3
batch_size = 4
ema_decay = 0.9
accelerator = "cpu"
"""


def prepare_case(data: Path, before: Path) -> Case:
    """Prepare ``data`` over ``before``, which was prepared with other settings and is created if missing."""
    if not before.exists():
        subprocess.run([*_prepare(data, before), "--fps", "1"], check=True, capture_output=True)

    def begin(folder: Path) -> None:
        shutil.copytree(before, folder)

    def between(folder: Path, whole: Path) -> list[str]:
        """Check that the folder has all old clips or all new ones, or is refused as no prepared dataset."""
        try:
            numbers = _numbers(folder)
        except DataError as error:
            return [] if "not a prepared dataset" in str(error) else [f"between: {error}"]
        is_complete = numbers in (_numbers(before), _numbers(whole))
        return [] if is_complete else ["between: neither the old set nor the new one"]

    def after(folder: Path, whole: Path) -> list[str]:
        wrong = [] if _numbers(folder) == _numbers(whole) else ["other clips or numbers"]
        listed = [row.file for row in open_prepared(folder).rows]
        wrong += [] if len(set(listed)) == len(listed) else ["a clip twice"]
        return wrong

    return Case(
        "prepare",
        begin=begin,
        command=lambda folder: [*_prepare(data, folder), "--fps", "2"],
        between=between,
        after=after,
    )


def _prepare(data: Path, out: Path) -> list[str]:
    return [
        *CLI,
        "prepare",
        str(data),
        "--out",
        str(out),
        "--detector",
        "haar",
        "--crop-size",
        "48",
        "--workers",
        "2",
    ]


def _numbers(folder: Path) -> list[Any]:
    """Return the contents of a prepared folder, with hashes of its clips' arrays."""
    prepared = open_prepared(folder)
    clips = [_arrays(row.file) if row.file else None for row in prepared.rows]
    rows = [(row.clip, row.duration_s, row.n_samples, row.n_faces) for row in prepared.rows]
    return [prepared.settings, prepared.labels, rows, clips]


def _arrays(file: Path) -> str:
    with np.load(file) as arrays:
        return sha256(b"".join(arrays[name].tobytes() for name in sorted(arrays.files))).hexdigest()


def train_case(prepared: Path) -> Case:
    """Train a small head on features of a frozen encoder, and fit intervals if there are enough clips."""

    def begin(folder: Path) -> None:
        shutil.copytree(prepared, folder / "data")
        (folder / "small.toml").write_text(CONFIG)

    def command(folder: Path) -> Sequence[str] | None:
        """Return the command, which resumes; None if there is a model."""
        if (folder / "run" / "model").exists():
            return None
        options = [f"data.path={folder / 'data'}", f"training.out={folder / 'run'}"]
        return [*CLI, "train", str(folder / "small.toml"), *options]

    def between(folder: Path, whole: Path) -> list[str]:
        return _compare_models(folder, whole) if (folder / "run" / "model").exists() else []

    def after(folder: Path, whole: Path) -> list[str]:
        wrong = _compare_models(folder, whole)
        logs = [(root / "run" / "logs" / "metrics.csv").read_text() for root in (folder, whole)]
        return wrong if logs[0] == logs[1] else [*wrong, "another log"]

    return Case("train", begin, command, between, after)


def _compare_models(folder: Path, whole: Path) -> list[str]:
    """Compare graphs, weights, scores and intervals with those of the undisturbed model."""
    models = [root / "run" / "model" for root in (folder, whole)]
    one, other = map(load_model, models)
    wrong = [
        f"another {name}"
        for name in (
            "face.onnx",
            "head.onnx",
            "weights.safetensors",
            "uncertainty.json",
            "screening.safetensors",
        )
        if _bytes(models[0] / name) != _bytes(models[1] / name)
    ]
    return wrong if one.description["metrics"] == other.description["metrics"] else [*wrong, "other scores"]


def _bytes(file: Path) -> bytes:
    return file.read_bytes() if file.is_file() else b""


def folder_case(videos: Path) -> Case:
    """Predict a folder into a results folder, with three results per file of the journal."""

    def after(folder: Path, whole: Path) -> list[str]:
        wrong = []
        for name, key in (("files.csv", ["path"]), ("timeline.csv", ["path", "start_s"])):
            one, other = (
                pd.read_csv(root / name).sort_values(key, ignore_index=True) for root in (folder, whole)
            )
            wrong += [] if one.equals(other) else [f"another {name}: {len(one)} rows, not {len(other)}"]
        elan = [{file.name for file in (root / "elan").iterdir()} for root in (folder, whole)]
        wrong += [] if elan[0] == elan[1] else [f"other documents: {elan}"]
        lines = [line for file in (folder / JOURNAL).iterdir() for line in file.read_text().splitlines()]
        hashes = [json.loads(line)["sha256"] for line in lines]
        wrong += [] if len(set(hashes)) == len(hashes) else ["a content twice"]
        left = [str(path.relative_to(folder)) for path in folder.rglob("*") if PART in path.name]
        return wrong + ([f"left: {left}"] if left else [])

    return Case(
        "predict into a folder",
        begin=lambda folder: folder.mkdir(),
        command=lambda folder: [
            *RUN,
            "predict",
            str(videos),
            "--out-dir",
            str(folder),
            "--save",
            "timeline,elan",
            "--workers",
            "2",
            "--device",
            "cpu",
        ],
        between=lambda folder, whole: [],
        after=after,
    )


def table_case(videos: Sequence[Path]) -> Case:
    """Predict files into tables that replace older ones."""
    names = {"-o": "clips.csv"}
    old = b"what was there before"

    def begin(folder: Path) -> None:
        folder.mkdir()
        for name in names.values():
            (folder / name).write_bytes(old)

    def between(folder: Path, whole: Path) -> list[str]:
        """Check that each table is the old one or the new one."""
        return [
            f"{name} is neither the old file nor the new one"
            for name in names.values()
            if (data := (folder / name).read_bytes()) != old and not _is_same(data, whole / name)
        ]

    def command(folder: Path) -> list[str]:
        options = [text for option, name in names.items() for text in (option, str(folder / name))]
        return [*CLI, "predict", *map(str, videos), *options, "--device", "cpu"]

    def after(folder: Path, whole: Path) -> list[str]:
        return [
            f"another {name}"
            for name in names.values()
            if not _is_same((folder / name).read_bytes(), whole / name)
        ]

    return Case("predict into tables", begin, command, between, after)


def _is_same(data: bytes, file: Path) -> bool:
    """Compare contents without an ELAN document's date."""
    one, other = (re.sub(rb' DATE="[^"]*"', b"", content) for content in (data, file.read_bytes()))
    return one == other
