"""Model inputs with a face and a voice, from their arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from reactometer.data.inputs import Item, Steps, all_steps


def item_of(
    frames: np.ndarray,
    face_mask: np.ndarray,
    times_s: np.ndarray,
    voice: np.ndarray,
    voice_times_s: np.ndarray,
    targets: tuple[float, ...] | None = None,
    **about: Any,
) -> Item:
    """Return an item of one clip; every step of the voice is audible."""
    streams = {"face": Steps(frames, face_mask, times_s), "voice": all_steps(voice, voice_times_s)}
    return Item(streams, targets, **about)
