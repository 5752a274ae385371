"""Features of clips on disk: written in shards, read a clip at a time, never loaded whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from reactometer.data.batches import Item, Part
from reactometer.data.cache import PreparedRow
from reactometer.errors import DataError
from reactometer.io import PART, decoding, format_json, make_folder, parse_json_object, replacing, write_whole
from reactometer.records import FloatArray

SHARD_PARTS = 256
"""Parts of clips in a shard: 67 MB of 32 frames with 2048 features each."""

STREAMS = ("face", "voice")

FORMAT = 3
"""Version of the shards; one of another version is made anew."""


@dataclass(frozen=True)
class _Place:
    """Where the steps of a part lie: folder and number of the shard; first step and number of steps by stream."""

    folder: Path
    shard: int
    first: Mapping[str, int]
    count: Mapping[str, int]


@dataclass(frozen=True)
class FeatureStore:
    """Shards of features. A shard is a table of float32 a stream, one row a step: its time in seconds, its features.

    Only steps that show or say something are kept, so that all of them count. Two stores of the same features are
    joined with ``|``.
    """

    sizes: Mapping[str, int]  # features of a step, by stream
    places: Mapping[str, _Place] = field(repr=False)

    def __call__(self, row: PreparedRow, part: Part, rng: np.random.Generator | None = None) -> Item:
        """Read one part; features do not change from one reading to the next, so ``rng`` has no effect.

        A clip that could not be read has no steps.

        Raises:
            DataError: the store lacks the features of this part, or a file is damaged.
        """
        place = self.places.get(key := part_key(row, part)) if row.file else None
        if row.file and place is None:
            raise DataError(f"no features of '{key}' are kept", fix="Run the command again")
        face, voice = (self._read(stream, place) for stream in STREAMS)
        return Item(
            frames=face[:, 1:],
            seen=np.ones(len(face), dtype=bool),
            times_s=face[:, 0],
            voice=voice[:, 1:],
            voice_times_s=voice[:, 0],
        )

    def _read(self, stream: str, place: _Place | None) -> FloatArray:
        """The time and features of a part's steps, (T, 1 + D) float32."""
        width = 1 + self.sizes[stream]
        if place is None or not place.count[stream]:
            return np.zeros((0, width), np.float32)
        count, file = place.count[stream], _data_file(place.folder, place.shard, stream)
        with decoding(file, DataError, f"Delete {place.folder} and run the command again"):
            flat = np.fromfile(file, np.float32, count * width, offset=place.first[stream] * width * 4)
            return flat.reshape(count, width)  # raises where the file is too short

    def __or__(self, other: FeatureStore) -> FeatureStore:
        """Both stores' clips."""
        return FeatureStore(self.sizes, {**self.places, **other.places})


def part_key(row: PreparedRow, part: Part) -> str:
    """What a part is called in a store."""
    return f"{row.clip.clip_id} {part.start_s:.3f}"


def write_store(
    folder: Path,
    rows: Sequence[PreparedRow],
    parts: Sequence[Part],
    read: Callable[[Sequence[Part]], Iterable[Item]],
    sizes: Mapping[str, int],
    advance: Callable[[], None] = lambda: None,
    source: str = "",
) -> FeatureStore:
    """Write the features of parts, shard by shard; a shard that is there and still right is left as it is.

    Clips that could not be read have no features and are left out.

    Args:
        folder: made if need be. A shard's description is written last, so a stopped run goes on with the next shard.
        rows: the clips.
        parts: the parts of them to write.
        read: yields the items (``frames`` (T, D) and ``voice`` (N, M) float32) of the parts it is given, in order.
        sizes: features of a step, by stream ("face", "voice").
        advance: called once a part.
        source: what the features follow from besides the clips' files.

    Raises:
        DataError: an item has another number of features.
    """
    make_folder(folder)
    readable = [part for part in parts if rows[part.index].file]
    shards = [readable[first : first + SHARD_PARTS] for first in range(0, len(readable), SHARD_PARTS)]
    for _ in range(len(parts) - len(readable)):
        advance()
    with FileLock(folder / "writing.lock"):  # another run may be about to write the same
        for shard, own in enumerate(shards):
            keys = [part_key(rows[part.index], part) for part in own]
            stamp = _stamp(rows, own, keys, [dict(sizes), source])
            if _description(folder, shard).get("stamp") != stamp:
                counts = _write_shard(folder, shard, read(own), sizes, advance)
                about = {"stamp": stamp, "sizes": dict(sizes), "keys": keys, "counts": counts}
                write_whole(_description_file(folder, shard), format_json(about))
            else:
                for _ in own:
                    advance()
        for leftover in folder.glob("[0-9][0-9][0-9][0-9][0-9].*"):  # of a time with more parts
            if int(leftover.name[:5]) >= len(shards):
                leftover.unlink()
        for leftover in folder.glob(f".*{PART}"):  # of a run that was killed; none is at work beside this one
            leftover.unlink()
        return replace(open_store(folder, len(shards)), sizes=dict(sizes))


def open_store(folder: Path, n_shards: int | None = None) -> FeatureStore:
    """Open what :func:`write_store` wrote, all of it or so many shards.

    Raises:
        DataError: a shard is missing or damaged.
    """
    n_shards = max(1, len(list(folder.glob("[0-9]*.json")))) if n_shards is None else n_shards
    places: dict[str, _Place] = {}
    sizes: dict[str, int] = dict.fromkeys(STREAMS, 0)
    for shard in range(n_shards):
        about = _description(folder, shard)
        if not about:
            raise DataError(f"{folder}: shard {shard} is missing", fix="Delete the folder and run the command again")
        with decoding(_description_file(folder, shard), DataError, "Delete the folder and run the command again"):
            sizes = {stream: int(about["sizes"][stream]) for stream in STREAMS}
            first = dict.fromkeys(STREAMS, 0)
            for place, key in enumerate(about["keys"]):
                count = {stream: int(about["counts"][stream][place]) for stream in STREAMS}
                places[str(key)] = _Place(folder, shard, dict(first), count)
                first = {stream: first[stream] + count[stream] for stream in STREAMS}
            for stream in STREAMS:
                expected, got = (
                    first[stream] * (1 + sizes[stream]) * 4,
                    _data_file(folder, shard, stream).stat().st_size,
                )
                if got != expected:
                    raise ValueError(f"the {stream} features take {got} bytes, not {expected}")
    return FeatureStore(sizes, places)


def _write_shard(
    folder: Path, shard: int, items: Iterable[Item], sizes: Mapping[str, int], advance: Callable[[], None]
) -> dict[str, list[int]]:
    """Write one shard; return the number of steps of each part, by stream."""
    counts = {stream: list[int]() for stream in STREAMS}
    _description_file(folder, shard).unlink(missing_ok=True)
    with ExitStack() as stack:
        partials = [stack.enter_context(replacing(_data_file(folder, shard, stream))) for stream in STREAMS]
        files = [stack.enter_context(partial.open("wb")) for partial in partials]
        for item in items:
            for stream, file, rows in zip(STREAMS, files, _rows_of(item), strict=True):
                if len(rows) and rows.shape[1] != 1 + sizes[stream]:
                    raise DataError(
                        f"another number of {stream} features", got=rows.shape[1] - 1, expected=sizes[stream]
                    )
                file.write(np.ascontiguousarray(rows, np.float32).tobytes())
                counts[stream].append(len(rows))
            advance()
    return counts


def _rows_of(item: Item) -> tuple[FloatArray, FloatArray]:
    """The rows of both streams, (steps, 1 + D): those of the frames that were seen, and all of the voice."""
    face = np.column_stack((item.times_s, item.frames))[item.seen]
    return face, np.column_stack((item.voice_times_s, item.voice))


def _stamp(rows: Sequence[PreparedRow], parts: Sequence[Part], keys: Sequence[str], source: Sequence[Any]) -> str:
    """What a shard depends on: its parts, size and time of change of the files they are read from, and what else."""
    files = [rows[part.index].file for part in parts]
    stats = [(file.stat().st_size, file.stat().st_mtime_ns) if file and file.exists() else None for file in files]
    spans = [(part.start_s, part.end_s) for part in parts]
    return sha256(json.dumps([FORMAT, list(keys), stats, spans, source]).encode()).hexdigest()


def _description(folder: Path, shard: int) -> dict[str, Any]:
    file = _description_file(folder, shard)
    try:
        return parse_json_object(file.read_bytes()) if file.is_file() else {}
    except ValueError:
        return {}


def _description_file(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05d}.json"


def _data_file(folder: Path, shard: int, stream: str) -> Path:
    return folder / f"{shard:05d}.{stream}.f32"
