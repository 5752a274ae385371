"""Predictions -> tables on disk: CSV, Parquet or JSON by the file's ending.

Every row says whose ``face`` it is of; the column is written where everybody is followed (:func:`with_face`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from reactometer.errors import OutputError
from reactometer.inference.events import find_events
from reactometer.io import write_whole
from reactometer.types import ENDS, Ends, Prediction, Window

ENDINGS = (".csv", ".parquet", ".json")


@cache
def _adapter() -> TypeAdapter[list[Prediction]]:
    return TypeAdapter(list[Prediction])


def dump_predictions(predictions: Sequence[Prediction]) -> bytes:
    """Predictions as JSON, all that is in them."""
    return _adapter().dump_json(list(predictions))


def load_predictions(text: bytes) -> list[Prediction]:
    """Predictions from JSON; raises ValueError for anything else."""
    found = _adapter().validate_json(text)
    for one in found:
        if _is_short(one, len(one.labels)) or any(_is_short(window, len(one.labels)) for window in one.windows):
            raise ValueError(f"{one.path}: not as many values as labels")
    return found


def _is_short(told: Prediction | Window, count: int) -> bool:
    return any(own is not None and len(own) != count for own in (told.intensities, told.intervals))


def clip_rows(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """One row a file: ``path, status, duration_s, face_share, sound``, one column a label, empty where unknown.

    Of a model that says how sure it is, ``abstain`` (reasons not to use the row) and each label's ``_low`` and
    ``_high``, too.
    """
    return [
        {
            "path": prediction.path,
            "face": prediction.face,
            "status": prediction.status,
            "duration_s": _rounded(prediction.duration_s),
            "face_share": _rounded(prediction.face_share),
            "sound": prediction.has_sound,
            "abstain": abstained(prediction),
            **_intensities(prediction.labels, prediction.intensities),
            **_intervals(prediction.labels, prediction.intervals),
        }
        for prediction in predictions
    ]


def timeline_rows(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """One row a window: ``path, start_s, end_s, state, face_share`` and one column a label, empty where unknown.

    ``state`` is "face" or "no_face"; the values of a window without a face come from the voice alone.
    """
    return [
        {
            "path": prediction.path,
            "face": prediction.face,
            "start_s": _rounded(window.start_s),
            "end_s": _rounded(window.end_s),
            "state": "face" if window.face_share else "no_face",
            "face_share": _rounded(window.face_share),
            **_intensities(prediction.labels, window.intensities),
            **_intervals(prediction.labels, window.intervals),
        }
        for prediction in predictions
        for window in prediction.windows
    ]


def frame_rows(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """One row a sampled frame: ``path, time_s, state`` (face, no_face, unreadable) and the face's box in pixels."""
    return [
        {
            "path": prediction.path,
            "face": prediction.face,
            "time_s": round(sample.time_s, 6),
            "state": sample.state.name.lower(),
            **dict(zip(("box_x", "box_y", "box_width", "box_height"), sample.box or (None,) * 4, strict=True)),
        }
        for prediction in predictions
        for sample in prediction.samples
    ]


def event_rows(predictions: Sequence[Prediction], threshold: float) -> list[dict[str, Any]]:
    """One row an event: ``path, label, onset_s, peak_s, offset_s, peak, mean``."""
    return [
        {
            "path": prediction.path,
            "face": prediction.face,
            "label": event.label,
            "onset_s": _rounded(event.onset_s),
            "peak_s": _rounded(event.peak_s),
            "offset_s": _rounded(event.offset_s),
            "peak": round(event.peak, 6),
            "mean": round(event.mean, 6),
        }
        for prediction in predictions
        for event in find_events(prediction, threshold)
    ]


def check_ending(path: Path | None) -> None:
    """Refuse a table's file name, before any work is done, whose ending names no format.

    Raises:
        OutputError: the ending is not one of ``ENDINGS``.
    """
    if path is not None and path.suffix.lower() not in ENDINGS:
        got, fix = path.suffix or "no ending", f"Call it {path.with_suffix('.csv')}; spreadsheets open that"
        raise OutputError(f"{path}: no such table format", got=got, expected=", ".join(ENDINGS), fix=fix)


def write_table(rows: Sequence[dict[str, Any]], columns: Sequence[str], path: Path) -> None:
    """Write rows to a CSV, Parquet or JSON file by its ending; missing values are empty (``null`` in JSON).

    Raises:
        OutputError: an unknown ending, or a place that cannot be written.
    """
    import pandas as pd  # here, since a prediction can do without it, and it takes its time

    check_ending(path)
    table = pd.DataFrame(list(rows), columns=list(columns))
    if "face" in table:
        table["face"] = table["face"].astype("Int64")  # whole numbers, and empty where there is no face
    if path.suffix.lower() == ".csv":
        write_whole(path, table.to_csv(index=False))
    elif path.suffix.lower() == ".parquet":
        write_whole(path, table.to_parquet(index=False))
    else:
        write_whole(path, table.to_json(orient="records", indent=2))


def clip_columns(prediction: Prediction) -> list[str]:
    """Columns of the table of files."""
    abstain = ["abstain"] if prediction.coverage else []
    return ["path", "status", "duration_s", "face_share", "sound", *abstain, *_label_columns(prediction)]


def timeline_columns(prediction: Prediction) -> list[str]:
    """Columns of the table of windows."""
    return ["path", "start_s", "end_s", "state", "face_share", *_label_columns(prediction)]


def _label_columns(prediction: Prediction) -> list[str]:
    ends = [f"{label}_{end}" for label in prediction.labels for end in ENDS] if prediction.coverage else []
    return [*prediction.labels, *ends]


def abstained(prediction: Prediction) -> str | None:
    """Why the intensities had better not be used, or that there are none; ``None``: no reason is known."""
    reasons = prediction.doubts if prediction.status == "ok" else (prediction.status,)
    return "; ".join(reasons) or None


def with_face(columns: Sequence[str]) -> list[str]:
    """The same columns, the face's number behind the path: of tables in which everybody is followed."""
    return [columns[0], "face", *columns[1:]]


FRAME_COLUMNS = ("path", "time_s", "state", "box_x", "box_y", "box_width", "box_height")

EVENT_COLUMNS = ("path", "label", "onset_s", "peak_s", "offset_s", "peak", "mean")


def _intensities(labels: Sequence[str], values: Sequence[float] | None) -> dict[str, float | None]:
    return {label: None if values is None else round(values[place], 6) for place, label in enumerate(labels)}


def _intervals(labels: Sequence[str], intervals: Ends | None) -> dict[str, float | None]:
    return {
        f"{label}_{end}": None if intervals is None else round(intervals[place][side], 6)
        for place, label in enumerate(labels)
        for side, end in enumerate(ENDS)
    }


def intensities_as_json(
    labels: Sequence[str], values: Sequence[float] | None, intervals: Ends | None
) -> dict[str, dict[str, float]] | None:
    """``{LABEL: {"value": …, "low": …, "high": …}}``, the ends where there are any; None where nothing is known."""
    if values is None:
        return None
    told = {label: {"value": round(value, 6)} for label, value in zip(labels, values, strict=True)}
    for label, ends in zip(labels, intervals or (), strict=False):
        told[label] |= {name: round(end, 6) for name, end in zip(ENDS, ends, strict=True)}
    return told


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
