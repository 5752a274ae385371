"""A model and a challenge's test split -> the file to hand in, and the check of such a file."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from reactometer.data.cache import SETTINGS_FILE, open_prepared
from reactometer.data.layouts import read_data_set
from reactometer.errors import DataError, ModelError, OutputError
from reactometer.evaluation.evaluate import open_for
from reactometer.io import write_whole
from reactometer.labels import EMI, HUME_REACTION
from reactometer.models.folder import LoadedModel, load_model
from reactometer.models.scoring import score_split
from reactometer.records import FloatArray

ID_COLUMNS = {HUME_REACTION: "File_ID", EMI: "Filename"}
"""The challenges that take a file, by their labels, and what each calls its column of ids."""


def submission(
    model: LoadedModel | Path | str,
    data: Path | str,
    out: Path | str,
    *,
    cache: Path | str | None = None,
    progress: bool = True,
) -> Path:
    """Predict the test split and write the challenge's file, then read it back and check it.

    One row a test clip, sorted by id, ids as the data set writes them, one column a label in the challenge's order. A
    clip that shows and says nothing the model goes by, or that cannot be read, gets the training mean.

    Args:
        model: a model folder, or one loaded already; its labels say which challenge it is.
        data: the data set, or a folder prepared before; its test labels may be withheld.
        out: the CSV file to write.
        cache: where prepared clips are kept when ``data`` is not prepared yet; default: the user's cache folder.
        progress: show bars on standard error.

    Raises:
        ModelError: the model's labels are no challenge's.
        DataError: the data set has no test clips.
        OutputError: ``out`` is no CSV file or cannot be written.
    """
    out = Path(out)
    if out.suffix.lower() != ".csv":
        raise OutputError(f"{out}: no file for a submission", got=out.suffix or "no ending", expected=".csv")
    loaded = model if isinstance(model, LoadedModel) else load_model(model)
    if loaded.labels not in ID_COLUMNS:
        raise ModelError(
            "no challenge takes this model's labels",
            got=", ".join(loaded.labels),
            expected=" or ".join(", ".join(labels) for labels in ID_COLUMNS),
            fix="For predictions as a table, use 'reactometer evaluate --out'",
        )
    ids, intensities = _score_test(loaded, data, cache, progress)
    table = pd.DataFrame(intensities, columns=list(loaded.labels))
    table.insert(0, ID_COLUMNS[loaded.labels], ids)
    table = table.drop_duplicates(subset=table.columns[0])  # of a duplicate id, the first row counts
    table = table.sort_values(by=table.columns[0], key=lambda column: column.map(_order))
    write_whole(out, table.to_csv(index=False, float_format="%.6f"))
    _check(out, set(ids), loaded.labels)
    return out


def check_submission(file: Path | str, data: Path | str) -> None:
    """Check a submission file, perhaps edited by hand, against its data set.

    Args:
        file: the CSV file.
        data: the data set, or a folder prepared before.

    Raises:
        DataError: the first thing that is wrong with the file; or the data set is no challenge's.
    """
    data = Path(data)
    if (data / SETTINGS_FILE).is_file():
        prepared = open_prepared(data)
        labels, clips = prepared.labels, [row.clip for row in prepared.rows]
    else:
        manifest = read_data_set(data)
        labels, clips = manifest.labels, list(manifest.clips)
    ids = {clip.clip_id for clip in clips if clip.split == "test"}
    if labels not in ID_COLUMNS or not ids:
        raise DataError(
            f"{data}: no challenge's data set",
            got=f"{len(ids)} test clips; labels {', '.join(labels)}",
            expected="test clips; labels " + " or ".join(", ".join(names) for names in ID_COLUMNS),
        )
    _check(Path(file), ids, labels)


def _score_test(
    loaded: LoadedModel, data: Path | str, cache: Path | str | None, progress: bool
) -> tuple[list[str], FloatArray]:
    """The ids of all test clips, and their intensities, (clips, L) in [0, 1]."""
    prepared = open_for(loaded, data, cache, progress=progress)
    rows = prepared.split("test")
    if not rows:
        raise DataError(f"{data}: split 'test' has no clips", fix="Give the data set with its test part")
    scores, _ = score_split(loaded, prepared, "test", progress=progress)
    return [row.clip.clip_id for row in rows], np.array([score.intensities for score in scores], dtype=np.float32)


def _check(file: Path, ids: set[str], labels: tuple[str, ...]) -> None:
    """Raise the first thing that is wrong with a file that is to hold one row for each of these ids."""
    header, *rows = _read(file)
    _check_header(file, header, (ID_COLUMNS[labels], *labels))
    for row in rows:
        if len(row) != len(header):
            raise DataError(f"{file}: row '{row[0]}' has {len(row)} cells", expected=len(header), fix="Mend the row")
    found = [row[0] for row in rows]
    _check_ids(file, found, ids)
    for clip_id, *cells in rows:
        for label, cell in zip(labels, cells, strict=True):
            if not _is_intensity(cell):
                what = f"{file}: {label} of '{clip_id}' is no intensity"
                raise DataError(what, got=f"'{cell}'", expected="a number in [0, 1]")
    for before, after in pairwise(found):
        if _order(before) > _order(after):
            raise DataError(f"{file}: rows are not sorted", got=f"'{before}' before '{after}'", fix="Sort them by id")


def _read(file: Path) -> list[list[str]]:
    """The cells of all lines but empty ones, as they stand in the file."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = [row for row in csv.reader(stream) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read: {error}", expected="a CSV file in UTF-8") from error
    if len(rows) < 2:
        raise DataError(f"{file}: has no rows", expected="a header and one row a test clip")
    return rows


def _check_header(file: Path, header: Sequence[str], columns: Sequence[str]) -> None:
    for name in columns:
        if name not in header:
            raise DataError(f"{file}: column '{name}' is missing", got=",".join(header), expected=",".join(columns))
    for name in header:
        if name not in columns:
            raise DataError(f"{file}: column '{name}' is none of the challenge's", fix="Delete it; write no index")
    if list(header) != list(columns):
        raise DataError(f"{file}: columns are in another order", got=",".join(header), expected=",".join(columns))


def _check_ids(file: Path, found: Sequence[str], ids: set[str]) -> None:
    twice = [clip_id for clip_id, count in Counter(found).items() if count > 1]
    if twice:
        raise DataError(f"{file}: more than one row for {_few(twice)}", expected="one row a test clip")
    missing, unknown = ids - set(found), set(found) - ids
    spelling = {_plain(clip_id): clip_id for clip_id in missing}
    for clip_id in sorted(unknown):
        if _plain(clip_id) in spelling:
            raise DataError(
                f"{file}: an id is not spelt as in the data set",
                got=clip_id,
                expected=spelling[_plain(clip_id)],
                fix="Keep brackets and leading zeros: ids are text",
            )
    if missing:
        raise DataError(
            f"{file}: no row for {_few(missing)}", got=f"{len(found)} rows", expected=f"{len(ids)}, one a test clip"
        )
    if unknown:
        raise DataError(f"{file}: rows for clips that are not in the test split: {_few(unknown)}", fix="Delete them")


def _is_intensity(cell: str) -> bool:
    try:
        return 0.0 <= float(cell) <= 1.0
    except ValueError:
        return False


def _few(ids: Iterable[str], most: int = 3) -> str:
    """``[00001], [00002], [00003] and 9 more``."""
    ordered = sorted(ids, key=_order)
    rest = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + rest


def _plain(clip_id: str) -> str:
    return clip_id.strip(" []").removesuffix(".mp4").lstrip("0")


def _order(clip_id: str) -> str:
    """What ids are sorted by: numbers in them count as numbers, so that 10 comes after 9."""
    return re.sub(r"\d+", lambda digits: digits[0].zfill(20), clip_id)
