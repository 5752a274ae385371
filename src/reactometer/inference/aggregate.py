"""Aggregate the scores of a file's parts and windows into its prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from reactometer.inference.checkpoint import LoadedModel
from reactometer.inference.runtime import Networks
from reactometer.inference.scores import Score, join_parts
from reactometer.media.segments import MAX_SEGMENT, WindowSpec
from reactometer.types import IntervalBounds, Prediction, PreparedClip, Window

MAX_BATCH_SEGMENTS = 8
"""Maximum number of windows that are held in memory and scored together."""

Key = TypeVar("Key")
Scorer = Callable[[Sequence[PreparedClip]], list[Score]]


@dataclass(frozen=True)
class ScoredSegment:
    """A scored part or window of a file."""

    kind: WindowSpec
    clip: PreparedClip  # without crops and sound, so that it stays small
    has_sound: bool
    score: Score
    scored_s: float  # length of what was scored

    def as_window(self, model: LoadedModel) -> Window:
        """Return its entry in the timeline."""
        intensities, intervals = calibrated_values(self.score, model)
        return Window(self.clip.start_s, self.clip.end_s, self.clip.face_share, intensities, intervals)


def in_batches(shown: Iterable[tuple[Key, PreparedClip]]) -> Iterator[list[tuple[Key, PreparedClip]]]:
    """Group parts and windows as they come: :data:`MAX_BATCH_SEGMENTS`, or fewer if they make a part's length."""
    held: list[tuple[Key, PreparedClip]] = []
    for own in shown:
        held.append(own)
        if len(held) == MAX_BATCH_SEGMENTS or sum(clip.duration_s for _, clip in held) >= MAX_SEGMENT.length_s:
            yield held
            held = []
    if held:
        yield held


def aggregate(path: str, model: LoadedModel, parts: Sequence[ScoredSegment], windows: Sequence[Window]) -> Prediction:
    """Return the prediction of a file, or of one face in it, from its parts and windows in order of time."""
    whole = join_parts(0, [(part.scored_s, part.score) for part in parts])
    samples = tuple(sample for part in parts for sample in part.clip.samples)
    has_sound = any(part.has_sound for part in parts)
    face_share = replace(parts[0].clip, samples=samples).face_share
    intensities, intervals = calibrated_values(whole, model)
    sure, duration_s = model.uncertainty, parts[-1].clip.end_s
    return Prediction(
        path=path,
        status=_status(whole, has_sound, model.networks),
        labels=model.labels,
        duration_s=duration_s,
        face_share=face_share,
        has_sound=has_sound,
        intensities=intensities,
        intervals=intervals,
        coverage=sure.coverage if sure else None,
        warnings=sure.warnings(whole, duration_s) if sure and whole.has_input else (),
        windows=tuple(windows),
        samples=samples,
        frames_read=parts[-1].clip.frames_read,
        notes=_missing(model.networks, face_share, has_sound),
    )


def without_media(clip: PreparedClip) -> PreparedClip:
    """Return the clip without crops and sound."""
    return replace(clip, samples=tuple(replace(sample, crop_jpeg=None) for sample in clip.samples), waveform=None)


def calibrated_values(score: Score, model: LoadedModel) -> tuple[tuple[float, ...] | None, IntervalBounds | None]:
    """Return recalibrated intensities and their intervals, each ``None`` if unknown."""
    if not score.has_input:
        return None, None
    sure, values = model.uncertainty, model.intensities_of(score)
    return tuple(float(value) for value in values), sure.intervals(score, values) if sure else None


def _missing(networks: Networks, face_share: float, has_sound: bool) -> tuple[str, ...]:
    """Note the modality that a model of face and voice did not find."""
    if not (networks.uses_face and networks.uses_voice) or (face_share > 0.0) == has_sound:
        return ()
    return ("nothing is audible: by the face alone",) if face_share > 0.0 else ("no face is seen: by the voice alone",)


def _status(whole: Score, has_sound: bool, networks: Networks) -> str:
    if whole.has_input:
        return "ok"
    if not networks.uses_face:
        return "no sound"
    return "no face or sound" if networks.uses_voice and not has_sound else "no face"
