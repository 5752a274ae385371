"""Render the predictions of a clip as a table or for ELAN."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from reactometer.inference.elan_vtt import write_elan
from reactometer.inference.tables import timeline_columns, timeline_rows, with_face
from reactometer.io import format_csv
from reactometer.types import Prediction


@dataclass(frozen=True)
class DownloadFormat:
    """A download format: media type, file suffix, and a function of predictions and event threshold."""

    media_type: str
    suffix: str
    render: Callable[[Sequence[Prediction], float], bytes]


def _csv(predictions: Sequence[Prediction], threshold: float) -> bytes:
    columns = timeline_columns(predictions[0])
    if any(prediction.face is not None for prediction in predictions):
        columns = with_face(columns)
    rows = timeline_rows([replace(prediction, path=_escape_formula(prediction.path)) for prediction in predictions])
    return format_csv([columns, *(map(row.get, columns) for row in rows)]).encode()


def _elan(predictions: Sequence[Prediction], threshold: float) -> bytes:
    with TemporaryDirectory() as folder:
        return write_elan(predictions, threshold, Path(folder) / "clip.eaf", local=False).read_bytes()


FORMATS = {
    "csv": DownloadFormat("text/csv", "-timeline.csv", _csv),
    "elan": DownloadFormat("text/x-eaf+xml", ".eaf", _elan),
}
"""Formats by the value of the query parameter ``format``."""


def file_name(output_format: DownloadFormat, name: str) -> str:
    """Return the file name of a download, in characters that are safe in a header."""
    stem = re.sub(r"[^A-Za-z0-9._ -]", "_", PurePosixPath(name).stem)[:100].strip(". ")
    return f"{stem or 'clip'}{output_format.suffix}"


def _escape_formula(name: str) -> str:
    """Quote a name that a spreadsheet would run as a formula."""
    return f"'{name}" if name[:1] in ("=", "+", "-", "@", "\t") else name
