"""What is to be written of predictions: checked before any work is done, written after it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reactometer.errors import OutputError
from reactometer.inference import formats
from reactometer.inference.annotations import write_elan, write_subtitles
from reactometer.inference.events import DEFAULT_THRESHOLD, find_events
from reactometer.inference.overlay import ENDINGS, write_overlay
from reactometer.inference.timeline import PICTURE_ENDINGS, draw_timeline
from reactometer.records import Prediction


@dataclass(frozen=True)
class Outputs:
    """Tables of all files, and what there is one of a file: its path, or for several files a folder."""

    clips: Path | None = None
    timeline: Path | None = None
    frames: Path | None = None
    events: Path | None = None
    plot: Path | None = None
    elan: Path | None = None
    subtitles: Path | None = None
    overlay: Path | None = None
    threshold: float = DEFAULT_THRESHOLD

    @property
    def wants_timeline(self) -> bool:
        """Something in it needs the windows."""
        return any((self.timeline, self.events, self.plot, self.elan, self.subtitles, self.overlay))

    def check(self, n_files: int) -> None:
        """Refuse unknown formats, one name for several files, and a threshold out of its range.

        Raises:
            OutputError, ConfigError: as said.
        """
        for table in (self.clips, self.timeline, self.frames, self.events):
            formats.check_ending(table)
        for what, path, endings in self._each():
            if path is None or not path.suffix:
                continue
            if path.suffix.lower() not in endings:
                raise OutputError(f"{path}: no such {what} format", got=path.suffix, expected=", ".join(endings))
            if n_files > 1:
                raise OutputError(f"{path}: one {what} for {n_files} files", fix="Name a folder, without an ending")
        find_events(Prediction("", "ok", ()), self.threshold)

    def write(self, predictions: Sequence[Prediction]) -> Iterator[Path]:
        """Write all that was asked for; yields each file when it is there."""
        labels = predictions[0].labels
        tables: tuple[tuple[Path | None, Callable[[], list[dict[str, object]]], Sequence[str]], ...] = (
            (self.clips, lambda: formats.clip_rows(predictions), formats.clip_columns(labels)),
            (self.timeline, lambda: formats.timeline_rows(predictions), formats.timeline_columns(labels)),
            (self.frames, lambda: formats.frame_rows(predictions), formats.FRAME_COLUMNS),
            (self.events, lambda: formats.event_rows(predictions, self.threshold), formats.EVENT_COLUMNS),
        )
        for path, rows, columns in tables:
            if path is not None:
                formats.write_table(rows(), columns, path)
                yield path
        for prediction in (prediction for prediction in predictions if not prediction.failed):
            yield from self._write_one(prediction)

    def _write_one(self, prediction: Prediction) -> Iterator[Path]:
        if self.plot:
            yield draw_timeline(prediction, _place(self.plot, prediction, ".png"))
        if self.elan:
            events = find_events(prediction, self.threshold)
            yield write_elan(prediction, events, _place(self.elan, prediction, ".eaf"))
        if self.subtitles:
            yield write_subtitles(prediction, _place(self.subtitles, prediction, ".vtt"))
        if self.overlay:
            yield write_overlay(prediction, _place(self.overlay, prediction, ".mp4"))

    def _each(self) -> tuple[tuple[str, Path | None, tuple[str, ...]], ...]:
        return (
            ("picture", self.plot, PICTURE_ENDINGS),
            ("ELAN document", self.elan, (".eaf",)),
            ("subtitle", self.subtitles, (".vtt",)),
            ("overlay", self.overlay, ENDINGS),
        )


def _place(asked: Path, prediction: Prediction, ending: str) -> Path:
    """The file asked for, or one in the folder asked for, named after the video."""
    name = re.sub(r"[^\w.-]+", "_", Path(prediction.path).name)
    return asked if asked.suffix else asked / f"{name}{ending}"
