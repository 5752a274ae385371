"""Keep prepared clips on disk, with an index of all clips."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from reactometer.config import PrepareConfig
from reactometer.errors import DataError
from reactometer.io import (
    PART,
    decoding,
    format_csv,
    format_json,
    make_folder,
    parse_json_object,
    replacing,
    sha256_of,
    write_whole,
)
from reactometer.paths import cache_folder
from reactometer.types import Clip, FaceSample, FrameState, PreparedClip

FORMAT = 1
"""Version of the cache's files; a cache of another version is stale."""

MANIFEST_FILE, SETTINGS_FILE = "manifest.csv", "cache.json"

FEATURES = "features"
"""Folder beside the prepared clips, where their features are kept."""


@dataclass(frozen=True)
class PreparedRow:
    """One clip of a prepared dataset; ``file`` is ``None`` if the clip could not be read."""

    clip: Clip
    file: Path | None = None
    duration_s: float = 0.0
    frames_read: int = 0
    n_samples: int = 0
    n_faces: int = 0
    n_unreadable: int = 0
    has_sound: bool = False  # audible somewhere


@dataclass(frozen=True)
class PreparedSet:
    """A prepared dataset, with one row per clip."""

    folder: Path
    labels: tuple[str, ...]
    settings: PrepareConfig
    rows: tuple[PreparedRow, ...]
    feature_sizes: Mapping[str, int] | None = None  # by modality, where the data bring features instead of media

    @property
    def failed(self) -> tuple[PreparedRow, ...]:
        """The unusable clips; ``clip.problem`` says why."""
        return tuple(row for row in self.rows if row.clip.problem)

    @property
    def manifest_sha256(self) -> str:
        """SHA-256 of the table of clips."""
        return sha256_of(self.folder / MANIFEST_FILE)

    def split(self, name: str) -> tuple[PreparedRow, ...]:
        """The rows of one split; every row for "all"."""
        return tuple(row for row in self.rows if name in ("all", row.clip.split))


def load_clip(row: PreparedRow) -> PreparedClip:
    """Load a prepared clip; an unreadable clip is empty. Raise DataError if its file is missing or damaged."""
    if row.file is None:
        return PreparedClip(0.0, 0.0, (), None)
    with (
        decoding(row.file, DataError, "Delete it and run 'reactometer prepare' again"),
        np.load(row.file, allow_pickle=False) as arrays,
    ):
        found = {name: arrays[name] for name in arrays.files}
        found.pop("about")  # written last, so its presence proves that the file is complete
        return _unpack(found)


def open_prepared(folder: Path) -> PreparedSet:
    """Open a folder written by :func:`prepare`; raise DataError for any other folder, or another format."""
    try:
        about = parse_json_object((folder / SETTINGS_FILE).read_bytes())
        with (folder / MANIFEST_FILE).open(encoding="utf-8", newline="") as file:
            table = list(csv.DictReader(file, strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{folder}: not a prepared data set: {error}", fix="Run 'reactometer prepare DATA'") from error
    again = "Run 'reactometer prepare' again"
    with decoding(folder, DataError, again):
        if about.get("format") != FORMAT:
            got = about.get("format")
            raise DataError(f"{folder}: prepared in another format", got=got, expected=FORMAT, fix=again)
        if about["manifest_sha256"] != sha256_of(folder / MANIFEST_FILE):
            raise ValueError(f"{MANIFEST_FILE} is not the one that {SETTINGS_FILE} names")
        labels = tuple(str(label) for label in about["labels"])
        rows = tuple(_from_cells(row, labels, folder) for row in table)
        settings = PrepareConfig.model_validate(about["settings"])
        sizes = {str(name): int(size) for name, size in about["features"].items()} if about.get("features") else None
    return PreparedSet(folder, labels, settings, rows, sizes)


def write_clip(file: Path, clip: PreparedClip, counts: Mapping[str, Any]) -> None:
    """Write a prepared clip with its counts, atomically."""
    with replacing(file) as partial, partial.open("wb") as stream:
        np.savez(stream, **{**_pack(clip), "about": np.array(json.dumps({"counts": counts}))})  # type: ignore[arg-type]


def read_counts(file: Path) -> dict[str, Any] | None:
    """Return the counts in a clip's file; ``None`` if the file is missing or damaged."""
    try:
        with decoding(file, DataError, ""), np.load(file, allow_pickle=False) as arrays:
            return dict(json.loads(str(arrays["about"]))["counts"])
    except DataError:
        return None


def _pack(clip: PreparedClip) -> dict[str, np.ndarray]:
    crops = [sample.crop_jpeg or b"" for sample in clip.samples]
    sound = {} if clip.waveform is None else {"waveform": np.round(clip.waveform * 32767).astype(np.int16)}
    return {
        "span_s": np.array([clip.start_s, clip.end_s]),
        "frames_read": np.array(clip.frames_read),
        "times_s": np.array([sample.time_s for sample in clip.samples]),  # (T,) float64
        "states": np.array([sample.state for sample in clip.samples], dtype=np.uint8),  # (T,)
        "boxes": np.array([sample.box or (np.nan,) * 4 for sample in clip.samples]).reshape(-1, 4),  # (T, 4) float64
        "scores": np.array([sample.score for sample in clip.samples]),  # (T,) float64
        "crop_ends": np.cumsum([len(crop) for crop in crops], dtype=np.int64),  # (T,)
        "crop_bytes": np.frombuffer(b"".join(crops), dtype=np.uint8),
        **sound,
    }


def _unpack(arrays: dict[str, np.ndarray]) -> PreparedClip:
    crops = np.split(arrays["crop_bytes"], arrays["crop_ends"])
    columns = zip(arrays["times_s"], arrays["states"], arrays["boxes"], arrays["scores"], crops, strict=False)
    samples = tuple(
        FaceSample(
            time_s=float(time_s),
            state=FrameState(int(state)),
            box=None if np.isnan(box).any() else (float(box[0]), float(box[1]), float(box[2]), float(box[3])),
            score=float(score),
            crop_jpeg=crop.tobytes() or None,
        )
        for time_s, state, box, score, crop in columns
    )
    waveform = (arrays["waveform"] / 32767).astype(np.float32) if "waveform" in arrays else None
    start_s, end_s = arrays["span_s"]
    return PreparedClip(float(start_s), float(end_s), samples, waveform, int(arrays["frames_read"]))


def write_index(prepared: PreparedSet) -> None:
    """Write the table of all clips, and the settings."""
    cells = [_to_cells(row, prepared.labels) for row in prepared.rows]
    table = format_csv([cells[0], *(row.values() for row in cells)]) if cells else ""
    write_whole(prepared.folder / MANIFEST_FILE, table)
    about = {
        "format": FORMAT,
        "labels": prepared.labels,
        "settings": prepared.settings.model_dump(),
        "features": prepared.feature_sizes,
        "manifest_sha256": sha256(table.encode()).hexdigest(),
    }
    write_whole(prepared.folder / SETTINGS_FILE, format_json(about))


_NAMES = ("clip_id", "split", "person", "stimulus")
_NUMBERS = ("duration_s", "frames_read", "n_samples", "n_faces", "n_unreadable")
_OWN_COLUMNS = (*_NAMES, *_NUMBERS, "sound", "problem", "path", "file", "attributes")


def refuse_own_names(labels: Sequence[str]) -> None:
    """Raise DataError if a label has the name of another column in the table of clips."""
    if own := [label for label in labels if label in _OWN_COLUMNS]:
        fix = "Call the column something else, or name the labels to use with --labels"
        raise DataError("a label has the name of a column of ours", got=", ".join(own), fix=fix)


def _to_cells(row: PreparedRow, labels: Sequence[str]) -> dict[str, Any]:
    clip = row.clip
    return {
        **{name: getattr(clip, name) for name in _NAMES},
        **dict(zip(labels, clip.labels or ("",) * len(labels), strict=True)),
        **{name: getattr(row, name) for name in _NUMBERS},
        "sound": "yes" if row.has_sound else "no",
        "problem": clip.problem,
        "path": str(clip.path),
        "file": row.file.name if row.file else "",
        "attributes": json.dumps(dict(clip.attributes)),
    }


def _from_cells(cells: dict[str, str], labels: tuple[str, ...], folder: Path) -> PreparedRow:
    clip = Clip(
        **{name: cells[name] or None for name in _NAMES},  # type: ignore[arg-type]
        path=Path(cells["path"]),
        labels=tuple(float(cells[label]) for label in labels if cells[label]) or None,
        attributes=json.loads(cells["attributes"]),
        problem=cells["problem"] or None,
    )
    counts = {name: int(cells[name]) for name in _NUMBERS[1:]}
    file = folder / "clips" / cells["file"] if cells["file"] else None
    return PreparedRow(clip, file, float(cells["duration_s"]), **counts, has_sound=cells["sound"] == "yes")


def claim_folder(folder: Path) -> None:
    """Make the folder of a cache; raise DataError if it contains other files."""
    make_folder(folder)
    names = {entry.name for entry in folder.iterdir()}
    if any(name not in ("clips", FEATURES, MANIFEST_FILE, SETTINGS_FILE) and not name.endswith(PART) for name in names):
        raise DataError(
            f"{folder}: holds other files",
            expected="a new folder or one prepared before",
            fix="Name another folder with --out or data.cache",
        )
    make_folder(folder / "clips")


def default_folder(data: Path, *features: str | None) -> Path:
    """Return the default folder of a prepared dataset, or of some of its features, in the user's cache."""
    name = " ".join([str(data.resolve()), *(f"{patterns}" for patterns in features)])
    return cache_folder() / "prepared" / f"{data.resolve().stem}-{sha256(name.encode()).hexdigest()[:12]}"
