"""Normalise per person: replace the mean and spread of each person's features by the training set's.

The statistics need no labels. Measured effect: docs/results.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from reactometer.data.cache import PreparedRow
from reactometer.data.inputs import ClipPart, Item, ItemLoader
from reactometer.data.manifest import read_rows
from reactometer.errors import DataError
from reactometer.types import FloatArray

MIN_PARTS = 5
"""People with fewer clips (or minutes of a long clip) are not normalised: their mean would remove the
reaction."""

MIN_STD = 1e-6

Sums = dict[str, npt.NDArray[np.float64]]
"""By stream, (3, D): number of steps, sum and sum of squares of each feature."""

Person = TypeVar("Person", bound=Hashable)


@dataclass(frozen=True)
class FeatureStats:
    """Mean and standard deviation of every feature over steps."""

    mean: FloatArray  # (D,)
    std: FloatArray  # (D,), 1 for a constant feature


StreamStats = Mapping[str, FeatureStats]


def read_people(table: Path) -> dict[str, str]:
    """Read the person in each file from a CSV with columns ``path`` and ``person``; raise DataError without
    them."""
    return {row["path"]: row["person"] for row in read_rows(table, ("path", "person")) if row["person"]}


def person_by_path(people: Mapping[str, str] | Mapping[Path, str], paths: Sequence[str]) -> dict[str, str]:
    """Return the known person in each of ``paths``; raise DataError if ``people`` names another file."""
    person_of_path = {Path(path): person for path, person in people.items()}
    if unmatched := person_of_path.keys() - set(map(Path, paths)):
        fix = f"Write paths as on the command line, such as {paths[0]}, or delete the row"
        raise DataError(
            "people are named for files that are not predicted", got=min(map(str, unmatched)), fix=fix
        )
    return {path: person_of_path[Path(path)] for path in paths if Path(path) in person_of_path}


def fit_stream_stats(items: Iterable[Item]) -> dict[str, FeatureStats]:
    """Return the feature statistics over all items, by stream; streams without steps are left out."""
    sums: Sums = {}
    for item in items:
        _accumulate(sums, item)
    return _to_stats(sums)


def fit_person_stats(items: Iterable[tuple[Person | None, Item]]) -> dict[Person, dict[str, FeatureStats]]:
    """Return each person's feature statistics by stream; people with fewer than ``MIN_PARTS`` parts are left
    out.

    ``items`` are pairs of a person's name or other key (``None``: unknown) and a part of a clip.
    """
    sums: dict[Person, Sums] = {}
    n_parts: Counter[Person] = Counter()
    for person, item in items:
        if person and (item.face_mask.any() or len(item.voice)):
            n_parts[person] += 1
            _accumulate(sums.setdefault(person, {}), item)
    return {
        person: _to_stats(person_sums) for person, person_sums in sums.items() if n_parts[person] >= MIN_PARTS
    }


def _accumulate(sums: Sums, item: Item) -> None:
    """Add the steps of an item; images have no statistics."""
    face = item.frames[item.face_mask] if item.frames.ndim == 2 else item.voice[:0]
    for stream, steps in (("face", face), ("voice", item.voice)):
        if len(steps):
            values = steps.astype(np.float64)  # (T, D)
            counts = np.full(values.shape[1], float(len(values)))
            sums[stream] = sums.get(stream, 0.0) + np.stack(
                [counts, values.sum(axis=0), np.square(values).sum(axis=0)]
            )


def _to_stats(sums: Sums) -> dict[str, FeatureStats]:
    stats = {}
    for stream, (count, total, squares) in sums.items():
        mean = total / count
        spread = np.sqrt((squares / count - mean**2).clip(0.0))
        std = np.where(spread > MIN_STD * (1.0 + np.abs(mean)), spread, 1.0)
        stats[stream] = FeatureStats(mean.astype(np.float32), std.astype(np.float32))
    return stats


def apply_person_norm(item: Item, person_stats: StreamStats, training_stats: StreamStats) -> Item:
    """Replace the mean and spread of each feature of the item's person by the training set's.

    A stream without statistics of the person or the training set is unchanged.
    """

    def standardise(steps: np.ndarray, stream: str) -> np.ndarray:
        if stream not in person_stats or stream not in training_stats or not len(steps):
            return steps
        source, target = person_stats[stream], training_stats[stream]
        return ((steps - source.mean) / source.std * target.std + target.mean).astype(np.float32)

    return replace(item, frames=standardise(item.frames, "face"), voice=standardise(item.voice, "voice"))


@dataclass(frozen=True)
class PersonReader:
    """Reader that normalises features per person."""

    read: ItemLoader
    person_stats: Mapping[str, StreamStats] = field(repr=False)  # by person and stream
    training_stats: StreamStats = field(repr=False)  # by stream

    def __call__(self, row: PreparedRow, part: ClipPart, rng: np.random.Generator | None = None) -> Item:
        """Read a part, and normalise it if its person has enough clips."""
        person_stats = self.person_stats.get(row.clip.person or "", {})
        return apply_person_norm(self.read(row, part, rng), person_stats, self.training_stats)

    def describe(self, rows: Sequence[PreparedRow]) -> str:
        """Return a sentence with the number of normalised clips."""
        n_normalised = sum((row.clip.person or "") in self.person_stats for row in rows)
        n_people = len(self.person_stats)
        n_unchanged = len(rows) - n_normalised
        text = f"{n_normalised} clips normalised by the mean and spread of their person ({n_people} people)"
        return (
            f"{text}; {n_unchanged} unchanged (people with fewer than {MIN_PARTS} clips)"
            if n_unchanged
            else text
        )
