"""Files never seen before -> intensities, per file and over time, streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from reactometer.config import PrepareConfig, parse_config
from reactometer.console import progress_bar
from reactometer.data.batches import Item
from reactometer.data.people import Moments, match_people, measure_people, recast
from reactometer.data.prepare import settled
from reactometer.errors import ConfigError, MediaError, ModelError
from reactometer.media.audio import is_audible
from reactometer.media.faces import load_detector
from reactometer.media.stream import PART, WindowShape, stream_windows
from reactometer.models.folder import LoadedModel, load_model
from reactometer.models.network import ReactionModel
from reactometer.models.scoring import Score, join_parts, score_items
from reactometer.models.showing import encoded_clips, population
from reactometer.records import Prediction, PreparedClip, Window

UNREADABLE = (MediaError, cv2.error, MemoryError)

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
        progress: show a bar on standard error.

    Returns:
        One prediction a file, in the order given.

    Raises:
        ConfigError: a window, hop or rate that is not positive, or too large.
        DataError: ``people`` names a file that is not among those given.
        ModelError: no such model, or a damaged one.
    """
    if not 0 < hop_s <= window_s <= PART.length_s:
        raise ConfigError(
            "window and hop do not fit",
            got=f"window {window_s} s, hop {hop_s} s",
            expected=f"0 < hop <= window <= {PART.length_s:.0f} s",
        )
    paths = [str(video) for video in videos]
    known = match_people(people or {}, paths)
    loaded = model if isinstance(model, LoadedModel) else load_model(model)
    if loaded.network.given_sizes:
        raise ModelError(
            "this model takes features, not media", fix="Use 'reactometer evaluate' with a table of features"
        )
    own = {} if rate_hz is None else {"rate_hz": rate_hz}
    settings = settled(parse_config({"prepare": {**loaded.config.prepare.model_dump(), **own}}, "predict").prepare)
    job = _Job(settings, (PART, WindowShape(window_s, hop_s)) if timeline else (PART,))
    with progress_bar("predicting", len(videos) * len(loaded.each), progress) as advance:
        by_member = [_predict_all(member, paths, known, job, advance) for member in loaded.each]
    return [_average(predictions) for predictions in zip(*by_member, strict=True)]


@dataclass(frozen=True)
class _Job:
    """How every file is read and cut."""

    settings: PrepareConfig
    shapes: tuple[WindowShape, ...]

    def windows(self, path: str, shapes: Sequence[WindowShape]) -> Iterator[tuple[WindowShape, PreparedClip]]:
        return stream_windows(Path(path), self.settings, load_detector(self.settings.detector), shapes)


def _predict_all(
    model: LoadedModel, paths: Sequence[str], people: Mapping[str, str], job: _Job, advance: Callable[[], None]
) -> list[Prediction]:
    moments = _measure_people(model, paths, people, job) if model.config.model.person_norm else {}
    predictions = []
    for path in paths:
        predictions.append(_predict_file(model, path, moments.get(people.get(path, ""), {}), job))
        advance()
    return predictions


def _measure_people(
    model: LoadedModel, paths: Sequence[str], people: Mapping[str, str], job: _Job
) -> dict[str, dict[str, Moments]]:
    """Mean and spread of each person's features over all their files, read once for this."""

    def items() -> Iterator[tuple[str, Item]]:
        for path in (path for path in paths if path in people):
            with suppress(*UNREADABLE):  # told of when the file's turn comes
                clips = (clip for _, clip in job.windows(path, [PART]))
                shown = list(encoded_clips(model.network, clips, replace(model.sampling, draws=1)))
                yield from ((people[path], item) for item in shown)

    return measure_people(items())


def _predict_file(model: LoadedModel, path: str, moments: Mapping[str, Moments], job: _Job) -> Prediction:
    try:
        return _score_file(model, path, moments, job)
    except UNREADABLE as error:
        return Prediction(path, f"failed: {' '.join(str(error).split()) or type(error).__name__}", model.labels)


def _score_file(model: LoadedModel, path: str, moments: Mapping[str, Moments], job: _Job) -> Prediction:
    """Read once, cut parts and windows on the way, and score them as they come."""
    cut: list[tuple[WindowShape, PreparedClip]] = []  # without crops and sound, so that it stays small
    has_sound = False

    def clips() -> Iterator[PreparedClip]:
        nonlocal has_sound
        for kind, clip in job.windows(path, job.shapes):
            has_sound = has_sound or (kind == PART and is_audible(clip.waveform))
            cut.append((kind, _without_media(clip)))
            yield clip

    network, draws = model.network, model.sampling.draws
    everyone = population(network)
    items = (recast(item, moments, everyone) for item in encoded_clips(network, clips(), model.sampling))
    drawn = sorted(score_items(network.on_features(), items), key=lambda score: score.number)
    scores = [
        (kind, clip, [(clip.duration_s, score) for score in own])
        for (kind, clip), own in zip(cut, zip(*[iter(drawn)] * draws, strict=True), strict=True)
    ]  # of each part and window, (length_s, score) a draw
    parts = [clip for kind, clip, _ in scores if kind == PART]
    windows = [(clip, join_parts(0, own)) for kind, clip, own in scores if kind in job.shapes[1:]]
    whole = join_parts(0, [score for kind, _, own in scores if kind == PART for score in own])
    samples = tuple(sample for clip in parts for sample in clip.samples)
    return Prediction(
        path=path,
        status=_status(whole, has_sound, network),
        labels=model.labels,
        duration_s=parts[-1].end_s,
        face_share=replace(parts[0], samples=samples).face_share,
        has_sound=has_sound,
        intensities=_known(whole),
        windows=tuple(Window(clip.start_s, clip.end_s, clip.face_share, _known(score)) for clip, score in windows),
        samples=samples,
        frames_read=parts[-1].frames_read,
    )


def _average(predictions: Sequence[Prediction]) -> Prediction:
    """The members' predictions of one file as one: the mean of their intensities, all else is the same."""
    failed = [prediction for prediction in predictions if prediction.failed]
    if failed:
        return failed[0]
    windows = tuple(
        replace(own[0], intensities=_mean([window.intensities for window in own]))
        for own in zip(*(prediction.windows for prediction in predictions), strict=True)
    )
    whole = _mean([prediction.intensities for prediction in predictions])
    return replace(predictions[0], intensities=whole, windows=windows)


def _mean(members: Sequence[tuple[float, ...] | None]) -> tuple[float, ...] | None:
    known = [intensities for intensities in members if intensities is not None]
    return tuple(float(value) for value in np.mean(known, axis=0)) if known else None


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
