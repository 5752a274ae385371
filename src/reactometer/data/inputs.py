"""Build a model's input from a prepared clip: frames, their times and masks, and the sound."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from reactometer.data.cache import PreparedRow, load_clip
from reactometer.media.audio import is_audible
from reactometer.media.audio_features import STEP_RATE_HZ, log_mel
from reactometer.media.faces import decode_crop
from reactometer.media.segments import part_bounds, slice_clip
from reactometer.media.speech import speech_share
from reactometer.types import SOUND_RATE_HZ, ByteArray, FaceSample, FloatArray, PreparedClip

BLOCK_SIZE = 320
"""Samples per block of the waveform: 20 ms, the step of HuBERT and wav2vec 2.0."""


@dataclass(frozen=True)
class Item:
    """Model input of one clip or window; letters as in :mod:`reactometer.types`."""

    frames: np.ndarray  # (T, 3, H, W) uint8, or (T, D) float32
    face_mask: np.ndarray  # (T,) bool
    times_s: FloatArray  # (T,)
    voice: FloatArray  # (N, M); N = 0 if nothing is audible
    voice_times_s: FloatArray  # (N,)
    targets: tuple[float, ...] | None = None
    face_px: float = math.nan  # median height of the faces' boxes in the file's frames; NaN: unknown
    speech_share: float = math.nan  # of the sound, in [0, 1]; NaN: unknown
    warnings: tuple[str, ...] = ()  # reasons why the face or the voice is masked
    clip_index: int = 0


@dataclass(frozen=True)
class InputSpec:
    """Sampling of a clip for a model: number and size of frames, and modalities."""

    n_frames: int
    size_px: int
    uses_face: bool = True
    uses_voice: bool = True
    audio_input: Literal["log-mel", "samples"] = "log-mel"
    crop_share: float = 1.0  # central share of the crop's side


@dataclass(frozen=True)
class ClipPart:
    """A part of one clip of a list."""

    index: int  # of the clip in the list
    start_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        """Return the length in seconds."""
        return self.end_s - self.start_s


ItemLoader = Callable[[PreparedRow, ClipPart, "np.random.Generator | None"], Item]
"""Reads a part of a clip; with a generator, frames are jittered as in training."""

ClipTransform = Callable[[PreparedClip, "np.random.Generator"], PreparedClip]
"""Changes a clip; the generator depends only on the clip, so that every call returns the same."""


def sample_frame_indices(
    times_s: Sequence[float],
    start_s: float,
    end_s: float,
    n_frames: int,
    rng: np.random.Generator | None = None,
) -> list[int]:
    """Return the indices of at most ``n_frames`` distinct samples, evenly spaced in time.

    The interval is divided into ``n_frames`` equal bins. The sample nearest to each bin's centre is selected
    or, with ``rng`` (in training), nearest to a random time in the bin.
    """
    if not times_s or end_s <= start_s:
        return []
    shifts = np.zeros(n_frames) if rng is None else rng.uniform(-0.5, 0.5, n_frames)
    target_times_s = start_s + (np.arange(n_frames) + 0.5 + shifts) / n_frames * (
        end_s - start_s
    )  # (n_frames,)
    distances_s = np.abs(np.asarray(times_s) - target_times_s[:, None])  # (n_frames, T)
    return sorted(set(distances_s.argmin(axis=1).tolist()))


def pick_samples(
    clip: PreparedClip, spec: InputSpec, rng: np.random.Generator | None = None
) -> list[FaceSample]:
    """Return the samples of a clip that a model uses, see :func:`sample_frame_indices`."""
    times_s = [sample.time_s for sample in clip.samples]
    return [
        clip.samples[i] for i in sample_frame_indices(times_s, clip.start_s, clip.end_s, spec.n_frames, rng)
    ]


def to_item(clip: PreparedClip, spec: InputSpec, rng: np.random.Generator | None = None) -> Item:
    """Decode a model's input from a clip; with ``rng``, the choice of frames is jittered as in training."""
    samples = pick_samples(clip, spec, rng)
    frames = np.zeros((len(samples), 3, spec.size_px, spec.size_px), dtype=np.uint8)  # (T, 3, H, W)
    face_mask = np.array(
        [spec.uses_face and sample.crop_jpeg is not None for sample in samples], dtype=bool
    )  # (T,)
    for i, sample in enumerate(samples):
        if face_mask[i]:
            frames[i] = decode_frame(sample.crop_jpeg or b"", spec)
    audible = spec.uses_voice and clip.waveform is not None and is_audible(clip.waveform)
    waveform = clip.waveform if audible else None
    voice, rate_hz = _audio_steps(waveform, spec.audio_input)
    return Item(
        frames=frames,
        face_mask=face_mask,
        times_s=np.array([sample.time_s - clip.start_s for sample in samples], dtype=np.float32),
        voice=voice,
        voice_times_s=np.arange(len(voice), dtype=np.float32) / rate_hz,
        face_px=face_height(samples) if spec.uses_face else math.nan,
        speech_share=math.nan if waveform is None else speech_share(waveform),
    )


def face_height(samples: Sequence[FaceSample]) -> float:
    """Return the median height of the faces' boxes, pixels of the file's frames; NaN without a face."""
    heights = [sample.box[3] for sample in samples if sample.box]
    return float(np.median(heights)) if heights else math.nan


def _audio_steps(waveform: FloatArray | None, audio_input: str) -> tuple[FloatArray, float]:
    """Return log-mel steps (N, M) or blocks of samples (N, BLOCK_SIZE), and their rate in Hz."""
    sound = np.zeros(0, np.float32) if waveform is None else waveform
    if audio_input == "log-mel":
        return log_mel(sound), STEP_RATE_HZ
    padded = np.pad(sound, (0, -len(sound) % BLOCK_SIZE))
    return padded.reshape(-1, BLOCK_SIZE), SOUND_RATE_HZ / BLOCK_SIZE  # (N, BLOCK_SIZE)


def decode_frame(crop_jpeg: bytes, spec: InputSpec) -> ByteArray:
    """Decode a crop, or its central part, to (3, size_px, size_px) uint8 RGB."""
    crop = decode_crop(crop_jpeg)
    if spec.crop_share < 1.0:
        border = round(len(crop) * (1.0 - spec.crop_share) / 2)
        crop = crop[border : len(crop) - border, border : len(crop) - border]
    if crop.shape[0] != spec.size_px:
        interpolation = cv2.INTER_AREA if crop.shape[0] > spec.size_px else cv2.INTER_LINEAR
        crop = cv2.resize(crop, (spec.size_px, spec.size_px), interpolation=interpolation).astype(np.uint8)
    return crop.transpose(2, 0, 1)


@dataclass(frozen=True)
class MediaReader:
    """Reader of face crops and sound of prepared clips, or of the features that ``encode`` returns."""

    input_spec: InputSpec
    transform: ClipTransform | None = None
    encode: Callable[[Item], Item] | None = None

    def __call__(self, row: PreparedRow, part: ClipPart, rng: np.random.Generator | None = None) -> Item:
        """Decode the model's input from the part."""
        clip = load_clip(row)
        if self.transform is not None:
            clip = self.transform(clip, np.random.default_rng(zlib.crc32(row.clip.clip_id.encode())))
        item = to_item(slice_clip(clip, part.start_s, part.end_s), self.input_spec, rng)
        return item if self.encode is None else self.encode(item)


def split_parts(rows: Sequence[PreparedRow]) -> list[ClipPart]:
    """List every part of every clip, in order."""
    return [ClipPart(index, *span) for index, row in enumerate(rows) for span in part_bounds(row.duration_s)]
