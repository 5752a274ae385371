"""A model and prepared clips -> intensities: the one way that validation, evaluation and prediction share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby

import torch
from torch.utils.data import DataLoader

from reactometer.data.batches import Batch, Item, PartDataset, Reader, Sampling, collate, safe_workers
from reactometer.data.cache import PreparedRow, PreparedSet
from reactometer.models.folder import LoadedModel
from reactometer.models.heads import masked_moments
from reactometer.models.model import ReactionModel
from reactometer.models.scores import MODALITIES, Score, average_scores, join_parts
from reactometer.models.showing import Showing, by_person, show
from reactometer.terminal import progress_bar

MOST_STEPS = 5000
"""Steps of sound in one batch of a stream: about one part of a minute, and many short windows."""


@torch.inference_mode()
def score_batch(model: ReactionModel, batch: Batch) -> list[Score]:
    """One score an item of the batch; the model must be in evaluation mode, on the batch's device or another."""
    batch = Batch(*(tensor.to(model.label_mean.device) for tensor in batch))
    streams = model.streams(batch)
    intensities = model.answer(model.head(*streams), batch).float().cpu().numpy()  # (B, L)
    means = {
        name: masked_moments(stream.values, stream.mask)[0].float().cpu().numpy()  # (B, D)
        for name, stream in zip(MODALITIES, streams, strict=True)
        if stream is not None
    }
    scores = []
    for row, (saw, heard) in enumerate(model.evidence(batch).cpu().tolist()):
        features = {name: means[name][row] for name, had in (("face", saw), ("voice", heard)) if had}
        scores.append(Score(int(batch.number[row]), intensities[row], saw, heard, (features,)))
    return scores


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
    batch_size: int = 8,
    workers: int = 0,
) -> Iterator[Score]:
    """Score clips: one score a clip, in their order, each as soon as its parts are scored."""
    dataset = PartDataset(rows, read)
    merge = partial(collate, n_labels=len(model.label_mean))
    loader = DataLoader(dataset, batch_size, num_workers=safe_workers(workers), collate_fn=merge)
    scores = (score for batch in loader for score in score_batch(model, batch))
    for index, own in groupby(scores, key=lambda score: dataset.parts[score.number].index):
        yield join_parts(index, [(dataset.parts[score.number].length_s, score) for score in own])


def score_split(
    loaded: LoadedModel,
    prepared: PreparedSet,
    split: str,
    sampling: Sampling | None = None,
    *,
    batch_size: int = 8,
    workers: int = 0,
    progress: bool = True,
) -> tuple[list[Score], str | None]:
    """Score every clip of a split, in order; of an ensemble, the mean of its members' scores.

    Where the model was recalibrated, so are the scores.

    Returns:
        The scores, and how the clips were normalised per person (``None``: not at all).
    """
    rows, sampling = prepared.split(split), sampling or loaded.sampling
    by_member, note = [], None
    for member in loaded.each:
        showing = show(member.network, prepared, (split,), sampling, progress=progress)
        with progress_bar(f"scoring {split}", len(rows), progress) as advance:
            scores, note = score_shown(member, showing, rows, batch_size=batch_size, workers=workers, advance=advance)
        by_member.append(scores)
    return join_members(loaded, by_member), note


def join_members(loaded: LoadedModel, by_member: Sequence[Sequence[Score]]) -> list[Score]:
    """The scores of a model from those of its members: their mean, on the labels' scale where it was recalibrated."""
    return [replace(score, intensities=loaded.intensities_of(score)) for score in average_scores(by_member)]


def score_shown(
    member: LoadedModel,
    showing: Showing,
    rows: Sequence[PreparedRow],
    *,
    batch_size: int = 8,
    workers: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> tuple[list[Score], str | None]:
    """One model's scores of clips that are ready to be shown to it, ``advance`` called once a clip.

    Returns:
        As :func:`score_split`.
    """
    read, note = showing.read, None
    if member.config.model.person_norm:
        people = by_person(showing, rows)
        read, note = people, people.describe(rows)
    scores = []
    for score in score_rows(showing.network, rows, read, batch_size=batch_size, workers=workers):
        scores.append(score)
        advance()
    return scores, note
