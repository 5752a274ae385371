"""Write the file that a challenge takes of a model's predictions for the test split, and check such a file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from reactometer.data.cache import SETTINGS_FILE, open_prepared
from reactometer.data.datasets import read_data_set
from reactometer.errors import DataError, ModelError, OutputError
from reactometer.evaluation.evaluate import open_for
from reactometer.io import write_whole
from reactometer.labels import EMI, HUME_REACTION
from reactometer.models.folder import LoadedModel, load_model
from reactometer.models.scoring import score_split

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
    prepared = open_for(loaded, data, cache, progress=progress)
    ids = [row.clip.clip_id for row in prepared.split("test")]
    if not ids:
        raise DataError(f"{data}: split 'test' has no clips", fix="Give the data set with its test part")
    scores, _ = score_split(loaded, prepared, "test", progress=progress)
    intensities = np.array([score.intensities for score in scores], dtype=np.float32)  # (clips, L) in [0, 1]
    table = pd.DataFrame(intensities, columns=list(loaded.labels))
    table.insert(0, ID_COLUMNS[loaded.labels], ids)
    table = table.drop_duplicates(subset=table.columns[0])  # of a duplicate id, the first row counts
    table = table.sort_values(by=table.columns[0], key=lambda column: column.map(_with_padded_numbers))
    write_whole(out, table.to_csv(index=False, float_format="%.6f"))
    _check(out, set(ids), loaded.labels)
    return out


def check_submission(file: Path | str, data: Path | str) -> None:
    """Check a submission file against its data set: its columns, one row per test clip, intensities in [0, 1].

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


def _check(file: Path, ids: set[str], labels: tuple[str, ...]) -> None:
    """Raise the first thing that is wrong with a file that must hold one row for each of these ids."""
    columns = [ID_COLUMNS[labels], *labels]
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # of pandas' own, all are ValueErrors
        raise DataError(f"{file}: cannot be read: {error}", expected="a CSV file in UTF-8") from error
    if list(table.columns) != columns:
        raise DataError(f"{file}: not the challenge's columns", got=",".join(table.columns), expected=",".join(columns))
    found = table[columns[0]]
    wrong = {
        "have no row": ids - set(found),
        "are not in the test split": set(found) - ids,
        "have more than one row": set(found[found.duplicated()]),
    }
    for what, which in wrong.items():
        if which:
            raise DataError(
                f"{file}: clips {what}",
                got=f"{len(which)}, such as {', '.join(sorted(which, key=_with_padded_numbers)[:3])}",
                expected=f"{len(ids)} rows, one per test clip",
                fix="Write ids as the data set does, with brackets and leading zeros",
            )
    values = table[list(labels)].apply(pd.to_numeric, errors="coerce").to_numpy()
    for row, column in np.argwhere(~((values >= 0.0) & (values <= 1.0))):
        what = f"{file}: {labels[column]} of '{found[row]}' is no intensity"
        raise DataError(what, got=repr(str(table.iat[row, 1 + column])), expected="a number in [0, 1]")


def _with_padded_numbers(clip_id: str) -> str:
    """Pad numbers in an id, so that 10 is sorted after 9."""
    return re.sub(r"\d+", lambda digits: digits[0].zfill(20), clip_id)
