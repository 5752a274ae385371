"""Render the predictions of a clip as tables, ELAN, subtitles or a plot."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from reactometer.errors import RequestError
from reactometer.inference.elan_vtt import write_elan, write_subtitles
from reactometer.inference.events import find_events
from reactometer.inference.plot import draw_timeline
from reactometer.inference.tables import timeline_columns, timeline_rows, with_face, write_table
from reactometer.types import Prediction

Write = Callable[[Sequence[Prediction], float, Path], object]


@dataclass(frozen=True)
class Format:
    """A format: its media type, the ending of its file's name, and what writes it."""

    media_type: str
    ending: str
    write: Write


def _table(predictions: Sequence[Prediction], threshold: float, path: Path) -> None:
    columns = timeline_columns(predictions[0])
    everyone = any(own.face is not None for own in predictions)
    rows = timeline_rows([replace(own, path=_inert(own.path)) for own in predictions])
    write_table(rows, with_face(columns) if everyone else columns, path)


FORMS = {
    "csv": Format("text/csv", "-timeline.csv", _table),
    "elan": Format(
        "text/x-eaf+xml",
        ".eaf",
        lambda everyone, threshold, path: write_elan(
            everyone, [find_events(own, threshold) for own in everyone], path, local=False
        ),
    ),
    "vtt": Format("text/vtt", ".vtt", lambda own, _, path: write_subtitles(_only(own, "subtitles"), path)),
    "png": Format("image/png", ".png", lambda own, _, path: draw_timeline(_only(own, "a picture"), path)),
}
"""Formats by the name that ``format`` takes."""


def render(form: Format, predictions: Sequence[Prediction], threshold: float) -> bytes:
    """Render predictions in a format.

    Raises:
        RequestError: 422, this clip cannot be rendered in this format.
    """
    with TemporaryDirectory() as folder:
        file = Path(folder) / f"clip{form.ending}"
        form.write(predictions, threshold, file)
        return file.read_bytes()


def file_name(form: Format, name: str) -> str:
    """Name a download after its clip, in characters that every header takes."""
    stem = re.sub(r"[^A-Za-z0-9._ -]", "_", PurePosixPath(name).stem)[:100].strip(". ")
    return f"{stem or 'clip'}{form.ending}"


def _inert(name: str) -> str:
    """Quote a name that a spreadsheet would take for a formula."""
    return f"'{name}" if name[:1] in ("=", "+", "-", "@", "\t") else name


def _only(predictions: Sequence[Prediction], what: str) -> Prediction:
    if len(predictions) > 1:
        raise RequestError(
            422, f"{what} can be made of one person", got=f"{len(predictions)} people", fix="Ask for csv or elan"
        )
    if not predictions[0].windows:
        raise RequestError(422, f"{what} needs a timeline", got=predictions[0].status)
    return predictions[0]
