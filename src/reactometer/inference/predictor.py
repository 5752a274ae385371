"""Files never seen before -> intensities, per file and over time, streamed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
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
from reactometer.inference.postprocess import Baseline, check_span, parse_baseline, refine
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
"""Frames of a file that are searched for faces at a time: one more than PyTorch has threads, up to so many; none ahead
where it has one. Our choice."""

_Read = Callable[[Reading, Path], Iterator[Shown]]

DEFAULT_WINDOW_S, DEFAULT_HOP_S = 2.0, 1.0
"""Length of the timeline's windows and the time from one to the next, seconds; our choice."""

LEAST_HOP_S = 0.01
"""Shorter than any frame is shown; a file of three seconds would else be asked for millions of windows."""


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

    A file that cannot be read gets its reason as its status; the others go on. Memory does not grow with the length
    of a file: one longer than a minute is scored in parts of a minute, and its intensities are their mean by length.

    Args:
        videos: paths, or one.
        model: a model folder, or one loaded already; default: the starter model inside the package.
        window_s: length of the timeline's windows, seconds.
        hop_s: time from one window's start to the next one's, seconds.
        rate_hz: frames looked at per second; default: as in the model's training.
        timeline: score the windows too, not the files alone.
        faces: "one" follows one person, the first seen best; "all" everybody, and gives a prediction of each. With
            several people nobody knows who speaks: the model goes by each one's face alone, and says so in the notes;
            with one person, by the voice too. Who is unseen for longer than :data:`tracks.GIVEN_UP_S` is somebody new
            on return; a face seen for less than :data:`multi_face.LEAST_SEEN_S` is left out, and the notes say so.
        people: who is seen in each file, for a model that normalises per person: the files of one person are read
            twice, and their own mean and spread of each feature give way to the training set's.
        smooth_s: length of the weighted mean over the timeline, seconds, see :func:`postprocess.smooth`; 0: none.
        baseline: what each person shows at rest is subtracted, "0-3s" or "running", see
            :func:`postprocess.subtract_baseline`. Both are told of in the predictions' notes.
        progress: show a bar on standard error.
        isolated: files are read by a process of its own with bounded memory and processor time, so that a decoder that
            dies, or a file of which nothing comes for a minute, takes nothing else with it; False, and on Windows: by
            this one.

    Returns:
        One prediction a file, in the order given; with ``faces="all"`` one a person of each file, ``face`` 1, 2, …
        in order of first appearance.

    Raises:
        ConfigError: a window, hop, rate or smoothing that is not positive, or too large; no baseline;
            ``faces`` unknown, or "all" where ``people`` says whose file it is.
        DataError: ``people`` names a file that is not among those given.
        ModelError: no such model, or a damaged one, or, for all faces, one that looks at none.
    """
    _check_faces(faces, people)
    rest = check_timeline(window_s, hop_s, smooth_s, baseline)
    paths = [str(video) for video in each_path(videos)]
    known = match_people(people or {}, paths)
    loaded = model if isinstance(model, LoadedModel) else load_model(model)
    settings = reading_of(loaded, faces, rate_hz)
    reading = Reading(settings, (PART, WindowShape(window_s, hop_s)) if timeline else (PART,), faces)
    read = _read_apart if isolated and os.name == "posix" else _read_here
    with progress_bar("predicting", len(paths), progress) as advance:
        moments = _measure_people(loaded.each, paths, known, reading, read)
        predictions = []
        for path in paths:
            own = [moments.get((number, known.get(path, "")), {}) for number in range(len(loaded.each))]
            predictions += [refine(one, smooth_s, rest) for one in _predict_file(loaded, path, own, reading, read)]
            advance()
    return predictions


def check_timeline(window_s: float, hop_s: float, smooth_s: float, baseline: str | None) -> Baseline | None:
    """Refuse what :func:`predict` refuses of a timeline; returns the stretch at rest, where one is asked for."""
    if not LEAST_HOP_S <= hop_s <= window_s <= PART.length_s:
        raise ConfigError(
            "window and hop do not fit",
            got=f"window {window_s} s, hop {hop_s} s",
            expected=f"{LEAST_HOP_S} s <= hop <= window <= {PART.length_s:.0f} s",
        )
    check_span(smooth_s)
    return None if baseline is None else parse_baseline(baseline, window_s)


def reading_of(model: LoadedModel, faces: str, rate_hz: float | None) -> PrepareConfig:
    """How files are read for a model; refuses what :func:`predict` refuses of it."""
    _check_faces(faces, None)
    refuse_features(model)
    if faces == "all" and not model.network.looks:
        raise ModelError("this model goes by the voice alone", fix="Leave out --faces all, or use a model of faces")
    asked = {} if rate_hz is None else {"rate_hz": rate_hz}
    settings = settled(parse_config({"prepare": {**model.config.prepare.model_dump(), **asked}}, "predict").prepare)
    if settings.detector == "yunet":
        find_yunet()  # here, since the processes that read files could only die of it
    return settings


def refuse_features(model: LoadedModel) -> None:
    """Raise ModelError for a model that takes features, which no media file brings."""
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
    """Mean and spread of each person's features over all their files, by member's number and person.

    Each file is read once for this, for all members that normalise per person.
    """
    normalising = [(number, member) for number, member in enumerate(members) if member.config.model.person_norm]
    whole = replace(reading, shapes=(PART,), faces="one")

    def items() -> Iterator[tuple[tuple[int, str], Item]]:
        for path in (path for path in paths if normalising and path in people):
            with suppress(*UNREADABLE):  # told of when the file's turn comes
                shown = [
                    ((number, people[path]), item)
                    for _, clip in read(whole, Path(path))
                    for number, member in normalising
                    for item in encoded_clips(member.network, [clip], member.sampling)
                ]
                yield from shown

    return measure_people(items())


def _read_here(reading: Reading, path: Path) -> Iterator[Shown]:
    return reading.windows(path, _threads())


def _read_apart(reading: Reading, path: Path) -> Iterator[Shown]:
    reader = shared_reader(os.getpid(), get_ident())
    return (piece for piece in reader.read(path, reading, _threads()) if not isinstance(piece, MediaInfo))


def _threads() -> int:
    cores = torch.get_num_threads()
    return min(cores + 1, MOST_THREADS) if cores > 1 else 0


def _predict_file(
    model: LoadedModel, path: str, moments: Sequence[Mapping[str, Moments]], reading: Reading, read: _Read
) -> list[Prediction]:
    score = make_scorer(model, moments)
    try:
        return predict_windows(path, model, read(reading, Path(path)), reading, score)
    except UNREADABLE as error:
        return [failed(path, reason_of(error), model)]


def failed(path: str, reason: str, model: LoadedModel) -> Prediction:
    """What is said of a file that cannot be scored; it has the columns of those that can."""
    sure = model.uncertainty
    return Prediction(path, f"failed: {reason}", model.labels, coverage=sure.coverage if sure else None)


def predict_windows(
    path: str,
    model: LoadedModel,
    windows: Iterable[Shown],
    reading: Reading,
    score: Scorer,
) -> list[Prediction]:
    """The prediction of a file as it is read, or one of each person in it.

    Args:
        path: as given.
        model: whose scores these are.
        windows: parts and windows of the file, from :meth:`reactometer.workers.media_worker.Reading.windows`.
        reading: how they were made.
        score: gives the model's scores, see :func:`make_scorer`.
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
    """What scores parts and windows with all members of a model, each with its own moments of the person.

    Of a frame encoder, features of so many crops are remembered, see :class:`~reactometer.models.showing.FaceMemory`.
    """
    scorers = [_member_scorer(*pair, remembered) for pair in zip(model.each, moments, strict=True)]
    return lambda clips: average_scores([score_member(clips) for score_member in scorers])


def _member_scorer(
    member: LoadedModel, moments: Mapping[str, Moments], remembered: int
) -> Callable[[Sequence[PreparedClip]], list[Score]]:
    """What scores parts and windows of one file by one model; a frame encoder sees each crop once."""
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
