"""Normalise per person: move each person's features towards the mean of the training set, without labels.

A person's mean features consist of the person's looks and voice, and of the reactions in the person's clips.
Only if these clips vary, the reactions cancel out and the mean shows the looks. So the fewer or the more
similar the clips are, the less the mean is moved. Measured effect: docs/benchmarks/ravdess.md.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from reactometer.data.cache import PreparedRow
from reactometer.data.inputs import ClipPart, Item, ItemLoader
from reactometer.data.manifest import read_rows
from reactometer.errors import DataError
from reactometer.types import FloatArray

MIN_VARIETY = 0.2
"""Clips of one person with less variety than this are reported: they may all show the same reaction."""

UNCHANGED_SHARE = 0.5
"""Share of training clips that stay unchanged, because some people's clips will not vary."""

VARIETY_EXPONENT = 1.5
"""The shift is multiplied by the variety of a person's clips to this power."""

PRIOR_CLIPS = 4.0
"""The shift of a person with this number of clips is halved, because a mean of few clips is uncertain."""

MIN_STD = 1e-6

Person = TypeVar("Person", bound=Hashable)


@dataclass(frozen=True)
class FeatureStats:
    """Mean and standard deviation of every feature."""

    mean: FloatArray  # (D,)
    std: FloatArray  # (D,), 1 for a constant feature


@dataclass(frozen=True)
class PersonShift:
    """The shift of one person's features in one stream, and the variety of the person's clips."""

    shift: FloatArray  # (D,), subtracted from each step
    variety: float  # from 0 (equal clips, or one clip) to 1 (as varied as a typical person's, or more)


Shifts = Mapping[str, PersonShift]
"""By stream."""

ClipMeans = dict[str, list[FloatArray]]
"""By stream, the mean features (D,) of each clip, or each part of a long clip."""


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


def fit_step_stats(items: Iterable[Item]) -> dict[str, FeatureStats]:
    """Return the feature statistics over the steps of all items, by stream."""
    sums: dict[str, npt.NDArray[np.float64]] = {}  # (3, D): number of steps, sum and sum of squares
    for item in items:
        for stream, steps in _streams(item):
            counts = np.full(steps.shape[1], float(len(steps)))
            sums[stream] = sums.get(stream, 0.0) + np.stack(
                [counts, steps.sum(axis=0), np.square(steps).sum(axis=0)]
            )
    stats = {}
    for stream, (count, total, squares) in sums.items():
        mean = total / count
        stats[stream] = _to_stats(mean, squares / count - mean**2)
    return stats


def fit_population(items: Iterable[tuple[PreparedRow, Item]]) -> dict[str, FeatureStats]:
    """Return mean and spread (within a typical person) of the training clips' mean features, by stream.

    If the people of the training set do not show all reactions, their spread is too small: the variance is
    divided by the share of the labels' variance that is within people. It is at most the variance between all
    clips.

    Args:
        items: labelled clips and their features.
    """
    means: dict[str, list[FloatArray]] = {}
    people: dict[str, list[str]] = {}
    labels: dict[str, list[tuple[float, ...]]] = {}
    for row, item in items:
        for stream, steps in _streams(item):
            means.setdefault(stream, []).append(steps.mean(axis=0).astype(np.float32))
            people.setdefault(stream, []).append(row.clip.person or f"unknown: {row.clip.clip_id}")
            labels.setdefault(stream, []).append(row.clip.labels or ())
    stats = {}
    for stream, rows in means.items():
        values, index = np.stack(rows), np.unique(people[stream], return_inverse=True)[1]
        total, within = values.var(axis=0), _variance_within(values, index)
        targets = np.array(labels[stream])  # (clips, L)
        label_share = _variance_within(targets, index).sum() / max(targets.var(axis=0).sum(), MIN_STD)
        stats[stream] = _to_stats(values.mean(axis=0), np.minimum(total, within / max(label_share, MIN_STD)))
    return stats


def _variance_within(values: FloatArray, index: npt.NDArray[np.int64]) -> FloatArray:
    """Return the variance (K,) of values (clips, K) within people, numbered by ``index`` (clips,)."""
    counts = np.bincount(index)
    if len(values) == len(counts):  # no person has two clips
        total: FloatArray = values.var(axis=0)
        return total
    means = np.zeros((len(counts), values.shape[1]))
    np.add.at(means, index, values)
    deviations = values - (means / counts[:, None])[index]
    variance: FloatArray = np.square(deviations).sum(axis=0) / (len(values) - len(counts))
    return variance


def clip_means(items: Iterable[tuple[Person | None, Item]]) -> dict[Person, ClipMeans]:
    """Return the mean features of each person's clips.

    ``items`` are pairs of a person's name or other key (``None``: unknown) and a part of a clip.
    """
    means: dict[Person, ClipMeans] = {}
    for person, item in items:
        if person is None:
            continue
        for stream, steps in _streams(item):
            means.setdefault(person, {}).setdefault(stream, []).append(steps.mean(axis=0))
    return means


def fit_shifts(
    means: Mapping[str, ClipMeans], training_stats: Mapping[str, FeatureStats]
) -> dict[str, Shifts]:
    """Return the shift of each person's features; warn about people whose clips hardly vary.

    The variety is the variance between the person's clips divided by that of a typical person: the median
    over the features, at most 1. It falls with fewer clips, and with more similar ones. The shift is the
    difference between the person's mean and the training set's, times ``variety ** VARIETY_EXPONENT``, times
    n / (n + :data:`PRIOR_CLIPS`) for n clips.

    Args:
        means: result of :func:`clip_means`.
        training_stats: result of :func:`fit_population`.
    """
    shifts: dict[str, Shifts] = {
        person: {
            stream: _fit_shift(np.stack(rows), training_stats[stream])
            for stream, rows in by_stream.items()
            if stream in training_stats
        }
        for person, by_stream in means.items()
    }
    if alike := [person for person, by_stream in shifts.items() if is_alike(by_stream)]:
        warnings.warn(
            f"the clips of {len(alike)} of {len(shifts)} people are too few or too similar to normalise",
            stacklevel=2,
        )
    return shifts


def is_alike(shifts: Shifts) -> bool:
    """Return whether a person's clips hardly vary: they may all show the same reaction."""
    return bool(shifts) and all(shift.variety < MIN_VARIETY for shift in shifts.values())


def _fit_shift(means: FloatArray, stats: FeatureStats) -> PersonShift:
    """Fit the shift to the mean features of a person's clips (clips, D)."""
    varies = stats.std != 1.0  # a constant feature says nothing
    ratios = means.var(axis=0)[varies] / np.square(stats.std[varies])
    variety = min(1.0, float(np.median(ratios))) if varies.any() else 0.0
    share = variety**VARIETY_EXPONENT * len(means) / (len(means) + PRIOR_CLIPS)
    return PersonShift((share * (means.mean(axis=0) - stats.mean)).astype(np.float32), variety)


def _streams(item: Item) -> Iterator[tuple[str, FloatArray]]:
    """Yield the features (T, D) of each stream of an item that has any; images have none."""
    for name, steps in item.streams.items():
        if steps.values.ndim == 2 and steps.mask.any():
            yield name, steps.visible.astype(np.float64)


def _to_stats(mean: FloatArray, variance: FloatArray) -> FeatureStats:
    spread = np.sqrt(variance.clip(0.0))
    std = np.where(spread > MIN_STD * (1.0 + np.abs(mean)), spread, 1.0)
    return FeatureStats(mean.astype(np.float32), std.astype(np.float32))


def shift_item(item: Item, shifts: Shifts) -> Item:
    """Subtract a person's shifts from the features of an item."""
    shifted = {
        name: steps._replace(values=(steps.values - shifts[name].shift).astype(np.float32))
        for name, steps in item.streams.items()
        if name in shifts
    }
    return item.with_steps(shifted)


@dataclass(frozen=True)
class PersonReader:
    """Reader that normalises features per person."""

    read: ItemLoader
    shifts: Mapping[str, Shifts] = field(repr=False)  # by person and stream

    def __call__(self, row: PreparedRow, part: ClipPart, rng: np.random.Generator | None = None) -> Item:
        """Read a part and normalise it; in training (with ``rng``), a share of the parts stays unchanged."""
        item = self.read(row, part, rng)
        if rng is not None and rng.random() < UNCHANGED_SHARE:
            return item
        return shift_item(item, self.shifts.get(row.clip.person or "", {}))

    def describe(self, rows: Sequence[PreparedRow]) -> str:
        """Return a sentence with the number of normalised clips."""
        shifts = [self.shifts.get(row.clip.person or "") for row in rows]
        n_alike = sum(is_alike(by_stream) for by_stream in shifts if by_stream)
        text = f"{len(rows) - shifts.count(None)} clips normalised per person ({len(self.shifts)} people)"
        text += f"; {n_alike} hardly changed (few or similar clips of a person)" if n_alike else ""
        return f"{text}; {shifts.count(None)} unchanged (unknown person)" if None in shifts else text
