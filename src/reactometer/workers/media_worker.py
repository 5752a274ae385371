"""Read media files in a separate process, which may crash, hang or be killed without harm to this one."""

from __future__ import annotations

import atexit
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Queue
from threading import Thread, Timer
from typing import Any, NamedTuple

import cv2

from reactometer.errors import MediaError
from reactometer.media.faces import load_detector
from reactometer.media.segments import Settings, WindowShape, stream_windows
from reactometer.media.tracking import follow_face, follow_faces
from reactometer.media.video import probe
from reactometer.memory import keep_freed_memory, return_freed_memory
from reactometer.types import MediaInfo, PreparedClip

UNREADABLE = (MediaError, cv2.error, MemoryError)
"""Errors of an unreadable file."""

FACES = ("one", "all")
"""Follow one person, or everybody."""

LOOK_S = 0.2
"""Interval at which the caller's ``check`` runs while no window arrives."""

AHEAD = 16
"""Maximum number of parts and windows that the process reads ahead of their use; our choice."""

MOST_FILES = 1000
"""Files after which a new process replaces the old one, because the heap grows: up to glibc 2.37, a freed aligned
buffer can be too small for the next buffer of its size."""

Shown = tuple[WindowShape, PreparedClip]


@dataclass(frozen=True)
class Reading:
    """How to read files, and to cut them into windows."""

    settings: Settings
    shapes: tuple[WindowShape, ...]  # of the parts first, then of the timeline's windows
    faces: str = "one"  # one of FACES

    def windows(self, path: Path, threads: int = 0, info: MediaInfo | None = None) -> Iterator[Shown]:
        """Yield parts and windows of a file, see :func:`reactometer.media.segments.stream_windows`.

        ``threads`` frames are searched for faces at a time; 0 uses only this thread. ``info`` is the file's, if it is
        probed already.
        """
        follow = partial(follow_face if self.faces == "one" else follow_faces, threads=threads)
        detector = load_detector(self.settings.detector)
        return stream_windows(path, self.settings, detector, self.shapes, None, follow, info)


class _PlainSettings(NamedTuple):
    """Settings as they are sent to the process, which imports pydantic for nothing else."""

    detector: str
    rate_hz: float
    size_px: int


def reason_of(error: BaseException) -> str:
    """Return the message of one of ``UNREADABLE`` in one line."""
    return " ".join(str(error).split()) or type(error).__name__


@dataclass(frozen=True)
class Bounds:
    """Resource limits per file; defaults are our choice."""

    memory_bytes: int = 4 * 2**30  # of the process
    stall_s: float = 60.0  # maximum time without a new window
    processor_s: float = 600.0  # CPU time per minute of the file, at PrepareConfig's default rate or below
    duration_s: float = math.inf
    pixels: float = math.inf  # of a frame


class Reader:
    """A process that reads one file at a time, and is replaced when it ends.

    The process does not import the user's script, so that scripts need no ``__main__`` guard.
    """

    def __init__(self, bounds: Bounds | None = None) -> None:
        self.bounds = bounds or Bounds()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None
        self._files = 0

    def read(
        self, path: Path, reading: Reading, threads: int = 0, check: Callable[[], None] = lambda: None
    ) -> Iterator[MediaInfo | Shown]:
        """Yield the container's properties, then all parts and windows of the file as soon as they are complete.

        ``check`` is called repeatedly, and may raise to give up the file at once.

        Raises:
            MediaError: the file cannot be read or is beyond a bound, or the process died.
        """
        if self._files >= MOST_FILES:
            self.end()
        from reactometer.config import PrepareConfig  # here, because the process imports this module, too

        connection, whole = self.start(), False
        self._files += 1
        try:
            settings = reading.settings
            plain = _PlainSettings(settings.detector, settings.rate_hz, settings.size_px)
            minute_s = self.bounds.processor_s * max(1.0, settings.rate_hz / PrepareConfig().rate_hz)
            connection.send((path, replace(reading, settings=plain), threads, minute_s))
            while (piece := self._next_piece(connection, path, check)) is not None:
                yield piece
            whole = True
        except _UnreadableError as error:
            whole = True  # the process goes on
            raise MediaError(str(error)) from error
        except (EOFError, OSError) as error:
            raise self._death(path) from error
        finally:
            if not whole:
                self.end()

    def start(self) -> Connection[Any, Any]:
        """Start the process if none runs, without waiting until it is ready."""
        if self._process is not None and self._connection is not None and self._process.poll() is None:
            return self._connection
        self.end()
        ours, theirs = socket.socketpair()
        code = f"from reactometer.workers.media_worker import serve; serve({theirs.fileno()}, {os.getpid()})"
        paths = [path for path in sys.path if path]
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        theirs.close()
        self._connection = Connection(ours.detach())
        self._connection.send(self.bounds)
        return self._connection

    def end(self) -> None:
        """Kill the process."""
        if self._process is not None and self._connection is not None:
            self._process.kill()
            self._process.wait()
            self._connection.close()
        self._process = self._connection = None
        self._files = 0

    def _death(self, path: Path) -> MediaError:
        code = None
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                code = self._process.wait(5.0)  # it is as good as gone
        if code == -signal.SIGXCPU:
            most = f"{self.bounds.processor_s:.0f} s of processor time for each of its minutes"
            return MediaError(f"{path}: it took more than {most}", fix="Convert it, or cut it")
        got = None if code is None else signal.Signals(-code).name if code < 0 else f"exit status {code}"
        fix = "Too little memory, or a fault in a decoder"
        return MediaError(f"{path}: the process that read it died", got=got, fix=fix)

    def _next_piece(
        self, connection: Connection[Any, Any], path: Path, check: Callable[[], None]
    ) -> MediaInfo | Shown | None:
        """Wait for the next message of the process; ``None`` at the end of the file."""
        until_s = time.monotonic() + self.bounds.stall_s
        while not connection.poll(LOOK_S):
            check()
            if time.monotonic() > until_s:
                stall = f"nothing more came of it for {self.bounds.stall_s:.0f} s"
                raise MediaError(f"{path}: {stall}", fix="Convert it, or cut it")
        # A process that stops within a message leaves recv() waiting: then it is killed, and recv() raises EOFError.
        timer = Timer(self.bounds.stall_s, self._process.kill) if self._process else Timer(0.0, lambda: None)
        timer.daemon = True
        timer.start()
        try:
            piece: MediaInfo | Shown | Exception | None = connection.recv()
        finally:
            timer.cancel()
        check()
        if isinstance(piece, Exception):
            raise piece
        return piece


@cache
def shared_reader(process: int, thread: int) -> Reader:
    """Return the reader of a process and thread, by their numbers; it stays for the next file."""
    reader = Reader()
    atexit.register(reader.end)
    return reader


class _UnreadableError(Exception):
    """The reason why a file is unreadable."""


def serve(handle: int, parent: int) -> None:
    """Run the process: read one file after the other, until the parent closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    Thread(target=_end_with, args=(parent,), daemon=True).start()
    keep_freed_memory()  # without it, 70,000 page faults in 20 s of video
    cv2.setNumThreads(1)  # frames are searched in parallel already
    connection: Connection[Any, Any] = Connection(handle)
    pieces = Queue[Any](AHEAD)
    with suppress(EOFError, ConnectionResetError):
        bounds: Bounds = connection.recv()
        _limit("AS", bounds.memory_bytes)
        _limit("CORE", 0)  # a decoder that crashes leaves no file
        Thread(target=_send, args=(connection, pieces), daemon=True).start()
        while True:
            path, reading, threads, minute_s = connection.recv()
            _read_file(path, reading, threads, minute_s, bounds, pieces)
            return_freed_memory()


def _send(connection: Connection[Any, Any], pieces: Queue[Any]) -> None:
    """Send pieces while the next ones are read; end the process if that fails (no memory, or no parent)."""
    try:
        while True:
            connection.send(pieces.get())
    finally:
        os._exit(1)


def _read_file(path: Path, reading: Reading, threads: int, minute_s: float, bounds: Bounds, pieces: Queue[Any]) -> None:
    """Put the container's properties, all windows and ``None`` into the queue, or the reason why it is unreadable.

    ``minute_s`` is the limit of CPU time per minute of the file.
    """
    began_s = time.process_time()
    _limit("CPU", math.ceil(began_s + minute_s))
    try:
        info = probe(path)
        if info.width_px * info.height_px > bounds.pixels:
            size, limit = f"{info.width_px} x {info.height_px} pixels", f"{bounds.pixels:,} pixels at most"
            raise MediaError(f"{path}: its pictures are too large", got=size, expected=limit, fix="Make them smaller")
        _check_end(path, info.duration_s or 0.0, bounds)
        pieces.put(info)
        for shape, clip in reading.windows(path, threads, info):
            _check_end(path, clip.end_s, bounds)
            _limit("CPU", math.ceil(began_s + minute_s * (1.0 + clip.end_s / 60.0)))
            pieces.put((shape, _plain(clip)))
        pieces.put(None)
    except UNREADABLE as error:
        pieces.put(_UnreadableError(reason_of(error)))


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, because a killed parent cannot end it."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _limit(what: str, most: int) -> None:
    """Limit this process: beyond the CPU time the kernel kills it, beyond the memory an allocation fails."""
    with suppress(ImportError, ValueError, OSError):  # not on every system
        import resource

        kind = getattr(resource, f"RLIMIT_{what}")
        resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))


def _check_end(path: Path, end_s: float, bounds: Bounds) -> None:
    if end_s > bounds.duration_s:
        limit = f"{bounds.duration_s:.0f} s at most"
        raise MediaError(f"{path}: it is too long", got=f"{end_s:.0f} s", expected=limit, fix="Cut it into parts")


def _plain(clip: PreparedClip) -> PreparedClip:
    """Copy the sound, because pickling a view would send the whole base array."""
    return clip if clip.waveform is None else replace(clip, waveform=clip.waveform.copy())
