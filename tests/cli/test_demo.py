"""The demo's parts; ``make demo`` runs it whole, and its bar is a slow test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reactometer.cli.demo import demo


@pytest.mark.slow(200)
def test_the_demo_reaches_its_bar(tmp_path: Path) -> None:
    """Mean Pearson of at least 0.8 on people never seen, beaten by neither modality alone nor by shuffled labels."""
    result = demo(tmp_path, progress=False)
    mean_pearson = result.evaluation.metrics.mean_pearson
    assert mean_pearson is not None
    assert mean_pearson >= 0.8
    assert result.beside["constant prediction (the training mean)"] is None
    assert all(value < mean_pearson - 0.1 for value in result.beside.values() if value is not None)
    assert result.files["picture"].stat().st_size > 10_000
    assert json.loads(result.files["scores"].read_text())["n_clips"] == 120
