"""Batches for PyTorch: pad, mask and shuffle the clips of a split."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from reactometer.data.cache import PreparedRow
from reactometer.data.inputs import Item, Reader, parts_of


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
