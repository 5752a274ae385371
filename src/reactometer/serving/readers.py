"""Files read in a process of its own, which may die, hang or be given up without taking another file with it."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from reactometer.data.pool import begin_process
from reactometer.errors import MediaError
from reactometer.media.reading import UNREADABLE, Reading, reason_of
from reactometer.media.stream import WindowShape
from reactometer.media.video import probe
from reactometer.records import MediaInfo, PreparedClip
from reactometer.serving.limits import Limits

LOOK_S = 0.2
"""So often it is looked whether a file is still wanted while nothing comes of it."""


class Reader:
    """One process that reads a file at a time; a new one takes the place of one that died or was ended."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection[Any, Any] | None = None

    def read(
        self, path: Path, reading: Reading, check: Callable[[], None]
    ) -> Iterator[MediaInfo | tuple[WindowShape, PreparedClip]]:
        """What the container says, then all parts and windows of the file, each as soon as it is complete.

        Args:
            path: the file.
            reading: how it is read.
            check: called again and again; where it raises, the file is given up at once.

        Raises:
            MediaError: it cannot be read, is beyond a limit, or the process that read it died.
        """
        connection, whole = self._start(), False
        try:
            connection.send((path, reading))
            while (piece := self._next(connection, path, check)) is not None:
                yield piece
            whole = True
        except _UnreadableError as error:
            whole = True  # the process goes on
            raise MediaError(str(error)) from error
        except (EOFError, OSError) as error:
            raise MediaError(
                f"{path}: the process that read it died", fix="Too little memory, or a fault in a decoder"
            ) from error
        finally:
            if not whole:
                self.end()

    def end(self) -> None:
        """End the process, whatever it is at."""
        if self._process is not None and self._connection is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
        self._process = self._connection = None

    def _start(self) -> Connection[Any, Any]:
        if self._process is not None and self._connection is not None and self._process.is_alive():
            return self._connection
        self.end()
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self.limits), daemon=True)
        self._process.start()
        theirs.close()
        return self._connection

    def _next(self, connection: Connection[Any, Any], path: Path, check: Callable[[], None]) -> Any:
        until_s = time.monotonic() + self.limits.stall_s
        while not connection.poll(LOOK_S):
            check()
            if time.monotonic() > until_s:
                raise MediaError(
                    f"{path}: nothing more came of it for {self.limits.stall_s:.0f} s", fix="Convert it, or cut it"
                )
        check()
        piece = connection.recv()
        if isinstance(piece, _UnreadableError):
            raise piece
        return piece


class _UnreadableError(Exception):
    """Carries the reason from the process that met it."""


def _serve(connection: Connection[Any, Any], limits: Limits) -> None:
    """Read one file after the other, until nobody asks any more."""
    begin_process()
    _bound_memory(limits.memory_bytes)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            path, reading = connection.recv()
            try:
                connection.send(_checked(probe(path), limits))
                for shape, clip in reading.windows(path):
                    _check_end(path, clip.end_s, limits)
                    connection.send((shape, _plain(clip)))
                connection.send(None)
            except UNREADABLE as error:
                connection.send(_UnreadableError(reason_of(error)))


def _bound_memory(size_bytes: int) -> None:
    with suppress(ImportError, ValueError, OSError):  # not on every system
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (size_bytes, size_bytes))


def _checked(info: MediaInfo, limits: Limits) -> MediaInfo:
    if info.width_px * info.height_px > limits.pixels:
        raise MediaError(
            f"{info.path}: its pictures are too large",
            got=f"{info.width_px} x {info.height_px} pixels",
            expected=f"{limits.pixels:,} pixels at most",
            fix="Make them smaller",
        )
    _check_end(info.path, info.duration_s or 0.0, limits)
    return info


def _check_end(path: Path, end_s: float, limits: Limits) -> None:
    if end_s > limits.duration_s:
        raise MediaError(
            f"{path}: it is too long",
            got=f"{end_s:.0f} s",
            expected=f"{limits.duration_s:.0f} s at most",
            fix="Cut it into parts",
        )


def _plain(clip: PreparedClip) -> PreparedClip:
    """With the sound alone that is its own: a view would carry all that it is a view of."""
    return clip if clip.waveform is None else replace(clip, waveform=clip.waveform.copy())
