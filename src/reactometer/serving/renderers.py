"""Render the predictions of a clip as tables, ELAN, subtitles or a plot."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from reactometer.errors import RequestError, suggestion
from reactometer.inference.elan_vtt import write_elan, write_subtitles
from reactometer.inference.events import find_events
from reactometer.inference.plot import draw_timeline
from reactometer.inference.tables import timeline_columns, timeline_rows, with_face, write_table
from reactometer.types import Prediction

Write = Callable[[Sequence[Prediction], float, Path], object]


@dataclass(frozen=True)
class Form:
    """A format: its media types, of which the first is sent, and the ending of its file's name."""

    media_types: tuple[str, ...]
    ending: str
    write: Write


def _table(predictions: Sequence[Prediction], threshold: float, path: Path) -> None:
    columns = timeline_columns(predictions[0])
    everyone = any(own.face is not None for own in predictions)
    rows = timeline_rows([replace(own, path=_inert(own.path)) for own in predictions])
    write_table(rows, with_face(columns) if everyone else columns, path)


FORMS = {
    "csv": Form(("text/csv",), "-timeline.csv", _table),
    "parquet": Form(("application/vnd.apache.parquet", "application/x-parquet"), "-timeline.parquet", _table),
    "elan": Form(
        ("text/x-eaf+xml", "application/xml", "text/xml"),
        ".eaf",
        lambda everyone, threshold, path: write_elan(
            everyone, [find_events(own, threshold) for own in everyone], path, local=False
        ),
    ),
    "vtt": Form(("text/vtt",), ".vtt", lambda own, _, path: write_subtitles(_only(own, "subtitles"), path)),
    "png": Form(("image/png",), ".png", lambda own, _, path: draw_timeline(_only(own, "a picture"), path)),
}
"""Formats by the name that ``format`` takes."""

JSON_TYPES = ("application/json", "application/*", "*/*")


def choose_form(name: str | None, accept: str) -> Form | None:
    """Choose the format by its name, or else by the client's ``Accept``; None for the JSON document.

    Raises:
        RequestError: 400, an unknown name; 406, nothing that it accepts.
    """
    if name is not None and name not in (*FORMS, "json"):
        raise RequestError(400, "no such format", got=f"'{name}'", fix=suggestion(name, [*FORMS, "json"]))
    if name is not None:
        return FORMS.get(name)
    for wanted in _accepted(accept):
        if wanted in JSON_TYPES:
            return None
        for form in FORMS.values():
            if wanted in form.media_types or wanted == f"{form.media_types[0].split('/')[0]}/*":
                return form
    known = ", ".join(["application/json", *(form.media_types[0] for form in FORMS.values())])
    raise RequestError(406, "no accepted media type is available", got=accept, expected=known)


def render(form: Form, predictions: Sequence[Prediction], threshold: float) -> bytes:
    """Render predictions in a format.

    Raises:
        RequestError: 422, this clip cannot be rendered in this format.
    """
    with TemporaryDirectory() as folder:
        file = Path(folder) / f"clip{form.ending}"
        form.write(predictions, threshold, file)
        return file.read_bytes()


def file_name(form: Form, name: str) -> str:
    """Name a download after its clip, in characters that every header takes."""
    stem = re.sub(r"[^A-Za-z0-9._ -]", "_", PurePosixPath(name).stem)[:100].strip(". ")
    return f"{stem or 'clip'}{form.ending}"


def _accepted(accept: str) -> list[str]:
    """Sort the accepted media types, preferred first (RFC 9110, 12.5.1)."""
    ranked = []
    for place, part in enumerate(accept.lower().split(",")):
        name, *parameters = [piece.strip() for piece in part.split(";")]
        quality = next((text[2:] for text in parameters if text.startswith("q=")), "1")
        weight = float(quality) if quality.replace(".", "", 1).isdecimal() else 0.0
        if weight > 0:
            ranked.append((-weight, place, name or "*/*"))
    return [name for _, _, name in sorted(ranked)]


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
