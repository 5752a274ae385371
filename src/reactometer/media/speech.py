"""Detect speech with a small convolution over the log-mel spectrogram, which ``recipes/speech`` trains."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from safetensors.numpy import load_file

from reactometer.io import sha256_of
from reactometer.media.audio_features import log_mel
from reactometer.paths import STARTER, find_checkpoint, find_starter
from reactometer.types import FloatArray

WEIGHTS_FILE = "speech.safetensors"
"""Beside the starter model, because its licence is not this package's; all models use it."""

STEP = 2
"""Every second step of the spectrogram is used: 50 per second."""

LOG_MEL_SCALE = 4.0
"""About the standard deviation of natural log-mel values over a clip with speech."""

DILATIONS = (1, 4, 16)
"""Distance of the five taps of each convolution, steps; together they see 1.7 s."""

MIN_PROBABILITY = 0.9
"""A step is speech from this probability on: music and machines seldom reach it."""


def speech_share(waveform: FloatArray) -> float:
    """Return the share in [0, 1] of a waveform that is speech: (S,) float32 in [-1, 1], mono, 16 kHz.

    It is NaN if the starter model, and with it the detector of speech, is not installed.
    """
    if not len(waveform):
        return 0.0
    if not detector_sha256():
        return math.nan
    weights = _weights()
    steps = scale(log_mel(waveform)[::STEP])  # (N, 64)
    for number, dilation in enumerate(DILATIONS):
        steps = _convolve(steps, weights[f"{number}.weight"], dilation) + weights[f"{number}.bias"]
        steps = np.maximum(steps, 0.0)  # (N, C)
    logits = steps @ weights["out.weight"] + weights["out.bias"]  # (N,)
    return float(np.mean(logits >= np.log(MIN_PROBABILITY / (1.0 - MIN_PROBABILITY))))


def scale(mel: FloatArray) -> FloatArray:
    """Subtract the mean of a log-mel spectrogram (N, 64), so that the level of the sound has no influence."""
    scaled: FloatArray = (mel - mel.mean()) / LOG_MEL_SCALE
    return scaled


def _convolve(steps: FloatArray, weight: FloatArray, dilation: int) -> FloatArray:
    """Convolve (N, D) with a kernel (K, D, C), padded with zeros, to (N, C)."""
    n_taps = len(weight)
    margin = dilation * (n_taps // 2)
    padded = np.pad(steps, ((margin, margin), (0, 0)))
    taps = [padded[tap * dilation : tap * dilation + len(steps)] for tap in range(n_taps)]
    return np.hstack(taps) @ weight.reshape(-1, weight.shape[2])


@cache
def detector_sha256() -> str | None:
    """Return the SHA-256 of the detector's weights, or ``None`` if they are not installed."""
    folder = find_starter()
    return sha256_of(folder / WEIGHTS_FILE) if folder else None


@cache
def _weights() -> dict[str, FloatArray]:
    weights: dict[str, FloatArray] = load_file(find_checkpoint(STARTER) / WEIGHTS_FILE)
    return weights
