"""A table of one's own that lists media files, a row each, with their labels: read, and written."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from reactometer.data.clips import (
    Manifest,
    choose_labels,
    choose_media,
    make_clip,
    mark_duplicates,
    parse_number,
    parse_split,
    read_rows,
)
from reactometer.errors import DataError, OutputError
from reactometer.io import write_whole
from reactometer.media.video import MEDIA_ENDINGS
from reactometer.types import Clip

RATER = "rater"
COLUMNS = ("path", "audio", "split", "person", "stimulus", RATER)
"""What a column can be that is no label and no attribute; in any case."""

PATH_NAMES = ("path", "file", "filename", "file name", "video")
"""What the column ``path`` may be called, the first of them that is there."""


def read_listing(path: Path) -> list[dict[str, str]]:
    """The rows of a table as text cells, those of ``COLUMNS`` under these names.

    Raises:
        DataError: no such table, see :func:`reactometer.data.clips.read_rows`; or no column says where the files are.
    """
    rows = read_rows(path)
    given, where = _by_lower_case(rows[0]), _path_column(rows[0])
    if where is None:
        expected = f"'path' (or {', '.join(PATH_NAMES[1:])})"
        fix = "Call the column with the media files 'path' in the first line"
        raise DataError(f"{path}: no column 'path'", got=", ".join(rows[0]), expected=expected, fix=fix)
    ours = {where: "path"} | {given[name]: name for name in COLUMNS[1:] if name in given}
    return [{ours.get(name, name): cell for name, cell in row.items()} for row in rows]


def is_listing(path: Path) -> bool:
    """Whether a table says where files are."""
    return _path_column(read_rows(path)[0]) is not None


def _path_column(columns: Iterable[str]) -> str | None:
    given = _by_lower_case(columns)
    return next((given[name] for name in PATH_NAMES if name in given), None)


def _by_lower_case(columns: Iterable[str]) -> dict[str, str]:
    """The columns by their names in lower case, the first of each."""
    return {name.lower(): name for name in reversed(list(columns))}


def label_columns(rows: Sequence[dict[str, str]], asked: str | Sequence[str] | None, path: Path) -> tuple[str, ...]:
    """Which columns are labels: those asked for, else those that hold a number."""
    columns = [name for name in rows[0] if name in COLUMNS or has_number(rows, name)]
    is_labelled = any(name not in COLUMNS for name in columns)
    return choose_labels(columns if is_labelled and not asked else list(rows[0]), COLUMNS, asked, path)


def has_number(rows: Sequence[Mapping[str, str]], name: str) -> bool:
    """Whether a column can be a label: remarks, countries and empty cells are none."""
    return any(parse_number(row[name]) is not None for row in rows)


def read_own(path: Path, asked: str | Sequence[str] | None) -> Manifest:
    """The data set that a table lists; see :func:`reactometer.data.layouts.read_data_set`."""
    rows = read_listing(path)
    labels = label_columns(rows, asked, path)
    clips = mark_duplicates([listed_clip(path.parent, row, labels) for row in rows], of_raters=True)
    return Manifest(path.parent, labels, clips)


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
    """Write such a table: paths relative to it where they lie in its folder."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["path", "audio", "split", "person", "stimulus", *labels, *attributes])
    for clip in clips:
        audio = _relative(clip.audio_path, out.parent) if clip.audio_path else ""
        about = [clip.split or "", clip.person or "", clip.stimulus or ""]
        values = [f"{value:.10g}" for value in clip.labels or ()]
        more = [clip.attributes.get(name, "") for name in attributes]
        writer.writerow([_relative(clip.path, out.parent), audio, *about, *values, *more])
    write_whole(out, table.getvalue())


def _relative(path: Path, folder: Path) -> str:
    """Relative to the table's folder where it lies in it, else from the root."""
    path, folder = path.resolve(), folder.resolve()
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)
