"""A data set -> a manifest whose splits share no person and no stimulus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from reactometer.data.cache import SETTINGS_FILE
from reactometer.data.layouts import read_data_set
from reactometer.data.listing import check_new_table, write_listing
from reactometer.data.splits import SPLITS
from reactometer.errors import ConfigError, DataError, suggestion
from reactometer.records import Clip

KEYS = ("person", "stimulus", "labels")
"""What splits can be disjoint in; "labels": clips of one label vector stay together, as a stimulus' do where it is
known by its labels alone."""

SIZE_WEIGHT = 10.0
"""How much a split's size counts against the mean of one label."""

SWAPS, MOST_SWAPS = 20, 5000
"""Swaps tried a component, and in all."""

LEAST_OF_ASKED = 0.5
"""A split of fewer clips than this share of what was asked is no such split."""


@dataclass(frozen=True)
class CleanSplit:
    """Where the manifest is, and how near it came to what was asked."""

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
    """Write a plain CSV of the data set's clips with new splits, which share nothing of ``disjoint``.

    Clips that have a person or a stimulus in common, at first or second hand, form a component of the graph of people
    and stimuli, and stay together. Components go, largest first, where sizes and mean labels then come nearest to what
    was asked, and are swapped as long as that brings them nearer.

    Args:
        data: a data set of media (not a folder prepared before).
        out: the CSV to write, for ``prepare`` and ``train``.
        disjoint: of "person", "stimulus" and "labels".
        val, test: shares of the clips.
        labels: a label set's name or label columns; ``None`` finds them.
        seed: of the order of components of one size.

    Raises:
        ConfigError: an unknown key, or shares that leave no train clips.
        DataError: clips without a person or a stimulus, or the components allow no such split.
        OutputError: ``out`` is there already, or is no CSV.
    """
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
        raise _no_split(component, counts, shares, disjoint)
    dealt = [replace(clip, split=SPLITS[one]) for clip, one in zip(clips, place, strict=True)]
    write_listing(out, dealt, manifest.labels)
    return CleanSplit(
        path=out,
        labels=manifest.labels,
        n_clips=dict(zip(SPLITS, counts.tolist(), strict=True)),
        means={
            name: tuple(values[place == one].mean(axis=0).tolist()) for one, name in enumerate(SPLITS) if counts[one]
        },
        n_components=int(component.max()) + 1,
        n_left_out=len(manifest.clips) - len(clips),
    )


def find_components(clips: Sequence[Clip], disjoint: Sequence[str]) -> np.ndarray:
    """(clips,) the number of the component of each clip: clips joined by a person, a stimulus or a label vector.

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
                fix=f"Fill the column '{key}', or name other keys with --disjoint"
                + (" (labels, where clips of one stimulus have the same)" if key == "stimulus" else ""),
            )
        number, unique = pd.factorize(np.fromiter(names, dtype=object))
        joined.append(np.stack([np.arange(len(clips)), n_nodes + number]))
        n_nodes += len(unique)
    edges = np.concatenate(joined, axis=1)  # (2, edges): clip, and person or stimulus
    graph = coo_array((np.ones(edges.shape[1]), (edges[0], edges[1])), shape=(n_nodes, n_nodes))
    _, component = connected_components(graph, directed=False)
    return np.asarray(pd.factorize(component[: len(clips)])[0])


def _assign(component: np.ndarray, values: np.ndarray, shares: np.ndarray, seed: int) -> np.ndarray:
    """(components,) the split of each: largest first, each where it costs least; then swapped while that costs less.

    The cost of a split is the squared distance of its sums (clips, and standardised labels) from its share of all. A
    component of nothing in each split lets a swap be a move too.
    """
    spread = np.maximum(values.std(axis=0), 1e-6)
    scaled = np.column_stack([np.full(len(values), SIZE_WEIGHT), (values - values.mean(axis=0)) / spread])
    used, generator, n_components = np.flatnonzero(shares > 0), np.random.default_rng(seed), int(component.max()) + 1
    sums = np.zeros((n_components + len(used), scaled.shape[1]))  # (components + used, 1 + L)
    np.add.at(sums, component, scaled)
    weight, gap = 1.0 / shares[used], -shares[used, None] * scaled.sum(axis=0)  # (used,), (used, 1 + L)
    home, order = (
        np.append(np.zeros(n_components, dtype=int), np.arange(len(used))),
        generator.permutation(n_components),
    )
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


def _no_split(component: np.ndarray, counts: np.ndarray, shares: np.ndarray, disjoint: Sequence[str]) -> DataError:
    """Why the components allow no such split, and what to do."""
    sizes, keys = np.bincount(component), " and ".join(disjoint)
    largest = f"the largest with {sizes.max()} of {len(component)} clips"
    alone = " or ".join(f"--disjoint {key}" for key in disjoint)
    drop = "leave out clips that tie groups together (give each split people and stimuli of its own)"
    return DataError(
        f"no split of these shares is disjoint in {keys}",
        got="one component that hangs together" if len(sizes) == 1 else f"{len(sizes)} components, {largest}",
        expected=", ".join(f"{name} {share:.0%}" for name, share in zip(SPLITS, shares, strict=True)),
        fix=f"Ask for less ({alone}), or {drop}" if len(disjoint) > 1 else "Ask for other shares with --val and --test",
    )
