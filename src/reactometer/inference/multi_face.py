"""Predict each person in a file in one pass: every window is scored for each face in it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from reactometer.data.inputs import sample_frame_indices
from reactometer.inference.aggregate import ScoredSegment, Scorer, aggregate, in_batches, without_media
from reactometer.inference.checkpoint import LoadedModel
from reactometer.inference.scores import Score
from reactometer.media.audio import is_audible
from reactometer.media.segments import WindowSpec, select_face, slice_clip
from reactometer.types import FaceSample, FrameState, Prediction, PreparedClip

MIN_SEEN_S = 1.0
"""A face seen for less in total is left out, as a false detection or a passer-by; in a file shorter than two seconds,
a face seen for less than half of it. Our choice."""

MAX_COUNTED_S = 0.5
"""Maximum time that a sampled frame counts for, seconds."""

Key = tuple[int, int | None, bool]
"""Index of the window; number of the face, or None; whether it is scored with the voice."""


def predict_everyone(
    path: str,
    model: LoadedModel,
    windows: Iterable[tuple[WindowSpec, PreparedClip]],
    shapes: Sequence[WindowSpec],
    score: Scorer,
) -> list[Prediction]:
    """Return a prediction per person, in order of first appearance; a single one without ``face`` if no face is seen.

    With several people, only each one's face is used, because nobody knows who speaks. Until it is certain that there
    are several, windows are scored with the voice too.

    Args:
        path: as given.
        model: a model that uses the face.
        windows: parts and windows with everybody's samples, see :func:`reactometer.media.tracking.track_faces`.
        shapes: of the parts first, then of the timeline's windows.
        score: scores clips, see :meth:`~reactometer.inference.predictor.Predictor.score`.
    """
    seen = _Seen()
    for some in in_batches(_show(windows, model, shapes[0], seen)):
        for (key, clip), own in zip(some, score([clip for _, clip in some]), strict=True):
            seen.scores[key] = (own, clip.duration_s)
    faces = seen.people()
    notes = _notes(seen, len(faces), listens=model.networks.uses_voice)
    predictions = []
    for number, face in enumerate(faces or [None], start=1):
        cuts = [seen.cut(place, face, alone=len(faces) < 2) for place in range(len(seen.cuts))]
        parts = [cut for cut in cuts if cut.kind == shapes[0]]
        windows_of_face = [cut.as_window(model) for cut in cuts if cut.kind in shapes[1:]]
        prediction = aggregate(path, model, parts, windows_of_face)
        index = None if face is None else number
        predictions.append(replace(prediction, face=index, notes=(*prediction.notes, *notes)))
    return predictions


@dataclass
class _Seen:
    """The file so far, without crops and sound."""

    cuts: list[ScoredSegment] = field(
        default_factory=list
    )  # with everybody's samples, scored as if nothing was seen or heard
    scores: dict[Key, tuple[Score, float]] = field(default_factory=dict)
    seen_s: dict[int, float] = field(default_factory=dict)  # how long each face was seen, in order of first appearance
    looked_s: float = 0.0
    latest_s: float = -math.inf  # the last frame that is counted in

    def count(self, samples: Sequence[FaceSample]) -> None:
        """Count the frames of a window that no earlier window contained."""
        new = [sample for sample in samples if sample.time_s > self.latest_s]
        counted_s = 0.0
        for sample in new:
            if sample.face is None:
                counted_s = min(sample.time_s - self.latest_s, MAX_COUNTED_S)
                self.looked_s, self.latest_s = self.looked_s + counted_s, sample.time_s
            else:
                self.seen_s[sample.face] = self.seen_s.get(sample.face, 0.0) + counted_s

    def people(self) -> list[int]:
        """Return the faces that were seen for long enough, in order of first appearance."""
        least_s = min(MIN_SEEN_S, self.looked_s / 2)
        return [face for face, seen_s in self.seen_s.items() if seen_s >= least_s]

    def shows_several(self) -> bool:
        """Whether there are certainly several people."""
        return sum(seen_s >= MIN_SEEN_S for seen_s in self.seen_s.values()) > 1

    def cut(self, place: int, face: int | None, *, alone: bool) -> ScoredSegment:
        """Return a part or window of one face; with the voice, if the person is alone."""
        cut = self.cuts[place]
        keys = [(place, face, True), (place, face, False), (place, None, True)] if alone else [(place, face, False)]
        known = (self.scores[key] for key in keys if key in self.scores)
        score, scored_s = next(known, (cut.score, cut.scored_s))
        return replace(cut, clip=select_face(cut.clip, face), score=score, scored_s=scored_s)


def _show(
    windows: Iterable[tuple[WindowSpec, PreparedClip]], model: LoadedModel, part: WindowSpec, seen: _Seen
) -> Iterator[tuple[Key, PreparedClip]]:
    """Yield the clips to score of each part and window: every face in it, without and with the voice."""
    nothing = Score(0, np.zeros(len(model.labels), np.float32), has_face=False, has_voice=False)
    for kind, clip in windows:
        seen.count(clip.samples)
        place, audible = len(seen.cuts), is_audible(clip.waveform)
        seen.cuts.append(ScoredSegment(kind, without_media(clip), audible, nothing, clip.duration_s))
        heard, undecided = audible and model.networks.uses_voice, not seen.shows_several()
        if heard and undecided:
            yield (place, None, True), select_face(clip, None)
        for face in sorted({sample.face for sample in clip.samples if sample.face is not None}):
            own = select_face(clip, face)
            shown = _where_seen(own, model.sampling.n_frames) if kind == part else own
            if undecided and (heard or shown is not own):
                yield (place, face, True), own
            yield (place, face, False), replace(shown, waveform=None)


def _where_seen(clip: PreparedClip, n_frames: int) -> PreparedClip:
    """Return the part, or only its span with the face if the model's input frames would all miss the face."""
    picked = sample_frame_indices([sample.time_s for sample in clip.samples], clip.start_s, clip.end_s, n_frames)
    if any(clip.samples[place].state is FrameState.FACE for place in picked):
        return clip
    seen_s = [sample.time_s for sample in clip.samples if sample.state is FrameState.FACE]
    return slice_clip(clip, seen_s[0], min(seen_s[-1] + MAX_COUNTED_S, clip.end_s))


def _notes(seen: _Seen, n_people: int, *, listens: bool) -> tuple[str, ...]:
    notes = []
    if n_people > 1 and listens and any(cut.has_sound for cut in seen.cuts):
        notes.append(f"voice: not used, since nobody knows which of {n_people} people speaks")
    if n_left_out := len(seen.seen_s) - n_people:
        least_s = min(MIN_SEEN_S, seen.looked_s / 2)
        notes.append(f"faces left out: {n_left_out}, each seen for less than {least_s:.2g} s")
    return tuple(notes)
