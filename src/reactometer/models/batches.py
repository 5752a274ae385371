"""Batches for PyTorch: pad, mask and shuffle the clips of a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from reactometer.data.cache import PreparedRow
from reactometer.data.inputs import Item, ItemLoader, split_parts
from reactometer.inference.runtime import pad_items


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
    item_index: Tensor  # (B,) int64: index of the item in its dataset
    face_indices: Tensor  # (K,) int64: indices of the frames that show the face, among all B * T


class Stream(NamedTuple):
    """Features of one modality over time."""

    values: Tensor  # (B, T, D) float32, zeros outside the mask
    mask: Tensor  # (B, T) bool
    times_s: Tensor  # (B, T) float32, from the beginning of the clip


def collate(items: Sequence[Item], n_labels: int) -> Batch:
    """Pad a list of items to the longest in frames and in sound, and mask the padding."""
    faces, voices = pad_items(items)
    tensors = [torch.from_numpy(array) for array in (*faces, *voices)]
    targets = torch.tensor([item.targets or (0.0,) * n_labels for item in items])  # (B, L)
    target_mask = torch.tensor([item.targets is not None for item in items])
    number = torch.tensor([item.clip_index for item in items])
    seen = tensors[1].flatten().nonzero().flatten()  # here, since a GPU would have to be waited for
    return Batch._make([*tensors, targets, target_mask, number, seen])


class PartDataset(Dataset[Item]):
    """Every part of every clip, in order, for scoring."""

    def __init__(self, rows: Sequence[PreparedRow], read: ItemLoader) -> None:
        self.rows = tuple(rows)
        self.read = read
        self.parts = split_parts(rows)

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, place: int) -> Item:
        part = self.parts[place]
        row = self.rows[part.index]
        return replace(self.read(row, part, None), targets=row.clip.labels, clip_index=place)


class TrainingDataset(Dataset[Item]):
    """One random part of every clip, with jittered frames, shuffled: all by ``(seed, epoch, clip)`` only.

    Process r of n has the indices r, r + n, r + 2n … The last round is filled up with clips without labels, which do
    not influence training.
    """

    def __init__(
        self, rows: Sequence[PreparedRow], read: ItemLoader, seed: int, epoch: int, n_processes: int = 1
    ) -> None:
        self.rows = tuple(rows)
        self.read = read
        self.seed = (seed, epoch)
        order = np.random.default_rng(self.seed).permutation(len(rows))
        self.order = np.resize(order, -(-len(rows) // n_processes) * n_processes).tolist()

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> Item:
        index = self.order[place]
        rng = np.random.default_rng((*self.seed, index))
        row = self.rows[index]
        parts = split_parts([row])
        item = self.read(row, parts[rng.integers(len(parts))], rng)
        return replace(item, targets=row.clip.labels if place < len(self.rows) else None, clip_index=index)
