"""Tables to a manifest of clips and labels, checked row by row so that one bad row costs one clip and no more."""

from __future__ import annotations

import csv
import gzip
import zlib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_LE
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from itertools import count, zip_longest
from pathlib import Path
from typing import NoReturn

import numpy as np

from reactometer.errors import DataError, OutputError, suggestion
from reactometer.io import format_csv, write_whole
from reactometer.labels import LABEL_SETS
from reactometer.media.video import MEDIA_ENDINGS
from reactometer.types import Clip

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

BYTE_ORDER_MARKS = ((BOM_UTF32_LE, "utf-32"), (BOM_UTF16_LE, "utf-16"), (BOM_UTF16_BE, "utf-16"))
SEPARATORS = (",", ";", "\t")
GZIP = b"\x1f\x8b"
WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
"""How Excel's files begin, new and old."""
TO_RESCALE = "bring ratings of another scale to it, a CSV's with 'reactometer ratings --scale'"
MAKE_UNIQUE = "make ids unique, or average several raters with 'reactometer ratings'"
OR_NONE = "; if the column is no label, name those that are with --labels"

RATER = "rater"
COLUMNS = ("path", "audio", "split", "person", "stimulus", RATER)
"""What a column can be that is no label and no attribute; in any case."""

PATH_NAMES = ("path", "file", "filename", "file name", "video")
"""What the column ``path`` may be called, the first of them that is there."""


@dataclass(frozen=True)
class Manifest:
    """A data set as read from disk: its label names, in order, and its clips."""

    root: Path
    labels: tuple[str, ...]
    clips: tuple[Clip, ...]


def read_rows(path: Path, required: Sequence[str] = ()) -> list[dict[str, str]]:
    """Read a table's rows as text cells (empty for missing), gzipped or not.

    Between cells are commas; or semicolons or tabs, as spreadsheets write them where the comma is the decimal sign.
    UTF-8 with or without a byte-order mark, UTF-16 or UTF-32 with one.

    Raises:
        DataError: the file is missing, empty, no Unicode, no table, has no rows or lacks a required column.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file", fix="Check the path")
    try:
        header, *rows = _read_cells(path)
    except (ValueError, OSError, EOFError, csv.Error, zlib.error) as error:
        raise DataError(f"{path}: not a CSV table: {error}", fix="Save it as UTF-8 CSV with one header line") from error
    if not rows:
        raise DataError(f"{path}: has a header and no rows", expected="one row per clip", fix="Add the rows")
    columns = _unique_names(header)
    for name in required:
        if name not in columns:
            fix = f"Call it '{name}' in the first line"
            raise DataError(f"{path}: no column '{name}'", got=", ".join(columns), fix=fix)
    if (longest := max(map(len, rows))) > len(columns):
        raise_longer_rows(path, longest - len(columns))
    return [dict(zip_longest(columns, row, fillvalue="")) for row in rows]


def _read_cells(path: Path) -> list[list[str]]:
    """Return the header and the rows of a table; raise ValueError or csv.Error if it is damaged or empty."""
    content = path.read_bytes()
    if content.startswith(WORKBOOKS):
        problem = "an Excel workbook or a zip archive, no CSV table"
        raise DataError(f"{path}: {problem}", fix="Save the sheet as 'CSV UTF-8'")
    if content.startswith(GZIP):
        content = gzip.decompress(content)
    encoding = next((name for mark, name in BYTE_ORDER_MARKS if content.startswith(mark)), "utf-8-sig")
    text = content.decode(encoding)

    def read(separator: str, strict: bool) -> Iterator[list[str]]:
        lines = StringIO(text, newline="")
        rows = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=strict)
        return (row for row in rows if len(row) > 1 or (row and row[0].strip()))

    separator = max(SEPARATORS, key=lambda one: len(next(read(one, strict=False), ())))
    if not (table := list(read(separator, strict=True))):
        raise ValueError("the file is empty")
    return table


def _unique_names(header: Sequence[str]) -> list[str]:
    """Return the columns' names; those without a name and later ones of the same name get a number."""
    names = [name.strip() or f"Unnamed: {place}" for place, name in enumerate(header)]
    again = [names[:place].count(name) for place, name in enumerate(names)]
    return [f"{name}.{number}" if number else name for name, number in zip(names, again, strict=True)]


def raise_longer_rows(path: Path, n_more: int) -> NoReturn:
    """Raise DataError for a table with rows that have ``n_more`` cells more than the header."""
    fix = "Give every column a name, or delete the separators at the ends of rows"
    raise DataError(f"{path}: rows have more cells than the header", got=f"{n_more} more", fix=fix)


def choose_labels(
    columns: Sequence[str], reserved: Sequence[str], asked: str | Sequence[str] | None, origin: Path
) -> tuple[str, ...]:
    """Which columns are labels: those asked for, else a known label set that is there whole, else all that are left.

    Raises:
        DataError: a label asked for is no column, or no column is left.
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
    if not free:
        raise DataError(f"{origin}: has no label column", got=", ".join(columns), expected="one column a label")
    return free


def parse_number(cell: str) -> float | None:
    """What a cell says, "0.5" or "0,5"; ``None`` where that is no number."""
    try:
        return float(cell.replace(",", "."))
    except ValueError:
        return None


def parse_labels(row: Mapping[str, str], labels: Sequence[str]) -> tuple[tuple[float, ...] | None, str | None]:
    """The row's label values (L,), ``None`` where all are empty or absent, and what is wrong with them, if anything."""
    cells = [row.get(label, "").strip() for label in labels]
    if not any(cells):
        return None, None
    values = []
    for label, cell in zip(labels, cells, strict=True):
        value = parse_number(cell)
        if value is None:
            expected = f"got '{cell}'; expected a number in [0, 1]"
            return None, f"label {label} is not a number ({expected}); correct it{OR_NONE}"
        if not np.isfinite(value) or not 0.0 <= value <= 1.0:
            return None, f"label {label} is outside [0, 1] (got {cell}); {TO_RESCALE}{OR_NONE}"
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
    """Mark every later clip with the id of an earlier one as a problem.

    ``places`` names each clip's row; default: the rows of one table, whose row 1 is its header.
    """
    first_place: dict[str, object] = {}
    checked = []
    for clip, place in zip(clips, places or count(2), strict=False):
        first = first_place.setdefault(clip.clip_id, place)
        problem = f"duplicate id (rows {first} and {place}; the first one is used); {MAKE_UNIQUE}"
        checked.append(clip if first == place else replace(clip, problem=problem))
    return tuple(checked)


def read_listing(path: Path) -> list[dict[str, str]]:
    """Read a table that lists media files, as text cells; rename its columns to those of ``COLUMNS``.

    Raises:
        DataError: no such table, see :func:`read_rows`; or no column holds the paths.
    """
    rows = read_rows(path)
    by_lower_case = {name.lower(): name for name in reversed(list(rows[0]))}
    where = next((by_lower_case[name] for name in PATH_NAMES if name in by_lower_case), None)
    if where is None:
        expected = f"'path' (or {', '.join(PATH_NAMES[1:])})"
        fix = "Call the column with the media files 'path' in the first line"
        raise DataError(f"{path}: no column 'path'", got=", ".join(rows[0]), expected=expected, fix=fix)
    ours = {where: "path"} | {by_lower_case[name]: name for name in COLUMNS[1:] if name in by_lower_case}
    return [{ours.get(name, name): cell for name, cell in row.items()} for row in rows]


def label_columns(rows: Sequence[dict[str, str]], asked: str | Sequence[str] | None, path: Path) -> tuple[str, ...]:
    """Which columns are labels: those asked for, else those that hold a number."""
    columns = [name for name in rows[0] if name in COLUMNS or has_number(rows, name)]
    is_labelled = any(name not in COLUMNS for name in columns)
    return choose_labels(columns if is_labelled and not asked else list(rows[0]), COLUMNS, asked, path)


def has_number(rows: Sequence[Mapping[str, str]], name: str) -> bool:
    """Whether a column can be a label: remarks, countries and empty cells are none."""
    return any(parse_number(row[name]) is not None for row in rows)


def read_own(path: Path, asked: str | Sequence[str] | None) -> Manifest:
    """The data set that a table lists; see :func:`reactometer.data.datasets.read_data_set`."""
    rows = read_listing(path)
    labels = label_columns(rows, asked, path)
    return Manifest(path.parent, labels, mark_duplicates([listed_clip(path.parent, row, labels) for row in rows]))


def listed_clip(root: Path, row: Mapping[str, str], labels: tuple[str, ...]) -> Clip:
    """The clip of one row of a table in the folder ``root``: the path, as it is there, is the id."""
    split, problem = parse_split(row.get("split", ""))
    name, audio = row["path"].strip(), row.get("audio", "").strip()
    return make_clip(
        row,
        labels,
        COLUMNS,
        clip_id=name,
        path=locate(root, name),
        split=split,
        problem=problem,
        audio_path=locate(root, audio) if audio else None,
    )


def locate(root: Path, name: str) -> Path:
    """Where a file is that a table names, relative to the table's folder ``root``.

    A table that was written on Windows has backslashes between folders; one that lists ids has no endings.
    """
    places = [root / name, root / name.replace("\\", "/")]
    if not Path(name).suffix:
        places += [Path(f"{places[1]}{ending}") for ending in MEDIA_ENDINGS]
    return choose_media(places)


def check_new_table(out: Path) -> None:
    """Raise OutputError where no such table can be written."""
    if out.suffix.lower() != ".csv" or out.exists():
        got = "a file that exists" if out.exists() else out.suffix or "no ending"
        raise OutputError(f"{out}: cannot take the table", got=got, expected="a new file ending in .csv")


def write_listing(out: Path, clips: Sequence[Clip], labels: Sequence[str], attributes: Sequence[str] = ()) -> None:
    """Write a table that :func:`read_own` reads; paths inside its folder are relative."""

    def relative(path: Path | None) -> str:
        path, folder = path and path.resolve(), out.parent.resolve()
        return str(path.relative_to(folder) if path and path.is_relative_to(folder) else path or "")

    rows = []
    for clip in clips:
        values = [f"{value:.10g}" for value in clip.labels] if clip.labels else [None] * len(labels)
        others = [clip.attributes.get(name) for name in attributes]
        names = [relative(clip.path), relative(clip.audio_path), clip.split, clip.person, clip.stimulus]
        rows.append([*names, *values, *others])
    header = ["path", "audio", "split", "person", "stimulus", *labels, *attributes]
    write_whole(out, format_csv([header, *rows]))
