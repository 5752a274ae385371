"""The proof that an engine says what PyTorch says: nothing that it gets wrong is overlooked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reactometer.data.batches import MediaReader, parts_of
from reactometer.data.cache import PreparedSet
from reactometer.models.folder import load_model
from reactometer.models.parity import differences


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_an_answer_that_is_no_number_is_a_difference_whenever_it_comes(
    wrong: int, model_folder: Path, prepared: PreparedSet
) -> None:
    """Two clips, one by one and then both: the graph fails at one of the three."""
    member, rows = load_model(model_folder, "cpu"), prepared.split("val")[:2]
    items = [MediaReader(member.sampling)(row, parts_of([row])[0]) for row in rows]
    asked: list[int] = []

    def joint(*inputs: np.ndarray) -> np.ndarray:
        asked.append(len(inputs[0]))
        return np.full((len(inputs[0]), len(member.labels)), np.nan if len(asked) == wrong + 1 else 0.5)

    found = differences(member, member, joint, items)
    assert asked[:3] == [1, 1, 2]
    assert np.isnan(found.pop("whole clips"))
    assert all(0.0 < difference < 1.0 for difference in found.values())
