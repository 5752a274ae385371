"""A seed gives the same numbers twice: training, scores, splits, calibration, prediction."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

CONFIG = """
[data]
path = "prepared"
[model]
name = "multimodal"
encoder = "random:resnet-tiny"
hidden = 16
n_frames = 4
size_px = 48
[training]
epochs = 2
batch_size = 6
seed = 3
accelerator = "cpu"
"""
COMMANDS = """
prepare {data} -o prepared --detector haar --fps 2 --crop-size 48 --workers {workers}
train small.toml training.out=run training.workers={workers}
evaluate prepared -m run/model --by clip -o scores
data split {data} -o clean.csv
calibrate prepared -m run/model --split test -o calibrated
predict {data}/test/mp4 -m run/model  -o clips.json
"""
CODE = """
import sys
from reactometer.cli.app import app
for command in sys.argv[1].split(chr(10)):
    status = app(command.split(), standalone_mode=False)
    assert not status, (command, status)
"""
DATED = (".ckpt", ".lock")
"""Files that contain times or the number of workers."""


def _left_by_all(data: Path, folder: Path, workers: int) -> dict[str, bytes]:
    """What all commands leave in a folder, run in one process with its own order of sets."""
    folder.mkdir()
    (folder / "small.toml").write_text(CONFIG, encoding="utf-8")
    commands = COMMANDS.format(data=data, workers=workers).strip()
    order = {**os.environ, "PYTHONHASHSEED": str(workers)}
    subprocess.run(
        [sys.executable, "-c", CODE, commands], cwd=folder, env=order, capture_output=True, check=True
    )
    files = [file for file in folder.rglob("*") if file.is_file() and "tfevents" not in file.name]
    return {
        str(file.relative_to(folder)): _undated(file.read_bytes())
        for file in files
        if not file.name.endswith(DATED)
    }


def _undated(content: bytes) -> bytes:
    """Remove what differs by intent: the number of workers."""
    return re.sub(rb'"workers": \d', b"", content)


@pytest.mark.slow(40)
def test_all_that_a_seed_decides_is_the_same_in_another_process_with_more_workers(
    excerpt: Callable[..., Path], tmp_path: Path
) -> None:
    data = excerpt(train=10, val=5, test=10)
    one, other = (_left_by_all(data, tmp_path / f"{workers}", workers) for workers in (1, 2))
    assert sorted(one) == sorted(other)
    assert {
        "run/model/weights.safetensors",
        "run/logs/metrics.csv",
        "scores/metrics.json",
        "clean.csv",
    } <= set(one)
    assert {"calibrated/uncertainty.json", "clips.json"} <= set(one)
    assert [name for name in one if one[name] != other[name]] == []
