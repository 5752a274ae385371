"""The engine of a training: processes that load beside it."""

from __future__ import annotations

import pytest
import torch

from reactometer.config import FitConfig
from reactometer.data.pool import default_workers
from reactometer.training.engine import MOST_WORKERS, loader_workers


def test_a_processor_that_trains_shares_its_cores_with_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert loader_workers(FitConfig()) == 0
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert loader_workers(FitConfig()) == min(MOST_WORKERS, default_workers()) > 0
    assert loader_workers(FitConfig(accelerator="cpu")) == 0
    assert loader_workers(FitConfig(accelerator="cpu", workers=3)) == 3
