"""Read tables into a manifest of clips and labels; an invalid row affects only its clip."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from itertools import zip_longest
from pathlib import Path

from reactometer.errors import DataError, OutputError, missing_path_hint, suggestion
from reactometer.io import format_csv, write_atomic
from reactometer.labels import LABEL_SETS
from reactometer.types import Clip

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "devel"), "val"),
    "test": "test",
}
"""Split names by the lower-case spellings of common datasets."""

SEPARATORS = ",;\t"
DUPLICATE = (
    "duplicate id (the first row is used); make ids unique, or average raters with 'reactometer data ratings'"
)
NO_LABEL = "rescale ratings with 'reactometer data ratings --scale', or name the label columns with --labels"

COLUMNS = ("path", "audio", "split", "person", "stimulus", "rater")
"""Columns of a listing besides labels and attributes; upper and lower case are equal."""


@dataclass(frozen=True)
class Manifest:
    """A dataset as read from disk: its label names, in order, and its clips."""

    labels: tuple[str, ...]
    clips: tuple[Clip, ...]


def read_rows(path: Path, required: Sequence[str] = ()) -> list[dict[str, str]]:
    """Read the rows of a UTF-8 table as text cells without spaces around them (empty for missing).

    Cells are separated by commas; or by semicolons or tabs, as spreadsheets write them if the comma is the
    decimal sign. Empty rows are left out.

    Raises:
        DataError: the file is missing, empty, no UTF-8, no table, has no rows or lacks a required column.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file", fix=missing_path_hint(path))
    try:
        text = path.read_bytes().decode("utf-8-sig").lstrip("\r\n")
        separator = max(SEPARATORS, key=text.partition("\n")[0].count)
        lines = csv.reader(
            StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True
        )
        table = [[cell.strip() for cell in line] for line in lines]
    except (ValueError, OSError, csv.Error) as error:
        raise DataError(
            f"{path}: not a CSV table: {error}", fix="Save it as UTF-8 CSV with one header line"
        ) from error
    header, *rows = [line for line in table if any(line)] or [[]]
    if not rows:
        raise DataError(f"{path}: not a CSV table with rows", expected="a header and one row per clip")
    for name in required:
        if name not in header:
            fix = f"Call it '{name}' in the first line"
            raise DataError(f"{path}: no column '{name}'", got=", ".join(header), fix=fix)
    if duplicates := [name for name in header if name and header.count(name) > 1]:
        raise DataError(f"{path}: {len(duplicates)} columns are called '{duplicates[0]}'", fix="Rename them")
    if (longest := max(map(len, rows))) > len(header):
        fix = "Give every column a name, or delete the separators at the ends of rows"
        raise DataError(
            f"{path}: rows have more cells than the header", got=f"{longest - len(header)} more", fix=fix
        )
    return [dict(zip_longest(header, row, fillvalue="")) for row in rows]


def choose_labels(
    columns: Sequence[str], reserved: Sequence[str], label_set: str | Sequence[str] | None, origin: Path
) -> tuple[str, ...]:
    """Return the label columns: the requested ones, else a complete known label set, else all remaining
    columns.

    Raises:
        DataError: a requested label is no column, or no column remains.
    """
    if isinstance(label_set, str):
        label_set = LABEL_SETS.get(label_set.lower(), tuple(part.strip() for part in label_set.split(",")))
    if label_set:
        for name in label_set:
            if name not in columns:
                raise DataError(f"{origin}: no column for label '{name}'", fix=suggestion(name, columns))
        return tuple(label_set)
    for names in LABEL_SETS.values():
        if set(names) <= set(columns):
            return names
    remaining = tuple(column for column in columns if column not in reserved)
    if not remaining:
        raise DataError(f"{origin}: no label column", expected="one column of numbers per label")
    return remaining


def parse_number(cell: str) -> float | None:
    """Return the number in a cell, "0.5" or "0,5"; ``None`` if there is none."""
    try:
        return float(cell.replace(",", "."))
    except ValueError:
        return None


def parse_labels(
    row: Mapping[str, str], labels: Sequence[str]
) -> tuple[tuple[float, ...] | None, str | None]:
    """Return the label values (L,), ``None`` if all are empty or absent, and the problem, if any."""
    cells = [row.get(label, "").strip() for label in labels]
    if not any(cells):
        return None, None
    values = []
    for label, cell in zip(labels, cells, strict=True):
        value = parse_number(cell)
        if value is None or not 0.0 <= value <= 1.0:
            return None, f"label {label} is not a number in [0, 1] (got '{cell}'); {NO_LABEL}"
        values.append(value)
    return tuple(values), None


def parse_split(cell: str) -> tuple[str | None, str | None]:
    """Return "train", "val" or "test" (``None`` for an empty cell), and the problem, if any."""
    name = cell.strip().lower()
    if name and name not in SPLIT_NAMES:
        return None, f"unknown split (got '{cell}'; expected train, val or test)"
    return SPLIT_NAMES.get(name), None


def make_clip(
    row: Mapping[str, str],
    labels: Sequence[str],
    layout_columns: Sequence[str],
    *,
    clip_id: str,
    path: Path,
    split: str = "",
    audio_path: Path | None = None,
    problem: str | None = None,
) -> Clip:
    """Return the clip of a row; columns outside ``layout_columns``, labels, person and stimulus become
    attributes.

    ``split`` is the cell with the split. ``problem`` is more important than problems in the cells.
    """
    split_name, split_problem = parse_split(split)
    cells = {key.lower(): value for key, value in row.items()}
    values, label_problem = parse_labels(row, labels)
    reserved = {name.lower() for name in (*labels, *layout_columns, "person", "stimulus")}
    return Clip(
        clip_id=clip_id,
        path=path,
        split=split_name,
        person=cells.get("person") or None,
        stimulus=cells.get("stimulus") or None,
        labels=values,
        audio_path=audio_path,
        attributes={key: value for key, value in row.items() if key.lower() not in reserved},
        problem=(problem or split_problem or label_problem) if clip_id.strip("[]") else "empty id",
    )


def choose_media(candidates: Sequence[Path]) -> Path:
    """Return the first path that exists, else the first, which ``prepare`` reports as missing."""
    return next((path for path in candidates if path.exists()), candidates[0])


def mark_duplicates(clips: Sequence[Clip]) -> tuple[Clip, ...]:
    """Mark every later clip with the id of an earlier clip as a problem."""
    ids, marked = set[str](), []
    for clip in clips:
        marked.append(replace(clip, problem=DUPLICATE) if clip.clip_id in ids else clip)
        ids.add(clip.clip_id)
    return tuple(marked)


def read_listing(path: Path) -> list[dict[str, str]]:
    """Read a table that lists media files, as text cells; spell its columns as in ``COLUMNS``.

    Raises:
        DataError: the table cannot be read, see :func:`read_rows`, or has no column ``path``.
    """
    rows = read_rows(path)
    standard_names = {name: name.lower() for name in rows[0] if name.lower() in COLUMNS}
    if "path" not in standard_names.values():
        fix = "Call the column with the media files 'path' in the first line"
        raise DataError(f"{path}: no column 'path'", got=", ".join(rows[0]), fix=fix)
    return [{standard_names.get(name, name): cell for name, cell in row.items()} for row in rows]


def label_columns(
    rows: Sequence[dict[str, str]], label_set: str | Sequence[str] | None, path: Path
) -> tuple[str, ...]:
    """Return the label columns of a listing: the requested ones, else those with numbers."""

    def can_be_label(name: str) -> bool:
        return any(parse_number(row[name]) is not None for row in rows)

    return choose_labels(
        [name for name in rows[0] if label_set or can_be_label(name)], COLUMNS, label_set, path
    )


def read_table(path: Path, label_set: str | Sequence[str] | None) -> Manifest:
    """Read the dataset that a table lists; see :func:`reactometer.data.datasets.read_dataset`."""
    rows = read_listing(path)
    labels = label_columns(rows, label_set, path)
    return Manifest(labels, mark_duplicates([clip_from_row(path.parent, row, labels) for row in rows]))


def clip_from_row(root: Path, row: Mapping[str, str], labels: tuple[str, ...]) -> Clip:
    """Return the clip of one row of a listing in the folder ``root``; its id is the path as the table has
    it."""

    def locate(name: str) -> Path:
        return choose_media([root / name, root / name.replace("\\", "/")])  # a table written on Windows

    audio = row.get("audio")
    return make_clip(
        row,
        labels,
        COLUMNS,
        clip_id=row["path"],
        path=locate(row["path"]),
        split=row.get("split", ""),
        audio_path=locate(audio) if audio else None,
    )


def check_output_table(out: Path) -> None:
    """Raise OutputError if a new CSV cannot be written here."""
    if out.suffix.lower() != ".csv" or out.exists():
        got = "a file that exists" if out.exists() else out.suffix or "no suffix"
        raise OutputError(f"{out}: cannot be written", got=got, expected="a new file ending in .csv")


def write_listing(
    out: Path, clips: Sequence[Clip], labels: Sequence[str], attributes: Sequence[str] = ()
) -> None:
    """Write a table that :func:`read_table` reads; paths inside its folder are relative."""

    def relative(path: Path | None) -> str:
        path, folder = path and path.resolve(), out.parent.resolve()
        return str(path.relative_to(folder) if path and path.is_relative_to(folder) else path or "")

    rows = []
    for clip in clips:
        cells = [relative(clip.path), relative(clip.audio_path), clip.split, clip.person, clip.stimulus]
        values = [f"{value:.10g}" for value in clip.labels] if clip.labels else [None] * len(labels)
        rows.append([*cells, *map(clip.attributes.get, attributes), *values])
    header = ["path", "audio", "split", "person", "stimulus", *attributes, *labels]
    write_atomic(out, format_csv([header, *rows]))
