"""Store features of clips on disk, in one file per part of a clip, and read them when needed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np
from filelock import FileLock
from safetensors.numpy import load_file, save

from reactometer.data.cache import PreparedRow
from reactometer.data.inputs import ClipPart, Item, ItemLoader, Steps, all_steps, split_parts
from reactometer.errors import DataError
from reactometer.io import PART, format_json, make_folder, parse_json_object, wrap_decode_errors, write_atomic
from reactometer.media.speech import detector_sha256
from reactometer.terminal import progress_bar
from reactometer.types import FloatArray

QUALITY = ".quality"
"""Name of the array with ``face_px`` and ``speech_share`` of the item."""

INDEX_FILE = "features.json"

FORMAT = 6
"""Version of the files; features of another version are recomputed."""

REBUILD_HINT = "Delete the folder and run the command again"


@dataclass(frozen=True)
class FeatureStore:
    """Features of parts of clips. A file has a float32 table per stream, with one row per step (time in s,
    features).

    Only steps in the mask are stored. Stores of the same features are joined with
    ``|``.
    """

    sizes: Mapping[str, int]  # features of a step, by stream
    files: Mapping[str, Path] = field(repr=False)  # by part, see :func:`part_key`

    def __call__(self, row: PreparedRow, part: ClipPart, rng: np.random.Generator | None = None) -> Item:
        """Read one part; an unreadable clip has no steps, and ``rng`` has no effect.

        Raises:
            DataError: the store lacks this part, or its file is damaged.
        """
        tables: dict[str, FloatArray] = {
            name: np.zeros((0, 1 + size), np.float32) for name, size in self.sizes.items()
        }
        tables[QUALITY] = np.full(2, np.nan, np.float32)
        if row.file:
            file = self.files.get(part_key(row, part))
            if file is None:
                raise DataError(
                    f"no features for '{row.clip.clip_id}' in the store", fix="Run the command again"
                )
            with wrap_decode_errors(file, DataError, f"Delete {file.parent} and run the command again"):
                tables = load_file(file)
        face_px, share = tables.pop(QUALITY).tolist()
        streams = {name: all_steps(table[:, 1:], table[:, 0]) for name, table in tables.items()}
        return Item(streams, face_px=face_px, speech_share=share)

    def __or__(self, other: FeatureStore) -> FeatureStore:
        """Join both stores' clips."""
        return FeatureStore(self.sizes, {**self.files, **other.files})


def part_key(row: PreparedRow, part: ClipPart) -> str:
    """Return the key of a part in a store."""
    return f"{row.clip.clip_id} {part.start_s:.3f}"


def write_store(
    folder: Path,
    rows: Sequence[PreparedRow],
    read: ItemLoader,
    sizes: Mapping[str, int],
    title: str = "",
    source: str = "",
) -> FeatureStore:
    """Write the features of all parts of clips; existing files are reused, because their names depend on the
    inputs.

    Unreadable clips are left out. A stopped run resumes with the next part. Files of other parts are deleted.

    Args:
        folder: created if it is missing.
        rows: the clips.
        read: reads the item of a part, whose streams are features (T, D) float32.
        sizes: number of features per step, by stream.
        title: title of the progress bar on standard error; empty: no bar.
        source: all that the features depend on besides the clips' files.
    """
    make_folder(folder)
    parts = split_parts(rows)
    names = {}
    bar = progress_bar(title, len(parts), show=bool(title))
    with bar as advance, FileLock(folder / "writing.lock"):  # another run may write the same files
        for part in parts:
            row = rows[part.index]
            if row.file:
                names[part_key(row, part)] = name = f"{_digest(row, part, sizes, source)}.safetensors"
                if not (folder / name).is_file():
                    item = read(row, part, None)
                    tables = {stream: _to_table(item.streams[stream], sizes[stream]) for stream in sizes}
                    quality = np.array([item.face_px, item.speech_share], np.float32)
                    write_atomic(folder / name, save({**tables, QUALITY: quality}))
            advance()
        write_atomic(folder / INDEX_FILE, format_json({"sizes": dict(sizes), "files": names}))
        current = set(names.values())
        for file in (*folder.glob("*.safetensors"), *folder.glob(f".*{PART}")):
            if file.name not in current:
                file.unlink()
    return FeatureStore(dict(sizes), {key: folder / name for key, name in names.items()})


def open_store(folder: Path) -> FeatureStore:
    """Open a store that :func:`write_store` wrote; raise DataError if its index is missing or damaged."""
    file = folder / INDEX_FILE
    if not file.is_file():
        raise DataError(f"{folder}: no features: no {INDEX_FILE}", fix=REBUILD_HINT)
    with wrap_decode_errors(file, DataError, REBUILD_HINT):
        index = parse_json_object(file.read_bytes())
        files = {str(key): folder / Path(name).name for key, name in index["files"].items()}
        return FeatureStore({name: int(size) for name, size in index["sizes"].items()}, files)


def _to_table(steps: Steps, size: int) -> FloatArray:
    """Join times (T,) and features (T, D) of the steps in the mask in a table (T, 1 + D) float32."""
    times_s = steps.times_s[steps.mask]
    return np.ascontiguousarray(np.column_stack((times_s, steps.visible.reshape(-1, size))), np.float32)


def _digest(row: PreparedRow, part: ClipPart, sizes: Mapping[str, int], source: str) -> str:
    """Return a hash of all inputs of a part's features: file size, modification time, start, end, source and
    the detector of speech."""
    stat = row.file.stat() if row.file and row.file.exists() else None
    file_state = stat and (stat.st_size, stat.st_mtime_ns)
    inputs = [FORMAT, part_key(row, part), part.end_s, file_state, dict(sizes), source, detector_sha256()]
    return sha256(json.dumps(inputs).encode()).hexdigest()[:24]
