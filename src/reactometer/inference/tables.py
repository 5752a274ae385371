"""Write predictions as tables: CSV, Parquet or JSON, by file extension.

Every row has a ``face`` number; :func:`with_face` adds the column if all faces are followed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reactometer.errors import OutputError, require
from reactometer.inference.postprocess import find_events
from reactometer.inference.prediction import Prediction
from reactometer.io import atomic_file, format_csv, write_atomic
from reactometer.types import BOUNDS, IntervalBounds

if TYPE_CHECKING:
    import pyarrow as pa

ENDINGS = (".csv", ".parquet", ".json")

FRAME_COLUMNS = ("path", "time_s", "state", "box_x", "box_y", "box_width", "box_height")

EVENT_COLUMNS = ("path", "label", "onset_s", "peak_s", "offset_s", "peak", "mean")

COLUMN_TYPES = {"face": "int64", "sound": "bool"} | dict.fromkeys(
    ("path", "sha256", "status", "state", "warnings", "same_as"), "string"
)
"""Arrow types of columns that are not floats, also if all their values are missing."""


def clip_rows(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Return one row per file, with ``None`` for unknown values; ``warnings`` are reasons not to use the row.

    ``LABEL_peak`` is the largest intensity in the timeline; ``LABEL_peak_s`` the middle of its window, s.
    """
    return [
        {
            "path": prediction.path,
            "face": prediction.face,
            "status": prediction.status,
            "duration_s": rounded(prediction.duration_s),
            "face_share": rounded(prediction.face_share),
            "sound": prediction.has_sound,
            "warnings": join_warnings(prediction),
            **_by_label(prediction.labels, prediction.intensities),
            **_details(prediction),
        }
        for prediction in predictions
    ]


def timeline_rows(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Return one row per window; if its ``state`` is "no_face", the intensities come from the voice only.

    A window has no intervals; ``warnings`` are reasons not to use it.
    """
    return [
        {
            "path": prediction.path,
            "face": prediction.face,
            "start_s": rounded(window.start_s),
            "end_s": rounded(window.end_s),
            "state": "face" if window.face_share else "no_face",
            "face_share": rounded(window.face_share),
            "warnings": "; ".join(window.warnings) or None,
            **_by_label(prediction.labels, window.intensities),
        }
        for prediction in predictions
        for window in prediction.windows
    ]


def frame_rows(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Return one row per sampled frame; ``state`` is "face", "no_face" or "unreadable", boxes are in
    pixels."""
    return [
        {
            "path": prediction.path,
            "face": prediction.face,
            "time_s": round(sample.time_s, 6),
            "state": sample.state.name.lower(),
            **dict(zip(FRAME_COLUMNS[3:], sample.box or (None,) * 4, strict=True)),
        }
        for prediction in predictions
        for sample in prediction.samples
    ]


def event_rows(predictions: Sequence[Prediction], threshold: float) -> list[dict[str, Any]]:
    """Return one row per event."""
    return [
        {
            "path": prediction.path,
            "face": prediction.face,
            **asdict(event),
            **{name: rounded(getattr(event, name)) for name in ("onset_s", "peak_s", "offset_s")},
            **{name: round(getattr(event, name), 6) for name in ("peak", "mean")},
        }
        for prediction in predictions
        for event in find_events(prediction, threshold)
    ]


def check_ending(path: Path | None) -> None:
    """Check a table's file name before the table is computed.

    Raises:
        OutputError: the file extension is not one of ``ENDINGS``.
        ReactometerError: pyarrow, which writes Parquet, is not installed.
    """
    if path is None:
        return
    if path.suffix.lower() == ".parquet":
        require("pyarrow", extra="parquet")
    elif path.suffix.lower() not in ENDINGS:
        got, fix = (
            path.suffix or "no extension",
            f"Use {path.with_suffix('.csv')}, which spreadsheets can open",
        )
        raise OutputError(f"{path}: unknown table format", got=got, expected=", ".join(ENDINGS), fix=fix)


def write_table(rows: Sequence[dict[str, Any]], columns: Sequence[str], path: Path) -> None:
    """Write rows to a CSV, Parquet or JSON file; missing values are empty (``null`` in JSON).

    Raises:
        OutputError: the file extension is unknown, or the file cannot be written.
        ReactometerError: pyarrow, which writes Parquet, is not installed.
    """
    check_ending(path)
    if path.suffix.lower() == ".json":
        named = [{name: row.get(name) for name in columns} for row in rows]
        write_atomic(path, json.dumps(named, indent=2) + "\n")
    else:
        write_batches([rows], columns, path)


def write_batches(batches: Iterable[Sequence[dict[str, Any]]], columns: Sequence[str], path: Path) -> None:
    """Write a CSV or Parquet file atomically, batch by batch, so that memory holds one batch at a time."""
    with atomic_file(path) as partial, ExitStack() as stack:
        if path.suffix.lower() == ".parquet":
            import pyarrow.parquet as pq

            writer = None
            for rows in batches:
                table = to_arrow(rows, columns)
                writer = writer or stack.enter_context(pq.ParquetWriter(partial, table.schema))
                writer.write_table(table)
            return
        stream = stack.enter_context(partial.open("w", encoding="utf-8", newline=""))
        stream.write(format_csv([columns]))
        for rows in batches:
            stream.write(format_csv(map(row.get, columns) for row in rows))


def to_arrow(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pa.Table:
    """Return rows as a table of pyarrow: text and floats by their values, other columns by
    ``COLUMN_TYPES``."""
    import pyarrow as pa

    def type_of(name: str) -> str:
        first = next((row[name] for row in rows if row.get(name) is not None), None)
        return {str: "string", float: "float64"}.get(type(first)) or COLUMN_TYPES.get(name, "float64")

    schema = pa.schema([(name, type_of(name)) for name in columns])
    return pa.Table.from_pylist([dict(row) for row in rows], schema)


def clip_columns(prediction: Prediction) -> list[str]:
    """Return the columns of the table of files; only a calibrated model has interval bounds."""
    bounds = {f"{label}_{bound}" for label in prediction.labels for bound in BOUNDS}
    details = [name for name in _details(prediction) if prediction.coverage or name not in bounds]
    first = ["path", "status", "duration_s", "face_share", "sound", "warnings"]
    return [*first, *prediction.labels, *details]


def timeline_columns(prediction: Prediction) -> list[str]:
    """Return the columns of the table of windows."""
    return ["path", "start_s", "end_s", "state", "face_share", "warnings", *prediction.labels]


def with_face(columns: Sequence[str]) -> list[str]:
    """Insert the face's number after the path, for tables of all faces."""
    return [columns[0], "face", *columns[1:]]


def join_warnings(prediction: Prediction) -> str | None:
    """Return the warnings, or the status if there are no intensities; ``None`` without warnings."""
    reasons = prediction.warnings if prediction.status == "ok" else (prediction.status, *prediction.warnings)
    return "; ".join(reasons) or None


def intensities_as_json(
    labels: Sequence[str],
    values: Sequence[float] | None,
    intervals: IntervalBounds | None = None,
    peaks: Sequence[tuple[float, float]] = (),
) -> dict[str, dict[str, float]] | None:
    """Return ``{LABEL: {"value": …, "low": …, "high": …, "peak": …, "peak_s": …}}``.

    Only known bounds and peaks are included. ``None`` without intensities.
    """
    if values is None:
        return None
    by_label = {label: {"value": round(value, 6)} for label, value in zip(labels, values, strict=True)}
    for label, bounds in zip(labels, intervals or (), strict=False):
        by_label[label] |= {name: round(bound, 6) for name, bound in zip(BOUNDS, bounds, strict=True)}
    for label, (peak, peak_s) in zip(labels, peaks, strict=False):
        by_label[label] |= {"peak": round(peak, 6), "peak_s": round(peak_s, 3)}
    return by_label


def _by_label(labels: Sequence[str], values: Sequence[float] | None) -> dict[str, float | None]:
    unknown = (None,) * len(labels)
    return {label: rounded(value, 6) for label, value in zip(labels, values or unknown, strict=True)}


def _details(prediction: Prediction) -> dict[str, float | None]:
    """Return the interval bounds, the peak and its time of each emotion by column."""
    unknown = ((None, None),) * len(prediction.labels)
    row: dict[str, float | None] = {}
    pairs = zip(prediction.labels, prediction.intervals or unknown, prediction.peaks or unknown, strict=True)
    for label, bounds, (peak, peak_s) in pairs:
        row |= {f"{label}_{name}": rounded(bound, 6) for name, bound in zip(BOUNDS, bounds, strict=True)}
        row |= {f"{label}_peak": rounded(peak, 6), f"{label}_peak_s": rounded(peak_s)}
    return row


def rounded(value: float | None, digits: int = 3) -> float | None:
    """Round a value that may be missing."""
    return None if value is None else round(value, digits)
