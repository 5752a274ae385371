"""Frames and sound from memory instead of a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame

from reactometer.errors import DataError
from reactometer.media.audio import resample
from reactometer.types import SOUND_RATE_HZ, ByteArray, FloatArray, Frame, MediaInfo, SoundBlock


@dataclass(frozen=True)
class ArrayMedia:
    """Checked frames and sound; see :func:`check_arrays`."""

    name: str
    frames: ByteArray  # (T, H, W, 3) RGB
    times_s: npt.NDArray[np.float64]  # (T,)
    waveform: FloatArray | None  # (S,) float32 in [-1, 1], 16 kHz

    @property
    def info(self) -> MediaInfo:
        """The properties of a file with this content."""
        n_frames = len(self.frames)
        steps_s = np.diff(self.times_s)
        return MediaInfo(
            Path(self.name),
            duration_s=None,
            has_video=n_frames > 0,
            has_audio=self.waveform is not None,
            width_px=self.frames.shape[2],
            height_px=self.frames.shape[1],
            rate_hz=float(1.0 / np.median(steps_s)) if len(steps_s) else None,
            frame_count=n_frames,
        )

    def read_frames(self) -> Iterator[Frame]:
        """Yield the frames with their times."""
        for index, (image, time_s) in enumerate(zip(self.frames, self.times_s.tolist(), strict=True)):
            yield Frame(index, time_s, lambda image=image: image)  # type: ignore[misc]

    def read_sound(self) -> Iterator[SoundBlock]:
        """Yield the sound in blocks of a second."""
        samples = np.zeros(0, np.float32) if self.waveform is None else self.waveform
        for start in range(0, len(samples), SOUND_RATE_HZ):
            yield SoundBlock(start / SOUND_RATE_HZ, samples[start : start + SOUND_RATE_HZ])


def check_arrays(
    frames: Any,
    frames_per_s: float | None,
    times_s: Any,
    sound: Any,
    sound_rate_hz: int,
    name: str,
) -> ArrayMedia:
    """Check and convert the arguments of :meth:`.checkpoint.LoadedModel.predict_arrays`.

    Raises:
        DataError: neither frames nor sound, another shape or data type, or times that do not increase.
    """
    if frames is None and sound is None:
        raise DataError("neither frames nor sound", expected="frames, sound, or both")
    images = np.zeros((0, 1, 1, 3), np.uint8) if frames is None else np.asarray(frames)
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        got, expected = f"{images.shape} {images.dtype}", "(T, H, W, 3) uint8, RGB"
        raise DataError("frames have another shape or data type", got=got, expected=expected)
    if times_s is None and frames_per_s is None and len(images):
        raise DataError("the times of the frames are unknown", fix="Add frames_per_s or times_s")
    times = np.arange(len(images)) / (frames_per_s or 1.0) if times_s is None else np.asarray(times_s, float)
    if times.shape != (len(images),) or not np.isfinite(times).all() or (np.diff(times) <= 0.0).any():
        got = f"{times.shape}, {len(images)} frames"
        raise DataError("times do not fit the frames", got=got, expected="(T,) increasing seconds")
    if len(times) and times[0] < 0.0:
        raise DataError("times start before 0 s", got=f"{times[0]:g} s")
    return ArrayMedia(name, images, times, None if sound is None else _waveform(sound, sound_rate_hz))


def _waveform(sound: Any, rate_hz: int) -> FloatArray:
    """Return sound (S,) or (S, channels) as mono float32 at 16 kHz."""
    samples = np.asarray(sound)
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "if" or not len(samples):
        got, expected = f"{samples.shape} {samples.dtype}", "(S,) or (S, channels), float in [-1, 1] or int16"
        raise DataError("sound has another shape or data type", got=got, expected=expected)
    if samples.dtype.kind == "i":
        samples = samples / -float(np.iinfo(samples.dtype).min)
    if not np.isfinite(samples).all() or np.abs(samples).max() > 1.0:
        raise DataError("sound is out of range", got=f"up to {np.abs(samples).max():g}", expected="-1 to 1")
    mono = samples.reshape(len(samples), -1).mean(axis=1)  # (S,)
    frame = AudioFrame.from_ndarray(mono[None].astype(np.float32), format="fltp", layout="mono")
    frame.sample_rate = rate_hz
    return np.concatenate([chunk for _, chunk in resample([(0.0, frame)], 0.0)])
