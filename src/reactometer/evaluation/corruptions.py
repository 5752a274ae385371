"""A prepared clip -> the same clip harder to read: a hidden face, noise, few pixels, few frames."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from reactometer.media.audio import STRETCH_S, is_audible
from reactometer.media.faces import decode_crop, encode_crop
from reactometer.types import SOUND_RATE_HZ, FaceSample, FloatArray, FrameState, PreparedClip

HIDDEN_S = 1.0
"""Length of a stretch in which the face is hidden. What hides a face (a hand, a turned head, somebody in front) stays
for about so long; frames hidden one by one cost less, since their neighbours show nearly the same."""

PAUSE_DB = 22.0
"""A stretch so far below the loudest one is no speech; as in :mod:`reactometer.media.audio_features`."""


def hide_face(clip: PreparedClip, rng: np.random.Generator, share: float) -> PreparedClip:
    """Hide the face in ``share`` (in [0, 1], rounded to whole frames) of the sampled frames, by stretches of a second.

    Stretches lie side by side from a drawn moment on and are hidden in a drawn order; with the same generator, what a
    smaller share hides a larger one hides too. Frames without a face count as any other.
    """
    times_s = np.array([sample.time_s for sample in clip.samples])  # (T,)
    stretch = np.floor((times_s - clip.start_s) / HIDDEN_S + rng.random()).astype(int)  # (T,) the frame's stretch
    rank = rng.permutation(int(stretch.max(initial=0)) + 1)[stretch]  # (T,)
    hidden = set(np.argsort(rank, kind="stable")[: round(share * len(times_s))].tolist())
    return replace(
        clip,
        samples=tuple(
            FaceSample(sample.time_s, FrameState.NO_FACE) if place in hidden else sample
            for place, sample in enumerate(clip.samples)
        ),
    )


def add_noise(clip: PreparedClip, rng: np.random.Generator, snr_db: float) -> PreparedClip:
    """Add white noise ``snr_db`` below the clip's speech; what would exceed full scale is turned down as a whole.

    A clip without audible sound has no speech to compare with, and stays as it is.
    """
    if clip.waveform is None or not is_audible(clip.waveform):
        return clip
    noise = rng.standard_normal(len(clip.waveform))  # (S,)
    noise *= np.sqrt(speech_power(clip.waveform) / 10 ** (snr_db / 10) / np.mean(noise**2))
    mixed = clip.waveform + noise
    return replace(clip, waveform=(mixed / max(1.0, np.abs(mixed).max())).astype(np.float32))


def speech_power(waveform: FloatArray) -> float:
    """Mean square of a (S,) waveform over its speech: the 100 ms no more than 22 dB below the loudest."""
    size = int(STRETCH_S * SOUND_RATE_HZ)
    starts = np.arange(0, len(waveform), size)
    power = np.add.reduceat(np.square(waveform, dtype=np.float64), starts) / size
    return float(power[power >= power.max() / 10 ** (PAUSE_DB / 10)].mean())


def mute(clip: PreparedClip, rng: np.random.Generator) -> PreparedClip:
    """Take the sound away; ``rng`` is not used."""
    return replace(clip, waveform=None)


def shrink_faces(clip: PreparedClip, rng: np.random.Generator, side_px: int) -> PreparedClip:
    """Face crops of their size with the detail of ``side_px`` pixels a side: shrunk, enlarged, a JPEG again.

    A crop that is not larger stays as it is; ``rng`` is not used.
    """
    return replace(clip, samples=tuple(_shrunk(sample, side_px) for sample in clip.samples))


def thin_frames(clip: PreparedClip, rng: np.random.Generator, step: int) -> PreparedClip:
    """Every ``step``-th sampled frame, the first one among them, as a slower camera has it; ``rng`` is not used."""
    return replace(clip, samples=clip.samples[::step])


def _shrunk(sample: FaceSample, side_px: int) -> FaceSample:
    if sample.crop_jpeg is None:
        return sample
    crop = decode_crop(sample.crop_jpeg)
    if len(crop) <= side_px:
        return sample
    small = cv2.resize(crop, (side_px, side_px), interpolation=cv2.INTER_AREA)
    large = cv2.resize(small, (len(crop), len(crop)), interpolation=cv2.INTER_LINEAR)
    return replace(sample, crop_jpeg=encode_crop(np.asarray(large, dtype=np.uint8)))
