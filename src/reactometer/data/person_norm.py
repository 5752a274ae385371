"""Per-person normalisation: each person's own mean and spread of every feature give way to the training set's.

Fitted without labels, on the clips that are to be trained on or scored. What remains is how a person differs from their
own average, which is what a reaction is. Where it helps and by how much: docs/results.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from reactometer.data.batches import Item, Part, Reader
from reactometer.data.cache import PreparedRow
from reactometer.data.feature_store import STREAMS
from reactometer.data.manifest import read_rows
from reactometer.errors import DataError
from reactometer.types import FloatArray

LEAST_PARTS = 5
"""Who is seen in fewer clips (or minutes of a long one) keeps their features: a mean over so few would take the
reaction out; our choice."""

LEAST_SPREAD = 1e-6

MOST_NAMED = 5
"""Files that an error spells out."""

Person = TypeVar("Person", bound=Hashable)


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of every feature over steps."""

    mean: FloatArray  # (D,)
    std: FloatArray  # (D,), 1 where a feature does not vary


@dataclass
class Tally:
    """Adds up steps, one item after the other, in double precision."""

    n_steps: int = 0
    total: npt.NDArray[np.float64] | float = 0.0  # (D,)
    squares: npt.NDArray[np.float64] | float = 0.0  # (D,)

    def add(self, steps: FloatArray) -> None:
        """Count (T, D) steps in."""
        if len(steps):
            wide = steps.astype(np.float64)
            self.n_steps += len(wide)
            self.total = self.total + wide.sum(axis=0)
            self.squares = self.squares + np.square(wide).sum(axis=0)

    def moments(self) -> Moments | None:
        """Of everything counted; ``None`` where nothing was."""
        if not self.n_steps:
            return None
        mean = np.asarray(self.total) / self.n_steps
        spread = np.sqrt((np.asarray(self.squares) / self.n_steps - mean**2).clip(0.0))
        std = np.where(spread > LEAST_SPREAD * (1.0 + np.abs(mean)), spread, 1.0)
        return Moments(mean.astype(np.float32), std.astype(np.float32))


def read_people(table: Path) -> dict[str, str]:
    """Who is seen in each file, from a CSV with columns ``path`` and ``person``.

    Raises:
        DataError: no such table, or no such columns.
    """
    return {row["path"]: row["person"] for row in read_rows(table, ("path", "person")) if row["person"]}


def match_people(people: Mapping[str, str] | Mapping[Path, str], paths: Sequence[str]) -> dict[str, str]:
    """Who is seen in each of the files given, where that is known.

    Args:
        people: a person, by the path of a file.
        paths: the files given.

    Raises:
        DataError: ``people`` names a file that is not among them.
    """
    known = {Path(path): person for path, person in people.items()}
    given = {Path(path) for path in paths}
    unmatched = [str(path) for path in known if path not in given]
    if unmatched:
        raise DataError(
            "people are named for files that were not given",
            got=_some(unmatched),
            expected=f"only files of {_some(paths)}",
            fix="Write each path as it is given, or leave the row out",
        )
    return {path: known[Path(path)] for path in paths if Path(path) in known}


def measure_streams(items: Iterable[Item]) -> dict[str, Moments]:
    """Moments of the face's and the voice's features over all items; a stream without steps is left out."""
    tallies = {stream: Tally() for stream in STREAMS}
    for item in items:
        _count(item, tallies)
    known = {stream: tally.moments() for stream, tally in tallies.items()}
    return {stream: moments for stream, moments in known.items() if moments is not None}


def measure_people(items: Iterable[tuple[Person | None, Item]]) -> dict[Person, dict[str, Moments]]:
    """Moments of each person's features over their items; who has fewer than :data:`LEAST_PARTS` is left out.

    Args:
        items: a person by name or other key (``None``: unknown), and what one part of a clip shows and says of them.

    Returns:
        By person and stream.
    """
    tallies: dict[Person, dict[str, Tally]] = {}
    n_parts: Counter[Person] = Counter()
    for person, item in items:
        if person and (item.seen.any() or len(item.voice)):
            n_parts[person] += 1
            _count(item, tallies.setdefault(person, {stream: Tally() for stream in STREAMS}))
    return {
        person: {stream: moments for stream, tally in own.items() if (moments := tally.moments()) is not None}
        for person, own in tallies.items()
        if n_parts[person] >= LEAST_PARTS
    }


def recast(item: Item, own: Mapping[str, Moments], population: Mapping[str, Moments]) -> Item:
    """The item with its person's mean and spread of each feature replaced by the population's.

    Args:
        item: with features, or log-mel.
        own: of the item's person, by stream; a stream without is left as it is.
        population: of the training set, by stream.
    """

    def change(steps: np.ndarray, stream: str) -> np.ndarray:
        if stream not in own or stream not in population or not len(steps):
            return steps
        person, everyone = own[stream], population[stream]
        return ((steps - person.mean) / person.std * everyone.std + everyone.mean).astype(np.float32)

    return replace(item, frames=change(item.frames, "face"), voice=change(item.voice, "voice"))


@dataclass(frozen=True)
class PersonReader:
    """Reads items and gives each person's features the population's mean and spread."""

    read: Reader
    people: Mapping[str, Mapping[str, Moments]] = field(repr=False)  # by person and stream
    population: Mapping[str, Moments] = field(repr=False)  # by stream

    def __call__(self, row: PreparedRow, part: Part, rng: np.random.Generator | None = None) -> Item:
        """The item, normalised where its person is known well enough."""
        return recast(self.read(row, part, rng), self.people.get(row.clip.person or "", {}), self.population)

    def describe(self, rows: Sequence[PreparedRow]) -> str:
        """How many clips were normalised, in words for whoever reads the scores."""
        normalised = sum((row.clip.person or "") in self.people for row in rows)
        others = len(rows) - normalised
        text = f"{normalised} clips normalised by the mean and spread of their own person ({len(self.people)} people)"
        return f"{text}; {others} left as they are (nobody with {LEAST_PARTS} clips or more)" if others else text


def _count(item: Item, tallies: Mapping[str, Tally]) -> None:
    if item.frames.ndim == 2:  # features, not pictures
        tallies["face"].add(item.frames[item.seen])
    tallies["voice"].add(item.voice)


def _some(names: Sequence[str]) -> str:
    """The first names, and how many there are beside them."""
    beside = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {beside} more" if beside > 0 else "")
