"""Score clips with a checkpoint: the one way that evaluation and prediction share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, islice

from reactometer.data.cache import PreparedRow, PreparedSet
from reactometer.data.inputs import InputSpec, Item, ItemLoader, split_parts
from reactometer.data.person_norm import FeatureStats, PersonReader, fit_person_stats
from reactometer.inference.checkpoint import LoadedModel
from reactometer.inference.inputs import open_reader
from reactometer.inference.runtime import Networks
from reactometer.inference.scores import Score, average_scores, join_parts
from reactometer.machine import default_workers
from reactometer.media.faces import prefetch_map
from reactometer.terminal import progress_bar

BATCH_SIZE = 8

MAX_READERS = 4
"""Maximum number of clips that are read and encoded ahead of their score."""

MAX_STEPS = 5000
"""Steps of sound in one batch of a stream: about one part of a minute, and many short windows."""


def score_items(networks: Networks, items: Iterable[Item], batch_size: int = BATCH_SIZE) -> Iterator[Score]:
    """Score a stream of encoded items in batches of similar length; only a few items are held at a time.

    Scores come as batches fill, so not in the items' order: each carries its item's number.
    """
    waiting: dict[int, list[Item]] = {}
    for item in items:
        like = waiting.setdefault(len(item.voice).bit_length(), [])
        like.append(item)
        if len(like) == batch_size or len(like) * len(item.voice) > MAX_STEPS:
            yield from score_batch(networks, like)
            like.clear()
    for like in waiting.values():
        if like:
            yield from score_batch(networks, like)


def score_batch(networks: Networks, items: Sequence[Item]) -> list[Score]:
    """Score encoded items as one batch."""
    intensities, means = networks.score(items)  # (B, L), (B, D) by stream
    scores = []
    for row, item in enumerate(items):
        saw, heard = networks.uses_face and bool(item.face_mask.any()), networks.uses_voice and len(item.voice) > 0
        features = {name: means[name][row] for name, had in (("face", saw), ("voice", heard)) if had}
        scores.append(Score(item.clip_index, intensities[row], saw, heard, (features,)))
    return scores


def score_rows(networks: Networks, rows: Sequence[PreparedRow], read: ItemLoader) -> Iterator[Score]:
    """Score clips: one score per clip, in their order, each as soon as its parts are scored."""
    parts = split_parts(rows)
    numbered = list(enumerate(parts))
    load = lambda own: replace(read(rows[own[1].index], own[1], None), clip_index=own[0])  # noqa: E731
    items = iter(prefetch_map(load, numbered, min(default_workers(), MAX_READERS)))
    batches = iter(lambda: list(islice(items, BATCH_SIZE)), [])
    scores = (score for batch in batches for score in score_batch(networks, batch))
    for index, own in groupby(scores, key=lambda score: parts[score.index].index):
        yield join_parts(index, [(parts[score.index].length_s, score) for score in own])


def score_split(
    loaded: LoadedModel, prepared: PreparedSet, split: str, sampling: InputSpec | None = None, *, progress: bool = True
) -> tuple[list[Score], str | None]:
    """Score every clip of a split, in order; of an ensemble, the mean of its members' scores.

    If the model was recalibrated, so are the scores.

    Returns:
        The scores, and how the clips were normalised per person (``None``: not at all).
    """
    rows, sampling = prepared.split(split), sampling or loaded.sampling
    by_member, note = [], None
    for member in loaded.members:
        read = open_reader(member, prepared, split, sampling, progress=progress)
        with progress_bar(f"scoring {split}", len(rows), progress) as advance:
            scores, note = score_encoded(member, read, rows, advance=advance)
        by_member.append(scores)
    return join_members(loaded, by_member), note


def join_members(loaded: LoadedModel, by_member: Sequence[Sequence[Score]]) -> list[Score]:
    """Return the scores of a model from those of its members: their mean, recalibrated if the model was."""
    return [replace(score, intensities=loaded.intensities_of(score)) for score in average_scores(by_member)]


def score_encoded(
    member: LoadedModel, read: ItemLoader, rows: Sequence[PreparedRow], *, advance: Callable[[], None] = lambda: None
) -> tuple[list[Score], str | None]:
    """Return one model's scores of clips whose features ``read`` yields; ``advance`` is called once per clip.

    Returns:
        As :func:`score_split`.
    """
    note = None
    if member.config.model.person_norm:
        read = people = person_reader(read, rows, member.networks.training_stats)
        note = people.describe(rows)
    scores = []
    for score in score_rows(member.networks, rows, read):
        scores.append(score)
        advance()
    return scores, note


def person_reader(
    read: ItemLoader, rows: Sequence[PreparedRow], population: Mapping[str, FeatureStats]
) -> PersonReader:
    """Return what reads the same items normalised per person, fitted on all clips of ``rows``, without their labels."""
    parts = split_parts(rows)
    people = fit_person_stats((rows[part.index].clip.person, read(rows[part.index], part, None)) for part in parts)
    return PersonReader(read, people, population)
