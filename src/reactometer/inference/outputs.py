"""Write the outputs of single videos: plots, ELAN documents, WebVTT subtitles, overlays."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from reactometer.errors import ConfigError, require, suggestion
from reactometer.inference.elan_vtt import write_elan, write_subtitles
from reactometer.inference.overlay import write_overlay
from reactometer.inference.plot import draw_timeline
from reactometer.inference.postprocess import check_threshold
from reactometer.inference.prediction import Prediction
from reactometer.inference.tables import (
    EVENT_COLUMNS,
    FRAME_COLUMNS,
    clip_columns,
    clip_rows,
    event_rows,
    frame_rows,
    timeline_columns,
    timeline_rows,
    with_face,
    write_table,
)
from reactometer.io import make_folder

TABLES = ("timeline", "events", "frames")
"""Outputs with one table of all videos."""

PER_VIDEO = ("plot", "elan", "vtt", "overlay")
"""Outputs with one file per video. If all faces are followed, each face has a plot and subtitles."""


def check_outputs(kinds: Sequence[str], threshold: float) -> None:
    """Check the names of outputs and the threshold of events, before prediction.

    Raises:
        ConfigError: an unknown name, or a threshold outside (0, 1].
        ReactometerError: an output needs a package that is not installed.
    """
    for kind in kinds:
        if kind not in (*TABLES, *PER_VIDEO):
            raise ConfigError("unknown output", got=f"'{kind}'", fix=suggestion(kind, (*TABLES, *PER_VIDEO)))
    check_threshold(threshold)
    if {"plot", "overlay"} & set(kinds):
        require("matplotlib", extra="evaluate")


def save(predictions: Sequence[Prediction], folder: Path, kinds: Sequence[str], threshold: float) -> None:
    """Write ``files.csv`` and other outputs of predictions; see :meth:`.prediction.Batch.save`."""
    check_outputs(kinds, threshold)
    if not predictions:
        return
    first, all_faces = predictions[0], any(prediction.face is not None for prediction in predictions)
    rows_of: dict[str, tuple[list[dict[str, Any]], Sequence[str]]] = {
        "files": (clip_rows(predictions), clip_columns(first)),
        "timeline": (timeline_rows(predictions), timeline_columns(first)),
        "events": (event_rows(predictions, threshold), EVENT_COLUMNS),
        "frames": (frame_rows(predictions), FRAME_COLUMNS),
    }
    make_folder(folder)
    for name in ("files", *(kind for kind in kinds if kind in TABLES)):
        rows, columns = rows_of[name]
        write_table(rows, with_face(columns) if all_faces else columns, folder / f"{name}.csv")
    readable = [prediction for prediction in predictions if not prediction.failed]
    videos = [list(people) for _, people in groupby(readable, lambda prediction: prediction.path)]
    for people, name in zip(videos, unique_names(people[0].path for people in videos), strict=True):
        write_outputs(people, folder, name, kinds, threshold)


def unique_names(paths: Iterable[str]) -> Iterator[str]:
    """Yield a file name without an extension for each path; a second ``clip`` is ``clip-2``."""
    counts: Counter[str] = Counter()
    for path in paths:
        name = re.sub(r"[^\w.-]+", "_", Path(path).stem)
        counts[name] += 1
        yield f"{name}-{counts[name]}" if counts[name] > 1 else name


def write_outputs(
    people: Sequence[Prediction], folder: Path, name: str, kinds: Sequence[str], threshold: float
) -> None:
    """Write the outputs of one video into ``KIND/NAME`` of a folder.

    Args:
        people: the prediction of the video, or of each face in it.
        folder: the parent of one folder per kind.
        name: file name without an extension.
        kinds: names from ``PER_VIDEO``. A file without frames has no overlay.
        threshold: minimum intensity of an event.

    Raises:
        OutputError: a file cannot be written.
        MediaError: the video, which an overlay copies, cannot be read.
    """
    for prediction in people:
        face = "" if prediction.face is None else f"-face-{prediction.face}"
        if "plot" in kinds:
            draw_timeline(prediction, folder / "plot" / f"{name}{face}.png")
        if "vtt" in kinds:
            write_subtitles(prediction, folder / "vtt" / f"{name}{face}.vtt")
    if "elan" in kinds:
        write_elan(people, threshold, folder / "elan" / f"{name}.eaf")
    if "overlay" in kinds and people[0].frames_read:
        write_overlay(people, folder / "overlay" / f"{name}.mp4")
