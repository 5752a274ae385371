"""A data set's folder or table -> the manifest, by what lies there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reactometer.data.challenges import ABAW5_TABLE, EMI_TABLES, MUSE_TABLES, read_abaw5, read_emi, read_muse
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
from reactometer.data.crema_d import VOTES, VOTES_TABLE, find_votes, read_crema_d
from reactometer.errors import DataError, suggestion
from reactometer.records import Clip

CSV_COLUMNS = ("path", "audio", "split", "person", "stimulus")


def read_data_set(path: Path | str, labels: str | Sequence[str] | None = None, *, votes: str = "both") -> Manifest:
    """Read a data set's table; media files are not opened.

    Args:
        path: a folder in the layout of ABAW5 (``data_info.csv``), MuSe-2022 (``labels.csv``, ``partition.csv``),
            EMI (``train_split.csv``, ``valid_split.csv``) or CREMA-D (``tabulatedVotes.csv``), or a CSV with a column
            ``path`` (a media file, or a folder of face crops), optional ``audio`` (a sound file beside it), ``split``,
            ``person`` and ``stimulus``, and one column a label; columns that hold no number are kept as attributes.
        labels: the name of a label set or the label columns; ``None`` finds them.
        votes: CREMA-D's labels come from raters who were given the "voice", the "face" or "both".

    Raises:
        DataError: no such data set, or its table cannot be used. A row that is wrong by itself is kept, with its
            ``problem`` named.
    """
    path = Path(path)
    if votes not in VOTES:
        raise DataError(f"no votes '{votes}'", fix=suggestion(votes, VOTES))
    if not path.is_dir():
        return _read_csv(path, labels)
    if (path / ABAW5_TABLE).is_file():
        return read_abaw5(path, labels)
    if all((path / name).is_file() for name in MUSE_TABLES):
        return read_muse(path, labels)
    if all((path / name).is_file() for name in EMI_TABLES):
        return read_emi(path, labels)
    if find_votes(path):
        return read_crema_d(path, labels, votes)
    raise DataError(
        f"{path}: no known data set layout",
        got=", ".join(sorted(table.name for table in path.glob("*.csv"))) or "a folder without CSV files",
        expected=f"{ABAW5_TABLE} (ABAW5), {' and '.join(MUSE_TABLES)} (MuSe-2022), {' and '.join(EMI_TABLES)} (EMI) or "
        f"{VOTES_TABLE} (CREMA-D) in the folder, or the path of a CSV table with a column 'path'",
        fix="Of your own videos, list the files in a CSV: a column 'path', and a column a label",
    )


def _read_csv(path: Path, asked: str | Sequence[str] | None) -> Manifest:
    rows = read_rows(path, ("path",))
    columns = [name for name in rows[0] if name in CSV_COLUMNS or _has_number(rows, name)]
    is_labelled = any(name not in CSV_COLUMNS for name in columns)
    labels = choose_labels(columns if is_labelled and not asked else list(rows[0]), CSV_COLUMNS, asked, path)
    return Manifest(path.parent, labels, mark_duplicates([_csv_clip(path.parent, row, labels) for row in rows]))


def _has_number(rows: Sequence[dict[str, str]], name: str) -> bool:
    """Whether a column can be a label: remarks, countries and empty cells are none."""
    return any(parse_number(row[name]) is not None for row in rows)


def _csv_clip(root: Path, row: dict[str, str], labels: tuple[str, ...]) -> Clip:
    """One row of a plain CSV: the path, relative to the table, is the id."""
    split, problem = parse_split(row.get("split", ""))
    name, audio = row["path"].strip(), row.get("audio", "").strip()
    return make_clip(
        row,
        labels,
        CSV_COLUMNS,
        clip_id=name,
        path=_place(root, name),
        split=split,
        problem=problem,
        audio_path=_place(root, audio) if audio else None,
    )


def _place(root: Path, name: str) -> Path:
    """Where a file is; a table that was written on Windows has backslashes between folders."""
    return choose_media([root / name, root / name.replace("\\", "/")]) if "\\" in name else root / name
