"""Read tables of precomputed features into a feature store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd

from reactometer.config import PrepareConfig
from reactometer.data.cache import (
    FEATURES,
    PreparedRow,
    PreparedSet,
    claim_folder,
    open_prepared,
    write_index,
)
from reactometer.data.feature_store import STREAMS, write_store
from reactometer.data.inputs import ClipPart, Item
from reactometer.data.manifest import choose_labels, make_clip
from reactometer.data.splits import with_splits
from reactometer.errors import DataError, missing_path_hint, require, suggestion
from reactometer.io import write_atomic
from reactometer.media.segments import MIN_NEW_CONTENT_S
from reactometer.types import FloatArray

ID_COLUMNS = ("clip", "File_ID", "Filename", "path", "id")
"""Names of the column with the clip's id, in order of preference; a clip's rows are its steps, in order."""

STANDARD_COLUMNS = ("split", "person", "stimulus", "time_s")

Steps = dict[str, tuple[FloatArray, FloatArray]]
"""Times in seconds (T,) and features (T, D) by stream; steps with a value that is not a number are left out.
"""


def prepare_features(
    data: Path,
    out: Path,
    *,
    face: str | None,
    voice: str | None,
    labels: str | Sequence[str] | None,
    progress: bool,
) -> PreparedSet:
    """Read a table of features into a feature store; a second call reuses the store.

    Args:
        data: a CSV or Parquet table, one row per clip or per step (columns: one of ``ID_COLUMNS``, optional
            ``time_s``, ``split``, ``person``, ``stimulus``, one per label, and the features).
        out: the folder to write, a new one or a prepared dataset.
        face, voice: patterns of feature columns, separated by commas ("AU*,pose_*"); ``None``: no features of
            the modality.
        labels: a label set's name or label columns; ``None`` finds them.
        progress: show a bar.

    Raises:
        DataError: the table or columns do not exist. An invalid clip has a ``problem``; steps with a value
            that is not a number are left out, and counted as unreadable.
    """
    patterns = {stream: pattern for stream, pattern in (("face", face), ("voice", voice)) if pattern}
    stat = data.stat() if data.exists() else None
    signature = json.dumps([patterns, labels, str(data), stat and (stat.st_size, stat.st_mtime_ns)])
    signature_file = out / FEATURES / "source.json"  # is deleted together with the features
    if signature_file.is_file() and signature_file.read_text(encoding="utf-8") == signature:
        prepared = open_prepared(out)
        if prepared.feature_sizes is not None:  # else prepared from media in the meantime
            return prepared
    table = _read_table(data)
    id_column = next((name for name in ID_COLUMNS if name in table), None)
    if id_column is None:
        got = ", ".join(map(str, table.columns[:8]))
        raise DataError(f"{data}: no column with clip ids", got=got, expected=" or ".join(ID_COLUMNS))
    candidates = [str(column) for column in table if column not in (id_column, *STANDARD_COLUMNS)]
    columns = {stream: _match_columns(data, candidates, pattern) for stream, pattern in patterns.items()}
    remaining = [name for name in candidates if not any(name in matches for matches in columns.values())]
    label_names = choose_labels(remaining, ID_COLUMNS, labels, data)
    rows, steps = _read_clips(data, table, id_column, columns, label_names)
    for stream, pattern in patterns.items():
        if not any(len(clip_steps[stream][0]) for clip_steps in steps.values()):
            raise DataError(f"{data}: no row has numbers in all {stream} features", got=f"'{pattern}'")

    def read(row: PreparedRow, part: ClipPart, _: object = None) -> Item:
        is_last = part.end_s >= row.duration_s - MIN_NEW_CONTENT_S
        inputs: list[FloatArray] = []
        for times_s, values in steps[row.clip.clip_id].values():
            inside = (times_s >= part.start_s) & (is_last | (times_s < part.end_s))  # (T,)
            inputs += [values[inside], times_s[inside] - np.float32(part.start_s)]
        face, face_times_s, voice, voice_times_s = inputs
        return Item(face, np.ones(len(face), dtype=bool), face_times_s, voice, voice_times_s)

    claim_folder(out)
    signature_file.unlink(missing_ok=True)
    sizes = {stream: len(columns.get(stream, ())) for stream in STREAMS}
    write_store(out / FEATURES, rows, read, sizes, "reading features" if progress else "", signature)
    prepared = PreparedSet(out, label_names, PrepareConfig(), tuple(rows), sizes)
    write_index(prepared)
    write_atomic(signature_file, signature)
    return prepared


def _read_clips(
    path: Path, table: pd.DataFrame, id_column: str, columns: Mapping[str, list[str]], labels: Sequence[str]
) -> tuple[list[PreparedRow], dict[str, Steps]]:
    """Return the clips of a table in its order, and the steps of each by its id."""
    values = {stream: _to_numbers(table[columns.get(stream, [])]) for stream in STREAMS}  # (rows, D)
    times_s = (
        _to_numbers(table[["time_s"]])[:, 0] if "time_s" in table else np.zeros(len(table), np.float32)
    )  # (rows,)
    texts = table[[column for column in table if column in (id_column, *STANDARD_COLUMNS, *labels)]]
    texts = texts.astype(object).where(texts.notna(), "").astype(str).apply(lambda column: column.str.strip())
    rows, steps = list[PreparedRow](), dict[str, Steps]()
    for name, row_indices in texts.groupby(id_column, sort=False).indices.items():
        cells = {str(column): str(cell) for column, cell in texts.iloc[row_indices[0]].items()}
        reserved = (id_column, *STANDARD_COLUMNS)
        clip = make_clip(cells, labels, reserved, clip_id=str(name), path=path, split=cells.get("split", ""))
        clip_steps: Steps = {}
        for stream, features in values.items():
            has_all = np.isfinite(features[row_indices]).all(axis=1) & (stream in columns)
            is_finite = has_all & np.isfinite(times_s[row_indices])
            clip_steps[stream] = times_s[row_indices[is_finite]], features[row_indices[is_finite]]
        counts = {stream: len(step_times_s) for stream, (step_times_s, _) in clip_steps.items()}
        row = PreparedRow(
            clip,
            path,
            duration_s=max(float(step_times_s.max(initial=0.0)) for step_times_s, _ in clip_steps.values()),
            n_samples=counts["face"],
            n_faces=counts["face"],
            n_unreadable=len(row_indices) * len(columns) - sum(counts.values()),
            has_sound=counts["voice"] > 0,
            sha256=_hash(clip_steps) if any(counts.values()) else "",
        )
        rows.append(PreparedRow(clip) if clip.problem else row)
        steps[clip.clip_id] = clip_steps
    clips = with_splits([row.clip for row in rows])
    return [replace(row, clip=clip) for row, clip in zip(rows, clips, strict=True)], steps


def _hash(steps: Steps) -> str:
    """Return the SHA-256 of a clip's features."""
    return sha256(b"".join(array.tobytes() for pair in steps.values() for array in pair)).hexdigest()


def _read_table(path: Path) -> pd.DataFrame:
    """Read a CSV or Parquet table; the columns of ``STANDARD_COLUMNS`` may be in any case."""
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            require("pyarrow", extra="parquet")
            table = pd.read_parquet(path)
        else:  # index_col: else pandas takes surplus cells for row names
            table = pd.read_csv(
                path, dtype=dict.fromkeys((*ID_COLUMNS, *STANDARD_COLUMNS[:3]), str), index_col=False
            )
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file", fix=missing_path_hint(path)) from error
    except (ValueError, OSError, pd.errors.ParserError) as error:
        raise DataError(
            f"{path}: not a CSV or Parquet table: {error}", fix="Save it as CSV or Parquet"
        ) from error
    return table.rename(
        columns=lambda name: str(name).lower() if str(name).lower() in STANDARD_COLUMNS else str(name)
    )


def _to_numbers(table: pd.DataFrame) -> FloatArray:
    """Return the cells as (rows, columns) float32; cells without a number are NaN."""
    numbers: FloatArray = table.apply(pd.to_numeric, errors="coerce").to_numpy(np.float32)
    return numbers


def _match_columns(path: Path, columns: Sequence[str], patterns: str) -> list[str]:
    """Return the columns that match one of the patterns; raise DataError for a pattern without a match."""
    pattern_list = [pattern.strip() for pattern in patterns.split(",")]
    for pattern in pattern_list:
        if not any(fnmatchcase(column, pattern) for column in columns):
            raise DataError(
                f"{path}: no column matches '{pattern}'", fix=suggestion(pattern.strip("*_"), columns)
            )
    return [column for column in columns if any(fnmatchcase(column, pattern) for pattern in pattern_list)]
