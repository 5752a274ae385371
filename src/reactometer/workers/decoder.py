"""Decode media files, in this process or in the isolated one of :mod:`reactometer.workers.media_worker`."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import cv2

from reactometer.errors import MediaError
from reactometer.machine import keep_freed_memory, return_freed_memory
from reactometer.media.arrays import ArrayMedia
from reactometer.media.faces import load_detector
from reactometer.media.segments import Tracking, WindowSpec, cut_windows, stream_windows
from reactometer.media.tracking import track_face, track_faces
from reactometer.media.video import probe
from reactometer.types import MediaInfo, PreparedClip
from reactometer.workers.media_worker import ResourceLimits

READ_ERRORS = (MediaError, cv2.error, MemoryError)
"""Errors that mean an unreadable file."""

FACE_MODES = ("one", "all")
"""Track one person, or all."""

QUEUE_SIZE = 16
"""Maximum number of decoded segments that wait for their use."""

Segment = tuple[WindowSpec, PreparedClip]


@dataclass(frozen=True)
class DecodeSpec:
    """Settings and windows for decoding a file; plain values, since the decoder process does not import
    pydantic."""

    detector: str  # "yunet" or "haar"
    rate_hz: float  # sampled frames per second
    size_px: int  # side of the square face crops
    window_specs: tuple[WindowSpec, ...]  # the parts first, then the timeline's windows
    faces: str = "one"  # one of FACE_MODES

    def stream(self, path: Path, threads: int = 0, info: MediaInfo | None = None) -> Iterator[Segment]:
        """Yield parts and windows of a file, see :func:`reactometer.media.segments.stream_windows`.

        ``threads`` frames are searched for faces at a time; 0 uses only this thread. ``info`` is the file's,
        if already probed.
        """
        return stream_windows(path, self._tracking(threads), self.window_specs, None, info)

    def stream_arrays(self, media: ArrayMedia) -> Iterator[Segment]:
        """Yield parts and windows of frames and sound from memory."""
        sound = None if media.waveform is None else media.read_sound()
        return cut_windows(media.info, media.read_frames(), sound, self._tracking(), self.window_specs)

    def _tracking(self, threads: int = 0) -> Tracking:
        return partial(
            track_face if self.faces == "one" else track_faces,
            detector=load_detector(self.detector),
            rate_hz=self.rate_hz,
            size_px=self.size_px,
            threads=threads,
        )


def error_message(error: BaseException) -> str:
    """Return the message of one of ``READ_ERRORS`` in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def worker_main(handle: int) -> None:
    """Decode one file after the other, until the parent closes the connection or dies."""
    keep_freed_memory()  # without it, 70,000 page faults in 20 s of video
    cv2.setNumThreads(1)  # frames are searched in parallel already
    Thread(
        target=import_module, args=("onnxruntime",), daemon=True
    ).start()  # while the parent loads the model
    connection: Connection[Any, Any] = Connection(handle)
    messages = Queue[Any](QUEUE_SIZE)
    with suppress(EOFError, ConnectionResetError):
        limits: ResourceLimits = connection.recv()
        _limit_resource("AS", limits.memory_bytes)
        _limit_resource("CORE", 0)  # a decoder that crashes leaves no file
        Thread(target=_send, args=(connection, messages), daemon=True).start()
        while True:
            path, spec, threads, cpu_s_per_minute = connection.recv()
            _read_file(path, spec, threads, cpu_s_per_minute, limits, messages)
            return_freed_memory()


def _send(connection: Connection[Any, Any], messages: Queue[Any]) -> None:
    """Send messages during decoding; end the process on failure (no memory, or no parent)."""
    try:
        while True:
            connection.send(messages.get())
    finally:
        os._exit(1)


def _read_file(
    path: Path,
    spec: DecodeSpec,
    threads: int,
    cpu_s_per_minute: float,
    limits: ResourceLimits,
    messages: Queue[Any],
) -> None:
    """Queue the container's properties, all windows and ``None``, or a MediaError if the file is unreadable.

    ``cpu_s_per_minute`` is the limit of CPU time in seconds per minute of the file.
    """
    start_cpu_s = time.process_time()
    _limit_resource("CPU", math.ceil(start_cpu_s + cpu_s_per_minute))
    try:
        info = probe(path)
        if info.width_px * info.height_px > limits.pixels:
            size = f"{info.width_px} x {info.height_px} pixels"
            limit = f"{limits.pixels:,} pixels at most"
            raise MediaError(
                f"{path}: frames are too large", got=size, expected=limit, fix="Scale the video down"
            )
        _check_duration(path, info.duration_s or 0.0, limits)
        messages.put(info)
        for shape, clip in spec.stream(path, threads, info):
            _check_duration(path, clip.end_s, limits)
            _limit_resource("CPU", math.ceil(start_cpu_s + cpu_s_per_minute * (1.0 + clip.end_s / 60.0)))
            messages.put((shape, clip))
        messages.put(None)
    except READ_ERRORS as error:
        messages.put(MediaError(error_message(error)))


def _limit_resource(resource_name: str, limit: int) -> None:
    """Limit a resource of this process: CPU time (the kernel kills it) or memory (allocations fail)."""
    with suppress(ImportError, ValueError, OSError):  # not on every system
        import resource

        resource_id = getattr(resource, f"RLIMIT_{resource_name}")
        resource.setrlimit(resource_id, (limit, resource.getrlimit(resource_id)[1]))


def _check_duration(path: Path, end_s: float, limits: ResourceLimits) -> None:
    if end_s > limits.duration_s:
        limit = f"{limits.duration_s:.0f} s at most"
        raise MediaError(f"{path}: too long", got=f"{end_s:.0f} s", expected=limit, fix="Split the file")
