"""A model and prepared clips -> intensities: the one way that validation, evaluation and prediction share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import numpy as np
import torch
from torch.utils.data import DataLoader

from reactometer.data.batches import Batch, Item, PartDataset, Reader, collate
from reactometer.data.cache import PreparedRow
from reactometer.models.network import ReactionModel
from reactometer.records import FloatArray

MOST_STEPS = 5000
"""Steps of sound in one batch of a stream: about one part of a minute, and many short windows."""


@dataclass(frozen=True)
class Score:
    """What the model says of one item."""

    number: int  # the item's
    intensities: FloatArray  # (L,) in [0, 1]
    has_evidence: bool  # False: nothing seen or heard, and the intensities are the training mean


@torch.inference_mode()
def score_batch(model: ReactionModel, batch: Batch) -> list[Score]:
    """One score an item of the batch; the model must be in evaluation mode, on the batch's device or another."""
    batch = Batch(*(tensor.to(model.label_mean.device) for tensor in batch))
    intensities = model(batch).float().cpu().numpy()  # (B, L)
    evidence = model.has_evidence(batch).cpu().tolist()
    return [Score(int(batch.number[row]), intensities[row], evidence[row]) for row in range(len(evidence))]


def score_items(model: ReactionModel, items: Iterable[Item], batch_size: int = 8) -> Iterator[Score]:
    """Score a stream of items, those of like length ``batch_size`` at a time; few more of them are ever held.

    Scores come as batches fill, so not in the items' order: each carries its item's number.
    """
    waiting: dict[int, list[Item]] = {}
    for item in items:
        like = waiting.setdefault(len(item.voice).bit_length(), [])
        like.append(item)
        if len(like) == batch_size or len(like) * len(item.voice) > MOST_STEPS:
            yield from score_batch(model, collate(like, len(model.label_mean)))
            like.clear()
    for like in waiting.values():
        if like:
            yield from score_batch(model, collate(like, len(model.label_mean)))


def score_rows(
    model: ReactionModel,
    rows: Sequence[PreparedRow],
    read: Reader,
    *,
    draws: int = 1,
    batch_size: int = 8,
    workers: int = 0,
) -> Iterator[Score]:
    """Score clips: one score a clip, in their order, each as soon as its parts are scored."""
    dataset = PartDataset(rows, read, draws)
    loader = DataLoader(
        dataset, batch_size, num_workers=workers, collate_fn=partial(collate, n_labels=len(model.label_mean))
    )
    scores = (score for batch in loader for score in score_batch(model, batch))
    for index, own in groupby(scores, key=lambda score: dataset.parts[score.number].index):
        yield join_parts(index, [(dataset.parts[score.number].length_s, score) for score in own])


def join_parts(index: int, parts: Sequence[tuple[float, Score]]) -> Score:
    """The score of a clip from ``(length_s, score)`` of its parts: their mean, weighted by length.

    Parts without evidence do not count; when none has any, the answer is theirs, the training mean.
    """
    known = [part for part in parts if part[1].has_evidence] or list(parts)
    weights = [max(length_s, 1e-6) for length_s, _ in known]
    mean = np.average([score.intensities for _, score in known], axis=0, weights=weights)
    return Score(index, mean.astype(np.float32), any(score.has_evidence for _, score in parts))


def average_scores(by_member: Sequence[Sequence[Score]]) -> list[Score]:
    """The mean of several models' scores of the same items, in the items' order."""
    ordered = [sorted(scores, key=lambda score: score.number) for scores in by_member]
    return [
        replace(own[0], intensities=np.mean([score.intensities for score in own], axis=0, dtype=np.float32))
        for own in zip(*ordered, strict=True)
    ]
