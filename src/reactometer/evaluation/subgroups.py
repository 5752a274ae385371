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
from reactometer.evaluation.bootstrap import (
    CLIPS,
    LEVEL,
    Interval,
    Resampling,
    interval,
    moments,
    scores_from_moments,
)
from reactometer.evaluation.metrics import MIN_CLIPS, Array, pearson
from reactometer.types import Clip

UNKNOWN = "unknown"
"""Group of the clips without a value in the column."""

MAX_VALUES, N_BANDS = 10, 4
"""A column with more than ``MAX_VALUES`` different numbers is split into ``N_BANDS`` bands of equal size."""

MAX_SMALL_UNITS = 30
"""Maximum number of units of a small group: Pearson over 30 clips has a standard error of 0.18."""

GROUP_METRICS = ("pearson", "bias", "mae")
COMPARED_METRICS = ("pearson", "bias")
"""Metrics of each group, and those compared with all other clips; bias: mean prediction − mean label."""


@dataclass(frozen=True)
class GroupMetric:
    """One metric of a group, and its difference from that of all other clips."""

    metric: str  # one of GROUP_METRICS
    label: str | None  # None: the mean over the labels
    value: Interval | None  # None: undefined
    difference: Interval | None  # from all other clips; only for COMPARED_METRICS
    is_significant: bool  # the corrected interval of the difference excludes 0: chance does not explain it


@dataclass(frozen=True)
class Group:
    """The clips that have one value of a column, or values of one band."""

    column: str
    name: str
    n_clips: int
    n_units: int
    is_small: bool  # too few units inside or outside: no difference is significant
    without_face: float  # share of its clips
    without_sound: float
    metrics: tuple[GroupMetric, ...]

    def metric(self, metric: str, label: str | None = None) -> GroupMetric:
        """Return one metric, of a label or of the mean over labels."""
        return next(item for item in self.metrics if (item.metric, item.label) == (metric, label))


def compare_groups(
    rows: Sequence[PreparedRow],
    targets: npt.ArrayLike,
    predictions: npt.ArrayLike,
    labels: Sequence[str],
    columns: Sequence[str],
    resampling: Resampling = CLIPS,
) -> tuple[Group, ...]:
    """Compute score, bias, error and missing data of every group in each column, and its difference from all
    others.

    Values have 95% percentile intervals over the same resampled units as the scores. A group is small if it,
    or the rest, has at most ``MAX_SMALL_UNITS`` units.

    A difference is significant if 0 lies outside the interval at level 1 - 0.05 / (differences in all
    columns; Bonferroni). This interval is the difference ± Student's t times its standard error, with the
    units of the smaller side less one as degrees of freedom, since 2,000 resamples do not reach so far into
    the tails. The standard error is the larger of that of the resamples and that of two random sides of these
    sizes, because a small group that happens to have none of the rare large errors looks too certain. By
    simulation, a call in which nothing differs makes a false claim in at most 5% of cases. A difference may
    have another cause than the column: a group whose labels vary less has a lower Pearson for that reason.

    Args:
        rows: the scored clips.
        targets, predictions: (clips, L), targets in [0, 1].
        labels: L names.
        columns: column names of the manifest in any case, or "person" or "stimulus".
        resampling: the plan for resampling.

    Raises:
        DataError: unknown column.
        ScoreError: as of :func:`~reactometer.evaluation.metrics.measure`.
    """
    targets = np.asarray(targets, dtype=np.float64)
    predictions = np.asarray(predictions, dtype=np.float64)
    units = np.arange(len(rows))
    if resampling.groups is not None:
        units = pd.factorize(np.array(resampling.groups, dtype=object))[0]
    missing = np.array([[row.n_faces == 0, not row.has_sound] for row in rows])  # (clips, 2)
    sums = moments(targets, predictions)
    clips = [row.clip for row in rows]
    groupings = [(column, *group) for column in columns for group in split_column(clips, column).items()]
    sizes = [(len(np.unique(units[inside])), len(np.unique(units[~inside]))) for _, _, inside in groupings]
    n_differences = (
        len(COMPARED_METRICS) * (1 + len(labels)) * sum(min(both) > MAX_SMALL_UNITS for both in sizes)
    )

    def score(
        sums: Array,
    ) -> Array:  # (R, 2 C) -> (R, 3, measures, 1 + L): of the group, all other clips, all clips
        whole, inside = np.hsplit(sums, 2)
        return np.stack(
            [_group_metrics(part, len(labels)) for part in (inside, whole - inside, whole)], axis=1
        )

    groups = []
    for (column, name, inside), size in zip(groupings, sizes, strict=True):
        scores = resampling.resample(np.hstack([sums, sums * inside[:, None]]), score)
        scores[0, 0, 0, ~_defined(targets[inside], predictions[inside])] = np.nan
        is_small = min(size) <= MAX_SMALL_UNITS
        metrics = list[GroupMetric]()
        for (i, metric), (j, label) in product(enumerate(GROUP_METRICS), enumerate((None, *labels))):
            values, other_clips, all_clips = scores[:, :, i, j].T  # (1 + R,) each
            value = interval(values) if np.isfinite(values[0]) else None
            differences = values - other_clips
            is_compared = metric in COMPARED_METRICS and bool(np.isfinite(differences[0]))
            difference = interval(differences) if is_compared else None
            is_tested = is_compared and not is_small
            is_significant = is_tested and _excludes_zero(differences, all_clips, size, n_differences)
            metrics.append(GroupMetric(metric, label, value, difference, is_significant))
        no_face, no_sound = missing[inside].mean(axis=0).tolist()
        groups.append(
            Group(column, name, int(inside.sum()), size[0], is_small, no_face, no_sound, tuple(metrics))
        )
    return tuple(groups)


def as_table(groups: Sequence[Group]) -> pd.DataFrame:
    """Return ``groups.csv``, one row per metric; empty cells are undefined."""
    rows = []
    for group in groups:
        about = {"column": group.column, "group": group.name, "clips": group.n_clips, "units": group.n_units}
        about |= {
            "without_face": group.without_face,
            "without_sound": group.without_sound,
            "small": group.is_small,
        }
        for item in group.metrics:
            row = {**about, "metric": item.metric, "label": item.label, "significant": item.is_significant}
            for prefix, bounds in (("", item.value), ("difference_", item.difference)):
                row |= {f"{prefix}{name}": getattr(bounds, name, None) for name in ("value", "low", "high")}
            rows.append(row)
    return pd.DataFrame(rows)


def split_column(clips: Sequence[Clip], column: str) -> dict[str, npt.NDArray[np.bool_]]:
    """Return a mask (clips,) per group, by its name: a value, or a band of numbers; "unknown" is last.

    Raises:
        DataError: unknown column.
    """
    rows = [{"person": clip.person, "stimulus": clip.stimulus, **clip.attributes} for clip in clips]
    table = pd.DataFrame(rows).rename(columns=str.lower).dropna(axis=1, how="all")
    table = table.loc[:, ~table.columns.duplicated()]  # "Sex" beside "sex"
    if column.lower() not in table:
        fix = (
            suggestion(column, sorted(table.columns))
            if table.size
            else "Add a column besides files and labels"
        )
        raise DataError(f"no column '{column}' in the manifest", fix=fix)
    cells = table[column.lower()].fillna("").astype(str).str.strip()
    has_value = cells != ""
    numbers = pd.to_numeric(cells[has_value], errors="coerce")
    are_numbers = np.isfinite(numbers).all()
    if are_numbers and numbers.nunique() > MAX_VALUES:
        band = pd.qcut(numbers, N_BANDS, labels=False, duplicates="drop")
        bounds = numbers.groupby(band).agg(["min", "max"]).loc[band].to_numpy()
        cells[has_value] = np.array([f"{column} {low:g}-{high:g}" for low, high in bounds], dtype=object)
    order = cells[numbers.sort_values().index] if are_numbers else sorted(cells[has_value])
    cells[~has_value] = UNKNOWN
    return {name: (cells == name).to_numpy() for name in dict.fromkeys([*order, *cells[~has_value]])}


def _group_metrics(sums: Array, n_labels: int) -> Array:
    """Return (R, measures, 1 + L) from (R, C) sums over clips; NaN if there is no clip."""
    with np.errstate(invalid="ignore", divide="ignore"):
        scores = scores_from_moments(sums)
        bias = sums[:, -n_labels:] / sums[:, :1]  # (R, kinds, 1 + L), (R, L)
    return np.stack([scores[:, 0], np.column_stack([bias.mean(axis=1), bias]), scores[:, 2]], axis=1)


def _defined(targets: Array, predictions: Array) -> npt.NDArray[np.bool_]:
    """Return (1 + L,) if Pearson is defined: over all labels, then per label."""
    is_defined = [r is not None and len(targets) >= MIN_CLIPS for r in pearson(targets, predictions)]
    return np.array([all(is_defined), *is_defined])


def _excludes_zero(differences: Array, all_clips: Array, size: tuple[int, int], n_differences: int) -> bool:
    """Test if the Bonferroni-corrected interval of a difference excludes 0; see :func:`compare_groups`."""
    inside, outside = size
    random_error = np.nanstd(all_clips[1:]) * np.sqrt((inside + outside) * (1.0 / inside + 1.0 / outside))
    error = max(float(np.nanstd(differences[1:])), float(random_error))
    return bool(
        abs(differences[0]) > stats.t.ppf(1.0 - (1.0 - LEVEL) / (2.0 * n_differences), min(size) - 1) * error
    )
