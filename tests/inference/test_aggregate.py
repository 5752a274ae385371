"""Aggregate scored parts and windows into a prediction."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from reactometer.config import Config
from reactometer.data.inputs import InputSpec
from reactometer.inference.aggregate import ScoredSegment, aggregate, in_batches, without_media
from reactometer.inference.checkpoint import LoadedModel
from reactometer.inference.conformal import Bins, IsotonicMap, ModalityIntervals, Uncertainty
from reactometer.inference.prediction import Prediction
from reactometer.inference.runtime import Graph, Networks, StreamInput
from reactometer.inference.scores import Score
from reactometer.media.segments import MAX_SEGMENT, WindowSpec
from reactometer.types import FaceSample, FrameState, PreparedClip

SHAPE = WindowSpec(2.0, 1.0)
SURE = Uncertainty(
    0.9, {"face": ModalityIntervals(20, 20, Bins((), (0.3,)), Bins((), (0.1,)), 0.4)}, {}, shortest_s=100.0
)


FACE, VOICE = StreamInput(kind="frames", feature_size=3), StreamInput(kind="log-mel", feature_size=2)


def _model(
    face: StreamInput | None = FACE, voice: StreamInput | None = None, sure: Uncertainty | None = None
) -> LoadedModel:
    """Describe a model of the face, the voice or both; its graphs are never run here."""
    inputs = {name: stream for name, stream in (("face", face), ("voice", voice)) if stream}
    networks = Networks(inputs, cast(Graph, None))
    return LoadedModel(networks, ("Joy", "Fear"), InputSpec(4, 32), Config(), uncertainty=sure)


def _clip(start_s: float, end_s: float, faces: int, others: int, frames_read: int = 0) -> PreparedClip:
    samples = [FaceSample(start_s, FrameState.FACE, crop_jpeg=b"jpeg")] * faces
    samples += [FaceSample(start_s, FrameState.NO_FACE)] * others
    return PreparedClip(start_s, end_s, tuple(samples), np.ones(3, np.float32), frames_read)


def _score(*values: float, has_face: bool = True, has_voice: bool = False) -> Score:
    streams = [("face", has_face), ("voice", has_voice)]
    return Score(np.array(values, np.float32), tuple(name for name, is_used in streams if is_used))


def _join(model: LoadedModel, *scores: Score, faces: int = 1, has_sound: bool = False) -> Prediction:
    """Aggregate parts of one second each."""
    parts = [
        ScoredSegment(MAX_SEGMENT, _clip(float(start_s), start_s + 1.0, faces, 0), has_sound, score, 1.0)
        for start_s, score in enumerate(scores)
    ]
    return aggregate("a.mp4", model, parts, [])


def test_a_prediction_averages_all_parts() -> None:
    model = _model(FACE, VOICE, SURE)
    parts = [
        ScoredSegment(
            MAX_SEGMENT, _clip(0.0, 60.0, faces=3, others=1, frames_read=7), False, _score(0.2, 0.9), 60.0
        ),
        ScoredSegment(
            MAX_SEGMENT, _clip(60.0, 90.0, faces=0, others=4, frames_read=9), True, _score(0.8, 0.6), 30.0
        ),
    ]
    window = ScoredSegment(SHAPE, _clip(1.0, 3.0, faces=1, others=3), False, _score(0.4, 0.9), 2.0).as_window(
        model
    )
    assert (window.start_s, window.end_s, window.face_share) == (1.0, 3.0, 0.25)
    assert window.intensities == pytest.approx((0.4, 0.9))
    assert window.warnings == ()  # a window is short, and no warning
    nothing = ScoredSegment(SHAPE, _clip(1.0, 3.0, 0, 1), False, _score(0.4, 0.9, has_face=False), 2.0)
    assert (nothing.as_window(model).intensities, nothing.as_window(model).warnings) == (
        None,
        ("no face or sound",),
    )
    whole = aggregate("a.mp4", model, parts, [window])
    assert (whole.path, whole.status, whole.labels) == ("a.mp4", "ok", ("Joy", "Fear"))
    assert (whole.duration_s, whole.frames_read, whole.windows) == (90.0, 9, (window,))
    assert whole.samples == (*parts[0].clip.samples, *parts[1].clip.samples)
    assert (whole.face_share, whole.has_sound, whole.notes) == (3 / 8, True, ())
    assert whole.intensities == pytest.approx((0.4, 0.8))
    assert np.array(whole.intervals) == pytest.approx(np.array([[0.3, 0.5], [0.5, 1.0]]))
    assert whole.coverage == 0.9
    assert whole.warnings == ()
    assert (whole.face, whole.failed) == (None, False)


def test_warnings_depend_on_known_limits() -> None:
    model = _model(sure=SURE)
    assert _join(model, _score(0.1, 0.2)).warnings == (
        "too short: 1.0 s; the shortest training clip has 100.0 s",
    )
    nothing = _join(model, _score(0.5, 0.5, has_face=False))
    assert (nothing.warnings, nothing.intensities, nothing.intervals, nothing.coverage) == (
        (),
        None,
        None,
        0.9,
    )
    never_calibrated = _join(_model(), _score(0.1, 0.2))
    assert (never_calibrated.warnings, never_calibrated.intervals, never_calibrated.coverage) == (
        (),
        None,
        None,
    )


def test_a_recalibrated_model_predicts_on_the_labels_scale() -> None:
    curve = IsotonicMap((0.0, 1.0), (0.0, 0.5))
    model = _model(sure=replace(SURE, recalibration=(curve, curve)))
    whole = _join(model, _score(0.4, 0.8))
    assert whole.intensities == pytest.approx((0.2, 0.4))
    assert np.array(whole.intervals) == pytest.approx(np.array([[0.1, 0.3], [0.1, 0.7]]))


@pytest.mark.parametrize(
    ("voice", "has_sound", "status"),
    [
        (None, False, "no face"),
        (None, True, "no face"),
        (VOICE, False, "no face or sound"),
        (VOICE, True, "no face"),
    ],
)
def test_the_status_names_missing_inputs(voice: StreamInput | None, has_sound: bool, status: str) -> None:
    whole = _join(_model(FACE, voice), _score(0.5, 0.5, has_face=False), faces=0, has_sound=has_sound)
    assert (whole.status, whole.intensities) == (status, None)


def test_a_voice_model_reports_missing_sound() -> None:
    model = _model(None, VOICE)
    assert _join(model, _score(0.5, 0.5, has_face=False), has_sound=True).status == "no sound"
    assert (
        _join(model, _score(0.5, 0.5, has_face=False, has_voice=True), faces=0, has_sound=True).warnings == ()
    )


def test_a_warning_names_the_missing_modality() -> None:
    both, face = _model(FACE, VOICE), _model()
    by_face, by_voice = _score(0.1, 0.2), _score(0.1, 0.2, has_face=False, has_voice=True)
    assert _join(both, by_face, faces=1, has_sound=False).warnings == ("voice not used: no sound",)
    assert _join(both, by_voice, faces=0, has_sound=True).warnings == ("face not used: no face",)
    assert _join(both, by_face, faces=1, has_sound=True).warnings == ()
    assert _join(both, _score(0.5, 0.5, has_face=False), faces=0, has_sound=False).warnings == ()
    assert _join(face, by_face, faces=1, has_sound=False).warnings == ()


def test_refused_faces_and_voices_are_named_with_their_share_of_the_parts() -> None:
    covered = replace(_score(0.5, 0.5, has_face=False), warnings=("face not used: covered",))
    half = _join(_model(), _score(0.1, 0.2), covered, has_sound=True)
    assert (half.status, half.warnings) == ("ok", ("face not used: covered (1 of 2 minutes)",))
    whole = _join(_model(), covered)
    assert (whole.status, whole.intensities) == ("no usable face or voice", None)
    assert whole.warnings == ("face not used: covered",)


def test_eight_windows_or_a_minute_are_scored_together() -> None:
    def sizes(*lengths_s: float) -> list[int]:
        segments = [(number, _clip(0.0, length_s, 1, 0)) for number, length_s in enumerate(lengths_s)]
        batches = list(in_batches(segments))
        assert [one for batch in batches for one in batch] == segments
        return [len(batch) for batch in batches]

    assert sizes(*[2.0] * 19) == [8, 8, 3]
    assert sizes(30.0, 29.0, 1.0, 5.0) == [3, 1]
    assert sizes(30.0, 29.0, 0.5, 5.0) == [4]
    assert sizes(70.0, 70.0) == [1, 1]
    assert sizes() == []


def test_without_media_removes_only_crops_and_sound() -> None:
    clip = _clip(1.0, 3.0, faces=2, others=1, frames_read=5)
    bare = without_media(clip)
    assert [sample.crop_jpeg for sample in bare.samples] == [None, None, None]
    assert bare.waveform is None
    again = [
        replace(sample, crop_jpeg=b"jpeg") if sample.state is FrameState.FACE else sample
        for sample in bare.samples
    ]
    assert (tuple(again), bare.start_s, bare.end_s, bare.frames_read) == (clip.samples, 1.0, 3.0, 5)
