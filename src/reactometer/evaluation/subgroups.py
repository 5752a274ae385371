"""Does a model err alike on all kinds of people? Score, bias and what is missing, by the groups of a column."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from reactometer.data.cache import PreparedRow
from reactometer.errors import DataError, suggestion
from reactometer.evaluation.bootstrap import (
    LEVEL,
    N_RESAMPLES,
    Interval,
    interval,
    moments,
    resample,
    score_moments,
    sum_by_unit,
)
from reactometer.evaluation.metrics import LEAST_CLIPS, Array, pearson
from reactometer.types import Clip

UNKNOWN = "unknown"
"""The group of the clips that have no value in the column."""

MOST_VALUES, N_BANDS = 10, 4
"""A column of numbers with more values than that is cut into so many bands, with about as many clips in each."""

SMALL = 30
"""So few people (or clips, where they are not known) say next to nothing of their group: a Pearson of 30 clips has a
standard error of .18; and of 21, false claims are made too often (by simulation)."""

SHARES = ("clips_without_face", "clips_without_sound")
COMPARED = ("pearson", "bias")
"""What a group is compared in with all other clips."""


@dataclass(frozen=True)
class Number:
    """One number of a group, and how far it is from that of all other clips."""

    measure: str  # "pearson", "bias" (mean prediction less mean truth), "mae", or one of SHARES
    label: str | None  # None: the mean over the labels, or no matter of labels
    value: Interval | None  # None: undefined
    difference: Interval | None = None  # from all other clips; of COMPARED only
    corrected: Interval | None = None  # wide enough for all differences looked at; None: small

    @property
    def is_shown(self) -> bool:
        """The corrected interval excludes 0: a difference that chance does not explain."""
        return self.corrected is not None and not self.corrected.low <= 0.0 <= self.corrected.high


@dataclass(frozen=True)
class Group:
    """The clips that have one value, or values of one band."""

    name: str
    n_clips: int
    n_units: int
    is_small: bool  # too few units, in it or outside it: its numbers say next to nothing, and no difference is shown
    numbers: tuple[Number, ...]

    def number(self, measure: str, label: str | None = None) -> Number:
        """The number of that measure and label."""
        return next(own for own in self.numbers if (own.measure, own.label) == (measure, label))


@dataclass(frozen=True)
class Grouping:
    """All groups of one column."""

    column: str
    groups: tuple[Group, ...]
    unit: str  # what was drawn: "person", "stimulus" or "clip"
    n_resamples: int
    n_differences: int  # looked at, over all columns asked for


def compare_groups(
    rows: Sequence[PreparedRow],
    targets: npt.ArrayLike,
    predictions: npt.ArrayLike,
    labels: Sequence[str],
    columns: Sequence[str],
    *,
    unit: str = "clip",
    groups: Sequence[Hashable] | None = None,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> tuple[Grouping, ...]:
    """Compute score, bias, error and missing data of every group in each column, and its difference from all others.

    Values have 95% percentile intervals over the same resampled units as everywhere. A group is small if it, or the
    rest, has at most ``SMALL`` units.

    A difference counts as shown only if 0 lies outside the interval at level 1 - 0.05 / (differences in all columns;
    Bonferroni). This interval is the difference ± Student's t times its standard error, with the units of the smaller
    side less one as degrees of freedom, since 2,000 resamples do not reach so far into the tails. The standard error is
    the larger of that of the resamples and that of two random sides of these sizes, because a small group that happens
    to have none of the rare large errors looks too certain. By simulation, a call in which nothing differs makes a
    false claim in at most 5% of cases. A difference may have another cause than the column: a group whose labels vary
    less has a lower Pearson for that reason.

    Args:
        rows: the clips.
        targets, predictions: (clips, L), targets in [0, 1].
        labels: L names.
        columns: of the manifest, upper or lower case; "person" and "stimulus" too.
        unit, groups, n_resamples, seed: as of :func:`~reactometer.evaluation.bootstrap.bootstrap_metrics`.

    Raises:
        DataError: no such column.
        ScoreError: as of ``bootstrap_metrics``.
    """
    truth, guess = np.asarray(targets, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
    names = np.arange(len(rows)) if groups is None else pd.factorize(np.fromiter(groups, dtype=object))[0]  # (clips,)
    insides = {column: split_column([row.clip for row in rows], column) for column in columns}
    sizes = {  # units inside and outside each group
        column: [(len(np.unique(names[inside])), len(np.unique(names[~inside]))) for inside in own.values()]
        for column, own in insides.items()
    }
    n_differences = len(COMPARED) * (1 + len(labels)) * sum(min(both) > SMALL for own in sizes.values() for both in own)
    counts = np.array([[row.n_faces == 0, not row.has_sound] for row in rows])
    sums = np.hstack([moments(truth, guess, None), counts])  # (clips, C)

    def score(sums: Array) -> Array:  # (R, 2 C) -> (R, 3, numbers): of the group, of all other clips, of all clips
        whole, inside = np.hsplit(sums, 2)
        return np.stack([_from_sums(own, len(labels)) for own in (inside, whole - inside, whole)], axis=1)

    groupings = []
    for column, own in insides.items():
        told = []
        for (name, inside), size in zip(own.items(), sizes[column], strict=True):
            by_unit = sum_by_unit(np.hstack([sums, sums * inside[:, None]]), groups)
            values, others, everyone = resample(by_unit, score, n_resamples, seed).swapaxes(0, 1)
            values[0, : 1 + len(labels)][~_defined(truth[inside], guess[inside])] = np.nan
            numbers = _numbers(labels, values, others, everyone, size, n_differences)
            told.append(Group(name, int(inside.sum()), size[0], min(size) <= SMALL, numbers))
        groupings.append(Grouping(column, tuple(told), unit, n_resamples, n_differences))
    return tuple(groupings)


def as_table(groupings: Sequence[Grouping]) -> pd.DataFrame:
    """Return ``groups.csv``, one row per number; empty cells are undefined."""
    rows = []
    for column, group in ((grouping.column, group) for grouping in groupings for group in grouping.groups):
        about = {"column": column, "group": group.name, "clips": group.n_clips, "units": group.n_units}
        for own in group.numbers:
            row = {**about, "small": group.is_small, "measure": own.measure, "label": own.label, "shown": own.is_shown}
            for prefix, bounds in (("", own.value), ("difference_", own.difference)):
                row |= {f"{prefix}{name}": getattr(bounds, name, None) for name in ("value", "low", "high")}
            rows.append(row)
    return pd.DataFrame(rows)


def split_column(clips: Sequence[Clip], column: str) -> dict[str, npt.NDArray[np.bool_]]:
    """(clips,) who is in it, by name of the group: a value, or a band of numbers; the unknown last.

    Raises:
        DataError: no such column.
    """
    cells = np.array(_cells(clips, column), dtype=object)  # (clips,) text
    known = cells != ""
    numbers = pd.to_numeric(pd.Series(cells[known]), errors="coerce").to_numpy(dtype=np.float64)
    groups: dict[str, npt.NDArray[np.bool_]] = {}
    if len(numbers) and np.isfinite(numbers).all() and len(set(numbers)) > MOST_VALUES:
        edges = np.unique(np.quantile(numbers, np.arange(1, N_BANDS) / N_BANDS))
        band = np.full(len(cells), -1)
        band[known] = np.searchsorted(edges, numbers)  # up to and with its upper edge
        for place in np.unique(band[known]):
            own = numbers[band[known] == place]
            groups[f"{column} {own.min():g}-{own.max():g}"] = band == place
    else:
        order = sorted(set(cells[known]), key=float if len(numbers) and np.isfinite(numbers).all() else str)
        groups = {name: cells == name for name in order}
    return groups if known.all() else {**groups, UNKNOWN: ~known | groups.get(UNKNOWN, False)}


def _cells(clips: Sequence[Clip], column: str) -> list[str]:
    """Return each clip's value in a column of the manifest, "" if it has none."""
    rows = [{"person": clip.person, "stimulus": clip.stimulus, **clip.attributes} for clip in clips]
    table = pd.DataFrame(rows).rename(columns=str.lower).dropna(axis=1, how="all")
    table = table.loc[:, ~table.columns.duplicated()]  # "Sex" beside "sex"
    if column.lower() not in table:
        fix = suggestion(column, sorted(table.columns)) if table.size else "It has none besides files and labels"
        raise DataError(f"no column '{column}' in the manifest", fix=fix)
    return [str(value).strip() for value in table[column.lower()].fillna("")]


def _from_sums(sums: Array, n_labels: int) -> Array:
    """Return (R, numbers) from (R, C) sums over clips; NaN if there is no clip."""
    with np.errstate(invalid="ignore", divide="ignore"):
        scores = score_moments(sums[:, :-2])  # (R, kinds, 1 + L)
        bias, shares = np.split(sums[:, -2 - n_labels :] / sums[:, :1], [n_labels], axis=1)  # (R, L), (R, 2)
    return np.hstack([scores[:, 0], bias.mean(axis=1, keepdims=True), bias, scores[:, 2], shares])


def _defined(truth: Array, guess: Array) -> npt.NDArray[np.bool_]:
    """(1 + L,) whether Pearson is, of all labels together and of each."""
    each = [r is not None and len(truth) >= LEAST_CLIPS for r in pearson(truth, guess)]
    return np.array([all(each), *each])


def _numbers(
    labels: Sequence[str], values: Array, others: Array, everyone: Array, size: tuple[int, int], n_differences: int
) -> tuple[Number, ...]:
    """From (1 + R, numbers) of a group, of all others, of everyone; so many units are inside, and outside."""
    keys = [*product(("pearson", "bias", "mae"), (None, *labels)), *((name, None) for name in SHARES)]
    numbers = []
    for place, (measure, label) in enumerate(keys):
        own, apart = values[:, place], values[:, place] - others[:, place]
        number = Number(measure, label, interval(own) if np.isfinite(own[0]) else None)
        if measure in COMPARED and np.isfinite(apart[0]):
            number = replace(number, difference=interval(apart))
            if min(size) > SMALL:
                number = replace(number, corrected=_corrected(apart, everyone[:, place], size, n_differences))
        numbers.append(number)
    return tuple(numbers)


def _corrected(apart: Array, everyone: Array, size: tuple[int, int], n_differences: int) -> Interval:
    """The interval of a difference (followed by its resamples) at the level for so many; see :func:`compare_groups`."""
    level, (inside, outside) = 1.0 - (1.0 - LEVEL) / n_differences, size
    at_random = np.nanstd(everyone[1:]) * np.sqrt((inside + outside) * (1.0 / inside + 1.0 / outside))
    error = max(float(np.nanstd(apart[1:])), float(at_random))
    reach = float(stats.t.ppf((1.0 + level) / 2.0, min(size) - 1)) * error
    return Interval(float(apart[0]), float(apart[0]) - reach, float(apart[0]) + reach, level)
