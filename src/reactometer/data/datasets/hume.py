"""The challenges' folders -> manifests: Hume-Reaction as ABAW5 and MuSe-2022 gave it, and EMI (Hume-Vidmimic2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reactometer.data.manifest import (
    Manifest,
    choose_labels,
    choose_media,
    make_clip,
    mark_duplicates,
    parse_split,
    read_rows,
)
from reactometer.errors import DataError
from reactometer.types import Clip

ABAW5_TABLE = "data_info.csv"
ABAW5_COLUMNS = ("File_ID", "Split", "Age", "Country", "Person", "Stimulus")
MUSE_TABLES = ("labels.csv", "partition.csv")
EMI_TABLES = ("train_split.csv", "valid_split.csv")
EMI_TEST_TABLE = "test_split.csv"

ID_DIGITS = 5
"""Digits of the ids in Hume's file names; a table that went through a spreadsheet has lost the zeros in front."""


def read_abaw5(root: Path, asked: str | Sequence[str] | None) -> Manifest:
    """Read ``data_info.csv``; clips are ``<split>/mp4/<id>.mp4``, with sound in ``<split>/wav/<id>.wav`` if there."""
    table = root / ABAW5_TABLE
    rows = read_rows(table, ("File_ID", "Split"))
    labels = choose_labels(list(rows[0]), ABAW5_COLUMNS, asked, table)
    return Manifest(root, labels, mark_duplicates([_abaw5_clip(root, row, labels) for row in rows]))


def _abaw5_clip(root: Path, row: dict[str, str], labels: tuple[str, ...]) -> Clip:
    """One row of ``data_info.csv``: ids stand in brackets there and without them in the file names."""
    name = _bare(row["File_ID"])
    split, problem = _split(row["Split"])
    folder = root / (split or "")
    wav = folder / "wav" / f"{name}.wav"
    return make_clip(
        row,
        labels,
        ("File_ID", "Split"),
        clip_id=f"[{name}]",
        path=folder / "mp4" / f"{name}.mp4",
        split=split,
        problem=problem,
        audio_path=wav if wav.is_file() else None,
    )


def read_muse(root: Path, asked: str | Sequence[str] | None) -> Manifest:
    """Read ``labels.csv`` and ``partition.csv``; clips are ``feats/Faces/<id>/`` (face crops), else videos.

    As in the challenge's own code, the id is the first column, whatever its name, and the partition the last one.
    """
    labels_table, partition_table = (root / name for name in MUSE_TABLES)
    rows, partition = read_rows(labels_table), read_rows(partition_table)
    if len(partition[0]) < 2:
        raise DataError(f"{partition_table}: no second column", got=", ".join(partition[0]), expected="id, partition")
    id_column, *others = rows[0]
    labels = choose_labels(others, (), asked, labels_table)
    row_of = {_key(row[id_column]): row for row in reversed(rows)}  # the first row of each id
    clips = []
    for cell, *_, part in (list(line.values()) for line in partition):
        split, problem = _split(part)
        row = row_of.get(_key(cell))
        if row is None and split != "test":
            problem = problem or f"no labels ({labels_table.name} has no row for this id)"
        clips.append(_muse_clip(root, cell, row or {}, labels, split, problem))
    listed = {_key(clip.clip_id) for clip in clips}
    unlisted = f"no split ({partition_table.name} has no row for this id)"
    again = f"duplicate id in {labels_table.name} (its first row is used)"
    unused = [
        _muse_clip(root, row[id_column], row, labels, None, again if key in listed else unlisted)
        for row in rows
        if (key := _key(row[id_column])) not in listed or row is not row_of[key]
    ]
    return Manifest(root, labels, (*mark_duplicates(clips), *unused))


def _muse_clip(
    root: Path, cell: str, row: dict[str, str], labels: tuple[str, ...], split: str | None, problem: str | None
) -> Clip:
    names = _file_names(cell)
    crops = [root / "feats" / "Faces" / name for name in names]
    videos = [root / folder / f"{name}.mp4" for folder in ("mp4", "raw", "video") for name in names]
    sounds = [root / folder / f"{name}.wav" for folder in ("wav", "audio", "raw/wav") for name in names]
    return make_clip(
        row,
        labels,
        list(row)[:1],
        clip_id=f"[{_bare(cell)}]",
        path=choose_media([*crops, *videos]),
        split=split,
        problem=problem,
        audio_path=next((path for path in sounds if path.is_file()), None),
    )


def read_emi(root: Path, asked: str | Sequence[str] | None) -> Manifest:
    """Read ``train_split.csv``, ``valid_split.csv`` and, where there is one, ``test_split.csv``.

    Clips are ``raw/<Filename>.mp4`` or ``mp4/<Filename>.mp4``; the test table may hold nothing but the names.
    """
    train, val = (root / name for name in EMI_TABLES)
    rows = read_rows(train, ("Filename",))
    labels = choose_labels(list(rows[0]), ("Filename",), asked, train)
    tables = [("train", train, rows), ("val", val, read_rows(val, ("Filename", *labels)))]
    if (root / EMI_TEST_TABLE).is_file():
        tables.append(("test", root / EMI_TEST_TABLE, read_rows(root / EMI_TEST_TABLE, ("Filename",))))
    clips = [_emi_clip(root, row, labels, split) for split, _, rows in tables for row in rows]
    places = [f"{table.name}:{place}" for _, table, rows in tables for place in range(2, len(rows) + 2)]
    return Manifest(root, labels, mark_duplicates(clips, places))


def _emi_clip(root: Path, row: dict[str, str], labels: tuple[str, ...], split: str) -> Clip:
    name = row["Filename"].strip()
    videos = [root / folder / f"{stem}.mp4" for folder in ("raw", "mp4") for stem in _file_names(name)]
    return make_clip(row, labels, ("Filename",), clip_id=name, path=choose_media(videos), split=split, problem=None)


def _bare(cell: str) -> str:
    return cell.strip().strip("[]").removesuffix(".mp4")


def _key(cell: str) -> str:
    """What makes two spellings the same id: ``[00007]``, ``00007`` and ``7``."""
    return _bare(cell).zfill(ID_DIGITS)


def _file_names(cell: str) -> tuple[str, str]:
    return _bare(cell), _key(cell)


def _split(cell: str) -> tuple[str | None, str | None]:
    """The split, which these data sets must name, and what is wrong with it, if anything."""
    split, problem = parse_split(cell)
    if split is None and problem is None:
        problem = "no split (got an empty cell; expected train, val or test)"
    return split, problem
