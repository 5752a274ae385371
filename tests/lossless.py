"""Write lossless video files, so that a segment of a file equals the file of the segment."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from reactometer.types import SOUND_RATE_HZ, ByteArray, FloatArray

RATE_HZ = 10


def write(path: Path, frames: ByteArray, waveform: FloatArray | None) -> Path:
    """Write a ``.mkv`` of (T, H, W, 3) uint8 RGB at 10 frames per second, with or without sound."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("ffv1", rate=Fraction(RATE_HZ))
        video.height, video.width, video.pix_fmt = frames.shape[1], frames.shape[2], "bgr0"
        sound = None if waveform is None else container.add_stream("pcm_s16le", SOUND_RATE_HZ, layout="mono")
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode(None))
        if sound is not None and waveform is not None:
            heard = av.AudioFrame.from_ndarray(
                (waveform * 32767).round().astype(np.int16)[None], "s16", "mono"
            )
            heard.sample_rate, heard.pts = SOUND_RATE_HZ, 0
            container.mux(sound.encode(heard))
            container.mux(sound.encode(None))
    return path
