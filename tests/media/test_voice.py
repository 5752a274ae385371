"""The log-mel spectrogram, against transformers' own and against tones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from transformers import audio_utils

from reactometer.media.voice import FLOOR, HIGHEST_HZ, LOWEST_HZ, MEL_BANDS, log_mel
from reactometer.types import FloatArray


def _tone(rate_hz: float, seconds: float = 1.0) -> FloatArray:
    tone: FloatArray = np.sin(2 * np.pi * rate_hz * np.arange(int(16000 * seconds)) / 16000).astype(np.float32)
    return tone


def test_it_equals_an_independent_implementation() -> None:
    """transformers' NumPy spectrogram with the same filters (its frames are centred the same way)."""
    library: Any = audio_utils
    waveform = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    bank: Any = library.mel_filter_bank(257, MEL_BANDS, LOWEST_HZ, HIGHEST_HZ, 16000, norm=None, mel_scale="htk")
    window = library.window_function(400, "hann", periodic=True, frame_length=512)
    theirs = library.spectrogram(
        waveform, window, 512, 160, power=2.0, center=True, pad_mode="constant", mel_filters=bank
    )
    expected = np.log(theirs / (window**2).sum() + FLOOR).T[:100]
    np.testing.assert_allclose(log_mel(waveform), expected, atol=1e-3)


def test_a_tone_is_loudest_in_its_own_band() -> None:
    low, high = (int(log_mel(_tone(rate_hz)).mean(0).argmax()) for rate_hz in (300.0, 3000.0))

    def mel(rate_hz: float) -> float:
        return 2595 * math.log10(1 + rate_hz / 700)

    centres = np.linspace(mel(LOWEST_HZ), mel(HIGHEST_HZ), MEL_BANDS + 2)[1:-1]
    assert low == int(np.abs(centres - mel(300.0)).argmin())
    assert high == int(np.abs(centres - mel(3000.0)).argmin())


def test_twice_the_amplitude_is_four_times_the_power() -> None:
    quiet, loud = log_mel(0.25 * _tone(1000.0)), log_mel(0.5 * _tone(1000.0))
    assert float((loud - quiet).max()) == pytest.approx(np.log(4.0), abs=1e-3)


@pytest.mark.parametrize(("samples", "steps"), [(0, 0), (1, 1), (160, 1), (161, 2), (16000, 100)])
def test_there_are_a_hundred_steps_a_second(samples: int, steps: int) -> None:
    mel = log_mel(np.zeros(samples, dtype=np.float32))
    assert mel.shape == (steps, MEL_BANDS)
    assert mel.dtype == np.float32
    assert np.isfinite(mel).all()
