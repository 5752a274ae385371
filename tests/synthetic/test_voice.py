"""The synthesised voices: their parameters can be measured in the sound."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import signal

from reactometer.synthetic.clip import VOICE
from reactometer.synthetic.voice import PARAMETERS, random_voice, speak
from reactometer.types import SOUND_RATE_HZ, FloatArray


def say(emotion: str, strength: float, seed: int = 2) -> FloatArray:
    """Three seconds of one person's voice under a steady emotion."""
    tracks = {name: np.full(300, strength * VOICE[emotion].get(name, 0.0), np.float32) for name in PARAMETERS}
    return speak(random_voice(np.random.default_rng(seed)), tracks, np.random.default_rng(seed))[0]


def median_pitch_hz(waveform: FloatArray) -> float:
    """Median over the loud blocks of 50 ms of the autocorrelation's highest peak between 60 and 500 Hz."""
    blocks = waveform[: len(waveform) // 800 * 800].reshape(-1, 800)
    loud = blocks[blocks.std(axis=1) > 0.5 * waveform.std()]
    lags = np.arange(SOUND_RATE_HZ // 500, SOUND_RATE_HZ // 60)
    echoes = [signal.correlate(block, block, "full")[799:][lags] for block in loud]
    return float(np.median([SOUND_RATE_HZ / lags[echo.argmax()] for echo in echoes]))


def test_a_voice_fits_its_time_and_range() -> None:
    voice = random_voice(np.random.default_rng(0))
    tracks = {name: np.zeros(150, np.float32) for name in PARAMETERS}
    waveform, opening = speak(voice, tracks, np.random.default_rng(0))
    assert (waveform.shape, opening.shape) == ((24_000,), (150,))
    assert waveform.dtype == np.float32
    assert 0.02 < np.abs(waveform).max() <= 1
    assert opening.min() >= 0
    assert 0.3 < opening.max() <= 1


def test_the_mouth_opens_when_the_voice_is_loud() -> None:
    tracks = {name: np.zeros(300, np.float32) for name in PARAMETERS}
    waveform, opening = speak(random_voice(np.random.default_rng(0)), tracks, np.random.default_rng(0))
    loudness = np.sqrt(np.square(waveform.reshape(300, 160)).mean(axis=1))
    assert np.corrcoef(loudness, opening)[0, 1] > 0.6


def test_pitch_rises_with_fear_and_falls_with_empathic_pain() -> None:
    rest, fear = median_pitch_hz(say("Fear", 0.0)), median_pitch_hz(say("Fear", 1.0))
    assert median_pitch_hz(say("Fear", 0.5)) == pytest.approx(rest * 2 ** (0.5 * 0.6 * 9 / 12), rel=0.1)
    assert fear == pytest.approx(rest * 2 ** (0.6 * 9 / 12), rel=0.1)
    assert median_pitch_hz(say("Empathic-Pain", 0.5)) < rest * 0.97


def test_anxiety_trembles_nine_times_a_second() -> None:
    def tremor(waveform: FloatArray) -> float:
        loudness = np.sqrt(np.square(waveform.reshape(300, 160)).mean(axis=1))
        rates_hz, power = signal.periodogram(loudness - loudness.mean(), fs=100)
        return float(power[np.abs(rates_hz - 9) < 0.5].sum() / power.sum())

    assert tremor(say("Anxiety", 1.0)) > tremor(say("Anxiety", 0.5)) > tremor(say("Anxiety", 0.0))


def test_empathic_pain_is_soft_and_amusement_laughs() -> None:
    def hiss(waveform: FloatArray) -> float:
        rates_hz, power = signal.welch(waveform, SOUND_RATE_HZ)
        return float(power[rates_hz > 2500].sum())

    assert say("Empathic-Pain", 1.0).std() < 0.7 * say("Empathic-Pain", 0.0).std()
    assert hiss(say("Amusement", 1.0)) > 1.5 * hiss(say("Amusement", 0.0))
