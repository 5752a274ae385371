"""Read media files in a process of its own, which may die, hang or be stopped without taking anything else with it."""

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
from threading import Thread
from typing import Any

import cv2

from reactometer.config import PrepareConfig
from reactometer.errors import MediaError
from reactometer.media.faces import load_detector
from reactometer.media.segments import PART, WindowShape, stream_windows
from reactometer.media.tracking import follow_face, follow_faces
from reactometer.media.video import probe
from reactometer.memory import keep_freed_memory, return_freed_memory
from reactometer.types import MediaInfo, PreparedClip

UNREADABLE = (MediaError, cv2.error, MemoryError)
"""Errors that a file that cannot be read raises."""

FACES = ("one", "all")
"""Whose faces are followed in a file: one person's, or everybody's."""

LOOK_S = 0.2
"""Interval at which the caller's ``check`` runs while no window arrives."""

USUAL_HZ = PrepareConfig().rate_hz
"""Frames looked at per second on which the bound of processor time is reckoned; it grows with more."""

AHEAD = 16
"""Maximum number of parts and windows that the process reads ahead of their use; our choice."""

MOST_FILES = 1000
"""Files after which a process makes place for a new one, which takes half a second: decoders want their buffers
aligned, and up to glibc 2.37 such a one, once freed, can be too small for the next of its size: the heap grows."""

Shown = tuple[WindowShape, PreparedClip]


@dataclass(frozen=True)
class Reading:
    """How files are read and cut."""

    settings: PrepareConfig
    shapes: tuple[WindowShape, ...]  # of the parts first, then of the timeline's windows
    faces: str = "one"  # one of FACES

    def windows(self, path: Path, threads: int = 0) -> Iterator[tuple[WindowShape, PreparedClip]]:
        """Parts and windows of a file, see :func:`reactometer.media.segments.stream_windows`.

        Args:
            path: the file.
            threads: frames that are searched for faces at a time; 0: no thread beside this one.
        """
        follow = partial(follow_face if self.faces == "one" else follow_faces, threads=threads)
        return stream_windows(path, self.settings, load_detector(self.settings.detector), self.shapes, None, follow)


def reason_of(error: BaseException) -> str:
    """What one of ``UNREADABLE`` says, in a line."""
    return " ".join(str(error).split()) or type(error).__name__


@dataclass(frozen=True)
class Bounds:
    """What a file may cost; defaults are our choice."""

    memory_bytes: int = 4 * 2**30  # of the process that reads it
    stall_s: float = 60.0  # a file of which nothing more comes for so long is given up
    processor_s: float = 600.0  # processor time before the first minute of a file, and for each; at the usual rate_hz
    duration_s: float = math.inf
    pixels: float = math.inf  # of a frame


class Reader:
    """One process that reads a file at a time; a new one takes the place of one that died, was ended or read enough.

    It is a program of its own, not a copy of this one, so that scripts need no guard against being run twice.
    """

    def __init__(self, bounds: Bounds | None = None) -> None:
        self.bounds = bounds or Bounds()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None
        self._files = 0  # that the process has begun

    def read(
        self, path: Path, reading: Reading, threads: int = 0, check: Callable[[], None] = lambda: None
    ) -> Iterator[MediaInfo | Shown]:
        """What the container says, then all parts and windows of the file, each as soon as it is complete.

        Args:
            path: the file.
            reading: how it is read.
            threads: as :meth:`reactometer.workers.media_worker.Reading.windows`.
            check: called again and again; where it raises, the file is given up at once.

        Raises:
            MediaError: it cannot be read, is beyond a bound, or the process that read it died.
        """
        if self._files >= MOST_FILES:
            self.end()
        connection, whole = self.start(), False
        self._files += 1
        try:
            connection.send((path, reading, threads))
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
        """Start the process, where none runs; what it needs to begin goes on beside what follows."""
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
        """End the process, whatever it is at."""
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
        """Wait for what the process sends next; ``None`` at the end of the file."""
        until_s = time.monotonic() + self.bounds.stall_s
        while not connection.poll(LOOK_S):
            check()
            if time.monotonic() > until_s:
                stall = f"nothing more came of it for {self.bounds.stall_s:.0f} s"
                raise MediaError(f"{path}: {stall}", fix="Convert it, or cut it")
        piece: MediaInfo | Shown | Exception | None = connection.recv()
        check()
        if isinstance(piece, Exception):
            raise piece
        return piece


@cache
def shared_reader(process: int, thread: int) -> Reader:
    """A reader that stays for the next file: one for each thread of each process, by their numbers."""
    reader = Reader()
    atexit.register(reader.end)
    return reader


class _UnreadableError(Exception):
    """Carries the reason from the process that met it."""


def serve(handle: int, parent: int) -> None:
    """Read one file after the other, until the parent closes the connection; the process runs this function."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    Thread(target=_end_with, args=(parent,), daemon=True).start()
    keep_freed_memory()  # of pictures; else it is asked for anew with each, 70,000 page faults in 20 s of video
    cv2.setNumThreads(1)  # frames are searched side by side; threads inside of one cost more than they gain
    connection: Connection[Any, Any] = Connection(handle)
    pieces = Queue[Any](AHEAD)
    with suppress(EOFError, ConnectionResetError):
        bounds: Bounds = connection.recv()
        _limit("AS", bounds.memory_bytes)
        _limit("CORE", 0)  # a decoder that crashes leaves no file
        Thread(target=_send, args=(connection, pieces), daemon=True).start()
        while True:
            path, reading, threads = connection.recv()
            _read_file(path, reading, threads, bounds, pieces)
            return_freed_memory()


def _send(connection: Connection[Any, Any], pieces: Queue[Any]) -> None:
    """Send pieces while the next ones are read; end the process if that fails (no memory, or no parent)."""
    try:
        while True:
            connection.send(pieces.get())
    finally:
        os._exit(1)


def _read_file(path: Path, reading: Reading, threads: int, bounds: Bounds, pieces: Queue[Any]) -> None:
    """Put the container's properties, all windows and ``None`` into the queue, or the reason why it is unreadable."""
    began_s, minute_s = time.process_time(), bounds.processor_s * max(1.0, reading.settings.rate_hz / USUAL_HZ)
    _limit("CPU", math.ceil(began_s + minute_s))
    try:
        pieces.put(_checked(probe(path), bounds))
        for shape, clip in reading.windows(path, threads):
            _check_end(path, clip.end_s, bounds)
            _limit("CPU", math.ceil(began_s + minute_s * (1.0 + clip.end_s / PART.length_s)))
            pieces.put((shape, _plain(clip)))
        pieces.put(None)
    except UNREADABLE as error:
        pieces.put(_UnreadableError(reason_of(error)))


def _end_with(parent: int) -> None:
    """A parent that is killed tells nobody, and a file may be read for long."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _limit(what: str, most: int) -> None:
    """Set a limit of this process; for processor time the kernel ends it, for memory an allocation fails."""
    with suppress(ImportError, ValueError, OSError):  # not on every system
        import resource

        kind = getattr(resource, f"RLIMIT_{what}")
        resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))


def _checked(info: MediaInfo, bounds: Bounds) -> MediaInfo:
    if info.width_px * info.height_px > bounds.pixels:
        raise MediaError(
            f"{info.path}: its pictures are too large",
            got=f"{info.width_px} x {info.height_px} pixels",
            expected=f"{bounds.pixels:,} pixels at most",
            fix="Make them smaller",
        )
    _check_end(info.path, info.duration_s or 0.0, bounds)
    return info


def _check_end(path: Path, end_s: float, bounds: Bounds) -> None:
    if end_s > bounds.duration_s:
        raise MediaError(
            f"{path}: it is too long",
            got=f"{end_s:.0f} s",
            expected=f"{bounds.duration_s:.0f} s at most",
            fix="Cut it into parts",
        )


def _plain(clip: PreparedClip) -> PreparedClip:
    """With the sound alone that is its own: a view would carry all that it is a view of."""
    return clip if clip.waveform is None else replace(clip, waveform=clip.waveform.copy())
