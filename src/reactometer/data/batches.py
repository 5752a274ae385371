"""Prepared clips -> padded and masked batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from reactometer.data.cache import PreparedRow, load_clip
from reactometer.media.audio import is_audible
from reactometer.media.faces import decode_crop
from reactometer.media.stream import cut_clip, part_spans
from reactometer.media.voice import MEL_BANDS, log_mel
from reactometer.records import ByteArray, FaceSample, FloatArray, PreparedClip


class Batch(NamedTuple):
    """What a model takes. A masked entry is zero and must not reach any result."""

    frames: Tensor  # (B, T, 3, H, W) uint8 RGB
    frame_mask: Tensor  # (B, T) bool: the frame shows the followed face
    times_s: Tensor  # (B, T) float32, from the beginning of the clip
    voice: Tensor  # (B, N, M) float32 log-mel
    voice_mask: Tensor  # (B, N) bool: the step is sound of an audible clip
    targets: Tensor  # (B, L) float32 in [0, 1]
    target_mask: Tensor  # (B,) bool: the clip has labels
    number: Tensor  # (B,) int64: the item's number in its data set


@dataclass(frozen=True)
class Item:
    """One clip, or window of one, ready to be batched; letters as in :class:`Batch` without B."""

    frames: ByteArray  # (T, 3, H, W)
    seen: np.ndarray  # (T,) bool
    times_s: FloatArray  # (T,)
    voice: FloatArray  # (N, M); N = 0 where nothing is audible
    targets: tuple[float, ...] | None = None
    number: int = 0


@dataclass(frozen=True)
class Sampling:
    """How many frames a model sees of a clip, how large, and which modalities reach it."""

    n_frames: int
    size_px: int
    looks: bool = True
    listens: bool = True


def pick_frames(
    times_s: Sequence[float], start_s: float, end_s: float, n_frames: int, rng: np.random.Generator | None = None
) -> list[int]:
    """Indices of at most ``n_frames`` samples, evenly spaced in time, each sample once.

    The span is cut into ``n_frames`` equal parts and the sample nearest to each part's middle is taken; with ``rng``,
    as in training, nearest to a moment drawn from the part.
    """
    if not times_s or end_s <= start_s:
        return []
    shifts = np.zeros(n_frames) if rng is None else rng.uniform(-0.5, 0.5, n_frames)
    points = start_s + (np.arange(n_frames) + 0.5 + shifts) / n_frames * (end_s - start_s)  # (n_frames,)
    known = np.asarray(times_s)  # (T,)
    right = np.searchsorted(known, points).clip(1, max(len(known) - 1, 1))
    nearest = np.where(points - known[right - 1] <= known[right.clip(max=len(known) - 1)] - points, right - 1, right)
    return sorted({int(index) for index in nearest.clip(0, len(known) - 1)})


def to_item(
    clip: PreparedClip,
    sampling: Sampling,
    *,
    targets: tuple[float, ...] | None = None,
    number: int = 0,
    rng: np.random.Generator | None = None,
) -> Item:
    """Decode what a model sees of a clip; with ``rng``, the choice of frames is jittered as in training."""
    times_s = [sample.time_s for sample in clip.samples]
    picked = pick_frames(times_s, clip.start_s, clip.end_s, sampling.n_frames, rng)
    samples = [clip.samples[place] for place in picked]
    frames = np.zeros((len(samples), 3, sampling.size_px, sampling.size_px), dtype=np.uint8)  # (T, 3, H, W)
    seen = np.array([sampling.looks and sample.crop_jpeg is not None for sample in samples], dtype=bool)  # (T,)
    for place, sample in enumerate(samples):
        if seen[place]:
            frames[place] = _picture(sample, sampling.size_px)
    hears = sampling.listens and is_audible(clip.waveform) and clip.waveform is not None
    return Item(
        frames=frames,
        seen=seen,
        times_s=np.array([sample.time_s - clip.start_s for sample in samples], dtype=np.float32),
        voice=log_mel(clip.waveform) if hears and clip.waveform is not None else np.zeros((0, MEL_BANDS), np.float32),
        targets=targets,
        number=number,
    )


def _picture(sample: FaceSample, size_px: int) -> ByteArray:
    """The sample's crop as (3, size_px, size_px) uint8 RGB."""
    crop = decode_crop(sample.crop_jpeg or b"")
    if crop.shape[0] != size_px:
        shrinks = crop.shape[0] > size_px
        crop = cv2.resize(
            crop, (size_px, size_px), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        ).astype(np.uint8)
    return crop.transpose(2, 0, 1)


def collate(items: Sequence[Item], n_labels: int) -> Batch:
    """Pad a list of items to the longest in frames and in sound, and mask the padding."""
    size_px = items[0].frames.shape[-1]
    frames = torch.zeros(
        (len(items), max(1, *(len(item.frames) for item in items)), 3, size_px, size_px), dtype=torch.uint8
    )
    frame_mask = torch.zeros(frames.shape[:2], dtype=torch.bool)
    times_s = torch.zeros(frames.shape[:2])
    voice = torch.zeros((len(items), max(1, *(len(item.voice) for item in items)), MEL_BANDS))
    voice_mask = torch.zeros(voice.shape[:2], dtype=torch.bool)
    targets = torch.zeros((len(items), n_labels))
    for place, item in enumerate(items):
        n_frames, n_steps = len(item.frames), len(item.voice)
        frames[place, :n_frames] = torch.from_numpy(item.frames)
        frame_mask[place, :n_frames] = torch.from_numpy(item.seen)
        times_s[place, :n_frames] = torch.from_numpy(item.times_s)
        voice[place, :n_steps] = torch.from_numpy(item.voice)
        voice_mask[place, :n_steps] = True
        if item.targets is not None:
            targets[place] = torch.tensor(item.targets)
    target_mask = torch.tensor([item.targets is not None for item in items])
    number = torch.tensor([item.number for item in items])
    return Batch(frames, frame_mask, times_s, voice, voice_mask, targets, target_mask, number)


@dataclass(frozen=True)
class Part:
    """A stretch of one clip of a list: the clip's place in it, and the stretch in seconds."""

    index: int
    start_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        """Length in seconds."""
        return self.end_s - self.start_s


class PartDataset(Dataset[Item]):
    """Every part of every clip, in order, as a model is shown it for a score."""

    def __init__(self, rows: Sequence[PreparedRow], sampling: Sampling) -> None:
        self.rows = tuple(rows)
        self.sampling = sampling
        self.parts = [Part(index, *span) for index, row in enumerate(rows) for span in part_spans(row.duration_s)]

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, place: int) -> Item:
        part = self.parts[place]
        row = self.rows[part.index]
        clip = cut_clip(load_clip(row), part.start_s, part.end_s)
        return to_item(clip, self.sampling, targets=row.clip.labels, number=place)


class TrainingDataset(Dataset[Item]):
    """Every clip once, its frames jittered (and, of a very long clip, one part) by ``(seed, epoch, clip)`` alone."""

    def __init__(self, rows: Sequence[PreparedRow], sampling: Sampling, seed: int, epoch: int) -> None:
        self.rows = tuple(rows)
        self.sampling = sampling
        self.seed = (seed, epoch)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Item:
        rng = np.random.default_rng((*self.seed, index))
        row = self.rows[index]
        spans = part_spans(row.duration_s)
        clip = cut_clip(load_clip(row), *spans[rng.integers(len(spans))])
        return to_item(clip, self.sampling, targets=row.clip.labels, number=index, rng=rng)
