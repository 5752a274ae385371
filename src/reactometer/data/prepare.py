"""Prepare the clips of a dataset in parallel and resumably; every clip gets a row."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np
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
from reactometer.errors import ConfigError, MediaError, require
from reactometer.io import PART, sha256_of
from reactometer.machine import default_workers
from reactometer.media.audio import read_waveform
from reactometer.media.faces import encode_crop, load_detector
from reactometer.media.segments import prepare_clip, resolve_detector
from reactometer.terminal import progress_bar
from reactometer.types import SOUND_RATE_HZ, Clip, FaceSample, FrameState, PreparedClip
from reactometer.workers.decoder import READ_ERRORS, error_message
from reactometer.workers.pool import run_jobs

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")

LOCK = "preparing.lock"

CROP_RATE_HZ = 2.0
"""Assumed crops per second: about that of MuSe-2022's ``Faces/`` (MTCNN, at most 30 per clip)."""


def list_crops(folder: Path) -> list[Path]:
    """Return the images of a folder in the order of the numbers in their names (``2.jpg`` before
    ``10.jpg``)."""
    images = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_ENDINGS]
    return sorted(images, key=lambda path: ([int(part) for part in re.findall(r"\d+", path.stem)], path.name))


def prepare_crops(folder: Path, settings: PrepareConfig, audio_path: Path | None = None) -> PreparedClip:
    """Use the images of a folder as the aligned crops of one person, ``CROP_RATE_HZ`` per second from 0 s on.

    Raise MediaError if the folder contains no readable image.
    """
    paths = list_crops(folder)
    samples = tuple(_sample(path, i / CROP_RATE_HZ, settings.size_px) for i, path in enumerate(paths))
    if not any(sample.state is FrameState.FACE for sample in samples):
        expected = f"files ending in {', '.join(IMAGE_ENDINGS)}"
        raise MediaError(f"{folder}: no readable face crop", got=f"{len(paths)} images", expected=expected)
    waveform = read_waveform(audio_path) if audio_path else None
    sound_s = 0.0 if waveform is None else len(waveform) / SOUND_RATE_HZ
    return PreparedClip(0.0, max(len(paths) / CROP_RATE_HZ, sound_s), samples, waveform, len(paths))


def _sample(path: Path, time_s: float, size_px: int) -> FaceSample:
    try:
        image = cv2.imdecode(np.frombuffer(path.read_bytes() or b"\0", dtype=np.uint8), cv2.IMREAD_COLOR_RGB)
    except OSError:  # a dangling link, as git-annex leaves them
        image = None
    if image is None:
        return FaceSample(time_s, FrameState.UNREADABLE)
    height, width = image.shape[:2]
    interpolation = cv2.INTER_AREA if max(height, width) > size_px else cv2.INTER_LINEAR
    crop = np.asarray(cv2.resize(image, (size_px, size_px), interpolation=interpolation), dtype=np.uint8)
    return FaceSample(
        time_s, FrameState.FACE, (0.0, 0.0, float(width), float(height)), 1.0, encode_crop(crop)
    )


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

    A second call resumes, and prepares clips again if their file or settings changed. Unreadable clips are
    listed in the result.

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
    manifest = read_dataset(data, labels, votes=votes)
    settings = resolve_detector(settings or PrepareConfig())  # may download; bad tables are reported first
    folder = Path(out) if out else default_folder(data)
    claim_folder(folder)
    clips = with_splits(manifest.clips)
    workers = workers or default_workers()
    with FileLock(folder / "clips" / LOCK):  # other processes wait
        with ThreadPoolExecutor(workers) as threads:
            files = list(threads.map(partial(_output_file, folder / "clips", settings), clips))
            rows = list(threads.map(_prepared_row, clips, files))
        pending = [
            index for index, row in enumerate(rows) if row is None
        ]  # no process is started if all are ready
        jobs = [(clips[index], files[index]) for index in pending]
        with progress_bar("preparing", len(rows), progress, len(rows) - len(jobs)) as advance:
            for i, row in run_jobs(partial(_prepare_clip, settings), jobs, workers, _crashed_row):
                rows[pending[i]] = row
                advance()
        prepared = PreparedSet(folder, manifest.labels, settings, tuple(row for row in rows if row))
        write_index(prepared)
        for file in {*(folder / "clips").glob("*.npz"), *(folder / "clips").glob(f".*{PART}")} - set(files):
            file.unlink()
    return prepared


def open_data(
    config: DataConfig, settings: PrepareConfig | None = None, *, progress: bool = True
) -> PreparedSet:
    """Open the dataset of a configuration, preparing it first if necessary.

    Raises:
        ConfigError: the configuration names no dataset.
        DataError: its table or features cannot be used.
    """
    if config.path is None:
        raise ConfigError("no dataset", fix="Name it with -d DATA, or set data.path in the TOML file")
    data, labels = config.path, config.labels
    is_table = any(":" not in text for text in config.features.values())
    if is_table and not (data / INDEX_FILE).is_file():
        require("pandas", extra="evaluate")
        from reactometer.data.feature_tables import prepare_features  # importing pandas is slow

        folder = config.cache or default_folder(data, config.features)
        claim_folder(folder)
        with FileLock(folder / "clips" / LOCK):  # other training processes wait
            return prepare_features(data, folder, config.features, labels=labels, progress=progress)
    prepared = prepare(
        data, config.cache, settings=settings, labels=labels, votes=config.votes, progress=progress
    )
    if not config.features or not prepared.has_media:
        return prepared
    require("pandas", extra="evaluate")
    from reactometer.data.feature_tables import add_features  # importing pandas is slow

    with FileLock(prepared.folder / "clips" / LOCK):
        return add_features(prepared, config.features, data, progress=progress)


def _output_file(folder: Path, settings: PrepareConfig, clip: Clip) -> Path:
    """Return the file of a prepared clip; its name has a hash of all inputs, so that no file is overwritten.

    The files of an earlier index stay valid until another preparation is complete and replaces the index.
    """
    paths = [*(list_crops(clip.path) if clip.path.is_dir() else [clip.path]), clip.audio_path]
    stats = [(str(path), path.stat()) for path in paths if path and path.is_file()]
    files = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
    inputs = [FORMAT, clip.split, clip.clip_id, settings.model_dump(), files]
    digest = sha256(json.dumps(inputs).encode()).hexdigest()[:12]
    slug = re.sub(r"[^A-Za-z0-9]+", "-", clip.clip_id).strip("-")[-40:]
    return folder / f"{slug}-{digest}.npz"


def _prepared_row(clip: Clip, file: Path) -> PreparedRow | None:
    """Return the row of a clip that is prepared or unusable; ``None`` for a clip to prepare."""
    if clip.problem:
        return PreparedRow(clip)
    counts = read_counts(file)
    return None if counts is None else PreparedRow(clip, file, **counts)


def _prepare_clip(settings: PrepareConfig, job: tuple[Clip, Path]) -> PreparedRow:
    """Prepare one clip, given with its output file, in a worker process."""
    clip, file = job
    try:
        if clip.path.is_dir():
            prepared = prepare_crops(clip.path, settings, clip.audio_path)
        else:
            prepared = prepare_clip(clip.path, settings, load_detector(settings.detector), clip.audio_path)
        return PreparedRow(clip, file, **write_clip(file, prepared, _hash_media(clip.path)))
    except READ_ERRORS as error:
        return PreparedRow(replace(clip, problem=error_message(error)))


def _hash_media(path: Path) -> str:
    """Return the SHA-256 of a media file, or of the images in a folder of crops."""
    if not path.is_dir():
        return sha256_of(path)
    return sha256(
        "".join(sha256_of(image) for image in list_crops(path) if image.is_file()).encode()
    ).hexdigest()


def _crashed_row(job: tuple[Clip, Path]) -> PreparedRow:
    clip, _ = job
    return PreparedRow(replace(clip, problem=f"{clip.path}: the decoder crashed; re-encode the file"))
