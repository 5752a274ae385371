"""Files never seen before -> intensities, per file and over time, streamed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import cv2

from reactometer.config import PrepareConfig, parse_config
from reactometer.console import progress_bar
from reactometer.data.batches import Item
from reactometer.data.people import Moments, match_people, measure_people, recast
from reactometer.data.prepare import settled
from reactometer.errors import ConfigError, MediaError, ModelError
from reactometer.inference.refine import check_span, parse_baseline, refine
from reactometer.media.audio import is_audible
from reactometer.media.faces import load_detector
from reactometer.media.stream import PART, WindowShape, stream_windows
from reactometer.models.folder import LoadedModel, load_model
from reactometer.models.network import ReactionModel
from reactometer.models.scoring import Score, average_scores, join_parts, score_items
from reactometer.models.showing import encoded_clips, population
from reactometer.records import Prediction, PreparedClip, Window

UNREADABLE = (MediaError, cv2.error, MemoryError)

AT_ONCE = 8
"""Parts and windows of a file that are held with their crops and sound; as many as are scored in one batch."""

DEFAULT_WINDOW_S, DEFAULT_HOP_S = 2.0, 1.0
"""Length of the timeline's windows and the time from one to the next, seconds; our choice."""


def predict(
    videos: Sequence[Path | str],
    model: LoadedModel | Path | str,
    *,
    window_s: float = DEFAULT_WINDOW_S,
    hop_s: float = DEFAULT_HOP_S,
    rate_hz: float | None = None,
    timeline: bool = True,
    people: Mapping[str, str] | Mapping[Path, str] | None = None,
    smooth_s: float = 0.0,
    baseline: str | None = None,
    progress: bool = True,
) -> list[Prediction]:
    """Estimate intensities of video (or sound) files, each as a whole and in windows over time.

    A file that cannot be read gets its reason as its status; the others go on. Memory does not grow with the length
    of a file: one longer than a minute is scored in parts of a minute, and its intensities are their mean by length.

    Args:
        videos: paths.
        model: a model folder, or one loaded already.
        window_s: length of the timeline's windows, seconds.
        hop_s: time from one window's start to the next one's, seconds.
        rate_hz: frames looked at per second; default: as in the model's training.
        timeline: score the windows too, not the files alone.
        people: who is seen in each file, for a model that normalises per person: the files of one person are read
            twice, and their own mean and spread of each feature give way to the training set's.
        smooth_s: the timeline becomes a weighted mean over so many seconds, see :func:`refine.smooth`; 0: as it is.
        baseline: what each person shows at rest is subtracted, "0-3s" or "running", see
            :func:`refine.subtract_baseline`. Both are told of in the predictions' notes.
        progress: show a bar on standard error.

    Returns:
        One prediction a file, in the order given.

    Raises:
        ConfigError: a window, hop, rate or smoothing that is not positive, or too large; no baseline.
        DataError: ``people`` names a file that is not among those given.
        ModelError: no such model, or a damaged one.
    """
    if not 0 < hop_s <= window_s <= PART.length_s:
        raise ConfigError(
            "window and hop do not fit",
            got=f"window {window_s} s, hop {hop_s} s",
            expected=f"0 < hop <= window <= {PART.length_s:.0f} s",
        )
    rest = None if baseline is None else parse_baseline(baseline, window_s)
    check_span(smooth_s)
    paths = [str(video) for video in videos]
    known = match_people(people or {}, paths)
    loaded = model if isinstance(model, LoadedModel) else load_model(model)
    if loaded.network.given_sizes:
        raise ModelError(
            "this model takes features, not media", fix="Use 'reactometer evaluate' with a table of features"
        )
    asked = {} if rate_hz is None else {"rate_hz": rate_hz}
    settings = settled(parse_config({"prepare": {**loaded.config.prepare.model_dump(), **asked}}, "predict").prepare)
    job = _Job(settings, (PART, WindowShape(window_s, hop_s)) if timeline else (PART,))
    with progress_bar("predicting", len(paths), progress) as advance:
        moments = _measure_people(loaded.each, paths, known, job)
        predictions = []
        for path in paths:
            own = [moments.get((number, known.get(path, "")), {}) for number in range(len(loaded.each))]
            predictions.append(refine(_predict_file(loaded, path, own, job), smooth_s, rest))
            advance()
    return predictions


@dataclass(frozen=True)
class _Job:
    """How every file is read and cut."""

    settings: PrepareConfig
    shapes: tuple[WindowShape, ...]

    def windows(self, path: str, shapes: Sequence[WindowShape]) -> Iterator[tuple[WindowShape, PreparedClip]]:
        return stream_windows(Path(path), self.settings, load_detector(self.settings.detector), shapes)


def _measure_people(
    members: Sequence[LoadedModel], paths: Sequence[str], people: Mapping[str, str], job: _Job
) -> dict[tuple[int, str], dict[str, Moments]]:
    """Mean and spread of each person's features over all their files, by member's number and person.

    Each file is read once for this, for all members that normalise per person.
    """
    normalising = [(number, member) for number, member in enumerate(members) if member.config.model.person_norm]

    def items() -> Iterator[tuple[tuple[int, str], Item]]:
        for path in (path for path in paths if normalising and path in people):
            with suppress(*UNREADABLE):  # told of when the file's turn comes
                shown = [
                    ((number, people[path]), item)
                    for _, clip in job.windows(path, [PART])
                    for number, member in normalising
                    for item in encoded_clips(member.network, [clip], replace(member.sampling, draws=1))
                ]
                yield from shown

    return measure_people(items())


def _predict_file(model: LoadedModel, path: str, moments: Sequence[Mapping[str, Moments]], job: _Job) -> Prediction:
    try:
        return _score_file(model, path, moments, job)
    except UNREADABLE as error:
        return Prediction(path, f"failed: {' '.join(str(error).split()) or type(error).__name__}", model.labels)


def _score_file(model: LoadedModel, path: str, moments: Sequence[Mapping[str, Moments]], job: _Job) -> Prediction:
    cuts = list(_score_cuts(model, path, moments, job))
    parts = [cut for cut in cuts if cut.kind == PART]
    windows = [cut for cut in cuts if cut.kind in job.shapes[1:]]
    whole = join_parts(0, [score for part in parts for score in part.scores])
    samples = tuple(sample for part in parts for sample in part.clip.samples)
    has_sound = any(part.has_sound for part in parts)
    return Prediction(
        path=path,
        status=_status(whole, has_sound, model.network),
        labels=model.labels,
        duration_s=parts[-1].clip.end_s,
        face_share=replace(parts[0].clip, samples=samples).face_share,
        has_sound=has_sound,
        intensities=_known(whole),
        windows=tuple(cut.as_window() for cut in windows),
        samples=samples,
        frames_read=parts[-1].clip.frames_read,
    )


@dataclass(frozen=True)
class _Cut:
    """A part or window of a file, scored."""

    kind: WindowShape
    clip: PreparedClip  # without crops and sound, so that it stays small
    has_sound: bool
    scores: Sequence[tuple[float, Score]]  # (length_s, score) a draw

    def as_window(self) -> Window:
        score = _known(join_parts(0, self.scores))
        return Window(self.clip.start_s, self.clip.end_s, self.clip.face_share, score)


def _score_cuts(model: LoadedModel, path: str, moments: Sequence[Mapping[str, Moments]], job: _Job) -> Iterator[_Cut]:
    """Read a file once, and score a few of its parts and windows at a time with all members, as they come."""
    heads = [member.network.on_features() for member in model.each]
    windows, draws = job.windows(path, job.shapes), model.sampling.draws
    while some := list(islice(windows, AT_ONCE)):
        members = zip(model.each, heads, moments, strict=True)
        drawn = average_scores([_score(*member, [clip for _, clip in some]) for member in members])
        for place, (kind, clip) in enumerate(some):
            own = [(clip.duration_s, score) for score in drawn[place * draws : (place + 1) * draws]]
            yield _Cut(kind, _without_media(clip), is_audible(clip.waveform), own)


def _score(
    member: LoadedModel, head: ReactionModel, moments: Mapping[str, Moments], clips: Sequence[PreparedClip]
) -> list[Score]:
    """Every draw of every clip, scored by one model, whose head this is."""
    everyone = population(member.network)
    items = encoded_clips(member.network, clips, member.sampling)
    return list(score_items(head, (recast(item, moments, everyone) for item in items)))


def _without_media(clip: PreparedClip) -> PreparedClip:
    return replace(clip, samples=tuple(replace(sample, crop_jpeg=None) for sample in clip.samples), waveform=None)


def _known(score: Score) -> tuple[float, ...] | None:
    return tuple(float(value) for value in score.intensities) if score.has_evidence else None


def _status(whole: Score, has_sound: bool, network: ReactionModel) -> str:
    if whole.has_evidence:
        return "ok"
    if not network.looks:
        return "no sound"
    return "no face or sound" if network.listens and not has_sound else "no face"
