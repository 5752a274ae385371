"""A data set's folder or table -> the manifest: ABAW5 (Hume-Reaction) and a plain CSV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from reactometer.data.clips import Manifest, choose_labels, mark_duplicates, parse_labels, parse_split, read_table
from reactometer.errors import DataError
from reactometer.records import Clip

ABAW5_TABLE = "data_info.csv"
ABAW5_COLUMNS = ("File_ID", "Split", "Age", "Country", "Person", "Stimulus")
CSV_COLUMNS = ("path", "audio", "split", "person", "stimulus")


def read_data_set(path: Path, labels: str | Sequence[str] | None = None) -> Manifest:
    """Read a data set's table; media files are not opened.

    Args:
        path: a folder in the ABAW5 layout (``data_info.csv`` and ``<split>/mp4/<id>.mp4``), or a CSV with a column
            ``path`` (a media file, or a folder of face crops), optional ``audio`` (a sound file beside it), ``split``,
            ``person`` and ``stimulus``, and one column a label.
        labels: the name of a label set or the label columns; ``None`` finds them.

    Raises:
        DataError: no such data set, or its table cannot be used. A row that is wrong by itself is kept, with its
            ``problem`` named.
    """
    if path.is_dir() and (path / ABAW5_TABLE).is_file():
        return _read(path / ABAW5_TABLE, path, labels, ("File_ID", "Split"), ABAW5_COLUMNS, _abaw5_clip)
    if path.is_dir():
        raise DataError(
            f"{path}: no known data set layout",
            expected=f"{ABAW5_TABLE} (ABAW5) in the folder, or the path of a CSV table with a column 'path'",
        )
    return _read(path, path.parent, labels, ("path",), CSV_COLUMNS, _csv_clip)


def _read(
    table_path: Path,
    root: Path,
    asked: str | Sequence[str] | None,
    required: Sequence[str],
    reserved: Sequence[str],
    to_clip: Callable[[Path, dict[str, str], tuple[str, ...]], Clip],
) -> Manifest:
    table = read_table(table_path)
    columns = [str(column) for column in table.columns]
    for name in required:
        if name not in columns:
            raise DataError(f"{table_path}: no column '{name}'", got=", ".join(columns))
    labels = choose_labels(columns, reserved, asked, table_path)
    rows: list[dict[str, str]] = table.to_dict("records")  # type: ignore[assignment]
    return Manifest(root, labels, mark_duplicates([to_clip(root, row, labels) for row in rows]))


def _abaw5_clip(root: Path, row: dict[str, str], labels: tuple[str, ...]) -> Clip:
    """One row of ``data_info.csv``: ids stand in brackets there and without them in the file names."""
    bare_id = row["File_ID"].strip().strip("[]")
    split, split_problem = parse_split(row["Split"])
    if split is None and split_problem is None:
        split_problem = "no split (got an empty cell; expected Train, Val or Test)"
    folder = root / (split or "")
    wav = folder / "wav" / f"{bare_id}.wav"
    return _clip(
        row,
        labels,
        clip_id=f"[{bare_id}]",
        path=folder / "mp4" / f"{bare_id}.mp4",
        split=split,
        problem=split_problem,
        audio_path=wav if wav.is_file() else None,
    )


def _csv_clip(root: Path, row: dict[str, str], labels: tuple[str, ...]) -> Clip:
    """One row of a plain CSV: the path, relative to the table, is the id."""
    split, problem = parse_split(row.get("split", ""))
    name, audio = row["path"].strip(), row.get("audio", "").strip()
    if not name:
        problem = "empty path"
    audio_path = root / audio if audio else None
    return _clip(row, labels, clip_id=name, path=root / name, split=split, problem=problem, audio_path=audio_path)


def _clip(
    row: dict[str, str],
    labels: tuple[str, ...],
    *,
    clip_id: str,
    path: Path,
    split: str | None,
    problem: str | None,
    audio_path: Path | None,
) -> Clip:
    """What both layouts share: people, stimuli, labels, and all other columns as attributes."""
    cells = {key.lower(): value.strip() for key, value in row.items()}
    values, label_problem = parse_labels(row, labels)
    known = {*labels, *CSV_COLUMNS, *ABAW5_COLUMNS} - {"Age", "Country"}
    return Clip(
        clip_id=clip_id,
        path=path,
        split=split,
        person=cells.get("person") or None,
        stimulus=cells.get("stimulus") or None,
        labels=values,
        audio_path=audio_path,
        attributes={key: value.strip() for key, value in row.items() if key not in known},
        problem=problem or label_problem,
    )
