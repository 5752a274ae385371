"""Splits of a dataset that share no person, and if asked no stimulus; person-disjoint folds of train and val."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from reactometer.data.cache import SETTINGS_FILE
from reactometer.data.datasets import read_data_set
from reactometer.data.manifest import check_new_table, write_listing
from reactometer.errors import ConfigError, DataError, require, suggestion
from reactometer.types import Clip

SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}
"""Shares of the clips; our choice."""

SPLITS = tuple(SHARES)
"""Their names, in order."""

KEYS = ("person", "stimulus", "labels")
"""What splits can be disjoint in. "labels" keeps clips with equal label vectors together: they share a stimulus."""

SIZE_WEIGHT = 10.0
"""Weight of a split's size against the mean of one label."""

SWAPS, MOST_SWAPS = 20, 5000
"""Swaps tried per component, and in all."""

LEAST_OF_ASKED = 0.5
"""The smallest split that is accepted, as a share of the size that was asked for."""


def with_splits(clips: Sequence[Clip]) -> tuple[Clip, ...]:
    """Return the clips with their own splits or, if no clip has one, with person-disjoint splits."""
    return tuple(clips) if any(clip.split for clip in clips) else assign_splits(clips)


def assign_splits(clips: Sequence[Clip], seed: int = 0) -> tuple[Clip, ...]:
    """Give every clip a split, all clips of one person the same (each clip for itself where no person is known).

    Whole groups, in an order drawn from the seed, go to the split that is furthest below its share (``SHARES``).
    """
    groups: dict[str, list[int]] = {}
    for index, clip in enumerate(clips):
        groups.setdefault(clip.person or f"clip {clip.clip_id}", []).append(index)
    counts = dict.fromkeys(SHARES, 0)
    split_of: dict[int, str] = {}
    for name in np.random.default_rng(seed).permutation(sorted(groups)):
        split = min(SHARES, key=lambda key: counts[key] / SHARES[key])
        counts[split] += len(groups[name])
        split_of.update(dict.fromkeys(groups[name], split))
    return tuple(replace(clip, split=split_of[index]) for index, clip in enumerate(clips))


def assign_folds(clips: Sequence[Clip], n_folds: int, fold: int, seed: int = 0) -> tuple[Clip, ...]:
    """Deal train and val anew: the clips of one fold become val, those of the others train, nobody in two folds.

    Whole groups, largest first, go to the fold with the fewest clips. Test stays as it is.

    Raises:
        ConfigError: a single fold, no such fold, or fewer people than folds.
    """
    if n_folds < 2:
        raise ConfigError("one fold leaves no clip to train on", got=f"data.folds={n_folds}", expected="2 or more")
    if not 0 <= fold < n_folds:
        raise ConfigError("no such fold", got=f"data.fold={fold}", expected=f"0 to {n_folds - 1}")
    groups: dict[str, list[int]] = {}
    for index, clip in enumerate(clips):
        if clip.split in ("train", "val"):
            groups.setdefault(clip.person or f"clip {clip.clip_id}", []).append(index)
    if len(groups) < n_folds:
        raise ConfigError("more folds than people", got=f"{n_folds} folds, {len(groups)} people in train and val")
    names = sorted(np.random.default_rng(seed).permutation(sorted(groups)), key=lambda name: -len(groups[name]))
    counts = [0] * n_folds
    split_of: dict[int, str] = {}
    for name in names:
        place = counts.index(min(counts))
        counts[place] += len(groups[name])
        split_of.update(dict.fromkeys(groups[name], "val" if place == fold else "train"))
    return tuple(replace(clip, split=split_of.get(index, clip.split)) for index, clip in enumerate(clips))


@dataclass(frozen=True)
class CleanSplit:
    """The new manifest, and how near its splits come to what was asked for."""

    path: Path
    labels: tuple[str, ...]
    n_clips: dict[str, int]  # by split
    means: dict[str, tuple[float, ...]]  # by split, (L,) mean labels
    n_components: int  # groups of clips that have to stay together
    n_left_out: int  # clips that cannot be used, or without labels


def split(
    data: Path | str,
    out: Path | str,
    *,
    disjoint: Sequence[str] = ("person", "stimulus"),
    val: float = 0.15,
    test: float = 0.15,
    labels: str | Sequence[str] | None = None,
    seed: int = 0,
) -> CleanSplit:
    """Write a CSV of the dataset's clips with new splits that share no person and no stimulus.

    Clips that have a person or a stimulus in common, directly or through other clips, form a component and stay
    together. Components are placed largest first, each where sizes and mean labels come nearest to what was asked for,
    and are then swapped while a swap brings them nearer.

    Args:
        data: a dataset of media (not a folder made by ``prepare``).
        out: the CSV to write, for ``prepare`` and ``train``.
        disjoint: what splits must not share: "person", "stimulus", "labels".
        val, test: shares of the clips.
        labels: a label set's name or label columns; ``None`` finds them.
        seed: random seed of the order of components of equal size, and of the swaps.

    Raises:
        ConfigError: an unknown key, or shares that leave no train clips.
        DataError: clips without a person or a stimulus, or no such split is possible.
        OutputError: ``out`` exists already, or is no CSV.
        MissingPackageError: pandas or SciPy is not installed.
    """
    require("pandas", "scipy", extra="evaluate")
    data, out = Path(data), Path(out)
    shares = np.array([1.0 - val - test, val, test])
    _check(data, out, disjoint, shares)
    manifest = read_data_set(data, labels)
    clips = [clip for clip in manifest.clips if clip.labels and not clip.problem]
    component = find_components(clips, disjoint)  # (clips,)
    values = np.array([clip.labels for clip in clips])  # (clips, L)
    place = _assign(component, values, shares, seed)[component]  # (clips,) of SPLITS
    counts = np.bincount(place, minlength=len(SPLITS))
    if (counts < LEAST_OF_ASKED * shares * len(clips)).any():
        largest = np.bincount(component).max()
        raise DataError(
            f"no split of these shares is disjoint in {' and '.join(disjoint)}",
            got=f"{component.max() + 1} components, the largest with {largest} of {len(clips)} clips",
            expected=", ".join(f"{name} {share:.0%}" for name, share in zip(SPLITS, shares, strict=True)),
            fix="Ask for fewer keys with --disjoint, or for other shares with --val and --test",
        )
    dealt = [replace(clip, split=SPLITS[one]) for clip, one in zip(clips, place, strict=True)]
    write_listing(out, dealt, manifest.labels)
    return CleanSplit(
        path=out,
        labels=manifest.labels,
        n_clips=dict(zip(SPLITS, counts.tolist(), strict=True)),
        means={name: tuple(values[place == at].mean(axis=0).tolist()) for at, name in enumerate(SPLITS) if counts[at]},
        n_components=int(component.max()) + 1,
        n_left_out=len(manifest.clips) - len(clips),
    )


def find_components(clips: Sequence[Clip], disjoint: Sequence[str]) -> np.ndarray:
    """Return the index of each clip's component, (clips,): clips joined by a person, a stimulus or a label vector.

    Raises:
        DataError: there are no clips, or one has no person or no stimulus.
    """
    import pandas as pd
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not clips:
        raise DataError("no clip with labels to split", expected="a data set with labels")
    joined, n_nodes = [], len(clips)
    for key in disjoint:
        names = [getattr(clip, key) for clip in clips]
        if None in names:
            raise DataError(
                f"clips without a {key} cannot be kept apart by it",
                got=f"{names.count(None)} of {len(names)} without",
                fix=f"Fill the column '{key}', or name other keys with --disjoint (person, stimulus, labels)",
            )
        number, unique = pd.factorize(np.fromiter(names, dtype=object))
        joined.append(np.stack([np.arange(len(clips)), n_nodes + number]))
        n_nodes += len(unique)
    edges = np.concatenate(joined, axis=1)  # (2, edges): clip, and person or stimulus
    graph = coo_array((np.ones(edges.shape[1]), (edges[0], edges[1])), shape=(n_nodes, n_nodes))
    _, component = connected_components(graph, directed=False)
    return np.asarray(pd.factorize(component[: len(clips)])[0])


def _assign(component: np.ndarray, values: np.ndarray, shares: np.ndarray, seed: int) -> np.ndarray:
    """Return the index of each component's split, (components,): largest first where it costs least, then swapped.

    The cost of a split is the squared distance of its sums (clips, and standardised labels) from its share of all. An
    empty component in each split lets a swap be a move too.
    """
    spread = np.maximum(values.std(axis=0), 1e-6)
    scaled = np.column_stack([np.full(len(values), SIZE_WEIGHT), (values - values.mean(axis=0)) / spread])
    used, generator, n_components = np.flatnonzero(shares > 0), np.random.default_rng(seed), int(component.max()) + 1
    sums = np.zeros((n_components + len(used), scaled.shape[1]))  # (components + used, 1 + L)
    np.add.at(sums, component, scaled)
    weight, gap = 1.0 / shares[used], -shares[used, None] * scaled.sum(axis=0)  # (used,), (used, 1 + L)
    home = np.append(np.zeros(n_components, dtype=int), np.arange(len(used)))
    order = generator.permutation(n_components)
    for one in order[np.argsort(-sums[order, 0], kind="stable")]:
        home[one] = np.argmin(weight * (2.0 * gap @ sums[one] + sums[one] @ sums[one]))
        gap[home[one]] += sums[one]
    for one in generator.integers(n_components, size=min(SWAPS * n_components, MOST_SWAPS)):
        own, more = home[one], sums - sums[one]  # what one's split would gain, by the other
        squares = (more**2).sum(axis=1)
        change = weight[own] * (squares + 2.0 * more @ gap[own])
        change += weight[home] * (squares - 2.0 * (more * gap[home]).sum(axis=1))
        change[home == own] = 0.0
        other = np.argmin(change)
        if change[other] < -1e-9:
            gap[own] += more[other]
            gap[home[other]] -= more[other]
            home[one], home[other] = home[other], own
            home[n_components:] = np.arange(len(used))
    return np.asarray(used[home[:n_components]])


def _check(data: Path, out: Path, disjoint: Sequence[str], shares: np.ndarray) -> None:
    for key in disjoint:
        if key not in KEYS:
            raise ConfigError(f"splits cannot be disjoint in '{key}'", fix=suggestion(key, KEYS))
    if not disjoint or shares.min() < 0 or shares[0] <= 0:
        raise ConfigError(
            "no such split",
            got=f"disjoint in {', '.join(disjoint) or 'nothing'}; val {shares[1]:g}, test {shares[2]:g}",
            expected=f"one or more of {', '.join(KEYS)}; shares from 0 that leave some for train",
        )
    if (data / SETTINGS_FILE).is_file():
        raise DataError(f"{data}: prepared clips, which a manifest cannot list", fix="Name the data set itself")
    check_new_table(out)
