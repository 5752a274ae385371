"""Predict each person in a file in one pass: every window is scored for each face in it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from reactometer.data.inputs import sample_frame_indices
from reactometer.inference.aggregate import ScoredSegment, Scorer, aggregate, in_batches, without_media
from reactometer.inference.checkpoint import LoadedModel
from reactometer.inference.prediction import Prediction
from reactometer.inference.scores import Score
from reactometer.media.audio import is_audible
from reactometer.media.segments import WindowSpec, select_face, slice_clip
from reactometer.types import FaceSample, FrameState, PreparedClip

MIN_FACE_S = 1.0
"""Ignore a face that is visible for less in total, seconds: a false detection or a passer-by. In a file
shorter than two seconds, ignore a face that is visible for less than half of it."""

MAX_FRAME_S = 0.5
"""Maximum time that a sampled frame counts for, seconds."""

Key = tuple[int, int | None, bool]
"""Index of the segment; number of the face, or None; True if scored with the voice."""


def predict_everyone(
    path: str,
    model: LoadedModel,
    windows: Iterable[tuple[WindowSpec, PreparedClip]],
    window_specs: Sequence[WindowSpec],
    score: Scorer,
) -> list[Prediction]:
    """Return one prediction per person, by first appearance; a single one without ``face`` if no face is
    visible.

    With several people, the voice is not used, because the speaker is unknown. Segments are scored with the
    voice too until several people are certain.

    Args:
        path: of the file.
        model: uses the face.
        windows: segments with the samples of all faces, see :func:`reactometer.media.tracking.track_faces`.
        window_specs: of the parts, then of the timeline's windows.
        score: scores clips, see :meth:`~reactometer.inference.predictor.Predictor.score`.
    """
    scored = _ScoredFile()
    for batch in in_batches(_face_segments(windows, model, window_specs[0], scored)):
        for (key, clip), face_score in zip(batch, score([clip for _, clip in batch]), strict=True):
            scored.scores[key] = (face_score, clip.duration_s)
    faces = scored.people()
    notes = _notes(scored, len(faces), uses_voice=model.uses_voice)
    predictions = []
    for number, face in enumerate(faces or [None], start=1):
        segments = [
            scored.select(index, face, with_voice=len(faces) < 2) for index in range(len(scored.segments))
        ]
        parts = [segment for segment in segments if segment.spec == window_specs[0]]
        windows_of_face = [
            segment.as_window(model) for segment in segments if segment.spec in window_specs[1:]
        ]
        prediction = aggregate(path, model, parts, windows_of_face)
        index = None if face is None else number
        predictions.append(replace(prediction, face=index, notes=(*prediction.notes, *notes)))
    return predictions


@dataclass
class _ScoredFile:
    """The segments of a file and the scores of all faces, without crops and sound."""

    segments: list[ScoredSegment] = field(
        default_factory=list
    )  # with the samples of all faces, without their scores
    scores: dict[Key, tuple[Score, float]] = field(default_factory=dict)  # score and scored length, seconds
    visible_s: dict[int, float] = field(default_factory=dict)  # of each face, in order of first appearance
    sampled_s: float = 0.0
    latest_s: float = -math.inf  # time of the last counted frame

    def count(self, samples: Sequence[FaceSample]) -> None:
        """Count the frames of a segment that no earlier segment contained."""
        new = [sample for sample in samples if sample.time_s > self.latest_s]
        frame_s = 0.0
        for sample in new:
            if sample.face is None:
                frame_s = min(sample.time_s - self.latest_s, MAX_FRAME_S)
                self.sampled_s += frame_s
                self.latest_s = sample.time_s
            else:
                self.visible_s[sample.face] = self.visible_s.get(sample.face, 0.0) + frame_s

    @property
    def min_face_s(self) -> float:
        """Time from which on a visible face counts as a person, seconds."""
        return min(MIN_FACE_S, self.sampled_s / 2)

    def people(self) -> list[int]:
        """Return the faces that are visible for long enough, in order of first appearance."""
        return [face for face, visible_s in self.visible_s.items() if visible_s >= self.min_face_s]

    def has_several_people(self) -> bool:
        """Return True once several people are certain."""
        return sum(visible_s >= MIN_FACE_S for visible_s in self.visible_s.values()) > 1

    def select(self, index: int, face: int | None, *, with_voice: bool) -> ScoredSegment:
        """Return a segment with the score of one face."""
        segment = self.segments[index]
        keys: list[Key] = [(index, face, False)]
        if with_voice:
            keys = [(index, face, True), *keys, (index, None, True)]
        available = (self.scores[key] for key in keys if key in self.scores)
        score, scored_s = next(available, (segment.score, segment.scored_s))
        return replace(segment, clip=select_face(segment.clip, face), score=score, scored_s=scored_s)


def _face_segments(
    windows: Iterable[tuple[WindowSpec, PreparedClip]],
    model: LoadedModel,
    part: WindowSpec,
    scored: _ScoredFile,
) -> Iterator[tuple[Key, PreparedClip]]:
    """Yield the clips to score for each segment: every face in it, without and with the voice."""
    no_score = Score(np.zeros(len(model.labels), np.float32))
    for spec, clip in windows:
        scored.count(clip.samples)
        index = len(scored.segments)
        is_sound = is_audible(clip.waveform)
        scored.segments.append(ScoredSegment(spec, without_media(clip), is_sound, no_score, clip.duration_s))
        uses_voice = is_sound and model.uses_voice
        may_be_alone = not scored.has_several_people()
        if uses_voice and may_be_alone:
            yield (index, None, True), select_face(clip, None)
        for face in sorted({sample.face for sample in clip.samples if sample.face is not None}):
            face_clip = select_face(clip, face)
            visible = _trim_to_face(face_clip, model.sampling.n_frames) if spec == part else face_clip
            if may_be_alone and (uses_voice or visible is not face_clip):
                yield (index, face, True), face_clip
            yield (index, face, False), replace(visible, waveform=None)


def _trim_to_face(clip: PreparedClip, n_frames: int) -> PreparedClip:
    """Return the clip, or only its span with the face if the model's input frames would all miss the face."""
    indices = sample_frame_indices(
        [sample.time_s for sample in clip.samples], clip.start_s, clip.end_s, n_frames
    )
    if any(clip.samples[index].state is FrameState.FACE for index in indices):
        return clip
    times_s = [sample.time_s for sample in clip.samples if sample.state is FrameState.FACE]
    return slice_clip(clip, times_s[0], min(times_s[-1] + MAX_FRAME_S, clip.end_s))


def _notes(scored: _ScoredFile, n_people: int, *, uses_voice: bool) -> tuple[str, ...]:
    notes = []
    if n_people > 1 and uses_voice and any(segment.has_sound for segment in scored.segments):
        notes.append(f"voice: not used, because the speaker among {n_people} people is unknown")
    if n_ignored := len(scored.visible_s) - n_people:
        notes.append(f"faces ignored: {n_ignored}, each visible for less than {scored.min_face_s:.2g} s")
    return tuple(notes)
