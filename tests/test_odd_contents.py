"""What is read back and is not what was written: its reader says so and names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from item_of import item_of
from reactometer.batch.result_store import open_results
from reactometer.config import Config
from reactometer.data.cache import (
    PreparedRow,
    PreparedSet,
    load_clip,
    open_prepared,
    read_counts,
    write_clip,
    write_index,
)
from reactometer.data.feature_store import open_store, write_store
from reactometer.data.files import InputFile
from reactometer.errors import DataError, OutputError
from reactometer.inference.prediction import Prediction, Window
from reactometer.io import format_json, parse_json_object
from reactometer.types import Clip, FaceSample, FrameState, PreparedClip

STAMP = {"model": "x"}
SOURCES = [InputFile("a.mp4", "aa"), InputFile("b.mp4", "bb")]


FEATURES = {"face": ("a", "b", "c"), "voice": ("d", "e")}


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A prepared set of one clip, and its features."""
    file = tmp_path / "clips" / "a.npz"
    file.parent.mkdir()
    sample = FaceSample(0.1, FrameState.FACE, (1.0, 2.0, 3.0, 4.0), 0.9, b"jpeg")
    write_clip(file, PreparedClip(0.0, 1.0, (sample,), np.zeros(160, np.float32), 1))
    row = PreparedRow(Clip("a", Path("a.mp4"), "train", labels=(0.5,)), file, 1.0, 1, 1)
    write_index(PreparedSet(tmp_path, ("Joy",), Config().prepare, (row,), features=FEATURES))
    ones = np.ones((2, 3), np.float32)
    item = item_of(
        ones, np.ones(2, bool), np.arange(2, dtype=np.float32), ones[:, :2], np.arange(2, dtype=np.float32)
    )
    write_store(tmp_path / "features", [row], lambda *_: item, {"face": 3, "voice": 2})
    return tmp_path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A results folder with one result and one failure."""
    windows = (Window(0.0, 1.0, 1.0, (0.1,)),)
    good = Prediction("a.mp4", "ok", ("Joy",), 1.0, 1.0, False, (0.1,), windows)
    with open_results(tmp_path, STAMP, all_faces=False) as store:
        store.append("aa", [good])
        store.append("bb", [Prediction("b.mp4", "failed: damaged", ("Joy",))])
        assert store.write_tables(SOURCES, ["timeline"], 0.5, "csv") == {"b.mp4": "damaged"}
    return tmp_path


def _resume(run: Path) -> None:
    with open_results(run, STAMP, all_faces=False) as store:
        store.write_tables(SOURCES, ["timeline"], 0.5, "csv")


def _edit(file: Path, **values: object) -> None:
    file.write_text(format_json({**parse_json_object(file.read_bytes()), **values}))


def test_as_written_all_is_read(prepared: Path) -> None:
    opened = open_prepared(prepared)
    assert (opened.features, len(load_clip(opened.rows[0]).samples)) == (FEATURES, 1)
    assert (read_counts(prepared / "clips" / "a.npz") or {})["n_faces"] == 1
    assert open_store(prepared / "features").sizes == {"face": 3, "voice": 2}


@pytest.mark.parametrize("content", [b"", b"PK", b"\x93NUMPY\x01\x00", b"\x80\x04N."])
def test_an_invalid_clip_file_is_stale_and_reported(prepared: Path, content: bytes) -> None:
    (prepared / "clips" / "a.npz").write_bytes(content)
    assert read_counts(prepared / "clips" / "a.npz") is None
    with pytest.raises(DataError, match=r"a\.npz: damaged.*Delete"):
        load_clip(open_prepared(prepared).rows[0])


@pytest.mark.parametrize(
    "values",
    [
        {"labels": 3},
        {"rows": [{}]},
        {"settings": {"size_px": True}},
        {"settings": []},
        {"features": [1]},
    ],
)
def test_invalid_settings_are_reported(prepared: Path, values: dict[str, object]) -> None:
    _edit(prepared / "cache.json", **values)
    with pytest.raises(DataError, match=r"damaged.*reactometer prepare"):
        open_prepared(prepared)


@pytest.mark.parametrize(
    "values", [{"files": 3}, {"files": {"a": 3}}, {"sizes": None}, {"sizes": {"face": "x"}}]
)
def test_an_invalid_feature_index_is_reported(prepared: Path, values: dict[str, object]) -> None:
    _edit(prepared / "features" / "features.json", **values)
    with pytest.raises(DataError, match="damaged"):
        open_store(prepared / "features")
    (prepared / "features" / "features.json").write_text("[]")
    with pytest.raises(DataError, match="damaged"):
        open_store(prepared / "features")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("run.json", lambda file: file.write_text("[1]")),
        ("journal/00000.jsonl", lambda file: file.write_text("[]\n")),
        ("journal/00000.jsonl", lambda file: file.write_text("[" * 100_000 + "\n")),
        ("journal/00000.jsonl", lambda file: file.write_text('{"sha256": "aa", "predictions": []}\n')),
        (
            "journal/00000.jsonl",
            lambda file: file.write_text('{"sha256": "aa", "predictions": [{"status": "ok"}]}\n'),
        ),
    ],
)
def test_an_invalid_file_of_a_run_is_reported(run: Path, name: str, change: Callable[[Path], object]) -> None:
    change(run / name)
    with pytest.raises(OutputError, match="damaged"):
        _resume(run)
