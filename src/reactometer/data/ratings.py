"""Ratings, of one rater or several, on any scale -> one row a clip with labels in [0, 1], and how far raters agree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from reactometer.data.manifest import (
    COLUMNS,
    RATER,
    check_new_table,
    has_number,
    label_columns,
    listed_clip,
    parse_number,
    read_listing,
    write_listing,
)
from reactometer.errors import ConfigError, DataError
from reactometer.types import Clip

MISSING = ("", "na", "n/a", "nan")
"""Cells that hold no rating, in lower case; R writes NA."""

SAME = ("audio", "split", "person", "stimulus")
"""What all rows of a clip have to say alike."""


@dataclass(frozen=True)
class Agreement:
    """How far the raters of one label agree; None where too few clips have two ratings, or all ratings are the same."""

    with_others: float | None  # Pearson of one rating and the mean of the clip's other ones, over all ratings
    icc_one: float | None  # ICC(1,1), the reliability of one rating
    icc_mean: float | None  # ICC(1,k), the reliability of the mean of a clip's ratings

    @property
    def ceiling(self) -> float | None:
        """The Pearson that a perfect model could be expected to reach with the mean ratings: the root of ICC(1,k)."""
        return None if self.icc_mean is None else math.sqrt(max(self.icc_mean, 0.0))


@dataclass(frozen=True)
class Ratings:
    """What :func:`gather_ratings` wrote."""

    path: Path
    labels: tuple[str, ...]
    n_clips: int
    n_raters: tuple[int, int]  # of a clip: the fewest, the most
    means: tuple[float, ...]  # (L,) of the clips' labels
    agreement: Mapping[str, Agreement]  # by label
    incomplete: tuple[str, ...]  # clips without a rating of each label, left out
    dropped: tuple[str, ...]  # columns that the new table has not


def gather_ratings(
    table: Path | str,
    out: Path | str,
    *,
    scale: tuple[float, float] = (0.0, 1.0),
    labels: str | Sequence[str] | None = None,
) -> Ratings:
    """Average the ratings of each clip, bring them to [0, 1], and write the table that ``prepare`` and ``split`` take.

    Args:
        table: a CSV with a row for each rating: a column ``path`` (the clip), one column a label, optional ``rater``,
            ``audio``, ``split``, ``person`` and ``stimulus``. Rows of one path are ratings of one clip.
        out: the CSV to write.
        scale: the least and the greatest rating that could be given (not: that was given).
        labels: the label columns, or a label set's name; ``None``: all that hold a number.

    Returns:
        What was written, and for each label the agreement: of one rating and the mean of the others, and the intraclass
        correlations of a one-way random-effects analysis (Shrout and Fleiss 1979), which asks nothing of who rated
        what; where clips have different numbers of ratings, with their usual k0 (Donner 1986).

    Raises:
        ConfigError: no such scale.
        DataError: the table cannot be used; a rating is outside the scale or no number; rows of a clip contradict each
            other, or a rater rated a clip twice.
        OutputError: ``out`` is there already, or is no CSV.
    """
    table, out = Path(table), Path(out)
    check_new_table(out)
    if not (all(map(math.isfinite, scale)) and scale[0] < scale[1]):
        raise ConfigError("no such scale", got=f"{scale[0]:g} to {scale[1]:g}", expected="the least, the greatest")
    rows = read_listing(table)
    names = label_columns(rows, labels, table)
    paths = [row["path"].strip() for row in rows]
    given = pd.DataFrame(_numbers(table, rows, names, scale), columns=list(names)).groupby(paths, sort=False)
    means = given.mean()  # (clips, L)
    complete = means.notna().all(axis=1).to_numpy()
    if not complete.any():
        raise DataError(f"{table}: no clip has a rating of each label", expected=", ".join(names))
    kept, dropped = _attributes(rows, paths, names)
    by_path = _clips(table, rows)
    clips = [replace(by_path[str(path)], labels=tuple(values)) for path, values in means[complete].iterrows()]
    write_listing(out, clips, names, kept)
    counts = given.size()
    return Ratings(
        path=out,
        labels=names,
        n_clips=len(clips),
        n_raters=(int(counts.min()), int(counts.max())),
        means=tuple(means[complete].mean().tolist()),
        agreement={name: agreement(given[name].apply(lambda own: own.dropna().to_numpy())) for name in names},
        incomplete=tuple(map(str, means.index[~complete])),
        dropped=dropped,
    )


def agreement(ratings: pd.Series) -> Agreement:
    """How far raters agree.

    Args:
        ratings: of one label, an array for each clip, of any length.
    """
    several = [own for own in ratings if len(own) > 1]
    if len(several) < 2:
        return Agreement(None, None, None)
    everything, counts = np.concatenate(several), np.array([len(own) for own in several])
    others = np.concatenate([(own.sum() - own) / (len(own) - 1) for own in several])
    varies = min(np.ptp(everything), np.ptp(others)) > 0
    means, n = np.array([own.mean() for own in several]), len(several)
    between = (counts * (means - everything.mean()) ** 2).sum() / (n - 1)
    within = ((everything - np.repeat(means, counts)) ** 2).sum() / (counts.sum() - n)
    k = (counts.sum() - (counts**2).sum() / counts.sum()) / (n - 1)
    total = between + (k - 1) * within
    return Agreement(
        with_others=float(np.corrcoef(everything, others)[0, 1]) if varies else None,
        icc_one=float((between - within) / total) if total > 0 else None,
        icc_mean=float((between - within) / between) if between > 0 else None,
    )


def _numbers(
    table: Path, rows: Sequence[Mapping[str, str]], labels: Sequence[str], scale: tuple[float, float]
) -> np.ndarray:
    """(rows, L) in [0, 1], NaN for an empty cell."""
    low, high = scale
    numbers = np.full((len(rows), len(labels)), np.nan)
    for place, row in enumerate(rows):
        for column, label in enumerate(labels):
            cell = row[label].strip()
            value = math.nan if cell.lower() in MISSING else parse_number(cell)
            if value is None:
                fix = "Correct it or leave it empty; if the column is no label, name those that are with --labels"
                raise DataError(f"{table}, row {place + 2}: {label} is not a number", got=f"'{cell}'", fix=fix)
            numbers[place, column] = value
    outside = ~((numbers >= low) & (numbers <= high) | np.isnan(numbers))
    if outside.any():
        label = labels[int(outside.any(axis=0).argmax())]
        own = numbers[:, labels.index(label)]
        raise DataError(
            f"{table}: ratings of {label} are outside the scale",
            got=f"{np.nanmin(own):g} to {np.nanmax(own):g}",
            expected=f"{low:g} to {high:g}",
            fix="Name the scale, such as --scale 1 7, or the columns that are labels with --labels",
        )
    return (numbers - low) / (high - low)


def _attributes(
    rows: Sequence[Mapping[str, str]], paths: Sequence[str], labels: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The other columns: those that are the clip's and could be taken for no label, and those that are left out."""
    kept, dropped = list[str](), list[str]()
    for name in (name for name in rows[0] if name not in (*COLUMNS, *labels)):
        cells = set(zip(paths, (row[name].strip() for row in rows), strict=True))
        is_kept = len(cells) == len(set(paths)) and not has_number(rows, name)
        (kept if is_kept else dropped).append(name)
    return tuple(kept), tuple(dropped)


def _clips(table: Path, rows: Sequence[Mapping[str, str]]) -> dict[str, Clip]:
    """Return the clip of each path, without its labels."""
    cells = pd.DataFrame(rows).reindex(columns=list(COLUMNS), fill_value="").apply(lambda column: column.str.strip())
    for name in SAME:
        n_values = cells.groupby("path")[name].nunique()
        if n_values.max() > 1:
            fix = f"Give all rows of a clip the same {name}"
            raise DataError(f"{table}: {n_values.idxmax()} has {n_values.max()} {name}s", fix=fix)
    again = cells[(cells[RATER] != "") & cells.duplicated(["path", RATER])]
    if len(again):
        what = f"{table}, row {again.index[0] + 2}: '{again[RATER].iloc[0]}' rated {again['path'].iloc[0]} twice"
        raise DataError(what, fix="Delete one of the rows, or give the raters different names")
    clips = {row["path"].strip(): listed_clip(table.parent, row, ()) for row in reversed(rows)}
    for path, clip in clips.items():
        if clip.problem:
            raise DataError(f"{table}: {path or 'a row'}: {clip.problem}", fix="Correct it in all rows of the clip")
    return clips
