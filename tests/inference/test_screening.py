"""Unusable faces and voices are named and not used; the other modality's answer stays."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from item_of import item_of
from reactometer.data.inputs import Item
from reactometer.errors import ModelError
from reactometer.inference.checkpoint import load_model
from reactometer.inference.predictor import PredictOptions, Predictor
from reactometer.inference.scores import Score
from reactometer.inference.screening import SCREENING_FILE, Screening, load_screening, save_screening
from reactometer.media.faces import encode_crop, load_detector
from reactometer.media.segments import prepare_clip
from reactometer.media.speech import speech_share
from reactometer.types import SOUND_RATE_HZ, FaceSample, FrameState, PreparedClip

SCREENING = Screening(0.1, np.eye(5, dtype=np.float32), np.full(5, -3.0, np.float32))


def item(feature: float = 0.0, face_px: float = math.nan, speech_share: float = math.nan) -> Item:
    """Three images with a feature of the defect "covered", and ten steps of sound."""
    frames = np.zeros((3, 5), np.float32)
    frames[:, 1] = feature
    times_s = np.arange(10, dtype=np.float32)
    clip = item_of(frames, np.ones(3, bool), times_s[:3], np.ones((10, 4), np.float32), times_s)
    return replace(clip, face_px=face_px, speech_share=speech_share)


@pytest.mark.parametrize(
    ("given", "warnings"),
    [
        (item(), ()),
        (item(face_px=20.0, speech_share=0.1), ()),
        (item(face_px=19.9), ("face not used: smaller than 20 pixels",)),
        (item(9.0), ("face not used: covered",)),
        (item(speech_share=0.09), ("voice not used: no speech",)),
        (item(9.0, speech_share=0.0), ("face not used: covered", "voice not used: no speech")),
    ],
)
def test_unusable_input_is_masked_with_its_reason(given: Item, warnings: tuple[str, ...]) -> None:
    screened = SCREENING(given)
    assert screened.warnings == warnings
    assert screened.streams["face"].mask.any() == (not any("face" in warning for warning in warnings))
    assert bool(len(screened.streams["voice"].values)) == (
        not any("voice" in warning for warning in warnings)
    )


def test_a_face_is_refused_if_most_of_its_frames_are() -> None:
    face = item().streams["face"]
    face.values[:1, 1] = 9.0
    assert SCREENING(item().with_steps({"face": face})).warnings == ()
    face.values[:2, 1] = 9.0
    assert SCREENING(item().with_steps({"face": face})).warnings == ("face not used: covered",)


def test_a_written_screening_is_read_back_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    assert load_screening(tmp_path, 5) is None
    save_screening(tmp_path, SCREENING)
    read = load_screening(tmp_path, 5)
    assert read is not None
    assert read(item(9.0)).warnings == ("face not used: covered",)
    with pytest.raises(ModelError, match=rf"{re.escape(SCREENING_FILE)}: damaged.*calibrate"):
        load_screening(tmp_path, 6)
    content = bytearray((tmp_path / SCREENING_FILE).read_bytes())
    content[-1] ^= 1
    (tmp_path / SCREENING_FILE).write_bytes(content)
    with pytest.raises(ModelError, match="damaged"):
        load_screening(tmp_path, 5)


def noise(length_s: float) -> np.ndarray:
    samples = round(length_s * SOUND_RATE_HZ)
    return np.random.default_rng(0).normal(0.0, 0.1, samples).astype(np.float32)


def test_noise_hum_and_silence_are_no_speech() -> None:
    times_s = np.arange(3 * SOUND_RATE_HZ) / SOUND_RATE_HZ
    hum = sum(np.sin(2 * np.pi * 50 * k * times_s) / (10 * k) for k in range(1, 8))
    for sound in (noise(3.0), np.asarray(hum, np.float32), np.zeros(48_000, np.float32)):
        assert speech_share(sound) == 0.0
    assert speech_share(np.zeros(0, np.float32)) == 0.0


def score(predictor: Predictor, clip: PreparedClip) -> Score:
    predictor.reset()
    (scored,) = predictor.score([clip])
    return scored


@pytest.mark.shared
def test_the_starter_uses_what_is_usable(shared_data: Path) -> None:
    """A real person is used whole; noise for the voice or the face leaves the other's answer, or none."""
    predictor = Predictor(load_model("starter", "cpu"), PredictOptions(timeline=False))
    path = sorted((shared_data / "real_people" / "actor01_crops").glob("*.mp4"))[0]
    clip = prepare_clip(path, predictor.model.config.prepare, load_detector("haar"))
    assert clip.waveform is not None
    assert speech_share(clip.waveform) > 0.3
    whole = score(predictor, clip)
    assert (whole.modalities, whole.warnings) == ("face and voice", ())
    noisy = score(predictor, replace(clip, waveform=noise(clip.duration_s)))
    assert noisy.warnings == ("voice not used: no speech",)
    np.testing.assert_array_equal(
        noisy.intensities, score(predictor, replace(clip, waveform=None)).intensities
    )
    crop = encode_crop(np.random.default_rng(0).integers(0, 255, (112, 112, 3), np.uint8))
    samples = tuple(FaceSample(0.2 * index, FrameState.FACE, crop_jpeg=crop) for index in range(6))
    faceless = score(predictor, replace(clip, samples=samples))
    assert (faceless.modalities, faceless.warnings) == ("voice", ("face not used: noise",))
    empty = score(predictor, PreparedClip(0.0, 3.0, (), noise(3.0)))
    assert not empty.has_input
    assert math.isfinite(empty.intensities.sum())
