"""What is to be written of predictions: checked before any work is done, written after it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reactometer.errors import OutputError
from reactometer.inference import tables
from reactometer.inference.elan_vtt import write_elan, write_subtitles
from reactometer.inference.events import DEFAULT_THRESHOLD, find_events
from reactometer.inference.overlay import ENDINGS, write_overlay
from reactometer.inference.plot import PICTURE_ENDINGS, draw_timeline
from reactometer.io import check_place
from reactometer.types import Prediction


@dataclass(frozen=True)
class Outputs:
    """Tables of all files, and what there is one of a file: its path, or for several files a folder.

    Where everybody is followed, tables say whose face a row is of, a picture and subtitles are one face's, and an ELAN
    document and an overlay hold all faces of a file.
    """

    clips: Path | None = None
    timeline: Path | None = None
    frames: Path | None = None
    events: Path | None = None
    plot: Path | None = None
    elan: Path | None = None
    subtitles: Path | None = None
    overlay: Path | None = None
    threshold: float = DEFAULT_THRESHOLD
    faces: str = "one"  # "all": everybody is followed

    @property
    def wants_timeline(self) -> bool:
        """Something in it needs the windows."""
        return any((self.timeline, self.events, self.plot, self.elan, self.subtitles, self.overlay))

    def check(self, n_files: int) -> None:
        """Refuse unknown formats, one name for several files or faces, a threshold out of its range, unwritable places.

        Raises:
            OutputError, ConfigError: as said.
        """
        for table in (self.clips, self.timeline, self.frames, self.events):
            tables.check_ending(table)
        for what, path, endings in self._each():
            if path is None or not path.suffix:
                continue
            if path.suffix.lower() not in endings:
                raise OutputError(f"{path}: no such {what} format", got=path.suffix, expected=", ".join(endings))
            if n_files > 1:
                raise OutputError(f"{path}: one {what} for {n_files} files", fix="Name a folder, without an ending")
            if self.faces == "all" and path in (self.plot, self.subtitles):
                raise OutputError(f"{path}: one {what} for all faces", fix="Name a folder, without an ending")
        find_events(Prediction("", "ok", ()), self.threshold)
        for file in (self.clips, self.timeline, self.frames, self.events, *(path for _, path, _ in self._each())):
            if file is not None:
                check_place(file)

    def write(self, predictions: Sequence[Prediction]) -> Iterator[Path]:
        """Write all that was asked for; yields each file when it is there."""
        wanted: tuple[tuple[Path | None, Callable[[], list[dict[str, object]]], Sequence[str]], ...] = (
            (self.clips, lambda: tables.clip_rows(predictions), tables.clip_columns(predictions[0])),
            (self.timeline, lambda: tables.timeline_rows(predictions), tables.timeline_columns(predictions[0])),
            (self.frames, lambda: tables.frame_rows(predictions), tables.FRAME_COLUMNS),
            (self.events, lambda: tables.event_rows(predictions, self.threshold), tables.EVENT_COLUMNS),
        )
        for path, rows, columns in wanted:
            if path is not None:
                tables.write_table(rows(), tables.with_face(columns) if self.faces == "all" else columns, path)
                yield path
        files = _by_file([prediction for prediction in predictions if not prediction.failed])
        for own, name in zip(files, _names([own[0].path for own in files]), strict=True):
            yield from self._write_file(own, name)

    def _write_file(self, people: Sequence[Prediction], name: str) -> Iterator[Path]:
        """What is asked for of one file: the prediction of it, or of each face of it."""
        for prediction in people:
            face = "" if prediction.face is None else f"-face-{prediction.face}"
            if self.plot:
                yield draw_timeline(prediction, _place(self.plot, f"{name}{face}.png"))
            if self.subtitles:
                yield write_subtitles(prediction, _place(self.subtitles, f"{name}{face}.vtt"))
        if self.elan:
            events = [find_events(prediction, self.threshold) for prediction in people]
            yield write_elan(people, events, _place(self.elan, f"{name}.eaf"))
        if self.overlay:
            yield write_overlay(people, _place(self.overlay, f"{name}.mp4"))

    def _each(self) -> tuple[tuple[str, Path | None, tuple[str, ...]], ...]:
        return (
            ("picture", self.plot, PICTURE_ENDINGS),
            ("ELAN document", self.elan, (".eaf",)),
            ("subtitle", self.subtitles, (".vtt",)),
            ("overlay", self.overlay, tuple(ENDINGS)),
        )


def _by_file(predictions: Sequence[Prediction]) -> list[list[Prediction]]:
    """The predictions of each file together; those of its faces begin with face 1."""
    files: list[list[Prediction]] = []
    for prediction in predictions:
        if prediction.face in (None, 1):
            files.append([])
        files[-1].append(prediction)
    return files


def _names(paths: Sequence[str]) -> Iterator[str]:
    """What is made of each file is named after it; the second one of a name, in another folder, has a 2 behind it."""
    seen: dict[str, list[str]] = {}
    for path in paths:
        name = re.sub(r"[^\w.-]+", "_", Path(path).name)
        known = seen.setdefault(name, [])
        if path not in known:
            known.append(path)
        place = known.index(path)
        yield name if place == 0 else f"{name}-{place + 1}"


def _place(asked: Path, name: str) -> Path:
    """The file asked for, or one in the folder asked for."""
    return asked if asked.suffix else asked / name
