"""Commands that are killed, and what is left: all of it, once, and nothing half."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kill_cases import folder_case, prepare_case, table_case, train_case
from kill_service import kill_service
from kills import Case, Kill, kill_and_repeat, undisturbed
from reactometer.data.cache import PreparedSet

pytestmark = [
    pytest.mark.slow(30),
    pytest.mark.skipif(sys.platform != "linux", reason="groups are read from /proc"),
]


def _check(case: Case, folder: Path, points: Callable[[int], list[Kill]]) -> None:
    """Each kill, given the number of writes of the undisturbed command, ends in what that one came to."""
    writes = undisturbed(case, folder / "whole")
    for number, kill in enumerate(points(writes)):
        assert kill_and_repeat(case, kill, folder / f"{number}", folder / "whole") == [], kill


def _halfway(writes: int) -> list[Kill]:
    """In the middle of a write."""
    return [Kill(at=writes // 2, n_bytes=30)]


def _halfway_and_late(writes: int) -> list[Kill]:
    """In the middle of a write, and at one of the last, which name the results."""
    return [*_halfway(writes), Kill(at=writes - 4)]


def test_prepare(excerpt: Callable[..., Path], tmp_path: Path) -> None:
    """What was prepared before stays readable as it was until the new set takes its place."""
    case = prepare_case(excerpt(train=6, val=3), tmp_path / "before")
    _check(case, tmp_path, _halfway_and_late)


def test_train(prepared: PreparedSet, tmp_path: Path) -> None:
    """Features, checkpoints, log and model are those of a training that nobody disturbed, to the last bit."""
    _check(train_case(prepared.folder), tmp_path, _halfway)


def test_predict_into_a_folder(videos: Path, tmp_path: Path) -> None:
    (videos / "b" / "broken.mp4").unlink(missing_ok=True)
    _check(folder_case(videos), tmp_path, _halfway_and_late)


def test_predict_into_tables(videos: Path, tmp_path: Path) -> None:
    """Tables, pictures and videos of before are whole until the new ones are."""
    case = table_case([videos / "a" / "0.mp4"])
    _check(case, tmp_path, _halfway)


def test_serve(talking: Callable[[int], Path], tmp_path: Path) -> None:
    """Killed in the middle of a write: in an upload, or in a job's file."""
    clips = [talking(1)] * 3
    record, _ = kill_service(clips, None, tmp_path / "whole")
    expected = [record.done[job]["predictions"] for job in record.accepted]
    for number, kill in enumerate((Kill(at=6, n_bytes=400), Kill(at=9))):
        assert kill_service(clips, kill, tmp_path / f"{number}", expected)[1] == [], kill
