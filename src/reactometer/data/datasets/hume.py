"""Read the challenges' folders: Hume-Reaction as in ABAW5 and MuSe-2022, and EMI (Hume-Vidmimic2)."""

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

ABAW5_TABLE = "data_info.csv"
ABAW5_COLUMNS = ("File_ID", "Split", "Age", "Country", "Person", "Stimulus")
MUSE_TABLES = ("labels.csv", "partition.csv")
EMI_TABLES = ("train_split.csv", "valid_split.csv")
EMI_TEST_TABLE = "test_split.csv"


def read_abaw5(root: Path, label_set: str | Sequence[str] | None) -> Manifest:
    """Read ``data_info.csv``; clips are ``<split>/mp4/<id>.mp4``, with sound in ``<split>/wav/<id>.wav`` if
    there."""
    table = root / ABAW5_TABLE
    rows = read_rows(table, ("File_ID", "Split"))
    labels = choose_labels(list(rows[0]), ABAW5_COLUMNS, label_set, table)
    clips = []
    for row in rows:
        name = _bare(row["File_ID"])
        folder = root / (parse_split(row["Split"])[0] or "")
        wav = folder / "wav" / f"{name}.wav"
        clip = make_clip(
            row,
            labels,
            ("File_ID", "Split"),
            clip_id=f"[{name}]",
            path=folder / "mp4" / f"{name}.mp4",
            split=row["Split"],
            audio_path=wav if wav.is_file() else None,
        )
        clips.append(clip)
    return Manifest(labels, mark_duplicates(clips))


def read_muse(root: Path, label_set: str | Sequence[str] | None) -> Manifest:
    """Read ``labels.csv`` and ``partition.csv``, which lists the clips: ``feats/Faces/<id>/`` (face crops) or
    videos.

    As in the challenge's own code, the id is the first column, whatever its name, and the partition the last
    one.
    """
    labels_table, partition_table = (root / name for name in MUSE_TABLES)
    rows = read_rows(labels_table)
    id_column, *columns = rows[0]
    labels = choose_labels(columns, (), label_set, labels_table)
    row_by_id = {_bare(row[id_column]): row for row in rows}
    clips = []
    for cells in (list(line.values()) for line in read_rows(partition_table)):
        name = _bare(cells[0])
        is_unlabelled = name not in row_by_id and parse_split(cells[-1])[0] in ("train", "val")
        videos = [root / folder / f"{name}.mp4" for folder in ("mp4", "raw", "video")]
        sounds = [root / folder / f"{name}.wav" for folder in ("wav", "audio", "raw/wav")]
        clip = make_clip(
            row_by_id.get(name, {}),
            labels,
            (id_column,),
            clip_id=f"[{name}]",
            path=choose_media([root / "feats" / "Faces" / name, *videos]),
            split=cells[-1],
            audio_path=next((path for path in sounds if path.is_file()), None),
            problem=f"no labels ({labels_table.name} has no row for this id)" if is_unlabelled else None,
        )
        clips.append(clip)
    return Manifest(labels, mark_duplicates(clips))


def read_emi(root: Path, label_set: str | Sequence[str] | None) -> Manifest:
    """Read ``train_split.csv``, ``valid_split.csv`` and, if it exists, ``test_split.csv``.

    Clips are ``raw/<Filename>.mp4`` or ``mp4/<Filename>.mp4``; the test table may contain only names.
    """
    train, val, test = (root / name for name in (*EMI_TABLES, EMI_TEST_TABLE))
    rows = {"train": read_rows(train, ("Filename",))}
    labels = choose_labels(list(rows["train"][0]), ("Filename",), label_set, train)
    rows["val"] = read_rows(val, ("Filename", *labels))
    if test.is_file():
        rows["test"] = read_rows(test, ("Filename",))
    clips = []
    for split, split_rows in rows.items():
        for row in split_rows:
            name = row["Filename"]
            path = choose_media([root / folder / f"{_bare(name)}.mp4" for folder in ("raw", "mp4")])
            clips.append(make_clip(row, labels, ("Filename",), clip_id=name, path=path, split=split))
    return Manifest(labels, mark_duplicates(clips))


def _bare(cell: str) -> str:
    """Return the name of a clip's files: its id without brackets and ending."""
    return cell.strip("[]").removesuffix(".mp4")
