"""Read prepared clips as padded and masked batches."""

from __future__ import annotations

import gc
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from reactometer.data.cache import PreparedRow, load_clip
from reactometer.media.audio import is_audible
from reactometer.media.audio_features import STEP_RATE_HZ, log_mel
from reactometer.media.faces import decode_crop
from reactometer.media.segments import cut_clip, part_spans
from reactometer.types import SOUND_RATE_HZ, ByteArray, FaceSample, FloatArray, PreparedClip

BLOCK_SIZE = 320
"""Samples per block of the waveform: 20 ms, the step of HuBERT and wav2vec 2.0."""


class Batch(NamedTuple):
    """The input of a model. A masked entry is zero and must not influence any result."""

    frames: Tensor  # (B, T, 3, H, W) uint8 RGB, or (B, T, D) float32: features of frames
    frame_mask: Tensor  # (B, T) bool: the frame shows the followed face
    frame_times_s: Tensor  # (B, T) float32, from the beginning of the clip
    voice: Tensor  # (B, N, M) float32: log-mel, blocks of samples, or features of the voice
    voice_mask: Tensor  # (B, N) bool: the step is sound of an audible clip
    voice_times_s: Tensor  # (B, N) float32, from the beginning of the clip
    targets: Tensor  # (B, L) float32 in [0, 1]
    target_mask: Tensor  # (B,) bool: the clip has labels
    number: Tensor  # (B,) int64: the item's number in its data set
    seen: Tensor  # (K,) int64: places of the frames that show the face, among all B * T


@dataclass(frozen=True)
class Item:
    """One clip, or window of one, ready to be batched; letters as in :class:`Batch` without B."""

    frames: np.ndarray  # (T, 3, H, W) uint8, or (T, D) float32
    seen: np.ndarray  # (T,) bool
    times_s: FloatArray  # (T,)
    voice: FloatArray  # (N, M); N = 0 where nothing is audible
    voice_times_s: FloatArray  # (N,)
    targets: tuple[float, ...] | None = None
    number: int = 0


@dataclass(frozen=True)
class Sampling:
    """How a model samples a clip: number and size of frames, and modalities."""

    n_frames: int
    size_px: int
    looks: bool = True
    listens: bool = True
    hears: Literal["log-mel", "samples"] = "log-mel"
    crop_share: float = 1.0  # of the crop's side, its middle


@dataclass(frozen=True)
class Part:
    """A stretch of one clip of a list."""

    index: int  # the clip's place in the list
    start_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        """Length in seconds."""
        return self.end_s - self.start_s


Reader = Callable[[PreparedRow, Part, np.random.Generator | None], Item]
"""Read a part of a clip; with a generator, frames are jittered as in training."""

Change = Callable[[PreparedClip, np.random.Generator], PreparedClip]
"""Change a clip; its generator depends only on the clip, so that each reading is the same."""


def pick_frames(
    times_s: Sequence[float], start_s: float, end_s: float, n_frames: int, rng: np.random.Generator | None = None
) -> list[int]:
    """Return the indices of at most ``n_frames`` distinct samples, evenly spaced in time.

    The span is cut into ``n_frames`` equal parts, and the sample nearest to each part's middle is taken; with ``rng``,
    as in training, nearest to a random time in the part.
    """
    if not times_s or end_s <= start_s:
        return []
    shifts = np.zeros(n_frames) if rng is None else rng.uniform(-0.5, 0.5, n_frames)
    points = start_s + (np.arange(n_frames) + 0.5 + shifts) / n_frames * (end_s - start_s)  # (n_frames,)
    known = np.asarray(times_s)  # (T,)
    right = np.searchsorted(known, points).clip(1, max(len(known) - 1, 1))
    nearest = np.where(points - known[right - 1] <= known[right.clip(max=len(known) - 1)] - points, right - 1, right)
    return sorted({int(index) for index in nearest.clip(0, len(known) - 1)})


def pick_samples(clip: PreparedClip, sampling: Sampling, rng: np.random.Generator | None = None) -> list[FaceSample]:
    """Return the samples of a clip that a model uses, see :func:`pick_frames`."""
    times_s = [sample.time_s for sample in clip.samples]
    return [clip.samples[place] for place in pick_frames(times_s, clip.start_s, clip.end_s, sampling.n_frames, rng)]


def to_item(clip: PreparedClip, sampling: Sampling, rng: np.random.Generator | None = None) -> Item:
    """Decode a model's input from a clip; with ``rng``, the choice of frames is jittered as in training."""
    samples = pick_samples(clip, sampling, rng)
    frames = np.zeros((len(samples), 3, sampling.size_px, sampling.size_px), dtype=np.uint8)  # (T, 3, H, W)
    seen = np.array([sampling.looks and sample.crop_jpeg is not None for sample in samples], dtype=bool)  # (T,)
    for place, sample in enumerate(samples):
        if seen[place]:
            frames[place] = picture_of(sample.crop_jpeg or b"", sampling)
    audible = sampling.listens and clip.waveform is not None and is_audible(clip.waveform)
    voice, rate_hz = _steps(clip.waveform if audible else None, sampling.hears)
    return Item(
        frames=frames,
        seen=seen,
        times_s=np.array([sample.time_s - clip.start_s for sample in samples], dtype=np.float32),
        voice=voice,
        voice_times_s=np.arange(len(voice), dtype=np.float32) / rate_hz,
    )


def _steps(waveform: FloatArray | None, hears: str) -> tuple[FloatArray, float]:
    """Sound as steps of log-mel (N, M), or as blocks of samples (N, BLOCK_SIZE), and how many come a second."""
    sound = np.zeros(0, np.float32) if waveform is None else waveform
    if hears == "log-mel":
        return log_mel(sound), STEP_RATE_HZ
    padded = np.pad(sound, (0, -len(sound) % BLOCK_SIZE))
    return padded.reshape(-1, BLOCK_SIZE), SOUND_RATE_HZ / BLOCK_SIZE  # (N, BLOCK_SIZE)


def picture_of(crop_jpeg: bytes, sampling: Sampling) -> ByteArray:
    """A sample's crop, or its middle, as (3, size_px, size_px) uint8 RGB."""
    crop, size_px = decode_crop(crop_jpeg), sampling.size_px
    if sampling.crop_share < 1.0:
        border = round(len(crop) * (1.0 - sampling.crop_share) / 2)
        crop = crop[border : len(crop) - border, border : len(crop) - border]
    if crop.shape[0] != size_px:
        shrinks = crop.shape[0] > size_px
        crop = cv2.resize(
            crop, (size_px, size_px), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        ).astype(np.uint8)
    return crop.transpose(2, 0, 1)


def collate(items: Sequence[Item], n_labels: int) -> Batch:
    """Pad a list of items to the longest in frames and in sound, and mask the padding."""
    frames, frame_mask, frame_times_s = _pad([(item.frames, item.seen, item.times_s) for item in items])
    heard = [(item.voice, np.ones(len(item.voice), dtype=bool), item.voice_times_s) for item in items]
    voice, voice_mask, voice_times_s = _pad(heard)
    targets = torch.tensor([item.targets or (0.0,) * n_labels for item in items])  # (B, L)
    target_mask = torch.tensor([item.targets is not None for item in items])
    number = torch.tensor([item.number for item in items])
    seen = frame_mask.flatten().nonzero().flatten()  # here, since a GPU would have to be waited for
    sound = (voice, voice_mask, voice_times_s)
    return Batch(frames, frame_mask, frame_times_s, *sound, targets, target_mask, number, seen)


def _pad(rows: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> tuple[Tensor, Tensor, Tensor]:
    """Pad values, mask and times with zeros to the longest row, and to at least one step."""
    padded = [pad_sequence(list(map(torch.from_numpy, column)), batch_first=True) for column in zip(*rows, strict=True)]
    if not padded[0].shape[1]:
        padded = [steps.new_zeros(len(rows), 1, *steps.shape[2:]) for steps in padded]
    values, mask, times_s = padded
    return values, mask, times_s


@dataclass(frozen=True)
class MediaReader:
    """Reads face crops and sound of prepared clips, after an optional change."""

    sampling: Sampling
    change: Change | None = None

    def __call__(self, row: PreparedRow, part: Part, rng: np.random.Generator | None = None) -> Item:
        """Decode the model's input from the part."""
        clip = load_clip(row)
        if self.change is not None:
            clip = self.change(clip, np.random.default_rng(zlib.crc32(row.clip.clip_id.encode())))
        return to_item(cut_clip(clip, part.start_s, part.end_s), self.sampling, rng)


def parts_of(rows: Sequence[PreparedRow]) -> list[Part]:
    """List every part of every clip, in order."""
    return [Part(index, *span) for index, row in enumerate(rows) for span in part_spans(row.duration_s)]


def safe_workers(workers: int) -> int:
    """Return ``workers``, after making it safe to fork that many processes right away.

    Garbage decoders are collected here, because in a forked process their destructors would wait forever for threads.
    """
    if workers:
        gc.collect()
    return workers


class PartDataset(Dataset[Item]):
    """Every part of every clip, in order, for scoring."""

    def __init__(self, rows: Sequence[PreparedRow], read: Reader) -> None:
        self.rows = tuple(rows)
        self.read = read
        self.parts = parts_of(rows)

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, place: int) -> Item:
        part = self.parts[place]
        row = self.rows[part.index]
        return replace(self.read(row, part, None), targets=row.clip.labels, number=place)


class TrainingDataset(Dataset[Item]):
    """One random part of every clip, with jittered frames, by ``(seed, epoch, clip)`` only."""

    def __init__(self, rows: Sequence[PreparedRow], read: Reader, seed: int, epoch: int) -> None:
        self.rows = tuple(rows)
        self.read = read
        self.seed = (seed, epoch)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Item:
        rng = np.random.default_rng((*self.seed, index))
        row = self.rows[index]
        parts = parts_of([row])
        part = parts[rng.integers(len(parts))]
        return replace(self.read(row, part, rng), targets=row.clip.labels, number=index)


class Shuffled(Dataset[Item]):
    """The clips of one epoch, shuffled by ``(seed, epoch)`` only, for ``n_processes`` processes.

    Process r of n has the indices r, r + n, r + 2n … The last round is filled up with clips without labels, which do
    not influence training.
    """

    def __init__(self, clips: TrainingDataset, n_processes: int = 1) -> None:
        self.clips = clips
        order = np.random.default_rng(clips.seed).permutation(len(clips))
        self.order = np.resize(order, -(-len(clips) // n_processes) * n_processes).tolist()

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> Item:
        item = self.clips[self.order[place]]
        return item if place < len(self.clips) else replace(item, targets=None)
