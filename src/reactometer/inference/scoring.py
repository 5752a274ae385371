"""Score clips with a checkpoint, for prediction and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, islice

from reactometer.data.cache import PreparedRow, PreparedSet
from reactometer.data.inputs import ClipPart, Item, ItemLoader, split_parts
from reactometer.data.person_norm import FeatureStats, PersonReader, clip_means, fit_shifts
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
"""Maximum number of steps in one batch: about the sound of one segment of a minute, or many short windows."""


def score_items(networks: Networks, items: Iterable[Item], batch_size: int = BATCH_SIZE) -> list[Score]:
    """Score a stream of encoded items in batches of similar length; only a few items are in memory at a
    time."""
    scores: dict[int, Score] = {}
    batches: dict[int, dict[int, Item]] = {}  # by length, then by index of the item
    for index, item in enumerate(items):
        length = max((len(steps.mask) for steps in item.streams.values()), default=0)
        batch = batches.setdefault(length.bit_length(), {})
        batch[index] = item
        if len(batch) == batch_size or len(batch) * length > MAX_STEPS:
            scores |= zip(batch, score_batch(networks, list(batch.values())), strict=True)
            batch.clear()
    for batch in filter(None, batches.values()):
        scores |= zip(batch, score_batch(networks, list(batch.values())), strict=True)
    return [scores[index] for index in range(len(scores))]


def score_batch(networks: Networks, items: Sequence[Item]) -> list[Score]:
    """Score encoded items as one batch."""
    intensities = networks.score(items)  # (B, L)
    return [
        Score(values, tuple(filter(item.has, sorted(networks.inputs))), item.warnings)
        for values, item in zip(intensities, items, strict=True)
    ]


def score_rows(networks: Networks, rows: Sequence[PreparedRow], read: ItemLoader) -> Iterator[Score]:
    """Score clips: one score per clip, in their order, each as soon as its parts are scored."""
    parts = split_parts(rows)

    def load(part: ClipPart) -> Item:
        return read(rows[part.index], part, None)

    items = iter(prefetch_map(load, parts, min(default_workers(), MAX_READERS)))
    batches = iter(lambda: list(islice(items, BATCH_SIZE)), [])
    scores = (score for batch in batches for score in score_batch(networks, batch))
    for _, scored in groupby(zip(parts, scores, strict=True), key=lambda pair: pair[0].index):
        yield join_parts([(part.length_s, score) for part, score in scored])


def score_split(
    loaded: LoadedModel,
    prepared: PreparedSet,
    split: str,
    hidden: Collection[str] = (),
    members: Sequence[Sequence[int]] | None = None,
    *,
    progress: bool = True,
) -> tuple[list[Score], str | None]:
    """Score every clip of a split, in order; an ensemble's scores are the mean of its members'.

    Scores are recalibrated if the model was. The streams in ``hidden`` are masked. ``members`` has, for each
    clip, the indices of the members that score it; a clip without any has no score.

    Returns:
        The scores, and a note on the normalisation per person (``None``: not normalised).
    """
    rows = prepared.split(split)
    by_clip = [list[Score]() for _ in rows]  # the scores of each clip's members
    note = None
    for number, member in enumerate(loaded.members):
        read = open_reader(member, prepared, split, hidden, progress=progress)
        indices = [index for index in range(len(rows)) if members is None or number in members[index]]
        with progress_bar(f"scoring {split}", len(indices), progress) as advance:
            scores, note = score_encoded(member, read, [rows[index] for index in indices], advance=advance)
        for index, score in zip(indices, scores, strict=True):
            by_clip[index].append(score)
    return [join_members(loaded, [[score] for score in scores])[0] for scores in by_clip if scores], note


def join_members(loaded: LoadedModel, by_member: Sequence[Sequence[Score]]) -> list[Score]:
    """Average the scores of a model's members; recalibrate the mean if the model was."""
    return [replace(score, intensities=loaded.intensities_of(score)) for score in average_scores(by_member)]


def score_encoded(
    member: LoadedModel,
    read: ItemLoader,
    rows: Sequence[PreparedRow],
    *,
    advance: Callable[[], None] = lambda: None,
) -> tuple[list[Score], str | None]:
    """Score clips with one model, from the features that ``read`` returns; call ``advance`` once per clip.

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
    read: ItemLoader, rows: Sequence[PreparedRow], training_stats: Mapping[str, FeatureStats]
) -> PersonReader:
    """Wrap a reader to normalise items per person, with statistics of all clips of ``rows``; labels are not
    used."""
    parts = split_parts(rows)
    items = ((rows[part.index].clip.person, read(rows[part.index], part, None)) for part in parts)
    return PersonReader(read, fit_shifts(clip_means(items), training_stats))
