"""Check the output files before prediction, and write them afterwards."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from reactometer.errors import OutputError, require
from reactometer.inference import tables
from reactometer.inference.elan_vtt import write_elan, write_subtitles
from reactometer.inference.overlay import write_overlay
from reactometer.inference.plot import PICTURE_ENDINGS, draw_timeline
from reactometer.inference.postprocess import DEFAULT_THRESHOLD, check_threshold
from reactometer.inference.prediction import Prediction
from reactometer.io import check_writable


@dataclass(frozen=True)
class Outputs:
    """Files to write: tables of all videos; per video a plot, ELAN document, subtitles and overlay, or a
    folder.

    If all faces are followed, each face has a plot and subtitles; the other files contain all faces.
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
    faces: str = "one"

    def check(self, n_files: int) -> None:
        """Check formats, the threshold, and that all files can be written.

        Raises:
            OutputError: an unknown format, one name for several files or faces, or a path that cannot be
                written.
            ReactometerError: a format needs a package that is not installed.
            ConfigError: the threshold is outside (0, 1].
        """
        check_threshold(self.threshold)
        for table in (self.clips, self.timeline, self.frames, self.events):
            tables.check_ending(table)
        if self.plot or self.overlay:
            require("matplotlib", extra="evaluate")
        folder_hint = "Use a folder name without an extension"
        per_video = (
            ("plot", self.plot, PICTURE_ENDINGS),
            ("ELAN document", self.elan, (".eaf",)),
            ("subtitle", self.subtitles, (".vtt",)),
            ("overlay", self.overlay, (".mp4",)),
        )
        for title, path, endings in per_video:
            if path is None or not path.suffix:
                continue
            if path.suffix.lower() not in endings:
                raise OutputError(
                    f"{path}: unknown {title} format", got=path.suffix, expected=", ".join(endings)
                )
            if n_files > 1:
                raise OutputError(f"{path}: one {title} for {n_files} files", fix=folder_hint)
            if self.faces == "all" and path in (self.plot, self.subtitles):
                raise OutputError(f"{path}: one {title} for all faces", fix=folder_hint)
        for file in (
            self.clips,
            self.timeline,
            self.frames,
            self.events,
            *(path for _, path, _ in per_video),
        ):
            if file is not None:
                check_writable(file)

    def write(self, predictions: Sequence[Prediction]) -> Iterator[Path]:
        """Write all outputs; yield each path after writing."""
        table_outputs: tuple[
            tuple[Path | None, Callable[[], list[dict[str, object]]], Sequence[str]], ...
        ] = (
            (self.clips, lambda: tables.clip_rows(predictions), tables.clip_columns(predictions[0])),
            (
                self.timeline,
                lambda: tables.timeline_rows(predictions),
                tables.timeline_columns(predictions[0]),
            ),
            (self.frames, lambda: tables.frame_rows(predictions), tables.FRAME_COLUMNS),
            (self.events, lambda: tables.event_rows(predictions, self.threshold), tables.EVENT_COLUMNS),
        )
        for path, rows, columns in table_outputs:
            if path is not None:
                tables.write_table(
                    rows(), tables.with_face(columns) if self.faces == "all" else columns, path
                )
                yield path
        readable = [prediction for prediction in predictions if not prediction.failed]
        n_of_name: Counter[str] = Counter()
        for path_of_video, people in groupby(readable, lambda prediction: prediction.path):
            name = re.sub(r"[^\w.-]+", "_", Path(path_of_video).name)
            n_of_name[name] += 1
            suffix = f"-{n_of_name[name]}" if n_of_name[name] > 1 else ""
            yield from self._write_video(list(people), name + suffix)

    def _write_video(self, people: Sequence[Prediction], name: str) -> Iterator[Path]:
        """Write the outputs of one video from its prediction, or from the predictions of all faces."""
        for prediction in people:
            face = "" if prediction.face is None else f"-face-{prediction.face}"
            if self.plot:
                yield draw_timeline(prediction, _output_path(self.plot, f"{name}{face}.png"))
            if self.subtitles:
                yield write_subtitles(prediction, _output_path(self.subtitles, f"{name}{face}.vtt"))
        if self.elan:
            yield write_elan(people, self.threshold, _output_path(self.elan, f"{name}.eaf"))
        if self.overlay:
            yield write_overlay(people, _output_path(self.overlay, f"{name}.mp4"))


def _output_path(output: Path, name: str) -> Path:
    """Return the output file, or a file with this name in the output folder."""
    return output if output.suffix else output / name
