"""Read media files in a separate process, which may crash or hang without affecting this process."""

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
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reactometer.errors import MediaError

if TYPE_CHECKING:  # these imports would delay the start of the process
    from reactometer.types import MediaInfo
    from reactometer.workers.decoder import DecodeSpec, Segment

CHECK_INTERVAL_S = 0.2
"""Interval at which the caller's ``check`` runs while no window arrives."""

MAX_FILES = 1000
"""Maximum number of files per process, because its heap grows: up to glibc 2.37, a freed aligned buffer can
be too small for the next buffer of the same size."""


@dataclass(frozen=True)
class ResourceLimits:
    """Resource limits per file."""

    memory_bytes: int = 4 * 2**30  # of the process
    stall_s: float = 60.0  # maximum time without a new window
    cpu_s: float = (
        600.0  # CPU time per minute of the file; proportionally more above the default sampling rate
    )
    duration_s: float = math.inf
    pixels: float = math.inf  # of a frame


class MediaWorker:
    """Decoder process for one file at a time, restarted when it ends.

    The process does not import the user's script, so scripts need no ``__main__`` guard.
    """

    def __init__(self, limits: ResourceLimits | None = None) -> None:
        self.limits = limits or ResourceLimits()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None
        self._n_files = 0

    def read(
        self, path: Path, spec: DecodeSpec, threads: int = 0, check: Callable[[], None] = lambda: None
    ) -> Iterator[MediaInfo | Segment]:
        """Yield the container's properties, then each part and window of the file as soon as it is complete.

        ``check`` is called at least every 0.2 s while waiting; an exception that it raises stops the process.

        Raises:
            MediaError: the file cannot be read or exceeds a limit, or the process died.
        """
        if self._n_files >= MAX_FILES:
            self.close()
        from reactometer.config import PrepareConfig

        connection = self.start()
        is_complete = False
        self._n_files += 1
        try:
            cpu_s_per_minute = self.limits.cpu_s * max(1.0, spec.rate_hz / PrepareConfig().rate_hz)
            connection.send((path, spec, threads, cpu_s_per_minute))
            while (message := self._receive(connection, path, check)) is not None:
                if isinstance(message, MediaError):
                    is_complete = True  # the process can read the next file
                    raise message
                yield message
            is_complete = True
        except (EOFError, OSError) as error:
            raise self._death_error(path) from error
        finally:
            if not is_complete:
                self.close()

    def start(self) -> Connection[Any, Any]:
        """Start the process if none runs, without waiting until it is ready."""
        if self._process is not None and self._connection is not None and self._process.poll() is None:
            return self._connection
        self.close()
        parent_socket, child_socket = socket.socketpair()
        code = f"from reactometer.workers.decoder import worker_main; worker_main({child_socket.fileno()})"
        paths = [path for path in sys.path if path]
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            pass_fds=[child_socket.fileno()],
            process_group=0,  # Ctrl-C reaches only the parent, which kills the decoder process
            # NumPy's import starts a BLAS thread per core, each of which spins for 40 ms
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1"},
        )
        child_socket.close()
        self._connection = Connection(parent_socket.detach())
        self._connection.send(self.limits)
        return self._connection

    def close(self) -> None:
        """Kill the process."""
        if self._process is not None and self._connection is not None:
            self._process.kill()
            self._process.wait()
            self._connection.close()
        self._process = self._connection = None
        self._n_files = 0

    def _death_error(self, path: Path) -> MediaError:
        code = None
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                code = self._process.wait(5.0)  # it is ending, because its side of the connection is closed
        if code == -signal.SIGXCPU:
            limit = f"{self.limits.cpu_s:.0f} s of CPU time per minute of video"
            return MediaError(f"{path}: decoding took more than {limit}", fix="Convert or split the file")
        got = f"exit status {code}" if code is not None else None
        if code is not None and code < 0:
            got = signal.Signals(-code).name
        fix = "Free some memory, or convert the file"
        return MediaError(f"{path}: the decoder process died", got=got, fix=fix)

    def _receive(
        self, connection: Connection[Any, Any], path: Path, check: Callable[[], None]
    ) -> MediaInfo | Segment | MediaError | None:
        """Wait for the next message of the process; ``None`` at the end of the file."""
        deadline_s = time.monotonic() + self.limits.stall_s
        while not connection.poll(CHECK_INTERVAL_S):
            check()
            if time.monotonic() > deadline_s:
                stall = f"no data for {self.limits.stall_s:.0f} s"
                raise MediaError(f"{path}: {stall}", fix="Convert or split the file")
        message: MediaInfo | Segment | MediaError | None = connection.recv()
        check()
        return message


@cache
def thread_worker(process: int, thread: int) -> MediaWorker:
    """Return the worker of a process and thread, by their ids; each has one, which reads file after file."""
    worker = MediaWorker()
    atexit.register(worker.close)
    return worker
