"""Predict intensities of files, as a whole and over time, while the files are read."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import get_ident

import torch

from reactometer.config import PrepareConfig, parse_config
from reactometer.data.batches import Item
from reactometer.data.person_norm import Moments, match_people, measure_people, recast
from reactometer.data.prepare import settled
from reactometer.errors import ConfigError, ModelError, suggestion
from reactometer.inference.aggregate import Cut, Scorer, in_batches, join_cuts, without_media
from reactometer.inference.multi_face import predict_everyone
from reactometer.inference.postprocess import Baseline, parse_baseline, refine
from reactometer.io import Paths, each_path
from reactometer.media.audio import is_audible
from reactometer.media.segments import PART, WindowShape
from reactometer.models.folder import LoadedModel, load_model
from reactometer.models.scores import Score, average_scores
from reactometer.models.scoring import score_items
from reactometer.models.showing import MOST_REMEMBERED, FaceMemory, encoded_clips, population
from reactometer.models.vision_encoders import FrameEncoder
from reactometer.paths import STARTER, find_yunet
from reactometer.terminal import progress_bar
from reactometer.types import MediaInfo, Prediction, PreparedClip, Window
from reactometer.workers.media_worker import FACES, UNREADABLE, Reading, Shown, reason_of, shared_reader

MOST_THREADS = 8
"""Maximum number of frames that are searched for faces at a time; our choice."""

_Read = Callable[[Reading, Path], Iterator[Shown]]

DEFAULT_WINDOW_S, DEFAULT_HOP_S = 2.0, 1.0
"""Length of the timeline's windows and the time from one to the next, seconds; our choice."""

LEAST_HOP_S = 0.01
"""Shorter than any frame; without it, a short file could have millions of windows."""


def predict(  # noqa: PLR0913 - options by keyword
    videos: Paths,
    model: LoadedModel | Path | str = STARTER,
    *,
    window_s: float = DEFAULT_WINDOW_S,
    hop_s: float = DEFAULT_HOP_S,
    rate_hz: float | None = None,
    timeline: bool = True,
    faces: str = "one",
    people: Mapping[str, str] | Mapping[Path, str] | None = None,
    smooth_s: float = 0.0,
    baseline: str | None = None,
    progress: bool = True,
    isolated: bool = True,
) -> list[Prediction]:
    """Estimate intensities of video (or sound) files, each as a whole and in windows over time.

    If a file cannot be read, its ``status`` says why, and the other files are still predicted. A file longer than a
    minute is scored in parts of a minute, and its intensities are their mean, weighted by length.

    Args:
        videos: one path or several.
        model: a model folder, or a loaded model; default: the starter model inside the package.
        window_s: length of the timeline's windows, seconds.
        hop_s: time from one window's start to the next one's, seconds.
        rate_hz: sampled frames per second; default: as in the model's training.
        timeline: score windows too, not only whole files.
        faces: "one" follows the most prominent person; "all" follows everybody. With several people the voice is not
            used, because nobody knows who speaks. A person unseen for :data:`~reactometer.media.tracking.GIVEN_UP_S`
            counts as new on return, and a face seen for less than :data:`~.multi_face.LEAST_SEEN_S` is left out.
        people: the person in each file, for a model that normalises per person; their files are read twice.
        smooth_s: length of the weighted mean over the timeline, seconds, see :func:`postprocess.smooth`; 0: none.
        baseline: subtract what each person shows at rest, "0-3s" or "running", see
            :func:`postprocess.subtract_baseline`.
        progress: show a bar on standard error.
        isolated: read files in a separate process with bounded memory and CPU time, which may crash or hang without
            harm; not on Windows.

    Returns:
        One prediction per file, in the order given; with ``faces="all"`` one per person in each file, ``face`` 1, 2, …
        in order of first appearance.

    Raises:
        ConfigError: an option is out of range, or both ``faces="all"`` and ``people`` are given.
        DataError: ``people`` names a file that is not in ``videos``.
        ModelError: the model is missing or damaged, or, for all faces, does not use the face.
    """
    _check_faces(faces, people)
    rest = check_timeline(window_s, hop_s, smooth_s, baseline)
    paths = [str(video) for video in each_path(videos)]
    known = match_people(people or {}, paths)
    loaded = model if isinstance(model, LoadedModel) else load_model(model)
    settings = reading_of(loaded, faces, rate_hz)
    reading = Reading(settings, (PART, WindowShape(window_s, hop_s)) if timeline else (PART,), faces)
    read = partial(_read, isolated=isolated and os.name == "posix")
    with progress_bar("predicting", len(paths), progress) as advance:
        moments = _measure_people(loaded.each, paths, known, reading, read)
        predictions = []
        for path in paths:
            own = [moments.get((number, known.get(path, "")), {}) for number in range(len(loaded.each))]
            predictions += [refine(one, smooth_s, rest) for one in _predict_file(loaded, path, own, reading, read)]
            advance()
    return predictions


def check_timeline(window_s: float, hop_s: float, smooth_s: float, baseline: str | None) -> Baseline | None:
    """Check the options of a timeline; return the parsed baseline."""
    if not LEAST_HOP_S <= hop_s <= window_s <= PART.length_s:
        raise ConfigError(
            "window and hop do not fit",
            got=f"window {window_s} s, hop {hop_s} s",
            expected=f"{LEAST_HOP_S} s <= hop <= window <= {PART.length_s:.0f} s",
        )
    if not 0.0 <= smooth_s < math.inf:
        raise ConfigError("smoothing is over a length of time", got=f"{smooth_s:g} s", expected="0 s or more")
    return None if baseline is None else parse_baseline(baseline, window_s)


def reading_of(model: LoadedModel, faces: str, rate_hz: float | None) -> PrepareConfig:
    """Return how to read files for a model; raise ConfigError or ModelError as :func:`predict`."""
    _check_faces(faces, None)
    refuse_features(model)
    if faces == "all" and not model.network.looks:
        raise ModelError("this model goes by the voice alone", fix="Leave out --faces all, or use a model of faces")
    asked = {} if rate_hz is None else {"rate_hz": rate_hz}
    settings = settled(parse_config({"prepare": {**model.config.prepare.model_dump(), **asked}}, "predict").prepare)
    if settings.detector == "yunet":
        find_yunet()  # here, because in the decoder process its error would count as a crash
    return settings


def refuse_features(model: LoadedModel) -> None:
    """Raise ModelError if the model takes features instead of media."""
    if model.network.given_sizes:
        raise ModelError(
            "this model takes features, not media", fix="Use 'reactometer evaluate' with a table of features"
        )


def _check_faces(faces: str, people: Mapping[str, str] | Mapping[Path, str] | None) -> None:
    if faces not in FACES:
        raise ConfigError("no such choice of faces", got=f"'{faces}'", fix=suggestion(faces, FACES))
    if faces == "all" and people:
        raise ConfigError(
            "people are named for files in which everybody is followed",
            got="--faces all, and --people or --same-person",
            expected="one of them",
            fix="With --people or --same-person, each file is one person's",
        )


def _measure_people(
    members: Sequence[LoadedModel], paths: Sequence[str], people: Mapping[str, str], reading: Reading, read: _Read
) -> dict[tuple[int, str], dict[str, Moments]]:
    """Return the moments of each person's features over all their files, by member's number and person."""
    normalising = [(number, member) for number, member in enumerate(members) if member.config.model.person_norm]
    whole = replace(reading, shapes=(PART,), faces="one")

    def items() -> Iterator[tuple[tuple[int, str], Item]]:
        for path in (path for path in paths if normalising and path in people):
            with suppress(*UNREADABLE):  # reported when the file is predicted
                shown = [
                    ((number, people[path]), item)
                    for _, clip in read(whole, Path(path))
                    for number, member in normalising
                    for item in encoded_clips(member.network, [clip], member.sampling)
                ]
                yield from shown

    return measure_people(items())


def _read(reading: Reading, path: Path, isolated: bool) -> Iterator[Shown]:
    cores = torch.get_num_threads()
    threads = min(cores + 1, MOST_THREADS) if cores > 1 else 0
    if not isolated:
        return reading.windows(path, threads)
    pieces = shared_reader(os.getpid(), get_ident()).read(path, reading, threads)
    return (piece for piece in pieces if not isinstance(piece, MediaInfo))


def _predict_file(
    model: LoadedModel, path: str, moments: Sequence[Mapping[str, Moments]], reading: Reading, read: _Read
) -> list[Prediction]:
    score = make_scorer(model, moments)
    try:
        return predict_windows(path, model, read(reading, Path(path)), reading, score)
    except UNREADABLE as error:
        return [failed(path, reason_of(error), model)]


def failed(path: str, reason: str, model: LoadedModel) -> Prediction:
    """Return the prediction of a file that cannot be scored."""
    sure = model.uncertainty
    return Prediction(path, f"failed: {reason}", model.labels, coverage=sure.coverage if sure else None)


def predict_windows(
    path: str,
    model: LoadedModel,
    windows: Iterable[Shown],
    reading: Reading,
    score: Scorer,
) -> list[Prediction]:
    """Return the prediction of a file, or one per person in it.

    ``windows`` are its parts and windows as ``reading`` yields them, and ``score`` comes from :func:`make_scorer`.
    """
    if reading.faces == "all":
        return predict_everyone(path, model, windows, reading.shapes, score)
    parts, timeline = list[Cut](), list[Window]()
    for some in in_batches(windows):
        for (kind, clip), own in zip(some, score([clip for _, clip in some]), strict=True):
            cut = Cut(kind, clip, is_audible(clip.waveform), own, clip.duration_s)
            if kind in reading.shapes[1:]:
                timeline.append(cut.as_window(model))
            if kind == PART:
                parts.append(replace(cut, clip=without_media(clip)))
    return [join_cuts(path, model, parts, timeline)]


def make_scorer(
    model: LoadedModel, moments: Sequence[Mapping[str, Moments]], remembered: int = MOST_REMEMBERED
) -> Scorer:
    """Return a function that scores clips with all members of a model, each with its own moments of the person.

    Features of ``remembered`` crops are kept, see :class:`~reactometer.models.showing.FaceMemory`.
    """
    scorers = [_member_scorer(*pair, remembered) for pair in zip(model.each, moments, strict=True)]
    return lambda clips: average_scores([score_member(clips) for score_member in scorers])


def _member_scorer(
    member: LoadedModel, moments: Mapping[str, Moments], remembered: int
) -> Callable[[Sequence[PreparedClip]], list[Score]]:
    """Return a function that scores clips of one file with one model; a frame encoder encodes each crop once."""
    network, sampling, everyone = member.network, member.sampling, population(member.network)
    encoder, device = network.face_encoder, network.label_mean.device
    memory = None
    if isinstance(encoder, FrameEncoder) and sampling.looks:
        memory = FaceMemory(encoder, sampling, device, remembered)
    head = network.on_features(every=memory is not None and not network.frozen)

    def score(clips: Sequence[PreparedClip]) -> list[Score]:
        items = encoded_clips(network, clips, sampling, memory)
        return list(score_items(head, (recast(item, moments, everyone) for item in items)))

    return score
