"""Average ratings on any scale to one row per clip with labels in [0, 1], and measure rater agreement."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from reactometer.data.manifest import (
    check_output_table,
    clip_from_row,
    label_columns,
    parse_number,
    read_listing,
    write_listing,
)
from reactometer.errors import ConfigError, DataError
from reactometer.types import Clip

MISSING = ("", "na", "n/a", "nan")
"""Cells without a rating, in lower case; R writes NA."""


@dataclass(frozen=True)
class Agreement:
    """Rater agreement on one label; None if too few clips have two ratings, or all ratings are equal."""

    icc_one: float | None  # ICC(1,1), the reliability of one rating
    icc_mean: float | None  # ICC(1,k), the reliability of the mean of a clip's ratings

    @property
    def ceiling(self) -> float | None:
        """Return the expected Pearson of a perfect model with the mean ratings: the root of ICC(1,k)."""
        return None if self.icc_mean is None else math.sqrt(max(self.icc_mean, 0.0))


@dataclass(frozen=True)
class Ratings:
    """Summary of the table that :func:`gather_ratings` wrote."""

    path: Path
    labels: tuple[str, ...]
    n_clips: int
    n_raters: tuple[int, int]  # minimum and maximum per clip
    means: tuple[float, ...]  # (L,) of the clips' labels
    agreement: Mapping[str, Agreement]  # by label
    incomplete: tuple[str, ...]  # clips without a rating of each label, left out


def gather_ratings(
    table: Path | str,
    out: Path | str,
    *,
    scale: tuple[float, float] = (0.0, 1.0),
    labels: str | Sequence[str] | None = None,
) -> Ratings:
    """Average the ratings of each clip, scale them to [0, 1], and write a table for ``prepare`` and
    ``split``.

    Args:
        table: a CSV with one row per rating: a column ``path`` (the clip), one per label, optional ``rater``,
            ``audio``, ``split``, ``person`` and ``stimulus``. Rows of one path are ratings of one clip.
        out: the CSV to write.
        scale: minimum and maximum of the rating scale (not of the ratings).
        labels: the label columns, or a label set's name; ``None``: all columns with a number.

    Returns:
        A summary, with the agreement per label: intraclass correlations of a one-way random-effects analysis
        (Shrout and Fleiss 1979), which needs no rater identities; with k0 (Donner 1986) for unequal numbers
        of ratings.

    Raises:
        ConfigError: no such scale.
        DataError: the table cannot be used; a rating is outside the scale or no number; rows of a clip
            contradict each other, or a rater rated a clip twice.
        OutputError: ``out`` is there already, or is no CSV.
    """
    table, out = Path(table), Path(out)
    check_output_table(out)
    if not (all(map(math.isfinite, scale)) and scale[0] < scale[1]):
        raise ConfigError(
            "invalid rating scale", got=f"{scale[0]:g} to {scale[1]:g}", expected="minimum, maximum"
        )
    rows = read_listing(table)
    names = label_columns(rows, labels, table)
    clips = _clips(table, rows)
    numbers = pd.DataFrame(_scaled_ratings(table, rows, names, scale), columns=list(names))
    ratings = numbers.groupby([row["path"] for row in rows], sort=False)
    means = ratings.mean()  # (clips, L)
    complete = means.notna().all(axis=1)
    if not complete.any():
        raise DataError(f"{table}: no clip has a rating for every label", expected=", ".join(names))
    rated = [replace(clips[str(path)], labels=tuple(values)) for path, values in means[complete].iterrows()]
    write_listing(out, rated, names)
    counts = ratings.size()
    return Ratings(
        path=out,
        labels=names,
        n_clips=len(rated),
        n_raters=(int(counts.min()), int(counts.max())),
        means=tuple(means[complete].mean().tolist()),
        agreement={
            name: agreement(ratings[name].apply(lambda values: values.dropna().to_numpy())) for name in names
        },
        incomplete=tuple(map(str, means.index[~complete])),
    )


def agreement(ratings: pd.Series) -> Agreement:
    """Return the rater agreement on one label, from an array of ratings per clip, of any length."""
    rated_twice = [values for values in ratings if len(values) > 1]
    if len(rated_twice) < 2:
        return Agreement(None, None)
    all_ratings = np.concatenate(rated_twice)
    counts = np.array([len(values) for values in rated_twice])
    means = np.array([values.mean() for values in rated_twice])
    n = len(rated_twice)
    between = (counts * (means - all_ratings.mean()) ** 2).sum() / (n - 1)
    within = ((all_ratings - np.repeat(means, counts)) ** 2).sum() / (counts.sum() - n)
    k = (counts.sum() - (counts**2).sum() / counts.sum()) / (n - 1)
    total = between + (k - 1) * within
    return Agreement(
        icc_one=float((between - within) / total) if total > 0 else None,
        icc_mean=float((between - within) / between) if between > 0 else None,
    )


def _scaled_ratings(
    table: Path, rows: Sequence[Mapping[str, str]], labels: Sequence[str], scale: tuple[float, float]
) -> np.ndarray:
    """Return the ratings, (rows, L) in [0, 1]; NaN for an empty cell."""
    low, high = scale
    numbers = np.full((len(rows), len(labels)), np.nan)
    for i, row in enumerate(rows):
        for column, label in enumerate(labels):
            if row[label].lower() in MISSING:
                continue
            value = parse_number(row[label])
            if value is None or not low <= value <= high:
                raise DataError(
                    f"{table}, row {i + 2}: {label} is outside the rating scale",
                    got=f"'{row[label]}'",
                    expected=f"{low:g} to {high:g}",
                    fix="Set the scale, such as --scale 1 7, or the label columns with --labels",
                )
            numbers[i, column] = value
    return (numbers - low) / (high - low)


def _clips(table: Path, rows: Sequence[Mapping[str, str]]) -> dict[str, Clip]:
    """Return the clip of each path, without labels; raise DataError for contradictory rows."""
    clips, raters = dict[str, Clip](), set[tuple[str, str]]()
    for row_number, row in enumerate(rows, start=2):
        clip = replace(clip_from_row(table.parent, row, ()), attributes={})
        path, rater = clip.clip_id, row.get("rater", "")
        problem = clip.problem
        if clips.setdefault(path, clip) != clip:
            problem = f"another audio, split, person or stimulus of {path} than in an earlier row"
        if rater and (path, rater) in raters:
            problem = f"'{rater}' rated {path} twice"
        if problem:
            raise DataError(f"{table}, row {row_number}: {problem}", fix="Correct or delete the row")
        raters.add((path, rater))
    return clips
