"""Render the service's example clip: one synthetic person with several reactions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from reactometer.io import atomic_file
from reactometer.synthetic.clip import clip_plan, render_clip
from reactometer.synthetic.dataset import write_video

RATE_HZ, SIZE_PX, DURATION_S = 12.0, 240, 3.0
CLIPS = (3, 18, 9, 21)
"""Indices in the synthetic demo dataset, whose reactions follow each other."""

AWAY_S = (5.5, 8.5)
"""Time without the person, seconds."""


def write_example(file: Path) -> None:
    """Write an MP4 file of 12 s: one face and voice, four reactions, and three seconds without a face."""
    plans = [clip_plan(index, duration_s=DURATION_S, rate_hz=RATE_HZ, size_px=SIZE_PX) for index in CLIPS]
    clips = [
        render_clip(replace(plan, appearance=plans[0].appearance, voice=plans[0].voice, sound="voice"))
        for plan in plans
    ]
    frames = np.concatenate([frames for frames, _ in clips])  # (T, H, W, 3)
    away = slice(*(round(time_s * RATE_HZ) for time_s in AWAY_S))
    frames[away] = frames[away].mean(axis=(1, 2), keepdims=True)
    with atomic_file(file) as partial:
        write_video(partial, frames, RATE_HZ, np.concatenate([waveform for _, waveform in clips]))
