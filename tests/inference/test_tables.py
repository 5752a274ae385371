"""Tables and plots of predictions."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from reactometer.errors import OutputError
from reactometer.inference.plot import draw_timeline
from reactometer.inference.prediction import Prediction, Window
from reactometer.inference.tables import clip_columns, clip_rows, timeline_columns, timeline_rows, write_table

LABELS = ("Joy", "Awe")
PEAKS = ["Joy_peak", "Joy_peak_s", "Awe_peak", "Awe_peak_s"]
SEEN = Prediction(
    path="a, b.mp4",
    status="ok",
    labels=LABELS,
    duration_s=3.0004,
    face_share=0.5,
    has_sound=True,
    intensities=(0.25, 0.75),
    windows=(Window(0.0, 2.0, 1.0, (0.2, 0.8)), Window(1.0, 3.0004, 0.0, None, ("no face or sound",))),
    frames_read=30,
)
FAILED = Prediction("c.mp4", "failed: c.mp4: no such file.", LABELS)


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".json"])
def test_all_table_formats_have_equal_contents(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"new folder/clips{ending}"
    write_table(clip_rows([SEEN, FAILED]), clip_columns(SEEN), path)
    read = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".json": pd.read_json}[ending]
    table = read(path)  # type: ignore[operator]
    columns = ["path", "status", "duration_s", "face_share", "sound", "warnings", *LABELS, *PEAKS]
    assert list(table.columns) == columns
    assert table.path.tolist() == ["a, b.mp4", "c.mp4"]
    assert table.Awe.tolist()[0] == 0.75
    assert table.Awe.isna().tolist() == [False, True]
    assert table.duration_s.tolist()[0] == 3.0
    assert table[PEAKS].iloc[0].tolist() == [0.2, 1.0, 0.8, 1.0]
    assert table[PEAKS].iloc[1].isna().all()


def test_a_window_without_input_is_empty(tmp_path: Path) -> None:
    write_table(timeline_rows([SEEN, FAILED]), timeline_columns(SEEN), tmp_path / "timeline.json")
    rows = json.loads((tmp_path / "timeline.json").read_text())
    assert [row["Joy"] for row in rows] == [0.2, None]
    assert [row["warnings"] for row in rows] == [None, "no face or sound"]
    assert [(row["start_s"], row["end_s"], row["face_share"]) for row in rows] == [
        (0.0, 2.0, 1.0),
        (1.0, 3.0, 0.0),
    ]


def test_an_unknown_format_or_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"\.xls.*\.csv, \.parquet, \.json"):
        write_table([], clip_columns(SEEN), tmp_path / "a.xls")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_table([], clip_columns(SEEN), tmp_path / "file" / "a.csv")


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_a_timeline_is_drawn(tmp_path: Path, ending: str) -> None:
    path = draw_timeline(SEEN, tmp_path / f"pictures/a.{ending}")
    assert path.stat().st_size > 2000


def test_a_failed_prediction_cannot_be_plotted(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"c\.mp4.*timeline"):
        draw_timeline(FAILED, tmp_path / "a.png")
