"""Contours of the voice, against sounds whose pitch, loudness and pauses are known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import audio_utils

from reactometer.media.audio import read_waveform
from reactometer.media.audio_features import (
    CONTOUR_RATE_HZ,
    FLOOR,
    LAGS,
    MAX_HZ,
    MEL_BANDS,
    MIN_HZ,
    MIN_VOICING,
    N_CEPSTRA,
    N_CONTOURS,
    _filters,
    log_mel,
    voice_contours,
)
from reactometer.types import FloatArray

N_VALUES = N_CEPSTRA + 1
PITCH, PITCH_CHANGE, VOICING = N_CEPSTRA, 2 * N_VALUES - 1, 4 * N_VALUES


def _voice(pitch_hz: float, seconds: float = 1.0, loudness: float = 0.1) -> FloatArray:
    """A sum of harmonics, as a vowel has them, and some breath in every band."""
    times_s = np.arange(int(16_000 * seconds)) / 16_000
    harmonics = sum(np.sin(2 * np.pi * n * pitch_hz * times_s + n) / n for n in range(1, 12))
    breath = np.random.default_rng(0).normal(0, 0.03, len(times_s))
    sound: FloatArray = (loudness * (harmonics + breath)).astype(np.float32)
    return sound


@pytest.mark.parametrize("pitch_hz", [80.0, 120.0, 210.0, 400.0])
def test_the_pitch_of_a_vowel_is_estimated(pitch_hz: float) -> None:
    values, _ = voice_contours(_voice(pitch_hz))
    inner = values[3:-3]
    assert np.exp(inner[:, PITCH]) == pytest.approx(pitch_hz, rel=0.02)
    assert inner[:, PITCH_CHANGE].max() < 0.02
    assert inner[:, VOICING].min() > 0.9


def test_noise_has_no_pitch_and_moves_none() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    values, _ = voice_contours(np.concatenate([_voice(150.0), noise]))
    assert (values[55:-3, VOICING] < MIN_VOICING).all()
    assert np.exp(values[55:-3, PITCH]) == pytest.approx(150.0, rel=0.02)  # the median of the voiced steps


def test_pauses_are_distinguished_from_speech() -> None:
    _, speaks = voice_contours(np.concatenate([_voice(150.0), np.zeros(16_000, np.float32)]))
    assert speaks[: CONTOUR_RATE_HZ - 1].all()
    assert not speaks[CONTOUR_RATE_HZ + 1 :].any()


def test_half_a_second_of_speech_in_15_s_is_detected() -> None:
    _, speaks = voice_contours(np.concatenate([_voice(150.0, 0.5), np.zeros(15 * 16_000, np.float32)]))
    assert speaks.nonzero()[0].max() < 30


def test_loudness_changes_only_the_first_coefficient_and_the_bands() -> None:
    quiet, loud = (voice_contours(_voice(150.0, loudness=level))[0][3:-3] for level in (0.1, 0.2))
    louder = (loud - quiet).mean(axis=0)
    first, others, bands = louder[0], louder[1:-MEL_BANDS], louder[-MEL_BANDS:]
    assert first == pytest.approx(8 * np.log(4), rel=0.02)  # 64 bands, each ln 4 up, orthonormal transform
    assert np.abs(others).max() < 0.5
    np.testing.assert_allclose(bands, np.log(4), atol=0.2)


def test_changes_are_measured_over_each_lag() -> None:
    values, _ = voice_contours(_voice(150.0))
    for number, lag in enumerate(LAGS, start=1):
        expected = np.abs(values[lag:, :N_VALUES] - values[:-lag, :N_VALUES])
        np.testing.assert_allclose(
            values[:-lag, number * N_VALUES : (number + 1) * N_VALUES], expected, atol=1e-4
        )
        assert not values[-1, number * N_VALUES : (number + 1) * N_VALUES].any()


@pytest.mark.parametrize(("samples", "steps"), [(0, 0), (1, 1), (320, 1), (321, 2), (16_000, 50)])
def test_there_are_fifty_steps_per_second_and_silence_is_finite(samples: int, steps: int) -> None:
    values, speaks = voice_contours(np.zeros(samples, dtype=np.float32))
    assert values.shape == (steps, N_CONTOURS)
    assert values.dtype == np.float32
    assert speaks.shape == (steps,)
    assert np.isfinite(values).all()


def _tone(rate_hz: float, seconds: float = 1.0) -> FloatArray:
    tone: FloatArray = np.sin(2 * np.pi * rate_hz * np.arange(int(16000 * seconds)) / 16000).astype(
        np.float32
    )
    return tone


def test_it_equals_an_independent_implementation() -> None:
    """transformers' NumPy spectrogram with the same filters (its frames are centred the same way)."""
    library: Any = audio_utils
    waveform = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    bank: Any = library.mel_filter_bank(257, MEL_BANDS, MIN_HZ, MAX_HZ, 16000, norm=None, mel_scale="htk")
    window = library.window_function(400, "hann", periodic=True, frame_length=512)
    theirs = library.spectrogram(
        waveform, window, 512, 160, power=2.0, center=True, pad_mode="constant", mel_filters=bank
    )
    expected = np.log(theirs / (window**2).sum() + FLOOR).T[:100]
    np.testing.assert_allclose(log_mel(waveform), expected, atol=1e-3)


@pytest.mark.shared
def test_the_spectrogram_of_real_sound_equals_that_of_torch(shared_data: Path) -> None:
    """torch.stft in float64; in float32, torch itself is up to 7e-5 away from it."""
    for name in ("clips/face_noface.mov", "facevoice/test/mp4/00460.mp4", "facevoice/test/mp4/00461.mp4"):
        waveform = read_waveform(shared_data / name)
        assert waveform is not None
        hann = torch.hann_window(400, dtype=torch.float64)
        padded = torch.nn.functional.pad(torch.from_numpy(waveform).double(), (256, 256))
        spectrum = torch.stft(padded, 512, 160, 400, hann, center=False, return_complex=True)
        power = spectrum.abs().square() / hann.square().sum()  # (257, N)
        bank = torch.from_numpy(_filters()).double()  # (257, M)
        expected = torch.log(power.T[: math.ceil(len(waveform) / 160)] @ bank + FLOOR)
        np.testing.assert_allclose(log_mel(waveform), expected.numpy(), atol=1e-5)


def test_a_tone_is_loudest_in_the_band_of_its_frequency() -> None:
    low, high = (int(log_mel(_tone(rate_hz)).mean(0).argmax()) for rate_hz in (300.0, 3000.0))

    def mel(rate_hz: float) -> float:
        return 2595 * math.log10(1 + rate_hz / 700)

    centres = np.linspace(mel(MIN_HZ), mel(MAX_HZ), MEL_BANDS + 2)[1:-1]
    assert low == int(np.abs(centres - mel(300.0)).argmin())
    assert high == int(np.abs(centres - mel(3000.0)).argmin())


def test_twice_the_amplitude_is_four_times_the_power() -> None:
    quiet, loud = log_mel(0.25 * _tone(1000.0)), log_mel(0.5 * _tone(1000.0))
    assert float((loud - quiet).max()) == pytest.approx(np.log(4.0), abs=1e-3)


@pytest.mark.parametrize(("samples", "steps"), [(0, 0), (1, 1), (160, 1), (161, 2), (16000, 100)])
def test_there_are_a_hundred_steps_per_second(samples: int, steps: int) -> None:
    mel = log_mel(np.zeros(samples, dtype=np.float32))
    assert mel.shape == (steps, MEL_BANDS)
    assert mel.dtype == np.float32
    assert np.isfinite(mel).all()
