"""Compute a waveform's log-mel spectrogram, and contours of the voice: MFCCs, pitch, speech activity."""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np

from reactometer.types import SOUND_RATE_HZ, FloatArray

MEL_BANDS = 64
STEP_RATE_HZ = 100
"""Steps of the spectrogram per second (a hop of 10 ms)."""
WINDOW_SIZE = 400  # 25 ms
TRANSFORM_SIZE = 512
MIN_HZ, MAX_HZ = 60.0, 7600.0
BLOCK_SIZE = 48
"""Steps of the spectrogram per block: fits the CPU's cache, and is below the size from which BLAS uses
threads."""

FLOOR = 1e-6
"""Added to each band's power before the logarithm: about the noise of 16-bit sound."""

CONTOUR_RATE_HZ = 50
N_CEPSTRA = 20
"""Number of MFCCs; the first is loudness."""

PITCH_WINDOW_SIZE = 640  # 40 ms: two periods of the lowest pitch
MIN_PITCH_HZ, MAX_PITCH_HZ = 60.0, 500.0
MIN_VOICING = 0.6
"""Minimum autocorrelation at the pitch's period of a voiced step."""

LOUDEST_SIZE, MAX_DROP = 5, 5.0
"""A step is a pause if its mean log power is this far (22 dB) below the loudest tenth of a second."""

OCTAVE_COST = 0.05
"""Minimum gain in autocorrelation for a pitch one octave lower (Boersma's 0.01 is for cleaner sound)."""

MIN_AUTOCORRELATION = 0.2
"""Autocorrelation of the window itself below which the correction for its shrinking overlap stops."""

LAGS = (1, 5, 15)
"""Steps over which the changes of MFCCs and pitch are measured: 20, 100 and 300 ms."""

N_CONTOURS = (1 + len(LAGS)) * (N_CEPSTRA + 1) + 1 + MEL_BANDS


@lru_cache(maxsize=1)
def _filters() -> FloatArray:
    """Return the mel filters, (257, M): triangles of height 1, with centres evenly spread on the HTK mel
    scale.

    A test compares with transformers' ``mel_filter_bank``, whose import takes longer than a prediction.
    """
    min_mel, max_mel = (2595.0 * math.log10(1.0 + rate_hz / 700.0) for rate_hz in (MIN_HZ, MAX_HZ))
    centres_hz = 700.0 * (10.0 ** (np.linspace(min_mel, max_mel, MEL_BANDS + 2) / 2595.0) - 1.0)  # (M + 2,)
    bins_hz = np.linspace(0.0, SOUND_RATE_HZ / 2, TRANSFORM_SIZE // 2 + 1)  # (257,)
    above = bins_hz[:, None] - centres_hz
    widths = np.diff(centres_hz)  # (257, M + 2), (M + 1,)
    bank = np.minimum(above[:, :-2] / widths[:-1], -above[:, 2:] / widths[1:]).clip(min=0.0)  # (257, M)
    return bank.astype(np.float32)


def log_mel(waveform: FloatArray) -> FloatArray:
    """Compute the natural logarithm of the power in mel bands (HTK scale, Hann window of 25 ms, hop of 10
    ms).

    Args:
        waveform: (S,) float32 in [-1, 1], mono, 16 kHz.

    Returns:
        (N, M) float32 with N = ceil(S / 160) and M = 64; step n is centred on sample 160 n.
    """
    hop = SOUND_RATE_HZ // STEP_RATE_HZ
    if len(waveform) == 0:
        return np.zeros((0, MEL_BANDS), dtype=np.float32)
    n_steps = -(-len(waveform) // hop)
    hann = np.hanning(WINDOW_SIZE + 1)[:-1]  # periodic, as in torch.hann_window
    padded = np.pad(waveform, (WINDOW_SIZE // 2, WINDOW_SIZE // 2))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW_SIZE)[::hop][:n_steps]  # (N, window)
    weights = hann / math.sqrt(np.square(hann).sum())
    mel = np.empty((n_steps, MEL_BANDS), dtype=np.float32)
    for first in range(0, n_steps, BLOCK_SIZE):
        block = slice(first, first + BLOCK_SIZE)
        spectrum = np.fft.rfft(
            frames[block] * weights, TRANSFORM_SIZE, axis=1
        )  # (n, 257); float64 for quiet bands
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        mel[block] = power.astype(np.float32) @ _filters() + FLOOR
    np.log(mel, out=mel)
    return mel


def voice_contours(waveform: FloatArray) -> tuple[FloatArray, np.ndarray]:
    """Compute low-level descriptors of speech.

    A selection from eGeMAPS (Eyben et al., IEEE Trans. Affective Computing 7, 2016): mel-frequency cepstral
    coefficients (Davis & Mermelstein 1980), pitch from normalised autocorrelation (as Boersma 1993, without
    his path search), the size of their changes over several lags, and the spectrum itself.

    Args:
        waveform: (S,) float32 in [-1, 1], mono, 16 kHz.

    Returns:
        (N, 149) float32, N = ceil(S / 320): 20 MFCCs of natural log power and the logarithm of the pitch in
        Hz (the median of the voiced steps in unvoiced ones); sizes of their changes over each of
        :data:`LAGS`; strength of voicing in [0, 1]; natural log power in 64 mel bands. And (N,) bool, True
        for speech.
    """
    hop = SOUND_RATE_HZ // CONTOUR_RATE_HZ
    n_steps = -(-len(waveform) // hop)
    if n_steps == 0:
        return np.zeros((0, N_CONTOURS), np.float32), np.zeros(0, bool)
    mel = log_mel(waveform)[:: STEP_RATE_HZ // CONTOUR_RATE_HZ]  # (N, M)
    cepstra = cv2.dct(mel.astype(np.float64), flags=cv2.DCT_ROWS)[:, :N_CEPSTRA]  # (N, 20)
    loudness = mel.mean(axis=1)  # (N,)
    loudest_size = min(LOUDEST_SIZE, n_steps)
    loudest = np.convolve(loudness, np.full(loudest_size, 1.0 / loudest_size), "valid").max()
    is_speech = loudness >= loudest - MAX_DROP  # (N,)
    pitch, voicing = _pitch(waveform, n_steps, hop)  # (N,) each
    voiced = is_speech & (voicing >= MIN_VOICING)
    pitch = np.where(voiced, pitch, np.median(pitch[voiced]) if voiced.any() else np.log(MIN_PITCH_HZ))
    values = np.column_stack([cepstra, pitch])  # (N, 21)
    columns = [values, *(_change(values, lag) for lag in LAGS), voicing[:, None], mel]
    return np.hstack(columns).astype(np.float32), is_speech


def _change(values: np.ndarray, lag: int) -> np.ndarray:
    """Return the absolute difference (N, D) to the step ``lag`` later, or to the last step."""
    later = np.minimum(np.arange(len(values)) + lag, len(values) - 1)
    return np.asarray(np.abs(values[later] - values))


def _pitch(waveform: FloatArray, n_steps: int, hop: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the logarithm of the likeliest pitch in Hz, (N,), and the strength of voicing, (N,) in [0,
    1]."""
    window = PITCH_WINDOW_SIZE
    min_lag = int(SOUND_RATE_HZ / MAX_PITCH_HZ)
    max_lag = int(SOUND_RATE_HZ / MIN_PITCH_HZ)
    padded = np.pad(waveform, (window // 2, n_steps * hop - len(waveform) + window // 2))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop][:n_steps]  # (N, window)
    hann = np.hanning(window)  # (window,)
    overlap = np.correlate(hann, hann, "full")[window - 1 :]  # autocorrelation of the window itself
    correction = np.maximum(overlap / overlap[0], MIN_AUTOCORRELATION)[: max_lag + 1]  # (lags,)
    cost = OCTAVE_COST * np.log2(np.arange(min_lag, max_lag + 1))  # (lags,)
    lag, strength = np.empty(n_steps, int), np.empty(n_steps)
    for first in range(0, n_steps, BLOCK_SIZE):
        block = slice(first, first + BLOCK_SIZE)
        centred = (frames[block] - frames[block].mean(axis=1, keepdims=True)) * hann  # (n, window)
        power = np.abs(np.fft.rfft(centred, 2 * window, axis=1)) ** 2
        autocorrelation = np.fft.irfft(power, axis=1)[:, : max_lag + 1]  # (n, lags): autocorrelation
        autocorrelation /= np.maximum(autocorrelation[:, :1], 1e-9)
        autocorrelation /= correction
        best = (autocorrelation[:, min_lag:] - cost).argmax(axis=1) + min_lag  # (n,)
        lag[block] = best
        strength[block] = autocorrelation[np.arange(len(best)), best].clip(0.0, 1.0)
    return np.log(SOUND_RATE_HZ / lag), strength
