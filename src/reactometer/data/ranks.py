"""Rank-based inverse normal transformation: each feature by its place among the training set's values.

(Blom 1958; scikit-learn's ``QuantileTransformer``.) Action units and other skewed features, many of them zero, become
comparable, and no value is an outlier. Ties share the middle of their places.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from reactometer.data.batches import Item, Part, Reader
from reactometer.data.cache import PreparedRow
from reactometer.records import FloatArray

N_QUANTILES = 257
MOST_STEPS = 10_000
"""Steps that the quantiles are taken of, evenly chosen where there are more."""


def fit_quantiles(steps: Iterable[FloatArray]) -> FloatArray | None:
    """(N_QUANTILES, D) quantiles of every feature over (T, D) steps; ``None`` where there are none."""
    kept = [part for part in steps if len(part)]
    if not kept:
        return None
    whole = np.concatenate(kept)  # (all steps, D)
    chosen = whole[:: len(whole) // MOST_STEPS + 1]
    quantiles: FloatArray = np.quantile(chosen, np.linspace(0.0, 1.0, N_QUANTILES), axis=0).astype(np.float32)
    return quantiles


def to_normal(steps: FloatArray, quantiles: Tensor) -> FloatArray:
    """(T, D) features -> where each lies among the quantiles (N_QUANTILES, D), as a standard normal value."""
    if not len(steps):
        return steps
    edges, values = quantiles.T.contiguous(), torch.from_numpy(np.ascontiguousarray(steps.T))  # (D, Q), (D, T)
    places = torch.searchsorted(edges, values) + torch.searchsorted(edges, values, right=True)  # twice the place
    share = (places / (2.0 * len(quantiles))).clamp(0.5 / len(quantiles), 1.0 - 0.5 / len(quantiles))
    normal: FloatArray = torch.special.ndtri(share).T.contiguous().numpy()  # (T, D)
    return normal


def rank_item(item: Item, quantiles: Mapping[str, Tensor]) -> Item:
    """The item with the features of the streams ("face", "voice") that have quantiles by their rank."""
    frames, voice = item.frames, item.voice
    if "face" in quantiles:
        frames = to_normal(frames, quantiles["face"]) * item.seen[:, None]
    if "voice" in quantiles:
        voice = to_normal(voice, quantiles["voice"])
    return replace(item, frames=frames, voice=voice)


@dataclass(frozen=True)
class RankReader:
    """Reads items with their features by rank."""

    read: Reader
    quantiles: Mapping[str, Tensor] = field(repr=False)  # by stream

    def __call__(self, row: PreparedRow, part: Part, rng: np.random.Generator | None = None) -> Item:
        """The item, ranked."""
        return rank_item(self.read(row, part, rng), self.quantiles)
