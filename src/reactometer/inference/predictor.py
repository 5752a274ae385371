"""Predict intensities of files, as a whole and over time, while the files are read."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import get_ident
from typing import TypedDict

from reactometer.config import PrepareConfig, parse_config
from reactometer.data.inputs import Item, Steps
from reactometer.data.person_norm import Shifts, clip_means, fit_shifts, person_by_path, shift_item
from reactometer.errors import ConfigError, ModelError, require, suggestion
from reactometer.inference.aggregate import ScoredSegment, aggregate, in_batches, without_media
from reactometer.inference.checkpoint import LoadedModel, load_model
from reactometer.inference.inputs import FaceFeatureCache, encoded_clips
from reactometer.inference.multi_face import predict_everyone
from reactometer.inference.postprocess import SUMMARIES, Baseline, parse_baseline, refine
from reactometer.inference.prediction import Prediction, Window
from reactometer.inference.scores import Score, average_scores
from reactometer.inference.scoring import score_items
from reactometer.io import Paths, as_path_list
from reactometer.machine import default_workers
from reactometer.media.arrays import ArrayMedia
from reactometer.media.audio import is_audible
from reactometer.media.segments import MAX_SEGMENT, WindowSpec, resolve_detector
from reactometer.paths import STARTER, find_yunet
from reactometer.terminal import progress_bar
from reactometer.types import MediaInfo, PreparedClip
from reactometer.workers.decoder import FACE_MODES, READ_ERRORS, DecodeSpec, Segment, error_message
from reactometer.workers.media_worker import thread_worker

MAX_THREADS = 8
"""Maximum number of threads that detect faces."""

DEFAULT_WINDOW_S, DEFAULT_HOP_S = 2.0, 1.0
"""Length of the timeline's windows and the time from one to the next, seconds."""

MIN_HOP_S = 0.01
"""Shorter than any frame; bounds the number of windows."""

PersonShifts = Sequence[Shifts]
"""For each member of a model: statistics of one person's features, by stream."""


@dataclass(frozen=True)
class PredictOptions:
    """Options of a prediction; see :func:`predict_files`."""

    window_s: float = DEFAULT_WINDOW_S
    hop_s: float = DEFAULT_HOP_S
    rate_hz: float | None = None
    faces: str = "one"
    smooth_s: float = 0.0
    baseline: str | None = None
    timeline: bool = True
    summary: str = "model"

    def check(self) -> Baseline | None:
        """Check the options; return the parsed baseline.

        Raises:
            ConfigError: an option is out of range.
        """
        if not MIN_HOP_S <= self.hop_s <= self.window_s <= MAX_SEGMENT.length_s:
            raise ConfigError(
                "window and hop do not fit",
                got=f"window {self.window_s} s, hop {self.hop_s} s",
                expected=f"{MIN_HOP_S} s <= hop <= window <= {MAX_SEGMENT.length_s:.0f} s",
            )
        if self.faces not in FACE_MODES:
            raise ConfigError(
                "unknown choice of faces", got=f"'{self.faces}'", fix=suggestion(self.faces, FACE_MODES)
            )
        if not 0.0 <= self.smooth_s < math.inf:
            raise ConfigError(
                "smoothing time out of range", got=f"{self.smooth_s:g} s", expected="0 s or more"
            )
        names = ("model", *SUMMARIES)
        if self.summary not in names:
            raise ConfigError("unknown summary", got=f"'{self.summary}'", fix=suggestion(self.summary, names))
        return None if self.baseline is None else parse_baseline(self.baseline, self.window_s)


class PredictSettings(TypedDict, total=False):
    """Keyword arguments of :meth:`.checkpoint.LoadedModel.predict`; see :func:`predict_files`."""

    window_s: float
    hop_s: float
    rate_hz: float | None
    timeline: bool
    faces: str
    people: Mapping[str, str] | Mapping[Path, str] | None
    features: Paths
    smooth_s: float
    baseline: str | None
    summary: str
    isolated: bool


def predict_files(  # noqa: PLR0913 - options by keyword
    videos: Paths,
    model: LoadedModel | Path | str = STARTER,
    *,
    window_s: float = DEFAULT_WINDOW_S,
    hop_s: float = DEFAULT_HOP_S,
    rate_hz: float | None = None,
    timeline: bool = True,
    faces: str = "one",
    people: Mapping[str, str] | Mapping[Path, str] | None = None,
    features: Paths = (),
    smooth_s: float = 0.0,
    baseline: str | None = None,
    summary: str = "model",
    progress: bool = True,
    isolated: bool = True,
) -> list[Prediction]:
    """Estimate intensities of video (or sound) files, each as a whole and in windows over time.

    If a file cannot be read, its ``status`` contains the reason, and the other files are still predicted. A
    file longer than a minute is scored in parts of a minute; its intensities are their mean, weighted by
    length.

    Args:
        videos: one path or several.
        model: a checkpoint, or a loaded model; default: the starter model.
        window_s: length of the timeline's windows, seconds.
        hop_s: time from one window's start to the next one's, seconds.
        rate_hz: sampled frames per second; default: as in the model's training.
        timeline: score windows too, not only whole files.
        faces: "one" follows the most prominent person; "all" follows all people. With several people the
            voice is not used, because the speaker is unknown. A person unseen for
            :data:`~reactometer.media.tracking.FORGET_AFTER_S` counts as new on return, and a face seen for
            less than :data:`~.multi_face.MIN_FACE_S` is ignored.
        people: the person in each file, for a model that normalises per person; their files are read twice.
        features: tables with the files' features, for a model that uses some; they name each file by its
            path or by its name. Streams without a table are missing.
        smooth_s: length of the weighted mean over the timeline, seconds, see :func:`postprocess.smooth`; 0:
            none.
        baseline: subtract each person's baseline at rest, "0-3s" or "running", see
            :func:`postprocess.subtract_baseline`.
        summary: value of a whole file: "model", the model's, with an interval, which ``evaluate`` scores; or,
            without it, "mean" (average level), "max" (strongest moment) or "p90" (strong level, robust
            to one window) of the windows.
        progress: show a bar on standard error.
        isolated: decode files in a separate process with limited memory and CPU time, so that a damaged file
            cannot crash or block the caller; not on Windows.

    Returns:
        One prediction per file, in the order of ``videos``; with ``faces="all"`` one per person in each file,
        with ``face`` 1, 2, … in order of first appearance.

    Raises:
        ConfigError: an option is out of range, or both ``faces="all"`` and ``people`` are given.
        DataError: ``people`` names a file that is not in ``videos``, or ``features`` lack a column or all
            files.
        ModelError: the model is missing or damaged, or, for all faces, does not use the face.
    """
    options = PredictOptions(window_s, hop_s, rate_hz, faces, smooth_s, baseline, timeline, summary)
    options.check()
    if faces == "all" and people:
        fix = "Remove --faces all, or remove --people and --same-person"
        raise ConfigError("--people is not supported together with --faces all", fix=fix)
    paths = [str(video) for video in as_path_list(videos)]
    person_of = person_by_path(people or {}, paths)
    loaded = model if isinstance(model, LoadedModel) else load_model(model)
    by_path = (
        _read_features(loaded, [Path(table) for table in as_path_list(features)], paths) if features else {}
    )
    predictor = Predictor(loaded, options, features=by_path)
    with progress_bar("predicting", len(paths), progress) as advance:
        shifts = fit_people(predictor, paths, person_of, isolated=isolated)
        predictions = []
        for path in paths:
            predictor.reset(shifts.get(person_of.get(path, "")))
            predictions += predictor.predict_file(path, isolated=isolated)
            advance()
    return predictions


class Predictor:
    """A pipeline that decodes files, scores their segments with a checkpoint, and aggregates the scores.

    Args:
        model: a checkpoint that takes media.
        options: how files are read and predicted.
        features: features of files from a table, by path and stream.
        lock: acquired while segments are scored, if predictors of several threads share the graphs.

    Raises:
        ConfigError, ModelError: as :func:`predict_files`.
        WeightsError: the face detector's weights are not available.
    """

    def __init__(
        self,
        model: LoadedModel,
        options: PredictOptions | None = None,
        *,
        features: Mapping[str, Mapping[str, Steps]] = {},
        lock: AbstractContextManager[object] | None = None,
    ) -> None:
        self.model, self.options, self.features = model, options or PredictOptions(), features
        self._baseline = self.options.check()
        self._lock = lock or nullcontext()
        window = WindowSpec(self.options.window_s, self.options.hop_s)
        window_specs = (MAX_SEGMENT, window) if self.options.timeline else (MAX_SEGMENT,)
        if not (features or model.uses_face or model.uses_voice):
            fix = (
                "Add their features: --features TABLE; or use 'reactometer evaluate' with a table of features"
            )
            raise ModelError("the model uses precomputed features, not media files", fix=fix)
        settings = _prepare_config_for(model, self.options)
        self.decode_spec = DecodeSpec(
            settings.detector, settings.rate_hz, settings.size_px, window_specs, self.options.faces
        )
        self.reset()

    def reset(self, shifts: PersonShifts | None = None) -> None:
        """Delete the features of the last file; ``shifts`` belong to the next file's person, if known."""
        self._shifts = shifts or [{} for _ in self.model.members]
        self._streams: Mapping[str, Steps] = {}
        self._caches = {
            member.features_key: FaceFeatureCache(member.networks, member.sampling)
            for member in self.model.members
            if "frames" in {stream.kind for stream in member.networks.inputs.values()}
        }

    def read(self, path: Path, *, isolated: bool = True) -> Iterator[Segment]:
        """Yield the segments of a file, each as soon as it is complete: its parts and the timeline's
        windows."""
        cores = default_workers()
        threads = min(cores + 1, MAX_THREADS) if cores > 1 else 0
        if not isolated or os.name != "posix":
            return self.decode_spec.stream(path, threads)
        results = thread_worker(os.getpid(), get_ident()).read(path, self.decode_spec, threads)
        return (segment for segment in results if not isinstance(segment, MediaInfo))

    def score(self, clips: Sequence[PreparedClip]) -> list[Score]:
        """Score segments of one file with all members; a frame encoder encodes each face crop once.

        Members with equal encoders share their features.
        """
        encoded, by_member = dict[str, list[Item]](), []
        with self._lock:
            for member, shifts in zip(self.model.members, self._shifts, strict=True):
                key = member.features_key
                if key not in encoded:
                    encoded[key] = list(encoded_clips(member, clips, self._caches.get(key), self._streams))
                items = (shift_item(member.screen(item), shifts) for item in encoded[key])
                by_member.append(score_items(member.networks, items))
        return average_scores(by_member)

    def predict_arrays(self, media: ArrayMedia) -> list[Prediction]:
        """Predict frames and sound from memory, in this process."""
        return self.predict_segments(media.name, self.decode_spec.stream_arrays(media))

    def predict_file(self, path: str, *, isolated: bool = True) -> list[Prediction]:
        """Predict a file, or each person in it; the ``status`` of an unreadable file contains the reason."""
        self._streams = self.features.get(path, {})
        try:
            return self.predict_segments(path, self.read(Path(path), isolated=isolated))
        except READ_ERRORS as error:
            return [self.failed(path, error_message(error))]

    def predict_segments(self, path: str, segments: Iterable[Segment]) -> list[Prediction]:
        """Score the segments that :meth:`read` yields; return the file's prediction, or one per person in
        it."""
        if self.decode_spec.faces == "all":
            predictions = predict_everyone(
                path, self.model, segments, self.decode_spec.window_specs, self.score
            )
        else:
            predictions = [self._predict_one(path, segments)]
        smooth_s, summary = self.options.smooth_s, self.options.summary
        return [refine(prediction, smooth_s, self._baseline, summary) for prediction in predictions]

    def failed(self, path: str, reason: str) -> Prediction:
        """Return the prediction of a file that cannot be scored."""
        uncertainty = self.model.uncertainty
        coverage = uncertainty.coverage if uncertainty else None
        return Prediction(path, f"failed: {reason}", self.model.labels, coverage=coverage)

    def _predict_one(self, path: str, segments: Iterable[Segment]) -> Prediction:
        parts, timeline = list[ScoredSegment](), list[Window]()
        for batch in in_batches(segments):
            for (spec, clip), score in zip(batch, self.score([clip for _, clip in batch]), strict=True):
                segment = ScoredSegment(spec, clip, is_audible(clip.waveform), score, clip.duration_s)
                if spec in self.decode_spec.window_specs[1:]:
                    timeline.append(segment.as_window(self.model))
                if spec == MAX_SEGMENT:
                    parts.append(replace(segment, clip=without_media(clip)))
        return aggregate(path, self.model, parts, timeline)


def fit_people(
    predictor: Predictor, paths: Sequence[str], person_of: Mapping[str, str], *, isolated: bool
) -> dict[str, PersonShifts]:
    """Return the shifts of each person's features, for models that normalise per person."""
    members = list(enumerate(predictor.model.members))
    if not person_of or not any(member.config.model.person_norm for _, member in members):
        return {}
    options = replace(predictor.options, timeline=False)
    reader = Predictor(predictor.model, options, features=predictor.features)

    def items() -> Iterator[tuple[tuple[int, str], Item]]:
        for path in (path for path in paths if path in person_of):
            with suppress(*READ_ERRORS):  # reported when the file is predicted
                yield from [
                    ((number, person_of[path]), member.screen(item))
                    for _, clip in reader.read(Path(path), isolated=isolated)
                    for number, member in members
                    if member.config.model.person_norm
                    for item in encoded_clips(member, [clip], features=predictor.features.get(path, {}))
                ]

    means, people = clip_means(items()), sorted(set(person_of.values()))
    by_member = [
        fit_shifts({name: means.get((number, name), {}) for name in people}, member.networks.training_stats)
        for number, member in members
    ]
    return {person: [shifts[person] for shifts in by_member] for person in people}


def _read_features(
    model: LoadedModel, tables: Sequence[Path], paths: Sequence[str]
) -> dict[str, dict[str, Steps]]:
    """Return the features of files from tables, by path and stream."""
    require("pandas", extra="evaluate")
    from reactometer.data.feature_tables import read_file_features  # importing pandas is slow

    columns = {name: tuple(stream.columns) for name, stream in model.streams.items() if stream.columns}
    if not columns:
        raise ConfigError("the model uses no features from a table", fix="Remove --features")
    return read_file_features(tables, columns, paths)


def _prepare_config_for(model: LoadedModel, options: PredictOptions) -> PrepareConfig:
    """Return the decoding settings of a model."""
    if options.faces == "all" and not model.uses_face:
        raise ModelError(
            "the model uses only the voice", fix="Remove --faces all, or choose a model that uses the face"
        )
    overrides = {} if options.rate_hz is None else {"rate_hz": options.rate_hz}
    settings = resolve_detector(
        parse_config({"prepare": {**model.config.prepare.model_dump(), **overrides}}, "predict").prepare
    )
    if settings.detector == "yunet":
        find_yunet()  # in the decoder process, its error would count as a crash
    return settings
