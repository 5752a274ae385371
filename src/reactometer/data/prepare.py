"""Prepare the clips of a dataset on disk: in parallel, resumable, and every clip accounted for."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock

from reactometer.config import DataConfig, PrepareConfig
from reactometer.data.cache import (
    FORMAT,
    SETTINGS_FILE,
    PreparedRow,
    PreparedSet,
    claim_folder,
    default_folder,
    open_prepared,
    read_counts,
    refuse_own_names,
    write_clip,
    write_index,
)
from reactometer.data.datasets import read_data_set
from reactometer.data.splits import with_splits
from reactometer.errors import ConfigError, require
from reactometer.io import clear_leftovers, clear_old
from reactometer.machine import default_workers
from reactometer.media.audio import is_audible
from reactometer.media.faces import load_detector
from reactometer.media.image_folder import list_crops, prepare_crops
from reactometer.media.segments import prepare_clip, settled
from reactometer.terminal import progress_bar
from reactometer.types import Clip, FrameState, PreparedClip
from reactometer.workers.decoder import UNREADABLE, reason_of
from reactometer.workers.pool import run_jobs


def prepare(
    data: Path | str,
    out: Path | str | None = None,
    *,
    settings: PrepareConfig | None = None,
    labels: str | Sequence[str] | None = None,
    votes: str = "both",
    workers: int | None = None,
    progress: bool = True,
) -> PreparedSet:
    """Decode every clip of a dataset once, and keep face crops, times, states and sound on disk.

    A second call resumes a stopped one, and prepares clips again whose file or settings changed. Unreadable clips are
    listed in the result.

    Args:
        data: a dataset (see :func:`reactometer.data.datasets.read_data_set`), or a prepared folder.
        out: the folder to write; default: a folder in the user's cache.
        settings: how to sample and crop; default: :class:`reactometer.config.PrepareConfig`.
        labels: the name of a label set, or label columns; ``None`` finds them.
        votes: CREMA-D's votes to learn: "both", "face" or "voice".
        workers: number of processes; default: one per CPU.
        progress: show a bar on standard error.

    Raises:
        DataError: the table cannot be used, or ``out`` contains other files.
    """
    data = Path(data)
    if (data / SETTINGS_FILE).is_file():
        return open_prepared(data)
    settings = settled(settings or PrepareConfig())
    manifest = read_data_set(data, labels, votes=votes)
    refuse_own_names(manifest.labels)
    folder = Path(out) if out else default_folder(data)
    claim_folder(folder)
    clips = with_splits(manifest.clips)
    workers = workers or default_workers()
    rows: dict[int, PreparedRow] = {}
    with progress_bar("preparing", len(clips), progress) as advance, ThreadPoolExecutor(workers) as threads:
        jobs = list(threads.map(partial(_job, folder / "clips", settings), clips))
        for index, ready in enumerate(threads.map(_ready, jobs)):  # no process is started if all are ready
            if ready:
                rows[index] = ready
                advance()
        left = [index for index in range(len(jobs)) if index not in rows]
        for place, row in run_jobs(_prepare_one, [jobs[index] for index in left], workers, _died):
            rows[left[place]] = row
            advance()
    prepared = PreparedSet(folder, manifest.labels, settings, tuple(rows[index] for index in range(len(jobs))))
    write_index(prepared)
    _clear(prepared)
    return prepared


def open_data(config: DataConfig, settings: PrepareConfig | None = None, *, progress: bool = True) -> PreparedSet:
    """Open the dataset of a configuration, preparing it first if necessary.

    Raises:
        ConfigError: the configuration names no dataset.
        DataError: its table or features cannot be used.
    """
    if config.path is None:
        raise ConfigError("no data set named", fix="Set data.path in the TOML file, or add data.path=FOLDER")
    if (config.path / SETTINGS_FILE).is_file():
        return open_prepared(config.path)
    face, voice = config.face_features, config.voice_features
    folder = config.cache or default_folder(config.path, *((face, voice) if face or voice else ()))
    claim_folder(folder)
    with FileLock(folder / "clips" / "preparing.lock"):  # other training processes wait
        if face or voice:
            require("pandas", extra="evaluate")
            from reactometer.data.feature_tables import prepare_features  # here, because pandas takes its time

            return prepare_features(
                config.path, folder, face=face, voice=voice, labels=config.labels, progress=progress
            )
        return prepare(
            config.path, folder, settings=settings, labels=config.labels, votes=config.votes, progress=progress
        )


@dataclass(frozen=True)
class _Job:
    clip: Clip
    file: Path
    settings: PrepareConfig


def _job(folder: Path, settings: PrepareConfig, clip: Clip) -> _Job:
    """Name the clip's file after all that the prepared clip depends on, so that no file is ever overwritten.

    The files of an earlier index stay valid until another preparation is complete and replaces the index.
    """
    readable = re.sub(r"[^A-Za-z0-9]+", "-", clip.clip_id).strip("-")[-40:]
    digest = sha256(json.dumps([clip.split, clip.clip_id, _stamp(clip, settings)]).encode()).hexdigest()[:12]
    return _Job(clip, folder / f"{readable}-{digest}.npz", settings)


def _ready(job: _Job) -> PreparedRow | None:
    """Return the row of a clip that is prepared or known to be unusable; ``None`` for a clip to prepare."""
    if job.clip.problem:
        return PreparedRow(job.clip)
    counts = read_counts(job.file)
    return None if counts is None else PreparedRow(job.clip, job.file, **counts)


def _prepare_one(job: _Job) -> PreparedRow:
    """Prepare one clip in a worker process, unless another run has done so in the meantime."""
    try:
        if ready := _ready(job):
            return ready
        clip = _read(job)
        counts = _counts(clip)
        write_clip(job.file, clip, counts)
        return PreparedRow(job.clip, job.file, **counts)
    except UNREADABLE as error:
        return PreparedRow(replace(job.clip, problem=reason_of(error)))


def _read(job: _Job) -> PreparedClip:
    """Read the dataset's own crops, or find the face in a media file."""
    if job.clip.path.is_dir():
        return prepare_crops(job.clip.path, job.settings, job.clip.audio_path)
    return prepare_clip(job.clip.path, job.settings, load_detector(job.settings.detector), job.clip.audio_path)


def _died(job: _Job) -> PreparedRow:
    return PreparedRow(replace(job.clip, problem=f"{job.clip.path}: the decoder crashed on it; re-encode the file"))


def _clear(prepared: PreparedSet) -> None:
    """Delete unfinished files, and old clips that are not in the index; new ones may be of another run."""
    clear_leftovers(prepared.folder)
    listed = {row.file for row in prepared.rows}
    for file in (prepared.folder / "clips").glob("*.npz"):
        if file not in listed:
            clear_old(file)


def _stamp(clip: Clip, settings: PrepareConfig) -> dict[str, Any]:
    """Return what the prepared clip depends on: files (size and time of change), settings and format."""
    files = []
    crops = list_crops(clip.path) if clip.path.is_dir() else [clip.path]
    for path in (*crops, clip.audio_path):
        if path is not None and path.is_file():
            stat = path.stat()
            files.append([str(path), stat.st_size, stat.st_mtime_ns])
    return {"format": FORMAT, "settings": settings.model_dump(), "files": files}


def _counts(clip: PreparedClip) -> dict[str, Any]:
    states = [sample.state for sample in clip.samples]
    return {
        "duration_s": clip.duration_s,
        "frames_read": clip.frames_read,
        "n_samples": len(states),
        "n_faces": states.count(FrameState.FACE),
        "n_unreadable": states.count(FrameState.UNREADABLE),
        "has_sound": is_audible(clip.waveform),
    }
