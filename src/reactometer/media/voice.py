"""Waveform -> log-mel spectrogram."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from reactometer.records import SOUND_RATE_HZ, FloatArray

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
    from transformers.audio_utils import mel_filter_bank

    bank = mel_filter_bank(
        TRANSFORM_SIZE // 2 + 1, MEL_BANDS, LOWEST_HZ, HIGHEST_HZ, SOUND_RATE_HZ, norm=None, mel_scale="htk"
    )
    return torch.from_numpy(np.asarray(bank, dtype=np.float32))  # (257, M)


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
