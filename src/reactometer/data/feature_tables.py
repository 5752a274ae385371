"""Features computed elsewhere (a table, or MuSe's ``feats/``) -> the store that the heads train from."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from reactometer.config import PrepareConfig
from reactometer.data.cache import (
    FEATURES,
    PreparedRow,
    PreparedSet,
    claim_folder,
    open_prepared,
    refuse_own_names,
    write_index,
)
from reactometer.data.datasets import read_data_set
from reactometer.data.datasets.hume import ID_DIGITS
from reactometer.data.feature_store import STREAMS, write_store
from reactometer.data.inputs import Item, Part, parts_of
from reactometer.data.manifest import (
    Manifest,
    choose_labels,
    choose_media,
    make_clip,
    mark_duplicates,
    parse_split,
    raise_longer_rows,
)
from reactometer.data.splits import with_splits
from reactometer.errors import DataError, require, suggestion
from reactometer.io import write_whole
from reactometer.media.segments import LEAST_NEW_S
from reactometer.terminal import progress_bar
from reactometer.types import Clip, FloatArray

ID_COLUMNS = ("clip", "File_ID", "Filename", "path", "id")
"""What a table of features may call the clip, the first that is there; rows of one clip are its steps, in order."""

OWN_COLUMNS = ("split", "person", "stimulus", "time_s")

NO_NUMBER = ("", "NA", "N/A", "n/a", "<NA>", "NaN", "nan", "-nan", "null", "NULL", "None")
"""Cells that say that a number is missing."""

MUSE_STEP_S = 0.25
"""Time from one row of a MuSe feature file to the next where it has no column "timestamp" (in milliseconds)."""

Steps = tuple[FloatArray, FloatArray]
"""Times in seconds (T,), and features (T, D); steps with a value that is no number are left out."""


@dataclass(frozen=True)
class _Source:
    """A data set of features: its clips, each one's steps by modality, and the files it is read from."""

    manifest: Manifest
    steps: Callable[[Clip, str], Steps]
    files: Sequence[Path]


def prepare_features(
    data: Path, out: Path, *, face: str | None, voice: str | None, labels: str | Sequence[str] | None, progress: bool
) -> PreparedSet:
    """Read features of clips and keep them as the heads read them; a second call finds them there.

    Args:
        data: a CSV or Parquet table, a row a clip or a row a step (columns: one of ``ID_COLUMNS``, optional ``time_s``,
            ``split``, ``person``, ``stimulus``, one a label, and the features), or a folder in MuSe-2022's layout.
        out: the folder to keep them in, a new one or one prepared before.
        face, voice: which features: patterns of column names with commas ("AU*,pose_*"), or the name of a folder of
            MuSe's ``feats/``; ``None``: the data have none of that modality.
        labels: a label set's name or label columns; ``None`` finds them.
        progress: show a bar.

    Raises:
        DataError: no such table, columns or folder. What is wrong with one clip is its ``problem``; steps with a value
            that is no number do not count, and are counted as unreadable.
    """
    asked = {name: pattern for name, pattern in (("face", face), ("voice", voice)) if pattern}
    source = _muse_source(data, asked, labels) if data.is_dir() else _table_source(data, asked, labels)
    refuse_own_names(source.manifest.labels)
    files = [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in source.files]
    stamp = json.dumps([asked, source.manifest.labels, files])
    stamp_file = out / FEATURES / "source.json"  # goes with the features when somebody deletes them
    if stamp_file.is_file() and stamp_file.read_text(encoding="utf-8") == stamp:
        prepared = open_prepared(out)
        if prepared.feature_sizes is not None:  # else prepared from media since
            return prepared
    claim_folder(out)
    stamp_file.unlink(missing_ok=True)
    clips = with_splits(source.manifest.clips)
    with progress_bar("reading features", 2 * len(clips), progress) as advance:
        sizes = _sizes(source, clips, asked)
        rows = []
        for clip in clips:
            rows.append(_row(source, clip, sizes))
            advance()
        items = lambda parts: (_item(source, rows[part.index], part, sizes) for part in parts)  # noqa: E731
        write_store(out / FEATURES, rows, parts_of(rows), items, sizes, advance, stamp)
    prepared = PreparedSet(out, source.manifest.labels, PrepareConfig(), tuple(rows), sizes)
    write_index(prepared)
    write_whole(stamp_file, stamp)
    return prepared


def _sizes(source: _Source, clips: Sequence[Clip], asked: dict[str, str]) -> dict[str, int]:
    """Features a step by modality: as the first clip that has any."""
    sizes = dict.fromkeys(STREAMS, 0)
    for stream, pattern in asked.items():
        widths = (_width(source, clip, stream) for clip in clips if not clip.problem)
        sizes[stream] = next((width for width in widths if width), 0)
        if not sizes[stream]:
            raise DataError(f"no clip has {stream} features", got=f"'{pattern}'", fix="Check the name")
    return sizes


def _width(source: _Source, clip: Clip, stream: str) -> int:
    """Features a step of one clip; 0 where it has none, or they cannot be read."""
    try:
        times_s, values = source.steps(clip, stream)
    except DataError:
        return 0
    return values.shape[1] if len(times_s) else 0


def _row(source: _Source, clip: Clip, sizes: dict[str, int]) -> PreparedRow:
    """What a clip brings, counted, and what is wrong with it."""
    if clip.problem:
        return PreparedRow(clip)
    counts, last_s, n_bad = dict.fromkeys(STREAMS, 0), 0.0, 0
    for stream in (stream for stream in STREAMS if sizes[stream]):
        try:
            times_s, values = source.steps(clip, stream)
        except DataError as error:
            return PreparedRow(replace(clip, problem=str(error)))
        if len(values) and values.shape[1] != sizes[stream]:
            problem = f"{values.shape[1]} {stream} features a step (expected {sizes[stream]}, as in the other clips)"
            return PreparedRow(replace(clip, problem=problem))
        good = _good(times_s, values)
        counts[stream], n_bad = int(good.sum()), n_bad + int((~good).sum())
        last_s = max(last_s, float(times_s[good].max(initial=0.0)))
    return PreparedRow(
        clip,
        clip.path,
        duration_s=last_s,
        n_samples=counts["face"],
        n_faces=counts["face"],
        n_unreadable=n_bad,
        has_sound=counts["voice"] > 0,
    )


def _item(source: _Source, row: PreparedRow, part: Part, sizes: dict[str, int]) -> Item:
    """The steps of one part of a clip; a clip with a problem has none."""
    streams: dict[str, Steps] = {}
    for stream in STREAMS:
        times_s, values = np.zeros(0, np.float32), np.zeros((0, sizes[stream]), np.float32)
        if row.file and sizes[stream]:
            times_s, values = source.steps(row.clip, stream)
            is_last = part.end_s >= row.duration_s - LEAST_NEW_S
            keep = _good(times_s, values) & (times_s >= part.start_s) & (is_last | (times_s < part.end_s))
            times_s, values = times_s[keep] - part.start_s, values[keep].reshape(-1, sizes[stream])
        streams[stream] = times_s.astype(np.float32), values
    (face_times_s, face), (voice_times_s, voice) = streams["face"], streams["voice"]
    return Item(face, np.ones(len(face), dtype=bool), face_times_s, voice, voice_times_s)


def _good(times_s: FloatArray, values: FloatArray) -> npt.NDArray[np.bool_]:
    """(T,) the steps all of whose numbers are numbers."""
    good: npt.NDArray[np.bool_] = np.isfinite(times_s) & np.isfinite(values).all(axis=1)
    return good


def _table_source(path: Path, asked: dict[str, str], labels: str | Sequence[str] | None) -> _Source:
    table = _read(path)
    columns = [str(column) for column in table.columns]
    key = next((name for name in ID_COLUMNS if name in columns), None)
    if key is None:
        raise DataError(
            f"{path}: no column names the clip", got=", ".join(columns[:8]), expected=" or ".join(ID_COLUMNS)
        )
    others = [column for column in columns if column not in (key, *OWN_COLUMNS)]
    features = {stream: _matching(path, others, pattern) for stream, pattern in asked.items()}
    taken = {column for own in features.values() for column in own}
    free = [column for column in columns if column not in taken]
    names = choose_labels(free, (*ID_COLUMNS, *OWN_COLUMNS), labels, path)
    values = {stream: _numbers(table[own]) for stream, own in features.items()}
    texts = table[[column for column in free if column in (key, *OWN_COLUMNS, *names)]]
    texts = texts.astype(object).where(texts.notna(), "").astype(str)
    groups = texts.groupby(key, sort=False).indices
    clips = [_clip(path, key, texts.iloc[rows[0]].to_dict(), names) for rows in groups.values()]
    times_s = _numbers(table[["time_s"]])[:, 0] if "time_s" in columns else np.zeros(len(table), np.float32)  # (rows,)

    def steps(clip: Clip, stream: str) -> Steps:
        rows = groups[clip.clip_id]
        return times_s[rows], values[stream][rows]

    return _Source(Manifest(path.parent, names, mark_duplicates(clips)), steps, [path])


def _clip(path: Path, key: str, raw: Mapping[Hashable, str], labels: Sequence[str]) -> Clip:
    row = {str(column): cell.strip() for column, cell in raw.items()}
    split, problem = parse_split(row.get("split", ""))
    return make_clip(row, labels, (key, *OWN_COLUMNS), clip_id=raw[key], path=path, split=split, problem=problem)


def _read(path: Path) -> pd.DataFrame:
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            require("pyarrow", extra="parquet")
            table = pd.read_parquet(path)
        else:
            texts = dict.fromkeys((*ID_COLUMNS, *OWN_COLUMNS[:3]), str)  # as they are: a clip may be called "NA"
            gaps = {str(name): NO_NUMBER for name in pd.read_csv(path, nrows=0) if name not in texts}
            table = pd.read_csv(path, dtype=texts, keep_default_na=False, na_values=gaps)
            if not isinstance(table.index, pd.RangeIndex):  # pandas takes surplus cells for the rows' names
                raise_longer_rows(path, table.index.nlevels)
        return table.rename(columns=lambda name: name.lower() if str(name).lower() in OWN_COLUMNS else name)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file", fix="Check the path") from error
    except (ValueError, OSError, pd.errors.ParserError) as error:
        raise DataError(f"{path}: not a CSV or Parquet table: {error}", fix="Save it as one of the two") from error


def _numbers(table: pd.DataFrame) -> FloatArray:
    """(rows, columns) float32; a cell that holds no number is NaN."""
    numbers: FloatArray = table.apply(pd.to_numeric, errors="coerce").to_numpy(np.float32)
    return numbers


def _matching(path: Path, columns: Sequence[str], patterns: str) -> list[str]:
    wanted = [pattern.strip() for pattern in patterns.split(",")]
    for pattern in wanted:
        if not any(fnmatchcase(column, pattern) for column in columns):
            raise DataError(f"{path}: no column matches '{pattern}'", fix=suggestion(pattern.strip("*_"), columns))
    return [column for column in columns if any(fnmatchcase(column, pattern) for pattern in wanted)]


def _muse_source(folder: Path, asked: dict[str, str], labels: str | Sequence[str] | None) -> _Source:
    manifest = read_data_set(folder, labels)
    for pattern in asked.values():
        if not (folder / "feats" / pattern).is_dir():
            known = [entry.name for entry in (folder / "feats").glob("*") if entry.is_dir()]
            raise DataError(f"{folder}: no features '{pattern}' in feats/", fix=suggestion(pattern, known))
    own = (_muse_file(folder, name, clip) for clip in manifest.clips for name in asked.values())
    files = [*sorted(folder.glob("*.csv")), *(file for file in own if file.is_file())]

    @lru_cache(maxsize=4)  # a clip's files are asked for when it is counted and again when it is kept
    def read(file: Path) -> Steps:
        return _read_muse(file) if file.is_file() else (np.zeros(0, np.float32), np.zeros((0, 0), np.float32))

    def steps(clip: Clip, stream: str) -> Steps:
        return read(_muse_file(folder, asked[stream], clip))

    return _Source(manifest, steps, files)


def _muse_file(folder: Path, name: str, clip: Clip) -> Path:
    bare = clip.clip_id.strip("[]")
    return choose_media([folder / "feats" / name / f"{stem}.csv" for stem in (bare, bare.zfill(ID_DIGITS))])


def _read_muse(file: Path) -> Steps:
    """Times and features of one file; features stand from the third column on."""
    table = _read(file)
    values = _numbers(table.iloc[:, 2:])
    times_s = np.arange(len(table)) * MUSE_STEP_S
    if "timestamp" in table.columns:
        times_s = table["timestamp"].to_numpy(np.float64) / 1000.0
    return times_s.astype(np.float32), values
