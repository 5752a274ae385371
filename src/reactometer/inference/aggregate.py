"""Aggregate the scores of a file's segments into its prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from reactometer.inference.checkpoint import LoadedModel
from reactometer.inference.prediction import Prediction, Window
from reactometer.inference.scores import Score, join_parts
from reactometer.media.segments import MAX_SEGMENT, WindowSpec
from reactometer.types import PreparedClip

MAX_BATCH_SEGMENTS = 8
"""Maximum number of segments that are held in memory and scored together."""

NO_STREAM: Mapping[str | None, str] = {"face": "no face", "voice": "no sound"}
"""Reason why a stream of this medium is missing."""

Key = TypeVar("Key")
Scorer = Callable[[Sequence[PreparedClip]], list[Score]]


@dataclass(frozen=True)
class ScoredSegment:
    """A scored segment of a file: a part of at most a minute, or a window of the timeline."""

    spec: WindowSpec
    clip: PreparedClip  # without crops and sound, so that it stays small
    has_sound: bool
    score: Score
    scored_s: float  # scored length, seconds

    def as_window(self, model: LoadedModel) -> Window:
        """Return the segment as a window of the timeline."""
        bounds = self.clip.start_s, self.clip.end_s, self.clip.face_share
        if not self.score.has_input:
            status = _status(self.score, self.has_sound, model)
            return Window(*bounds, None, (status, *self.score.warnings))
        warnings = model.uncertainty.warnings(self.score, None) if model.uncertainty else self.score.warnings
        return Window(*bounds, tuple(model.intensities_of(self.score).tolist()), warnings)


def in_batches(segments: Iterable[tuple[Key, PreparedClip]]) -> Iterator[list[tuple[Key, PreparedClip]]]:
    """Batch consecutive segments; a batch ends at :data:`MAX_BATCH_SEGMENTS` segments or a minute in
    total."""
    batch: list[tuple[Key, PreparedClip]] = []
    for segment in segments:
        batch.append(segment)
        if (
            len(batch) == MAX_BATCH_SEGMENTS
            or sum(clip.duration_s for _, clip in batch) >= MAX_SEGMENT.length_s
        ):
            yield batch
            batch = []
    if batch:
        yield batch


def aggregate(
    path: str, model: LoadedModel, parts: Sequence[ScoredSegment], windows: Sequence[Window]
) -> Prediction:
    """Return the prediction of a file, or of one face in it, from its parts and windows in temporal order."""
    score = join_parts([(part.scored_s, part.score) for part in parts])
    samples = tuple(sample for part in parts for sample in part.clip.samples)
    has_sound = any(part.has_sound for part in parts)
    face_share = replace(parts[0].clip, samples=samples).face_share  # over all parts
    uncertainty, values = model.uncertainty, model.intensities_of(score)
    duration_s = parts[-1].clip.end_s
    warnings = uncertainty.warnings(score, duration_s) if uncertainty and score.has_input else score.warnings
    return Prediction(
        path=path,
        status=_status(score, has_sound, model),
        labels=model.labels,
        duration_s=duration_s,
        face_share=face_share,
        has_sound=has_sound,
        intensities=tuple(values.tolist()) if score.has_input else None,
        intervals=uncertainty.intervals(score, values) if uncertainty else None,
        coverage=uncertainty.coverage if uncertainty else None,
        warnings=(*warnings, *_missing_streams(model, score, face_share, has_sound)),
        windows=tuple(windows),
        samples=samples,
        frames_read=parts[-1].clip.frames_read,
    )


def without_media(clip: PreparedClip) -> PreparedClip:
    """Return the clip without crops and sound."""
    return replace(
        clip, samples=tuple(replace(sample, crop_jpeg=None) for sample in clip.samples), waveform=None
    )


def _missing_streams(model: LoadedModel, score: Score, face_share: float, has_sound: bool) -> tuple[str, ...]:
    """Return a warning for each stream that the file lacks, if it has another one that the model uses."""
    missing = {
        name: NO_STREAM.get(stream.medium, "no features")
        for name, stream in model.streams.items()
        if not {"face": face_share > 0.0, "voice": has_sound}.get(stream.medium or "", name in score.streams)
    }
    if len(missing) == len(model.streams):
        return ()
    return tuple(f"{name} not used: {reason}" for name, reason in missing.items())


def _status(score: Score, has_sound: bool, model: LoadedModel) -> str:
    if score.has_input:
        return "ok"
    if score.warnings:
        return "no usable face or voice"
    if not (model.uses_face or model.uses_voice):
        return "no features"
    if not model.uses_face:
        return "no sound"
    return "no face or sound" if model.uses_voice and not has_sound else "no face"
