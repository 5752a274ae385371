"""Predictions do not depend on threads or processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lossless import write
from reactometer.synthetic.clip import clip_plan, render_clip


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Write videos of a person who turns away and of a person without sound."""
    folder = tmp_path_factory.mktemp("people")
    return [write(folder / f"{number}.mkv", *render_clip(clip_plan(number))) for number in (3, 29)]


def _values(table: Path) -> np.ndarray:
    """(rows, columns) of a table's numbers; not a number where there is none."""
    rows = json.loads(table.read_text(encoding="utf-8"))
    numbers = [[value for value in row.values() if not isinstance(value, str | list)] for row in rows]
    return np.array(numbers, dtype=float)


@pytest.mark.slow
def test_numbers_do_not_depend_on_the_number_of_cores(people: list[Path], tmp_path: Path) -> None:
    """Predict in separate processes with one thread per usable core; a repetition gives equal bits."""
    cores = sorted(os.sched_getaffinity(0))

    def table(name: str, n_cores: int) -> Path:
        out = tmp_path / f"{name}.json"
        subprocess.run(
            [sys.executable, "-m", "reactometer", "predict", *map(str, people), "-o", str(out)],
            env={**os.environ, "PYTHONHASHSEED": str(len(name))},
            preexec_fn=lambda: os.sched_setaffinity(0, cores[:n_cores]),
            check=True,
            capture_output=True,
        )
        return out

    one, every, again = table("one", 1), table("every", len(cores)), table("again", 1)
    assert one.read_bytes() == again.read_bytes()
    assert np.isfinite(_values(one)).mean() > 0.5
    np.testing.assert_allclose(_values(every), _values(one), atol=1e-5, rtol=0)
