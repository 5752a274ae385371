"""Keep prepared clips on disk, with an index of all clips."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter

from reactometer.config import PrepareConfig
from reactometer.errors import DataError
from reactometer.io import PART, atomic_file, make_folder, sha256_of, wrap_decode_errors, write_atomic
from reactometer.media.audio import is_audible
from reactometer.paths import cache_folder
from reactometer.types import Clip, FaceSample, FrameState, PreparedClip

FORMAT: Literal[4] = 4
"""Version of the cache's files; a cache of another version is stale."""

INDEX_FILE = "cache.json"

KEY_DIGITS = 12
"""Hexadecimal digits of a clip's key: among 20,000 clips two equal keys have a probability of 1e-6."""

MEDIA = ("face", "voice")
"""Names of the streams that come from video and sound; all others are features from a table."""

FEATURES = "features"
"""Folder of the features, beside the prepared clips."""


@dataclass(frozen=True)
class PreparedRow:
    """One clip of a prepared dataset; ``file`` is ``None`` if the clip could not be read."""

    clip: Clip
    file: Path | None = None
    duration_s: float = 0.0
    n_samples: int = 0
    n_faces: int = 0
    n_unreadable: int = 0
    has_sound: bool = False  # at least one part is audible
    sha256: str = ""  # of the media file, or of the features

    @property
    def key(self) -> str:
        """Short hash of the clip's content, by which checkpoints list training clips; "" if unreadable."""
        return self.sha256[:KEY_DIGITS]


@dataclass(frozen=True)
class PreparedSet:
    """A prepared dataset, with one row per clip."""

    folder: Path
    labels: tuple[str, ...]
    settings: PrepareConfig
    rows: tuple[PreparedRow, ...]
    has_media: bool = True
    features: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # from tables: names by stream
    tables: str = ""  # name of the folder in FEATURES with the features from tables
    format: Literal[4] = FORMAT
    is_folded: bool = False  # the splits are folds, see data.splits.assign_folds

    @property
    def failed(self) -> tuple[PreparedRow, ...]:
        """Return the unusable clips; ``clip.problem`` has the reason."""
        return tuple(row for row in self.rows if row.clip.problem)

    @property
    def feature_sizes(self) -> dict[str, int]:
        """Return the number of features per step from tables, by stream."""
        return {name: len(names) for name, names in self.features.items()}

    @property
    def media(self) -> tuple[str, ...]:
        """Return the streams of video and sound that no table replaces."""
        return tuple(name for name in MEDIA if self.has_media and name not in self.features)

    @property
    def manifest_sha256(self) -> str:
        """Return the SHA-256 of the index."""
        return sha256_of(self.folder / INDEX_FILE)

    def split(self, name: str) -> tuple[PreparedRow, ...]:
        """Return the rows of one split, or every row for "all"."""
        return tuple(row for row in self.rows if name in ("all", row.clip.split))


def load_clip(row: PreparedRow) -> PreparedClip:
    """Load a prepared clip, empty if the media was unreadable. Raise DataError if its file is missing or
    damaged."""
    if row.file is None:
        return PreparedClip(0.0, 0.0, (), None)
    with (
        wrap_decode_errors(row.file, DataError, "Delete it and run 'reactometer prepare' again"),
        np.load(row.file, allow_pickle=False) as arrays,
    ):
        contents = {name: arrays[name] for name in arrays.files}  # all, because damage can hide in a name
        contents.pop("counts")  # written last, so its presence proves that the file is complete
        return _unpack(contents)


def open_prepared(folder: Path) -> PreparedSet:
    """Open a folder written by :func:`~reactometer.data.prepare.prepare`; raise DataError for others."""
    file = folder / INDEX_FILE
    if not file.is_file():
        raise DataError(f"{folder}: not a prepared dataset", fix="Run 'reactometer prepare DATA'")
    with wrap_decode_errors(file, DataError, "Run 'reactometer prepare' again"):
        index = TypeAdapter(PreparedSet).validate_json(file.read_bytes())
    rows = tuple(replace(row, file=row.file and folder / "clips" / row.file.name) for row in index.rows)
    return replace(index, folder=folder, rows=rows)


def write_index(prepared: PreparedSet) -> None:
    """Write the index of a prepared dataset."""
    rows = tuple(replace(row, file=row.file and Path(row.file.name)) for row in prepared.rows)
    index = replace(prepared, folder=Path(), rows=rows)
    write_atomic(prepared.folder / INDEX_FILE, TypeAdapter(PreparedSet).dump_json(index, indent=1))


def write_clip(file: Path, clip: PreparedClip, media_sha256: str = "") -> dict[str, Any]:
    """Write a prepared clip atomically, with its counts: the other fields of its :class:`PreparedRow`; return
    them."""
    states = [sample.state for sample in clip.samples]
    counts = {
        "duration_s": clip.duration_s,
        "n_samples": len(states),
        "n_faces": states.count(FrameState.FACE),
        "n_unreadable": states.count(FrameState.UNREADABLE),
        "has_sound": is_audible(clip.waveform),
        "sha256": media_sha256,
    }
    with atomic_file(file) as partial, partial.open("wb") as stream:
        np.savez(stream, **{**_pack(clip), "counts": np.array(json.dumps(counts))})  # type: ignore[arg-type]
    return counts


def read_counts(file: Path) -> dict[str, Any] | None:
    """Return the counts in a clip's file; ``None`` if the file is missing or damaged."""
    try:
        with wrap_decode_errors(file, DataError, ""), np.load(file, allow_pickle=False) as arrays:
            return dict(json.loads(str(arrays["counts"])))
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
        "boxes": np.array([sample.box or (np.nan,) * 4 for sample in clip.samples]).reshape(
            -1, 4
        ),  # (T, 4) float64
        "scores": np.array([sample.score for sample in clip.samples]),  # (T,) float64
        "crop_ends": np.cumsum([len(crop) for crop in crops], dtype=np.int64),  # (T,)
        "crop_bytes": np.frombuffer(b"".join(crops), dtype=np.uint8),
        **sound,
    }


def _unpack(arrays: dict[str, np.ndarray]) -> PreparedClip:
    crops = np.split(arrays["crop_bytes"], arrays["crop_ends"])  # and an empty array at the end
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


def claim_folder(folder: Path) -> None:
    """Create a cache's folder; raise DataError if it contains other files."""
    make_folder(folder)
    names = {entry.name for entry in folder.iterdir()}
    if any(name not in ("clips", FEATURES, INDEX_FILE) and not name.endswith(PART) for name in names):
        fix = "Choose another folder with --out or data.cache"
        raise DataError(
            f"{folder}: contains other files", expected="a new folder or a prepared dataset", fix=fix
        )
    make_folder(folder / "clips")


def default_folder(data: Path, features: Mapping[str, str] = {}) -> Path:
    """Return the default folder, in the user's cache, of a prepared dataset or of its features by these
    settings."""
    key = json.dumps([str(data.resolve()), dict(features)])
    return cache_folder() / "prepared" / f"{data.resolve().stem}-{sha256(key.encode()).hexdigest()[:12]}"
