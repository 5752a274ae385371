"""Scores, bias and missing data by group of people: one group per value of a column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from reactometer.data.cache import PreparedRow
from reactometer.errors import DataError, suggestion
from reactometer.evaluation.bootstrap import CLIPS, LEVEL, Interval, Resampling, interval, moments, scores_from_moments
from reactometer.evaluation.metrics import MIN_CLIPS, Array, pearson
from reactometer.types import Clip

UNKNOWN = "unknown"
"""Group of the clips without a value in the column."""

MAX_VALUES, N_BANDS = 10, 4
"""A column with more than 10 different numbers is cut into 4 bands with about as many clips each."""

SMALL = 30
"""A group of at most 30 units is small: Pearson over 30 clips has a standard error of 0.18."""

MEASURES, COMPARED = ("pearson", "bias", "mae"), ("pearson", "bias")
"""Scores of each group, and those compared with all other clips; bias: mean prediction less mean label."""


@dataclass(frozen=True)
class GroupMetric:
    """One number of a group, and how far it is from that of all other clips."""

    measure: str  # one of MEASURES
    label: str | None  # None: the mean over the labels
    value: Interval | None  # None: undefined
    difference: Interval | None  # from all other clips; of COMPARED only
    is_significant: bool  # the corrected interval of the difference excludes 0: chance does not explain it


@dataclass(frozen=True)
class Group:
    """The clips that have one value of a column, or values of one band."""

    column: str
    name: str
    n_clips: int
    n_units: int
    is_small: bool  # too few units, in it or outside it: its numbers say next to nothing, and no difference is shown
    without_face: float  # share of its clips
    without_sound: float
    numbers: tuple[GroupMetric, ...]

    def number(self, measure: str, label: str | None = None) -> GroupMetric:
        """Return the number of this measure and label."""
        return next(own for own in self.numbers if (own.measure, own.label) == (measure, label))


def compare_groups(
    rows: Sequence[PreparedRow],
    targets: npt.ArrayLike,
    predictions: npt.ArrayLike,
    labels: Sequence[str],
    columns: Sequence[str],
    how: Resampling = CLIPS,
) -> tuple[Group, ...]:
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
        how: what is resampled.

    Raises:
        DataError: no such column.
        ScoreError: as of :func:`~reactometer.evaluation.metrics.measure`.
    """
    truth, guess = np.asarray(targets, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
    units = np.arange(len(rows)) if how.groups is None else pd.factorize(np.array(how.groups, dtype=object))[0]
    missing = np.array([[row.n_faces == 0, not row.has_sound] for row in rows])  # (clips, 2)
    sums, clips = moments(truth, guess), [row.clip for row in rows]
    insides = [(column, *own) for column in columns for own in split_column(clips, column).items()]
    sizes = [(len(np.unique(units[inside])), len(np.unique(units[~inside]))) for _, _, inside in insides]
    n_differences = len(COMPARED) * (1 + len(labels)) * sum(min(both) > SMALL for both in sizes)

    def score(sums: Array) -> Array:  # (R, 2 C) -> (R, 3, measures, 1 + L): of the group, all other clips, all clips
        whole, inside = np.hsplit(sums, 2)
        return np.stack([_measures(own, len(labels)) for own in (inside, whole - inside, whole)], axis=1)

    groups = []
    for (column, name, inside), size in zip(insides, sizes, strict=True):
        scores = how.resample(np.hstack([sums, sums * inside[:, None]]), score)
        scores[0, 0, 0, ~_defined(truth[inside], guess[inside])] = np.nan
        is_small, numbers = min(size) <= SMALL, list[GroupMetric]()
        for (place, measure), (at, label) in product(enumerate(MEASURES), enumerate((None, *labels))):
            own, others, everyone = scores[:, :, place, at].T  # (1 + R,) each
            value = interval(own) if np.isfinite(own[0]) else None
            apart = own - others
            is_compared = measure in COMPARED and bool(np.isfinite(apart[0]))
            difference = interval(apart) if is_compared else None
            is_significant = is_compared and not is_small and _excludes_zero(apart, everyone, size, n_differences)
            numbers.append(GroupMetric(measure, label, value, difference, is_significant))
        no_face, no_sound = missing[inside].mean(axis=0).tolist()
        groups.append(Group(column, name, int(inside.sum()), size[0], is_small, no_face, no_sound, tuple(numbers)))
    return tuple(groups)


def as_table(groups: Sequence[Group]) -> pd.DataFrame:
    """Return ``groups.csv``, one row per number; empty cells are undefined."""
    rows = []
    for group in groups:
        about = {"column": group.column, "group": group.name, "clips": group.n_clips, "units": group.n_units}
        about |= {"without_face": group.without_face, "without_sound": group.without_sound, "small": group.is_small}
        for own in group.numbers:
            row = {**about, "measure": own.measure, "label": own.label, "shown": own.is_significant}
            for prefix, bounds in (("", own.value), ("difference_", own.difference)):
                row |= {f"{prefix}{name}": getattr(bounds, name, None) for name in ("value", "low", "high")}
            rows.append(row)
    return pd.DataFrame(rows)


def split_column(clips: Sequence[Clip], column: str) -> dict[str, npt.NDArray[np.bool_]]:
    """Return (clips,) which clips are in each group, by its name: a value, or a band of numbers; the unknown last.

    Raises:
        DataError: no such column.
    """
    rows = [{"person": clip.person, "stimulus": clip.stimulus, **clip.attributes} for clip in clips]
    table = pd.DataFrame(rows).rename(columns=str.lower).dropna(axis=1, how="all")
    table = table.loc[:, ~table.columns.duplicated()]  # "Sex" beside "sex"
    if column.lower() not in table:
        fix = suggestion(column, sorted(table.columns)) if table.size else "It has none besides files and labels"
        raise DataError(f"no column '{column}' in the manifest", fix=fix)
    cells = table[column.lower()].fillna("").astype(str).str.strip()
    known = cells != ""
    numbers = pd.to_numeric(cells[known], errors="coerce")
    are_numbers = np.isfinite(numbers).all()
    if are_numbers and numbers.nunique() > MAX_VALUES:
        band = pd.qcut(numbers, N_BANDS, labels=False, duplicates="drop")
        ends = numbers.groupby(band).agg(["min", "max"]).loc[band].to_numpy()
        cells[known] = np.array([f"{column} {low:g}-{high:g}" for low, high in ends], dtype=object)
    order = cells[numbers.sort_values().index] if are_numbers else sorted(cells[known])
    cells[~known] = UNKNOWN
    return {name: (cells == name).to_numpy() for name in dict.fromkeys([*order, *cells[~known]])}


def _measures(sums: Array, n_labels: int) -> Array:
    """Return (R, measures, 1 + L) from (R, C) sums over clips; NaN if there is no clip."""
    with np.errstate(invalid="ignore", divide="ignore"):
        scores, bias = scores_from_moments(sums), sums[:, -n_labels:] / sums[:, :1]  # (R, kinds, 1 + L), (R, L)
    return np.stack([scores[:, 0], np.column_stack([bias.mean(axis=1), bias]), scores[:, 2]], axis=1)


def _defined(truth: Array, guess: Array) -> npt.NDArray[np.bool_]:
    """(1 + L,) whether Pearson is, of all labels together and of each."""
    each = [r is not None and len(truth) >= MIN_CLIPS for r in pearson(truth, guess)]
    return np.array([all(each), *each])


def _excludes_zero(apart: Array, everyone: Array, size: tuple[int, int], n_differences: int) -> bool:
    """Whether a difference's interval at the level for so many differences excludes 0; see :func:`compare_groups`."""
    inside, outside = size
    at_random = np.nanstd(everyone[1:]) * np.sqrt((inside + outside) * (1.0 / inside + 1.0 / outside))
    error = max(float(np.nanstd(apart[1:])), float(at_random))
    return bool(abs(apart[0]) > stats.t.ppf(1.0 - (1.0 - LEVEL) / (2.0 * n_differences), min(size) - 1) * error)
