"""Read tables of precomputed features, in chunks, into a feature store."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from hashlib import sha256
from pathlib import Path, PureWindowsPath
from typing import Any

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
from reactometer.data.feature_store import write_store
from reactometer.data.inputs import ClipPart, Item, Steps, all_steps, no_steps
from reactometer.data.manifest import choose_labels, make_clip
from reactometer.data.splits import with_splits
from reactometer.errors import DataError, missing_path_hint, require, suggestion
from reactometer.io import make_folder, parse_json_object, write_atomic
from reactometer.media.segments import MIN_NEW_CONTENT_S
from reactometer.types import FloatArray

ID_COLUMNS = ("clip", "File_ID", "Filename", "path", "id", "input")
"""Names of the column with the clip's id, in order of preference; a clip's rows are its steps, in order.
py-feat writes ``input``."""

TIME_COLUMNS = ("time_s", "timestamp", "approx_time")
"""Names of the column with the time of a step: seconds (OpenFace writes ``timestamp``), or minutes and whole
seconds as py-feat writes them."""

SUCCESS = "success"
"""Column of OpenFace: 0 if a frame shows no face, so that its features say nothing."""

STANDARD_COLUMNS = ("split", "person", "stimulus", *TIME_COLUMNS)

ENDINGS = (".csv", ".parquet", ".pq")

BLOCK_CELLS = 1_000_000
"""Number of cells that are decoded at a time."""

SOURCE_FILE = "source.json"

Columns = Mapping[str, tuple[str, ...]]
"""Names of the features of each stream."""

Sources = dict[str, "list[ClipFeatures]"]
"""The features of each clip, one entry per table."""


@dataclass(frozen=True)
class Chunk:
    """Some rows of a table: a row group of Parquet, or rows of a CSV."""

    texts: pd.DataFrame  # ids, times and other columns
    values: FloatArray  # (rows, D)


@dataclass(frozen=True)
class Table:
    """A CSV or Parquet table of features, or a folder with one table per clip, named like the clip."""

    path: Path

    @cached_property
    def files(self) -> list[Path]:
        """The files of the table."""
        if not self.path.is_dir():
            return [self.path]
        files = sorted(file for file in self.path.iterdir() if file.suffix.lower() in ENDINGS)
        if not files:
            raise DataError(f"{self.path}: no tables in this folder", expected=" or ".join(ENDINGS))
        return files

    @cached_property
    def columns(self) -> dict[str, str]:
        """Cleaned names of the first file's columns, and the names in the file."""
        return _columns_of(self.files[0])

    @cached_property
    def id_column(self) -> str:
        """The column with the clips' ids; "" if each file is a clip."""
        name = next((name for name in ID_COLUMNS if name in self.columns), "")
        if not name and not self.path.is_dir():
            got = ", ".join([*self.columns][:8])
            raise DataError(
                f"{self.path}: no column with clip ids", got=got, expected=" or ".join(ID_COLUMNS)
            )
        return name

    @property
    def time_column(self) -> str | None:
        """The column with the times of the steps."""
        return next((name for name in TIME_COLUMNS if name in self.columns), None)

    def match(self, patterns: str) -> tuple[str, ...]:
        """Return the columns that match one of the patterns, sorted; raise DataError for a pattern without a
        match."""
        columns = [name for name in self.columns if name not in (self.id_column, *STANDARD_COLUMNS)]
        matches = set[str]()
        for pattern in map(str.strip, patterns.split(",")):
            matching = {column for column in columns if fnmatchcase(column, pattern)}
            if not matching:
                fix = suggestion(pattern.strip("*_"), columns)
                raise DataError(f"{self.path}: no column matches '{pattern}'", fix=fix)
            matches |= matching
        return tuple(sorted(matches))

    def chunks(self, names: Sequence[str], features: Sequence[str]) -> Iterator[Chunk]:
        """Yield the rows of some columns, a part of them at a time; the text column "" has the clips' ids."""
        wanted = {*names, self.id_column, self.time_column or "", SUCCESS} & self.columns.keys()
        for file in self.files:
            columns = self.columns if file == self.files[0] else _columns_of(file)
            if missing := {*wanted, *features} - columns.keys():
                raise DataError(f"{file}: no column '{min(missing)}'", got=", ".join([*columns][:8]))
            renamed = {columns[name]: name for name in wanted}
            read = _read_csv if file.suffix.lower() == ".csv" else _read_parquet
            with _reading(file):
                for chunk in read(file, renamed, [columns[name] for name in features]):
                    ids = chunk.texts[self.id_column].astype(object) if self.id_column else file.stem
                    texts = chunk.texts.assign(**{"": ids}).fillna({"": ""})
                    yield Chunk(texts.assign(**{"": texts[""].astype(str).str.strip()}), chunk.values)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file", fix=missing_path_hint(path)) from error
    except (ValueError, OSError, pd.errors.ParserError) as error:
        raise DataError(
            f"{path}: not a CSV or Parquet table: {error}", fix="Save it as CSV or Parquet"
        ) from error


def _columns_of(file: Path) -> dict[str, str]:
    """Return the columns of a file: cleaned names, and the names in the file.

    OpenFace writes spaces before names; the names of ``STANDARD_COLUMNS`` may be in any case.
    """
    with _reading(file):
        if file.suffix.lower() == ".csv":
            names = [str(name) for name in pd.read_csv(file, nrows=0, index_col=False).columns]
        else:
            require("pyarrow", extra="parquet")
            from pyarrow import parquet

            names = parquet.read_schema(file).names
    stripped = {name.strip(): name for name in names}
    return {name.lower() if name.lower() in STANDARD_COLUMNS else name: raw for name, raw in stripped.items()}


def _read_csv(file: Path, texts: Mapping[str, str], features: Sequence[str]) -> Iterator[Chunk]:
    """Yield the rows of a CSV, with text columns renamed."""
    as_text = {*ID_COLUMNS, *STANDARD_COLUMNS[:3]}
    dtype = {raw: str for raw, name in texts.items() if name in as_text}
    usecols = [*dict.fromkeys((*texts, *features))]
    n_rows = max(1, BLOCK_CELLS // len(usecols))
    # index_col: else pandas takes surplus cells for row names
    with pd.read_csv(file, usecols=usecols, dtype=dtype, index_col=False, chunksize=n_rows) as reader:
        for chunk in reader:
            yield Chunk(chunk[[*texts]].rename(columns=texts), _to_numbers(chunk[[*features]]))


def _read_parquet(file: Path, texts: Mapping[str, str], features: Sequence[str]) -> Iterator[Chunk]:
    """Yield the row groups of a Parquet table, with text columns renamed.

    A block of columns is decoded at a time, because a row group may be the whole table.
    """
    from pyarrow import parquet

    with parquet.ParquetFile(file, pre_buffer=False) as opened:
        for group in range(opened.num_row_groups):
            table = opened.read_row_group(group, columns=[*texts]).to_pandas().rename(columns=texts)
            values = np.empty((len(table), len(features)), np.float32)
            size = max(1, BLOCK_CELLS // max(1, len(table)))
            for start in range(0, len(features), size):
                names = [*features[start : start + size]]
                block = opened.read_row_group(group, columns=[*dict.fromkeys(names)], use_threads=False)
                values[:, start : start + size] = _to_numbers(block.to_pandas()[names])
            yield Chunk(table, values)


@dataclass(frozen=True)
class _Rows:
    """The rows of one clip in a chunk."""

    values: FloatArray  # (rows, D) of the whole chunk
    index: np.ndarray  # of the clip's rows
    times_s: FloatArray  # of the clip's rows; NaN in a table without times
    usable: np.ndarray  # of the clip's rows: they have a time, and show a face if the table says so


@dataclass
class ClipFeatures:
    """The steps of one clip in a table, which are copied from its chunks when they are needed."""

    columns: Mapping[str, slice]  # of each stream
    cells: dict[str, str]  # text columns of the first row
    minutes: bool  # the times are whole seconds
    rows: list[_Rows] = field(default_factory=list)

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return sum(len(part.index) for part in self.rows)

    def load(self) -> dict[str, Steps]:
        """Return the steps with a number in each column, by stream; their times are NaN in a table without
        times."""
        times_s = np.concatenate([part.times_s for part in self.rows])
        if self.minutes:
            times_s = _spread_seconds(times_s)
        usable = np.concatenate([part.usable for part in self.rows])
        streams = {}
        for name, columns in self.columns.items():
            values = np.concatenate([part.values[part.index, columns] for part in self.rows])
            mask = usable & np.isfinite(values).all(axis=1)
            streams[name] = all_steps(values[mask], times_s[mask])
        return streams


def _read_clips(table: Table, columns: Columns, labels: Sequence[str] = ()) -> dict[str, ClipFeatures]:
    """Read the features of all clips, by the id in the table."""
    ends = np.cumsum([len(names) for names in columns.values()]).tolist()
    slices = {name: slice(end - len(columns[name]), end) for name, end in zip(columns, ends, strict=True)}
    texts = [name for name in (*STANDARD_COLUMNS, *labels) if name in table.columns]
    features = [name for names in columns.values() for name in names]
    clips = dict[str, ClipFeatures]()
    for chunk in table.chunks(texts, features):
        times_s = _times(chunk.texts, table.time_column)  # (rows,)
        usable = np.isfinite(times_s) if table.time_column else np.ones(len(times_s), bool)
        if SUCCESS in chunk.texts:
            usable &= pd.to_numeric(chunk.texts[SUCCESS], errors="coerce").to_numpy() == 1
        for name, rows in chunk.texts.groupby("", sort=False).indices.items():
            index = np.asarray(rows)
            if (clip := clips.get(str(name))) is None:
                first = chunk.texts.iloc[index[0]][texts]
                cells = {str(key): "" if pd.isna(cell) else str(cell).strip() for key, cell in first.items()}
                clip = ClipFeatures(slices, cells, minutes=table.time_column == "approx_time")
                clips[str(name)] = clip
            clip.rows.append(_Rows(chunk.values, index, times_s[index], usable[index]))
    return clips


def _times(chunk: pd.DataFrame, column: str | None) -> FloatArray:
    """Return the times of a chunk's rows in seconds; NaN without a time column."""
    if column is None:
        return np.full(len(chunk), np.nan, np.float32)
    cells = chunk[column]
    if column == "approx_time":  # "mm:ss"
        cells = pd.to_timedelta("00:" + cells.astype(str), errors="coerce").dt.total_seconds()
    return _to_numbers(cells.to_frame())[:, 0]


def _spread_seconds(times_s: FloatArray) -> FloatArray:
    """Spread the steps of each whole second evenly over it."""
    _, first, index, counts = np.unique(times_s, return_index=True, return_inverse=True, return_counts=True)
    fractions = (np.arange(len(times_s)) - first[index]) / counts.max(initial=1)
    return np.asarray(times_s + fractions, np.float32)


def _to_numbers(table: pd.DataFrame) -> FloatArray:
    """Return the cells as (rows, columns) float32; cells without a number are NaN."""
    if any(kind not in "fiu" for kind in (dtype.kind for dtype in table.dtypes)):
        table = table.apply(pd.to_numeric, errors="coerce")
    numbers: FloatArray = table.to_numpy(np.float32)
    return numbers


def locate_table(pattern: str, data: Path) -> tuple[Path | None, str]:
    """Return the table of ``data.features`` (``None``: the dataset itself) and its patterns of columns.

    A relative path starts at the dataset's folder.
    """
    name, _, patterns = pattern.rpartition(":")
    return (data if data.is_dir() else data.parent) / name if name else None, patterns


def prepare_features(
    data: Path,
    out: Path,
    features: Mapping[str, str],
    *,
    labels: str | Sequence[str] | None,
    progress: bool,
) -> PreparedSet:
    """Read a table of features into a feature store; a second call reuses the store.

    Args:
        data: a CSV or Parquet table, one row per clip or per step (columns: one of ``ID_COLUMNS``, optional
            ``TIME_COLUMNS``, ``split``, ``person``, ``stimulus``, one per label, and the features).
        out: the folder to write, a new one or a prepared dataset.
        features: by stream, patterns of feature columns, separated by commas ("AU*,pose_*"); with
            "TABLE:" before them, of another table that is joined by the clips' ids.
        labels: a label set's name or label columns; ``None`` finds them.
        progress: show a bar.

    Raises:
        DataError: the table or columns do not exist. An invalid clip has a ``problem``; steps with a value
            that is not a number are left out, and counted as unreadable.
    """
    folder = _store_folder(out, features)
    signature = _signature(features, data, [data, labels])
    if _read_source(folder).get("signature") == signature:
        prepared = open_prepared(out)
        if prepared.tables == folder.name:  # else prepared otherwise in the meantime
            return prepared
    table = Table(data)
    located = {name: locate_table(text, data) for name, text in features.items()}
    columns = {name: table.match(patterns) for name, (path, patterns) in located.items() if path is None}
    used = {table.id_column, *STANDARD_COLUMNS, *(name for names in columns.values() for name in names)}
    label_names = choose_labels(
        [name for name in table.columns if name not in used], ID_COLUMNS, labels, data
    )
    clips = _read_clips(table, columns, label_names)
    reserved = (table.id_column, *STANDARD_COLUMNS)
    read = {
        name: make_clip(
            features_of.cells,
            label_names,
            reserved,
            clip_id=name,
            path=data,
            split=features_of.cells.get("split", ""),
        )
        for name, features_of in clips.items()
    }
    sources = {name: [features_of] for name, features_of in clips.items()}
    _check_features(data, columns, features, sources)
    columns |= _join_tables(features, data, sources)
    rows = [
        _with_counts(PreparedRow(clip), clips[clip.clip_id], _load(sources[clip.clip_id]))
        for clip in with_splits([*read.values()])
    ]
    claim_folder(out)
    _write(folder, rows, sources, columns, signature, progress=progress)
    prepared = PreparedSet(
        out, label_names, PrepareConfig(), tuple(rows), has_media=False, features=columns, tables=folder.name
    )
    write_index(prepared)
    return prepared


def add_features(
    prepared: PreparedSet, features: Mapping[str, str], data: Path, *, progress: bool
) -> PreparedSet:
    """Add streams of features from tables beside a dataset of media; a second call reuses the store.

    Args:
        prepared: the dataset.
        features: by stream, a table and patterns of its columns, "openface.csv:AU*_r". The table is joined by
            the clips' ids, or by the names of their files; it has the times of its steps on the clip's
            clock.
        data: the path of the dataset; relative paths of tables start at its folder.
        progress: show a bar.

    Raises:
        DataError: a table or column does not exist, or no clip has features.
    """
    folder = _store_folder(prepared.folder, features)
    signature = _signature(features, data, [prepared.manifest_sha256])
    source = _read_source(folder)
    if data == prepared.folder and source:  # the tables are beside the dataset, whose path is missing here
        signature = source["signature"]
    if source.get("signature") == signature:
        columns = {name: tuple(names) for name, names in source["columns"].items()}
    else:
        sources: Sources = {row.clip.clip_id: [] for row in prepared.rows}
        columns = _join_tables(features, data, sources)
        _write(folder, prepared.rows, sources, columns, signature, progress=progress)
    return replace(prepared, features=columns, tables=folder.name)


def read_file_features(
    tables: Sequence[Path], columns: Columns, paths: Sequence[str]
) -> dict[str, dict[str, Steps]]:
    """Read the features of media files, by path and stream; tables are joined as in :func:`add_features`.

    Raises:
        DataError: no table has the columns of a stream, or a table contains none of the files.
    """
    opened = [Table(table) for table in tables]
    features: dict[str, dict[str, Steps]] = {}
    for name, names in columns.items():
        missing = [min({*names} - table.columns.keys(), default="") for table in opened]
        if all(missing):
            fix = suggestion(missing[0], opened[0].columns) if len(opened) == 1 else "Add its table"
            got = f"no column '{missing[0]}' in {', '.join(map(str, tables))}"
            raise DataError(f"no table has the features of stream '{name}'", got=got, fix=fix)
        for path, clip in _match_clips(opened[missing.index("")], {name: names}, paths).items():
            features.setdefault(path, {}).update(clip.load())
    return features


def _join_tables(features: Mapping[str, str], data: Path, sources: Sources) -> dict[str, tuple[str, ...]]:
    """Add the streams of other tables to the sources of clips; return their columns."""
    by_table = dict[Path, dict[str, str]]()
    for name, text in features.items():
        path, patterns = locate_table(text, data)
        if path is not None:
            by_table.setdefault(path, {})[name] = patterns
    joined = dict[str, tuple[str, ...]]()
    for path, patterns_of in by_table.items():
        table = Table(path)
        columns = {name: table.match(patterns) for name, patterns in patterns_of.items()}
        matched = _match_clips(table, columns, [*sources])
        _check_features(path, columns, features, {name: [clip] for name, clip in matched.items()})
        for clip_id, clip in matched.items():
            sources[clip_id].append(clip)
        if missing := len(sources) - len(matched):
            warnings.warn(f"{path}: no rows for {missing} of {len(sources)} clips", stacklevel=2)
        joined |= columns
    return joined


def _match_clips(table: Table, columns: Columns, ids: Sequence[str]) -> dict[str, ClipFeatures]:
    """Read the features of clips that a table names by their id, or by the name of their file."""
    by_stem = dict[str, str]()
    for clip_id in ids:
        stem = _stem(clip_id)
        by_stem[stem] = "" if stem in by_stem else clip_id  # "": several clips have this name
    id_set, matched = set(ids), dict[str, ClipFeatures]()
    for name, clip in _read_clips(table, columns).items():
        if clip_id := name if name in id_set else by_stem.get(_stem(name), ""):
            matched[clip_id] = clip
    if not matched:
        raise DataError(f"{table.path}: no row names a clip", expected=f"ids such as {next(iter(ids), '')}")
    return matched


def _stem(name: str) -> str:
    """Return the name of a clip's file, without folders, suffix and the brackets of ABAW5."""
    return PureWindowsPath(name.strip("[]")).stem  # also splits at "/"


def _load(sources: Sequence[ClipFeatures]) -> dict[str, Steps]:
    """Return the steps of one clip from all tables, by stream."""
    return {name: steps for source in sources for name, steps in source.load().items()}


def _check_features(path: Path, columns: Columns, features: Mapping[str, str], sources: Sources) -> None:
    with_numbers = {
        name for clip in sources.values() for name, steps in _load(clip).items() if len(steps.mask)
    }
    if missing := columns.keys() - with_numbers:
        name = min(missing)
        raise DataError(f"{path}: no row has numbers in all {name} features", got=f"'{features[name]}'")


def _with_counts(row: PreparedRow, from_dataset: ClipFeatures, streams: Mapping[str, Steps]) -> PreparedRow:
    """Return the row of a clip of features with its counts; unchanged if the clip is invalid."""
    if row.clip.problem:
        return row
    counts = {name: len(steps.mask) for name, steps in streams.items()}
    arrays = [array for steps in streams.values() for array in (steps.times_s, steps.values)]
    return PreparedRow(
        row.clip,
        row.clip.path,
        duration_s=max(float(np.nanmax(steps.times_s, initial=0.0)) for steps in streams.values()),
        n_samples=counts.get("face", 0),
        n_faces=counts.get("face", 0),
        n_unreadable=sum(from_dataset.n_rows - counts[name] for name in from_dataset.columns),
        has_sound=counts.get("voice", 0) > 0,
        sha256=sha256(b"".join(map(bytes, arrays))).hexdigest() if any(counts.values()) else "",
    )


def _write(
    folder: Path,
    rows: Sequence[PreparedRow],
    sources: Sources,
    columns: Columns,
    signature: str,
    *,
    progress: bool,
) -> None:
    """Write the steps of clips into a store, and what they were read from."""

    def read(row: PreparedRow, part: ClipPart, _: object = None) -> Item:
        end_s = part.end_s if part.end_s < row.duration_s - MIN_NEW_CONTENT_S else np.inf
        streams = {name: no_steps(len(names)) for name, names in columns.items()}
        return Item(
            streams
            | {
                name: steps.between(part.start_s, end_s)
                for name, steps in _load(sources[row.clip.clip_id]).items()
            }
        )

    make_folder(folder)
    (folder / SOURCE_FILE).unlink(missing_ok=True)
    sizes = {name: len(names) for name, names in columns.items()}
    write_store(folder, rows, read, sizes, "reading features" if progress else "", signature)
    write_atomic(folder / SOURCE_FILE, json.dumps({"signature": signature, "columns": columns}))


def _store_folder(out: Path, features: Mapping[str, str]) -> Path:
    digest = sha256(json.dumps(sorted(features.items())).encode()).hexdigest()
    return out / FEATURES / f"tables-{digest[:12]}"


def _signature(features: Mapping[str, str], data: Path, inputs: list[Any]) -> str:
    """Return all that the features depend on: patterns, tables with their state, and other inputs."""
    tables = {locate_table(text, data)[0] or data for text in features.values()}
    files = [file for path in sorted(tables) for file in (Table(path).files if path.exists() else [])]
    states = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return json.dumps([dict(features), states, *inputs], default=str)


def _read_source(folder: Path) -> dict[str, Any]:
    file = folder / SOURCE_FILE
    return parse_json_object(file.read_bytes()) if file.is_file() else {}
