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
class Format:
    """A format: its media type, the ending of its file's name, and a function of predictions and threshold."""

    media_type: str
    ending: str
    render: Callable[[Sequence[Prediction], float], bytes]


def _csv(predictions: Sequence[Prediction], threshold: float) -> bytes:
    columns = timeline_columns(predictions[0])
    if any(own.face is not None for own in predictions):
        columns = with_face(columns)
    rows = timeline_rows([replace(own, path=_escape_formula(own.path)) for own in predictions])
    return format_csv([columns, *(map(row.get, columns) for row in rows)]).encode()


def _elan(predictions: Sequence[Prediction], threshold: float) -> bytes:
    with TemporaryDirectory() as folder:
        return write_elan(predictions, threshold, Path(folder) / "clip.eaf", local=False).read_bytes()


FORMATS = {
    "csv": Format("text/csv", "-timeline.csv", _csv),
    "elan": Format("text/x-eaf+xml", ".eaf", _elan),
}
"""Formats by the name that ``format`` takes."""


def file_name(form: Format, name: str) -> str:
    """Name a download after its clip, in characters that every header takes."""
    stem = re.sub(r"[^A-Za-z0-9._ -]", "_", PurePosixPath(name).stem)[:100].strip(". ")
    return f"{stem or 'clip'}{form.ending}"


def _escape_formula(name: str) -> str:
    """Quote a name that a spreadsheet would take for a formula."""
    return f"'{name}" if name[:1] in ("=", "+", "-", "@", "\t") else name
