"""The manifest: one row a clip, checked row by row so that one bad row costs one clip and no more."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reactometer.errors import DataError, suggestion
from reactometer.labels import LABEL_SETS
from reactometer.records import Clip

if TYPE_CHECKING:
    import pandas as pd

SPLIT_NAMES: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "devel": "val",
    "test": "test",
}
"""The spellings found in the field's data sets, lower case, and ours."""


@dataclass(frozen=True)
class Manifest:
    """A data set as read from disk: its label names, in order, and its clips."""

    root: Path
    labels: tuple[str, ...]
    clips: tuple[Clip, ...]


def read_rows(path: Path, required: Sequence[str] = ()) -> list[dict[str, str]]:
    """Read a CSV's rows as text cells (empty for missing), with or without a byte-order mark, gzipped or not.

    Raises:
        DataError: the file is missing, empty, no UTF-8, no table, has no rows or lacks a required column.
    """
    import pandas as pd  # here, since a prediction can do without it, and it takes its time

    if not path.is_file():
        raise DataError(f"{path}: no such file", fix="Check the path")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True)
    except (ValueError, OSError, EOFError, zlib.error) as error:  # the parser's own errors are ValueErrors
        raise DataError(f"{path}: not a CSV table: {error}", fix="Save it as UTF-8 CSV with one header line") from error
    refuse_longer_rows(path, table)
    if table.empty:
        raise DataError(f"{path}: has a header and no rows", expected="one row a clip")
    table = table.rename(columns=str.strip)
    for name in required:
        if name not in table.columns:
            raise DataError(f"{path}: no column '{name}'", got=", ".join(table.columns))
    return table.to_dict("records")  # type: ignore[return-value]


def refuse_longer_rows(path: Path, table: pd.DataFrame) -> None:
    """Raise DataError where rows have more cells than the header: pandas takes the first ones as the rows' names."""
    import pandas as pd

    if not isinstance(table.index, pd.RangeIndex):
        more = table.index.nlevels
        fix = "Give every column a name, or take away the commas at the ends of rows"
        raise DataError(f"{path}: rows have more cells than the header", got=f"{more} more", fix=fix)


def choose_labels(
    columns: Sequence[str], reserved: Sequence[str], asked: str | Sequence[str] | None, origin: Path
) -> tuple[str, ...]:
    """Which columns are labels: those asked for, else a known label set that is there whole, else all that are left.

    Raises:
        DataError: a label asked for is no column, or a column nearly spells a label of a known set.
    """
    if isinstance(asked, str):
        asked = LABEL_SETS.get(asked.lower(), tuple(part.strip() for part in asked.split(",")))
    if asked:
        for name in asked:
            if name not in columns:
                raise DataError(f"{origin}: no column for label '{name}'", fix=suggestion(name, columns))
        return tuple(asked)
    for names in LABEL_SETS.values():
        if set(names) <= set(columns):
            return names
    free = tuple(column for column in columns if column not in reserved)
    for names in LABEL_SETS.values():
        _refuse_near_miss(free, names, origin)
    if not free:
        raise DataError(f"{origin}: has no label column", got=", ".join(columns), expected="one column a label")
    return free


def _refuse_near_miss(columns: Sequence[str], names: Sequence[str], origin: Path) -> None:
    """A table with most of a known label set means that set: say which column is misspelt or missing."""
    missing = [name for name in names if name not in columns]
    if len(missing) * 2 >= len(names):
        return
    odd = [column for column in columns if column not in names and "Did you" in suggestion(column, missing)]
    if odd:
        raise DataError(f"{origin}: unknown label '{odd[0]}'", fix=suggestion(odd[0], missing))
    raise DataError(
        f"{origin}: label column '{missing[0]}' is missing",
        expected=", ".join(names),
        fix="Add the column, or name the labels to use with --labels",
    )


def parse_labels(row: Mapping[str, str], labels: Sequence[str]) -> tuple[tuple[float, ...] | None, str | None]:
    """The row's label values (L,), ``None`` where all are empty or absent, and what is wrong with them, if anything."""
    cells = [row.get(label, "").strip() for label in labels]
    if not any(cells):
        return None, None
    values = []
    for label, cell in zip(labels, cells, strict=True):
        try:
            value = float(cell)
        except ValueError:
            return None, f"label {label} is not a number (got '{cell}'; expected a number in [0, 1])"
        if not np.isfinite(value) or not 0.0 <= value <= 1.0:
            return None, f"label {label} is outside [0, 1] (got {cell}); rescale the column"
        values.append(value)
    return tuple(values), None


def parse_split(cell: str) -> tuple[str | None, str | None]:
    """The split's name in our spelling (``None`` for an empty cell), and what is wrong with it, if anything."""
    name = cell.strip().lower()
    if not name:
        return None, None
    if name not in SPLIT_NAMES:
        return None, f"unknown split (got '{cell}'; expected train, val or test)"
    return SPLIT_NAMES[name], None


def make_clip(
    row: Mapping[str, str],
    labels: Sequence[str],
    own_columns: Sequence[str],
    *,
    clip_id: str,
    path: Path,
    split: str | None,
    problem: str | None,
    audio_path: Path | None = None,
) -> Clip:
    """What all tables share: person, stimulus, labels, and every column but the layout's own as an attribute."""
    cells = {key.lower(): value.strip() for key, value in row.items()}
    values, label_problem = parse_labels(row, labels)
    hidden = {name.lower() for name in (*labels, *own_columns, "person", "stimulus")}
    return Clip(
        clip_id=clip_id,
        path=path,
        split=split,
        person=cells.get("person") or None,
        stimulus=cells.get("stimulus") or None,
        labels=values,
        audio_path=audio_path,
        attributes={key: value.strip() for key, value in row.items() if key.lower() not in hidden},
        problem=(problem or label_problem) if clip_id.strip("[]") else "empty id",
    )


def choose_media(candidates: Sequence[Path]) -> Path:
    """The first of the places that holds something, else the first: preparing then says that it is missing."""
    return next((path for path in candidates if path.exists()), candidates[0])


def mark_duplicates(clips: Sequence[Clip], places: Iterable[object] | None = None) -> tuple[Clip, ...]:
    """The clips, with every later row of an id that was there before marked as a problem.

    ``places`` names each clip's row; by default they are those of one table, whose row 1 is its header.
    """
    first_place: dict[str, object] = {}
    checked = []
    for clip, place in zip(clips, places or count(2), strict=False):
        if clip.clip_id in first_place:
            rows = f"rows {first_place[clip.clip_id]} and {place}"
            checked.append(replace(clip, problem=f"duplicate id ({rows}; the first one is used); make ids unique"))
        else:
            first_place[clip.clip_id] = place
            checked.append(clip)
    return tuple(checked)
