"""Split a dataset without shared people or stimuli, and assign person-disjoint folds."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reactometer.data.datasets import read_dataset
from reactometer.data.manifest import check_output_table, write_listing
from reactometer.errors import ConfigError, DataError, require
from reactometer.terminal import is_first_process
from reactometer.types import Clip

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}
"""Shares of the clips, by split."""

SPLITS = tuple(DEFAULT_SHARES)

DISJOINT_KEYS = ("person", "stimulus", "labels")
"""Keys that splits can be disjoint in. "labels" joins clips with equal label vectors, which share a stimulus.
"""

MIN_NESTED_FOLDS = 3
"""Minimum number of nested folds: one is held out, one chooses the epoch, one trains."""

OFFICIAL_SPLIT = "official_split"
"""Column of a new split's table with the split of each clip before."""

SIZE_WEIGHT = 10.0
"""Weight of a split's size against the mean of one label."""

SWAPS_PER_COMPONENT, MAX_SWAPS = 20, 5000
"""Swaps tried per component, and in total."""

MIN_SIZE_RATIO = 0.5
"""Minimum size of a split, relative to the requested size."""


def with_splits(clips: Sequence[Clip]) -> tuple[Clip, ...]:
    """Return the clips with their existing splits or, without any, with person-disjoint splits.

    If all clips are of one person, they are split one by one, with a warning.
    """
    if any(clip.split for clip in clips):
        return tuple(clips)
    if len(clips) > 1 and len({_group(clip) for clip in clips}) == 1 and is_first_process():
        warnings.warn(
            f"all {len(clips)} clips are of one person, so they are split by clip: a score is for new clips "
            "of this person. For a score over all clips: reactometer crossval CONFIG",
            stacklevel=4,
        )
    return assign_splits(clips)


def assign_splits(clips: Sequence[Clip], seed: int = 0) -> tuple[Clip, ...]:
    """Assign a split to every clip, the same for all clips of a person.

    If fewer than two people are known, clips are split one by one. Groups, in random order, go to the split
    that is furthest below its share (``DEFAULT_SHARES``).
    """
    unit = "person" if len({_group(clip) for clip in clips}) > 1 else "clip"
    sizes = Counter(_group(clip, unit) for clip in clips)
    order = np.random.default_rng(seed).permutation(sorted(sizes))
    index_of_group = _assign_greedily(sizes, order, [*DEFAULT_SHARES.values()])
    return tuple(replace(clip, split=SPLITS[index_of_group[_group(clip, unit)]]) for clip in clips)


def choose_fold_unit(clips: Iterable[Clip], n_folds: int, *, nested: bool = False) -> str:
    """Return the unit of folds: "person"; "stimulus" or "clip" if too few people are known for any folds."""
    clips = tuple(clips)
    min_folds = MIN_NESTED_FOLDS if nested else 2
    for unit, min_names in (("person", min_folds), ("stimulus", n_folds)):
        if len({getattr(clip, unit) for clip in clips}) >= min_names:
            return unit
    return "clip"


def assign_folds(
    clips: Sequence[Clip], n_folds: int, fold: int, seed: int = 0, *, nested: bool = False
) -> tuple[Clip, ...]:
    """Assign train and val clips to folds that share no person: one fold becomes val, the others train.

    Test is unchanged. ``nested`` assigns the clips of all splits that have labels: one fold becomes test, and
    the next ones, at least 15% of the clips, become val. Groups, largest first, go to the fold with fewest
    clips. See :func:`choose_fold_unit` for datasets without people.

    Raises:
        ConfigError: invalid fold, or fewer people than folds.
    """
    min_folds = MIN_NESTED_FOLDS if nested else 2
    if n_folds < min_folds or not 0 <= fold < n_folds:
        got = f"data.folds={n_folds}, data.fold={fold}"
        expected = f"{min_folds} folds or more, and a fold from 0 to folds - 1"
        raise ConfigError("invalid fold", got=got, expected=expected)
    in_folds = [clip for clip in clips if clip.split in folded_splits(nested) and (clip.labels or not nested)]
    unit = choose_fold_unit(in_folds, n_folds, nested=nested)
    sizes = Counter(_group(clip, unit) for clip in in_folds)
    if len(sizes) < n_folds:
        units = "people" if unit == "person" else f"{unit}s"
        raise ConfigError(
            f"more folds than {units}", got=f"{n_folds} folds, {len(sizes)} {units}", fix="Use fewer folds"
        )
    names = sorted(np.random.default_rng(seed).permutation(sorted(sizes)), key=lambda name: -sizes[name])
    fold_of = _assign_greedily(sizes, names, [1.0] * n_folds)
    split_of_fold = ["train"] * n_folds
    split_of_fold[fold] = "test" if nested else "val"
    if nested:
        n_val = 0
        index = fold
        while n_val < DEFAULT_SHARES["val"] * len(in_folds) and split_of_fold.count("train") > 1:
            index = (index + 1) % n_folds
            split_of_fold[index] = "val"
            n_val += sum(sizes[name] for name, number in fold_of.items() if number == index)
    folded = set(map(id, in_folds))
    return tuple(
        replace(clip, split=split_of_fold[fold_of[_group(clip, unit)]]) if id(clip) in folded else clip
        for clip in clips
    )


def folded_splits(nested: bool) -> tuple[str, ...]:
    """Return the splits that :func:`assign_folds` assigns anew."""
    return SPLITS if nested else ("train", "val")


def _group(clip: Clip, unit: str = "person") -> str:
    """Return the group of a clip: its person or stimulus, or the clip itself if the unit is unknown."""
    return (unit != "clip" and getattr(clip, unit)) or f"clip {clip.clip_id}"


def _assign_greedily(
    sizes: Mapping[str, int], order: Iterable[str], shares: Sequence[float]
) -> dict[str, int]:
    """Assign each group, in order, to the index that is furthest below its share."""
    totals, assignment = [0] * len(shares), dict[str, int]()
    for name in order:
        index = min(range(len(shares)), key=lambda i: totals[i] / shares[i])
        totals[index] += sizes[name]
        assignment[name] = index
    return assignment


@dataclass(frozen=True, repr=False)
class CleanSplit:
    """Path, sizes and mean labels of the splits that :func:`split` wrote."""

    path: Path
    labels: tuple[str, ...]
    n_clips: dict[str, int]  # by split
    means: dict[str, tuple[float, ...]]  # by split, (L,) mean labels
    n_components: int  # groups of clips that share a key
    n_left_out: int  # clips that are unusable or without labels
    disjoint: tuple[str, ...]  # keys that the splits do not share
    sources: dict[str, str]  # the existing split that each split's clips come from; empty: from all
    n_dropped: int  # clips whose group belongs to a split with another source

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per split: the number of clips, and the mean of each label."""
        import pandas as pd

        means = pd.DataFrame.from_dict(self.means, orient="index", columns=[*self.labels])
        means.insert(0, "n_clips", [self.n_clips[name] for name in means.index])
        return means

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in self.n_clips.items())
        return f"CleanSplit({str(self.path)!r}: {counts} clips)"

    def _repr_html_(self) -> str:
        table: str = self.to_pandas().to_html(float_format="{:.3f}".format)
        return f"<p>{escape(repr(self))}</p>{table}"


def split(
    data: Path | str,
    out: Path | str,
    *,
    disjoint: Sequence[str] | None = None,
    within_split: bool = False,
    val: float = 0.15,
    test: float = 0.15,
    labels: str | Sequence[str] | None = None,
    seed: int = 0,
) -> CleanSplit:
    """Write a CSV of the dataset's clips with new splits that share no person and no stimulus.

    Clips that have a person or a stimulus in common, directly or through other clips, form a component and
    stay together. Components are assigned largest first, to the split that brings sizes and mean labels
    nearest to the request, and are then swapped while a swap brings them nearer.

    If people are unknown, only existing splits tell whose clips are not in train. ``within_split`` keeps
    them: the new test has the clips of the existing test (of val, if test has no labels) with the stimuli
    held out for test. Other clips with these stimuli are dropped. Train and val are made likewise.

    Args:
        data: a dataset of media (not a folder made by ``prepare``).
        out: the CSV to write, for ``prepare`` and ``train``.
        disjoint: keys that splits must not share: "person", "stimulus", "labels"; default: person and
            stimulus or, within existing splits, the stimulus (the labels, if stimuli are unknown).
        within_split: keep each clip in its existing split, or drop it. Also the default if ``disjoint`` is
            ``None``, people are unknown and there are splits.
        val, test: shares of the clips, before any are dropped.
        labels: a label set's name or label columns; ``None`` finds them.
        seed: random seed of the order of components of equal size, and of the swaps.

    Raises:
        ConfigError: an unknown key, or shares without train clips.
        DataError: clips without a person or a stimulus, or no disjoint split exists.
        OutputError: ``out`` exists already, or is no CSV.
        ReactometerError: SciPy is not installed.
    """
    require("scipy", extra="evaluate")
    out = Path(out)
    shares = np.array([1.0 - val - test, val, test])
    if set(disjoint or ()) - set(DISJOINT_KEYS) or disjoint == [] or shares.min() < 0 or shares[0] <= 0:
        raise ConfigError(
            "invalid split",
            got=f"disjoint in {', '.join(disjoint or ()) or 'nothing'}; val {val:g}, test {test:g}",
            expected=f"one or more of {', '.join(DISJOINT_KEYS)}; shares from 0 that leave some for train",
        )
    check_output_table(out)
    manifest = read_dataset(data, labels)
    clips = [clip for clip in manifest.clips if clip.labels and not clip.problem]
    has_people = all(clip.person for clip in clips)
    has_splits = any(clip.split for clip in clips)
    if disjoint is None:
        within_split = within_split or (has_splits and not has_people)
        stimulus = "stimulus" if all(clip.stimulus for clip in clips) else "labels"
        disjoint = (stimulus,) if within_split else ("person", "stimulus")
    elif has_splits and not has_people and not within_split:
        warnings.warn(
            "people are unknown, so the new splits may share them. hint: add --within-split", stacklevel=3
        )
    component = find_components(clips, disjoint)  # (clips,)
    values = np.array([clip.labels for clip in clips])  # (clips, L)
    splits = _assign_components(component, values, shares, seed)[component]  # (clips,) of SPLITS
    counts = np.bincount(splits, minlength=len(SPLITS))
    if (counts < MIN_SIZE_RATIO * shares * len(clips)).any():
        largest = np.bincount(component).max()
        raise DataError(
            f"no split of these shares is disjoint in {' and '.join(disjoint)}",
            got=f"{component.max() + 1} components, the largest with {largest} of {len(clips)} clips",
            expected=", ".join(f"{name} {share:.0%}" for name, share in zip(SPLITS, shares, strict=True)),
            fix="Ask for fewer keys with --disjoint, or for other shares with --val and --test",
        )
    sources = _find_sources(clips, shares) if within_split else {}
    pairs = zip(clips, splits, strict=True)
    in_source = np.array([sources.get(SPLITS[index], clip.split) == clip.split for clip, index in pairs])
    assigned = [
        replace(clip, split=SPLITS[index], attributes={OFFICIAL_SPLIT: clip.split} if clip.split else {})
        for clip, index, in_place in zip(clips, splits, in_source, strict=True)
        if in_place
    ]
    counts = np.bincount(splits[in_source], minlength=len(SPLITS))
    if (counts[shares > 0] == 0).any():
        raise DataError(
            "no clips are left in a split within the existing splits",
            got=", ".join(f"{name} {count}" for name, count in zip(SPLITS, counts, strict=True)),
            fix="Choose other shares with --val and --test, or add clips",
        )
    write_listing(out, assigned, manifest.labels, [OFFICIAL_SPLIT] if has_splits else ())
    return CleanSplit(
        path=out,
        labels=manifest.labels,
        n_clips=dict(zip(SPLITS, counts.tolist(), strict=True)),
        means={
            name: tuple(values[in_source & (splits == i)].mean(axis=0).tolist())
            for i, name in enumerate(SPLITS)
            if counts[i]
        },
        n_components=int(component.max()) + 1,
        n_left_out=len(manifest.clips) - len(clips),
        disjoint=tuple(disjoint),
        sources=sources,
        n_dropped=int((~in_source).sum()),
    )


def _find_sources(clips: Sequence[Clip], shares: np.ndarray) -> dict[str, str]:
    """Return the existing split of each new split's clips: its own, or val for a test without labels."""
    existing = {clip.split for clip in clips}
    sources = {name: name for name in SPLITS} | ({} if "test" in existing else {"test": "val"})
    if missing := [
        name for name, share in zip(SPLITS, shares, strict=True) if share and sources[name] not in existing
    ]:
        raise DataError(
            f"no clips for the new split '{missing[0]}'",
            got=f"clips with labels in {', '.join(sorted(filter(None, existing))) or 'no split'}",
            expected=f"clips with labels in the existing split '{sources[missing[0]]}'",
            fix="Split without --within-split, or set the share of the new split to 0",
        )
    return sources


def find_components(clips: Sequence[Clip], disjoint: Sequence[str]) -> np.ndarray:
    """Return the index of each clip's component, (clips,): clips joined by a person, a stimulus or a label
    vector.

    Raises:
        DataError: there are no clips, or one has no person or no stimulus.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not clips:
        raise DataError("no clip with labels to split", expected="a dataset with labels")
    nodes = dict[tuple[str, object], int]()
    edges = list[tuple[int, int]]()
    for key in disjoint:
        names = [getattr(clip, key) for clip in clips]
        if None in names:
            raise DataError(
                f"some clips have no {key}, so splits cannot be disjoint in it",
                got=f"{names.count(None)} of {len(names)} clips",
                fix=f"Fill the column '{key}', or choose other keys with --disjoint (person, stimulus, "
                "labels)",
            )
        for index, name in enumerate(names):
            edges.append((index, nodes.setdefault((key, name), len(clips) + len(nodes))))
    rows, columns = np.array(edges).T  # (edges,) each: clip, and person or stimulus
    n_nodes = len(clips) + len(nodes)
    graph = coo_array((np.ones(len(edges)), (rows, columns)), shape=(n_nodes, n_nodes))
    _, component = connected_components(graph, directed=False)  # numbered in the order of their first clips
    return np.asarray(component[: len(clips)])


def _assign_components(
    component: np.ndarray, values: np.ndarray, shares: np.ndarray, seed: int
) -> np.ndarray:
    """Return the index of each component's split, (components,): largest first at the lowest cost, then
    swapped.

    The cost of a split is the squared distance of its sums (clips, standardised labels) from its share of the
    total. Each split has an empty component, so that a swap can also move a component.
    """
    std = np.maximum(values.std(axis=0), 1e-6)
    scaled = np.column_stack([np.full(len(values), SIZE_WEIGHT), (values - values.mean(axis=0)) / std])
    split_ids = np.flatnonzero(shares > 0)
    n_components = int(component.max()) + 1
    generator = np.random.default_rng(seed)
    sums = np.zeros((n_components + len(split_ids), scaled.shape[1]))  # (components + splits, 1 + L)
    np.add.at(sums, component, scaled)
    weight = 1.0 / shares[split_ids]  # (splits,)
    excess = -shares[split_ids, None] * scaled.sum(axis=0)  # (splits, 1 + L)
    split_of = np.append(np.zeros(n_components, dtype=int), np.arange(len(split_ids)))
    order = generator.permutation(n_components)
    for i in order[np.argsort(-sums[order, 0], kind="stable")]:
        split_of[i] = np.argmin(weight * (2.0 * excess @ sums[i] + sums[i] @ sums[i]))
        excess[split_of[i]] += sums[i]
    for i in generator.integers(n_components, size=min(SWAPS_PER_COMPONENT * n_components, MAX_SWAPS)):
        current = split_of[i]
        difference = sums - sums[i]  # gain of the current split, by partner
        squares = (difference**2).sum(axis=1)
        cost_change = weight[current] * (squares + 2.0 * difference @ excess[current])
        cost_change += weight[split_of] * (squares - 2.0 * (difference * excess[split_of]).sum(axis=1))
        cost_change[split_of == current] = 0.0
        partner = np.argmin(cost_change)
        if cost_change[partner] < -1e-9:
            excess[current] += difference[partner]
            excess[split_of[partner]] -= difference[partner]
            split_of[i] = split_of[partner]
            split_of[partner] = current
            split_of[n_components:] = np.arange(len(split_ids))
    return np.asarray(split_ids[split_of[:n_components]])
