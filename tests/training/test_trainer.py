"""The engine of a training: processes that load beside it, and what a killed one leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from reactometer.config import TrainingConfig
from reactometer.machine import default_workers
from reactometer.training.trainer import MAX_WORKERS, loader_workers, prepare_run_dir


@pytest.mark.slow
def test_a_processor_that_trains_shares_its_cores_with_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert loader_workers(TrainingConfig()) == 0
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert loader_workers(TrainingConfig()) == min(MAX_WORKERS, default_workers()) > 0
    assert loader_workers(TrainingConfig(accelerator="cpu")) == 0
    assert loader_workers(TrainingConfig(accelerator="cpu", workers=3)) == 3


def test_what_a_killed_process_left_half_written_goes_before_the_next(tmp_path: Path) -> None:
    """Half a model and half a checkpoint; what else lies there stays."""
    (tmp_path / ".model-0123.part").mkdir()
    (tmp_path / ".model-0123.part" / "model.json").write_text("{")
    (tmp_path / "checkpoints").mkdir()
    for name in ("last.ckpt", ".last.ckpt-0123.part"):
        (tmp_path / "checkpoints" / name).touch()
    (tmp_path / "notes.txt").touch()
    assert prepare_run_dir(tmp_path, fresh=False)
    assert {path.name for path in tmp_path.rglob("*")} == {"checkpoints", "last.ckpt", "notes.txt"}
