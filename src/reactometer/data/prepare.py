"""Prepare the clips of a dataset in parallel and resumably; every clip gets a row."""

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
    INDEX_FILE,
    PreparedRow,
    PreparedSet,
    claim_folder,
    default_folder,
    open_prepared,
    read_counts,
    write_clip,
    write_index,
)
from reactometer.data.datasets import read_dataset
from reactometer.data.splits import with_splits
from reactometer.errors import ConfigError, require
from reactometer.io import PART, clear_leftovers
from reactometer.machine import default_workers
from reactometer.media.audio import is_audible
from reactometer.media.faces import load_detector
from reactometer.media.image_folder import list_crops, prepare_crops
from reactometer.media.segments import prepare_clip, resolve_detector
from reactometer.terminal import progress_bar
from reactometer.types import Clip, FrameState, PreparedClip
from reactometer.workers.decoder import READ_ERRORS, error_message
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
    """Decode every clip of a dataset once, and store face crops, times, states and sound on disk.

    A second call resumes, and prepares clips again if their file or settings changed. Unreadable clips are listed in
    the result.

    Args:
        data: a dataset (see :func:`reactometer.data.datasets.read_dataset`), or a prepared folder.
        out: the folder to write; default: a folder in the user's cache.
        settings: how to sample and crop; default: :class:`reactometer.config.PrepareConfig`.
        labels: the name of a label set, or label columns; ``None`` finds them.
        votes: CREMA-D's votes to use: "both", "face" or "voice".
        workers: number of processes; default: one per CPU.
        progress: show a bar on standard error.

    Raises:
        DataError: the table cannot be used, or ``out`` contains other files.
    """
    data = Path(data)
    if (data / INDEX_FILE).is_file():
        return open_prepared(data)
    settings = resolve_detector(settings or PrepareConfig())
    manifest = read_dataset(data, labels, votes=votes)
    folder = Path(out) if out else default_folder(data)
    claim_folder(folder)
    clips = with_splits(manifest.clips)
    workers = workers or default_workers()
    with ThreadPoolExecutor(workers) as threads:
        jobs = list(threads.map(partial(_make_job, folder / "clips", settings), clips))
        rows = list(threads.map(_prepared_row, jobs))
    pending = [index for index, row in enumerate(rows) if row is None]  # no process is started if all are ready
    with progress_bar("preparing", len(jobs), progress, len(jobs) - len(pending)) as advance:
        for i, row in run_jobs(_prepare_one, [jobs[index] for index in pending], workers, _crashed_row):
            rows[pending[i]] = row
            advance()
    prepared = PreparedSet(folder, manifest.labels, settings, tuple(row for row in rows if row))
    write_index(prepared)
    current = {row.file for row in prepared.rows}
    outdated = (file for file in (folder / "clips").glob("*.npz") if file not in current)
    clear_leftovers((*folder.rglob(f"*{PART}"), *outdated))  # recent files may belong to another run
    return prepared


def open_data(config: DataConfig, settings: PrepareConfig | None = None, *, progress: bool = True) -> PreparedSet:
    """Open the dataset of a configuration, preparing it first if necessary.

    Raises:
        ConfigError: the configuration names no dataset.
        DataError: its table or features cannot be used.
    """
    if config.path is None:
        raise ConfigError("no dataset", fix="Set data.path in the TOML file, or add data.path=FOLDER")
    data, labels = config.path, config.labels
    if (data / INDEX_FILE).is_file():
        return open_prepared(data)
    face, voice = config.face_features, config.voice_features
    folder = config.cache or default_folder(data, face, voice)
    claim_folder(folder)
    with FileLock(folder / "clips" / "preparing.lock"):  # other training processes wait
        if face or voice:
            require("pandas", extra="evaluate")
            from reactometer.data.feature_tables import prepare_features  # here, because importing pandas is slow

            return prepare_features(data, folder, face=face, voice=voice, labels=labels, progress=progress)
        return prepare(data, folder, settings=settings, labels=labels, votes=config.votes, progress=progress)


@dataclass(frozen=True)
class _Job:
    clip: Clip
    file: Path
    settings: PrepareConfig


def _make_job(folder: Path, settings: PrepareConfig, clip: Clip) -> _Job:
    """Build the job of a clip; the file's name has a hash of all inputs, so that no file is overwritten.

    The files of an earlier index stay valid until another preparation is complete and replaces the index.
    """
    paths = [*(list_crops(clip.path) if clip.path.is_dir() else [clip.path]), clip.audio_path]
    stats = [(str(path), path.stat()) for path in paths if path and path.is_file()]
    files = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
    inputs = [FORMAT, clip.split, clip.clip_id, settings.model_dump(), files]
    digest = sha256(json.dumps(inputs).encode()).hexdigest()[:12]
    slug = re.sub(r"[^A-Za-z0-9]+", "-", clip.clip_id).strip("-")[-40:]
    return _Job(clip, folder / f"{slug}-{digest}.npz", settings)


def _prepared_row(job: _Job) -> PreparedRow | None:
    """Return the row of a clip that is prepared or unusable; ``None`` for a clip to prepare."""
    if job.clip.problem:
        return PreparedRow(job.clip)
    counts = read_counts(job.file)
    return None if counts is None else PreparedRow(job.clip, job.file, **counts)


def _prepare_one(job: _Job) -> PreparedRow:
    """Prepare one clip in a worker process, unless another run prepared it in the meantime."""
    clip, settings = job.clip, job.settings
    try:
        if row := _prepared_row(job):
            return row
        if clip.path.is_dir():
            prepared = prepare_crops(clip.path, settings, clip.audio_path)
        else:
            prepared = prepare_clip(clip.path, settings, load_detector(settings.detector), clip.audio_path)
        counts = _counts(prepared)
        write_clip(job.file, prepared, counts)
        return PreparedRow(clip, job.file, **counts)
    except READ_ERRORS as error:
        return PreparedRow(replace(clip, problem=error_message(error)))


def _crashed_row(job: _Job) -> PreparedRow:
    return PreparedRow(replace(job.clip, problem=f"{job.clip.path}: the decoder crashed; re-encode the file"))


def _counts(clip: PreparedClip) -> dict[str, Any]:
    """Return the counts of a clip, by field of PreparedRow."""
    states = [sample.state for sample in clip.samples]
    return {
        "duration_s": clip.duration_s,
        "n_samples": len(states),
        "n_faces": states.count(FrameState.FACE),
        "n_unreadable": states.count(FrameState.UNREADABLE),
        "has_sound": is_audible(clip.waveform),
    }
