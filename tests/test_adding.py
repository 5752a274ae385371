"""The examples of CONTRIBUTING.md: a metric, a system, a layout, each added in two files, and then there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples" / "adding"

METRIC = """
import json, numpy as np
from reactometer.evaluation.metrics import measure
from reactometer.evaluation.bootstrap import Resampling, bootstrap_metrics
draws = np.random.default_rng(0)
truth = draws.random((50, 2)); guess = (truth + draws.normal(0, .1, truth.shape))
resampling = Resampling(n_resamples=200)
intervals = bootstrap_metrics(truth, guess, ["a", "b"], resampling=resampling).by_label["rmse"]
values = measure(truth, guess, ["a", "b"]).as_json()["rmse"]
print(json.dumps([list(values.values()), [[one.low, one.value, one.high] for one in intervals],
                  np.sqrt(((truth - guess) ** 2).mean(0)).tolist()]))
"""

SYSTEM = """
import json, torch
from reactometer.config import ModelConfig
from reactometer.models.heads import Stream
from reactometer.models.registry import build_model, load_encoders
config = ModelConfig.model_validate({"name": "resnet50-peak", "encoder": "random:resnet-tiny", "size_px": 32})
model = build_model(config, load_encoders(config), [0.5, 0.5]).eval()
values = torch.tensor([[[1.0], [9.0], [3.0]], [[1.0], [2.0], [3.0]]])
mask = torch.tensor([[1, 0, 1], [0, 0, 0]]) > 0
print(json.dumps(model.head(Stream(values, mask, torch.zeros(2, 3))).flatten().tolist()))
"""

LAYOUT = """
import json, sys
from pathlib import Path
from reactometer.data.datasets import read_dataset
read = read_dataset(Path(sys.argv[1]))
print(json.dumps([[clip.clip_id, clip.person, clip.labels, clip.problem] for clip in read.clips]))
"""


def _with_example(name: str, code: str, folder: Path, *arguments: str) -> Any:
    """Return the JSON that a program prints in a copy of the package with the example's patch."""
    patch = EXAMPLES / f"{name}.patch"
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    subprocess.run(
        ["git", "init", "-q"], cwd=folder, check=True
    )  # else git would look for a repository above it
    subprocess.run(["git", "apply", patch], cwd=folder, check=True)
    touched = [line for line in patch.read_text(encoding="utf-8").splitlines() if line.startswith("+++ ")]
    assert len(touched) <= 2
    environment = {**os.environ, "PYTHONPATH": str(folder / "src")}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, cwd=folder, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def test_a_metric_is_added_in_two_files(tmp_path: Path) -> None:
    values, intervals, expected = _with_example("metric", METRIC, tmp_path)
    assert values == pytest.approx(expected)
    for (low, value, high), expected_value in zip(intervals, expected, strict=True):
        assert value == pytest.approx(expected_value)
        assert low < value < high


@pytest.mark.slow
def test_an_architecture_is_added_in_two_files(tmp_path: Path) -> None:
    assert _with_example("system", SYSTEM, tmp_path) == [3.0, 0.0], (
        "the unseen 9 has no say; no face, no features"
    )


def test_a_layout_is_added_in_two_files(tmp_path: Path) -> None:
    data = tmp_path / "lab"
    data.mkdir()
    table = "clip,person,Joy,Fear\none,anna,7,1\ntwo,ben,4,x\n"
    (data / "ratings.csv").write_text(table, encoding="utf-8")
    one, two = _with_example("layout", LAYOUT, tmp_path, str(data))
    assert one == ["one", "anna", [1.0, 0.0], None]
    assert two[:2] == ["two", "ben"]
    assert "Fear" in two[3]
