"""Training clips are scored only by request, and clips in folds by the members that held them out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reactometer.data.cache import PreparedRow
from reactometer.errors import DataError
from reactometer.evaluation.overlap import check_held_out, describe_clips, find_held_out_members, find_overlap
from reactometer.types import Clip

ROWS = [
    PreparedRow(Clip(f"{n}", Path("a"), labels=(0.5,)), Path("a"), sha256=f"{n:064d}"[::-1]) for n in range(6)
]


def _model(*members: dict[str, list[int]] | None) -> Any:
    """Members with the indices of their clips by split; ``None``: without a record."""
    data = [
        {}
        if member is None
        else {"clips": describe_clips(**{k: [ROWS[n] for n in v] for k, v in member.items()})}
        for member in members
    ]
    return SimpleNamespace(members=[SimpleNamespace(description={"data": one}) for one in data])


def test_training_clips_of_any_member_are_in_sample() -> None:
    model = _model({"train": [0, 1], "val": [2]}, {"train": [2, 3], "val": [0]})
    overlap = find_overlap(model, ROWS)
    assert (overlap.n_train, overlap.n_val, overlap.label) == (4, 0, "in-sample")
    assert overlap.note == "in-sample: the model was trained on 4 of these 6 clips"
    with pytest.raises(DataError, match=r"trained on these clips.*4 of 6.*out-of-fold.*--in-sample"):
        check_held_out(model, ROWS)
    assert check_held_out(model, ROWS[4:]).note == ""


def test_val_clips_and_missing_records_are_told() -> None:
    single = _model({"train": [0, 1], "val": [2, 3]})
    assert "2 of these 4 clips chose the epoch" in check_held_out(single, ROWS[2:]).note
    assert "does not list its training clips" in check_held_out(_model({"train": [0]}, None), ROWS[1:]).note


def test_each_clip_is_scored_by_the_members_that_held_it_out() -> None:
    folds = _model({"train": [2, 3], "val": [0, 1]}, {"train": [0, 1], "val": [2, 3]})
    members, overlap = find_held_out_members(folds, ROWS)
    assert members == [(0,), (0,), (1,), (1,), (), ()]  # the last two are in no fold
    assert (overlap.n_clips, overlap.n_val, overlap.label) == (4, 4, "out-of-fold")
    nested = _model({"train": [0, 1], "val": [2]}, {"train": [2], "val": [3]})
    members, overlap = find_held_out_members(nested, ROWS[:4])
    assert members == [(1,), (1,), (0,), (0,)]
    assert overlap.n_val == 1  # all but one are held out entirely
    unreadable = PreparedRow(Clip("x", Path("a"), labels=(0.5,)))
    assert find_held_out_members(folds, [*ROWS, unreadable])[0][-1] == (0, 1)
    with pytest.raises(DataError, match=r"all members were trained on '0'"):
        find_held_out_members(_model({"train": [0]}), ROWS)
    with pytest.raises(DataError, match="trained on none of these clips"):
        find_held_out_members(folds, ROWS[4:])
