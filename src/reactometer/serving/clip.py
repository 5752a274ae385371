"""One clip of a service: read by a process, scored with the others, and watched while it is under way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from reactometer.batch.work import Request
from reactometer.inference.cuts import Drawn
from reactometer.inference.predictor import check_timeline, predict_windows, reading_of
from reactometer.inference.refine import refine
from reactometer.media.audio import STRETCH_S, levels_db
from reactometer.media.stream import PART, WindowShape
from reactometer.models.folder import LoadedModel
from reactometer.models.scores import join_parts
from reactometer.records import MediaInfo, Prediction, PreparedClip
from reactometer.serving.job_store import Job
from reactometer.serving.scorer import SharedScorer
from reactometer.workers.media_worker import UNREADABLE, Reader, Reading, reason_of


class GivenUpError(Exception):
    """Nobody wants the clip any more, or the service ends."""


@dataclass
class Clip:
    """What is known of a clip while it is under way."""

    wanted: bool = True
    progress: float = 0.0  # in [0, 1]
    about: dict[str, Any] = field(default_factory=dict)  # as in the document: size, length, the voice's level
    score_s: float = 0.0
    distances: list[dict[str, float]] = field(default_factory=list)  # of its parts from the training data

    def check(self) -> None:
        """Raise GivenUpError where it is not wanted any more."""
        if not self.wanted:
            raise GivenUpError


def score_clip(
    model: LoadedModel, reader: Reader, scorer: SharedScorer, job: Job, clip: Clip, on_length: Callable[[], None]
) -> list[Prediction]:
    """The prediction of a job's clip, or one of each person in it.

    Args:
        model: whose scores these are.
        reader: reads the clip.
        scorer: scores it.
        job: the clip's.
        clip: is told how far it is.
        on_length: called when the clip's length is known.

    Raises:
        MediaError: it cannot be read.
        GivenUpError: it is not wanted any more.
    """
    request = request_of(job)
    rest = check_timeline(request.window_s, request.hop_s, request.smooth_s, request.baseline)
    shapes = PART, WindowShape(request.window_s, request.hop_s)
    reading = Reading(reading_of(model, request.faces, request.rate_hz), shapes, request.faces)

    parts = set[tuple[float, float]]()  # where those begin and end whose distance is not known yet

    def score(clips: Sequence[PreparedClip]) -> list[Drawn]:
        begun_s = time.monotonic()
        drawn = scorer(clips)
        clip.score_s += time.monotonic() - begun_s
        for part, own in zip(clips, drawn, strict=True):
            span = part.start_s, part.end_s
            if model.uncertainty and span in parts:  # else it is a window, or another person's
                parts.remove(span)
                clip.distances.append(model.uncertainty.distances(join_parts(0, own)))
        return drawn

    windows = _watch(reader.read(Path(job.path), reading, check=clip.check), clip, on_length, parts)
    predictions = predict_windows(job.path, model, windows, reading, score)
    clip.about["duration_s"] = predictions[0].duration_s
    return [replace(refine(one, request.smooth_s, rest), path=job.name) for one in predictions]


def request_of(job: Job) -> Request:
    """How a job's clip is predicted."""
    return Request(**{name: value for name, value in job.request.items() if name != "threshold"})


def failure_of(error: Exception, job: Job) -> str:
    """Why a clip failed, in a line that calls the file as the client does."""
    known = isinstance(error, UNREADABLE)
    reason = reason_of(error) if known else f"{type(error).__name__}: {error}"
    return reason.replace(job.path, job.name)


def _watch(
    pieces: Iterator[MediaInfo | tuple[WindowShape, PreparedClip]],
    clip: Clip,
    on_length: Callable[[], None],
    parts: set[tuple[float, float]],
) -> Iterator[tuple[WindowShape, PreparedClip]]:
    """Pass parts and windows on, and note what they tell of the clip."""
    for piece in pieces:
        if isinstance(piece, MediaInfo):
            level = {"step_s": STRETCH_S, "db": []} if piece.has_audio else None
            size = {"width_px": piece.width_px or None, "height_px": piece.height_px or None}
            clip.about |= {**size, "duration_s": piece.duration_s, "voice_level": level}
            on_length()
            continue
        kind, window = piece
        if kind == PART:
            parts.add((window.start_s, window.end_s))
            if clip.about["voice_level"] and window.waveform is not None:
                clip.about["voice_level"]["db"] += levels_db(window.waveform)
        clip.progress = min(0.99, window.end_s / (clip.about["duration_s"] or window.end_s + PART.length_s))
        yield piece
