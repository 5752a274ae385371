"""Waveform -> log-mel spectrogram."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from reactometer.types import SOUND_RATE_HZ, FloatArray

MEL_BANDS = 64
STEP_RATE_HZ = 100
"""Steps of the spectrogram a second (a hop of 10 ms)."""
WINDOW_SIZE = 400  # 25 ms
TRANSFORM_SIZE = 512
LOWEST_HZ, HIGHEST_HZ = 60.0, 7600.0
FLOOR = 1e-6
"""Added to each band's power before the logarithm: about the noise of 16-bit sound."""


@lru_cache(maxsize=1)
def _filters() -> Tensor:
    """(257, M): triangles of height 1 between band centres that are evenly spread on the HTK mel scale.

    transformers' ``mel_filter_bank`` gives the same, a test says; importing it takes longer than a prediction.
    """
    lowest, highest = (2595.0 * math.log10(1.0 + rate_hz / 700.0) for rate_hz in (LOWEST_HZ, HIGHEST_HZ))
    centres_hz = 700.0 * (10.0 ** (np.linspace(lowest, highest, MEL_BANDS + 2) / 2595.0) - 1.0)  # (M + 2,)
    bins_hz = np.linspace(0.0, SOUND_RATE_HZ / 2, TRANSFORM_SIZE // 2 + 1)  # (257,)
    above, widths = bins_hz[:, None] - centres_hz, np.diff(centres_hz)  # (257, M + 2), (M + 1,)
    bank = np.minimum(above[:, :-2] / widths[:-1], -above[:, 2:] / widths[1:]).clip(min=0.0)  # (257, M)
    return torch.from_numpy(bank.astype(np.float32))


def log_mel(waveform: FloatArray) -> FloatArray:
    """Natural logarithm of the power in mel bands (HTK scale, Hann window of 25 ms, hop of 10 ms).

    Args:
        waveform: (S,) float32 in [-1, 1], mono, 16 kHz.

    Returns:
        (N, M) float32 with N = ceil(S / 160) and M = 64; step n is centred on sample 160 n.
    """
    hop = SOUND_RATE_HZ // STEP_RATE_HZ
    if len(waveform) == 0:
        return np.zeros((0, MEL_BANDS), dtype=np.float32)
    window = torch.hann_window(WINDOW_SIZE)
    padded = torch.nn.functional.pad(torch.from_numpy(waveform), (TRANSFORM_SIZE // 2, TRANSFORM_SIZE // 2))
    spectrum = torch.stft(padded, TRANSFORM_SIZE, hop, WINDOW_SIZE, window, center=False, return_complex=True)
    power = spectrum.abs().square().T[: -(-len(waveform) // hop)] / window.square().sum()  # (N, 257)
    mel: FloatArray = torch.log(power @ _filters() + FLOOR).numpy()  # (N, M)
    return mel
