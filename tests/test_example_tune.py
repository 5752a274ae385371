"""The tuning example: it trains trials, keeps their scores, and continues after a stop."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest

from reactometer.data.cache import PreparedSet

EXAMPLE = Path(__file__).parents[1] / "examples" / "tune.py"


@pytest.mark.slow
def test_trials_are_scored_and_a_second_call_continues(
    toml: Path,
    prepared: PreparedSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def tune(n_trials: int) -> str:
        options = [
            f"data.path={prepared.folder}",
            "--out",
            str(tmp_path / "tuned"),
            "--trials",
            str(n_trials),
        ]
        monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(toml), *options])
        runpy.run_path(str(EXAMPLE), run_name="__main__")
        return capsys.readouterr().out

    assert "best: trial 0" in tune(1)
    tune(2)
    trials = pd.read_csv(tmp_path / "tuned" / "trials.csv")
    assert trials["state"].tolist() == ["COMPLETE", "COMPLETE"]
    assert trials["params_learning_rate"].nunique() == 2
    assert (tmp_path / "tuned" / "trial001" / "model" / "model.json").is_file()
