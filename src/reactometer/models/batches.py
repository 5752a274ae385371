"""Pad, mask and shuffle the clips of a split into batches."""

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


class Stream(NamedTuple):
    """One stream of a batch. A masked step is zero and must not influence any result."""

    values: Tensor  # (B, T, 3, H, W) uint8 RGB, or (B, T, D) float32
    mask: Tensor  # (B, T) bool: the step shows the tracked face, or contains sound or features
    times_s: Tensor  # (B, T) float32, from the beginning of the clip


class Batch(NamedTuple):
    """The input of a model."""

    streams: dict[str, Stream]  # by name
    targets: Tensor  # (B, L) float32 in [0, 1]
    target_mask: Tensor  # (B,) bool: the clip has labels
    clip_index: Tensor  # (B,) int64: index of the item in its dataset
    face_indices: Tensor  # (K,) int64: indices of the frames that show the face, among all B * T


def collate(items: Sequence[Item], n_labels: int) -> Batch:
    """Pad each stream of a list of items to the longest item, and mask the padding."""
    streams = {name: Stream._make(map(torch.from_numpy, steps)) for name, steps in pad_items(items).items()}
    targets = torch.tensor([item.targets or (0.0,) * n_labels for item in items])  # (B, L)
    target_mask = torch.tensor([item.targets is not None for item in items])
    clip_index = torch.tensor([item.clip_index for item in items])
    face_mask = streams["face"].mask if "face" in streams else target_mask
    face_indices = face_mask.flatten().nonzero().flatten()  # on the CPU, because on a GPU this would block
    return Batch(streams, targets, target_mask, clip_index, face_indices)


class PartDataset(Dataset[Item]):
    """All parts of all clips, in order, for scoring."""

    def __init__(self, rows: Sequence[PreparedRow], load_item: ItemLoader) -> None:
        self.rows = tuple(rows)
        self.load_item = load_item
        self.parts = split_parts(rows)

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> Item:
        part = self.parts[index]
        row = self.rows[part.index]
        return replace(self.load_item(row, part, None), targets=row.clip.labels, clip_index=index)


class TrainingDataset(Dataset[Item]):
    """One random part per clip, with jittered frames, in random order; all follow from ``(seed, epoch,
    clip)``.

    Process r of n has the indices r, r + n, r + 2n … The last round is padded with clips without labels,
    which do not influence training.
    """

    def __init__(
        self, rows: Sequence[PreparedRow], load_item: ItemLoader, seed: int, epoch: int, n_processes: int = 1
    ) -> None:
        self.rows = tuple(rows)
        self.load_item = load_item
        self.seed = (seed, epoch)
        order = np.random.default_rng(self.seed).permutation(len(rows))
        self.order = np.resize(order, -(-len(rows) // n_processes) * n_processes).tolist()

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> Item:
        index = self.order[position]
        rng = np.random.default_rng((*self.seed, index))
        row = self.rows[index]
        parts = split_parts([row])
        item = self.load_item(row, parts[rng.integers(len(parts))], rng)
        return replace(item, targets=row.clip.labels if position < len(self.rows) else None, clip_index=index)
