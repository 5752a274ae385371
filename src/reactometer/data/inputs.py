"""Build a model's input from a prepared clip: frames, their times and masks, and the sound."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import cv2
import numpy as np

from reactometer.data.cache import MEDIA, PreparedRow, load_clip
from reactometer.media.audio import is_audible
from reactometer.media.audio_features import STEP_RATE_HZ, log_mel
from reactometer.media.faces import decode_crop
from reactometer.media.segments import part_bounds, slice_clip
from reactometer.media.speech import speech_share
from reactometer.types import SOUND_RATE_HZ, ByteArray, FaceSample, FloatArray, PreparedClip

BLOCK_SIZE = 320
"""Samples per block of the waveform: 20 ms, the step of HuBERT and wav2vec 2.0."""


class Steps(NamedTuple):
    """One stream of a clip or window: images, sound or features over time."""

    values: np.ndarray  # (T, 3, H, W) uint8, or (T, D) float32
    mask: np.ndarray  # (T,) bool: the step shows the face, or contains sound or features
    times_s: FloatArray  # (T,), from the beginning of the clip

    def select(self, index: np.ndarray | slice) -> Steps:
        """Return some of the steps."""
        return Steps(self.values[index], self.mask[index], self.times_s[index])

    def between(self, start_s: float, end_s: float) -> Steps:
        """Return the steps in [start_s, end_s), with times from ``start_s``.

        Steps without a time (NaN) belong to every span.
        """
        timeless = np.isnan(self.times_s)
        steps = self.select(timeless | (self.times_s >= start_s) & (self.times_s < end_s))
        return steps._replace(times_s=np.nan_to_num(steps.times_s - np.float32(start_s)))

    @property
    def visible(self) -> np.ndarray:
        """The values in the mask."""
        return np.asarray(self.values[self.mask])


def all_steps(values: np.ndarray, times_s: FloatArray) -> Steps:
    """Return a stream whose mask contains every step."""
    return Steps(values, np.ones(len(values), bool), times_s)


def no_steps(feature_size: int) -> Steps:
    """Return a stream of features without steps."""
    return all_steps(np.zeros((0, feature_size), np.float32), np.zeros(0, np.float32))


@dataclass(frozen=True)
class Item:
    """Model input of one clip or window; letters as in :mod:`reactometer.types`."""

    streams: Mapping[str, Steps]  # by name
    targets: tuple[float, ...] | None = None
    face_px: float = math.nan  # median height of the faces' boxes in the file's frames; NaN: unknown
    speech_share: float = math.nan  # of the sound, in [0, 1]; NaN: unknown
    warnings: tuple[str, ...] = ()  # reasons why the face or the voice is masked
    clip_index: int = 0

    def has(self, name: str) -> bool:
        """Return whether a stream has a step in its mask."""
        return name in self.streams and bool(self.streams[name].mask.any())

    def with_steps(self, streams: Mapping[str, Steps]) -> Item:
        """Return the item with some streams added or replaced."""
        return replace(self, streams={**self.streams, **streams})


@dataclass(frozen=True)
class InputSpec:
    """Sampling of a clip for a model: number and size of frames, and streams of media."""

    n_frames: int
    size_px: int
    media: tuple[str, ...] = MEDIA  # those of the streams that are read from video and sound
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
    item = Item({})
    if "face" in spec.media:
        samples = pick_samples(clip, spec, rng)
        frames = np.zeros((len(samples), 3, spec.size_px, spec.size_px), dtype=np.uint8)  # (T, 3, H, W)
        for frame, sample in zip(frames, samples, strict=True):
            if sample.crop_jpeg:
                frame[:] = decode_frame(sample.crop_jpeg, spec)
        face = face_steps(clip, samples, frames)
        item = replace(item, streams={"face": face}, face_px=face_height(samples))
    if "voice" in spec.media:
        waveform = clip.waveform if is_audible(clip.waveform) else None
        values, rate_hz = _audio_steps(waveform, spec.audio_input)
        voice = all_steps(values, np.arange(len(values), dtype=np.float32) / np.float32(rate_hz))
        share = math.nan if waveform is None else speech_share(waveform)
        item = replace(item.with_steps({"voice": voice}), speech_share=share)
    return item


def face_steps(clip: PreparedClip, samples: Sequence[FaceSample], values: np.ndarray) -> Steps:
    """Return the stream of a clip's samples, from their images or features (T, ...)."""
    mask = np.array([bool(sample.crop_jpeg) for sample in samples], dtype=bool)
    return Steps(values, mask, np.array([sample.time_s - clip.start_s for sample in samples], np.float32))


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
