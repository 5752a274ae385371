"""Kill the process that imports this module, with its group, at a predetermined write.

``kills.py`` makes every process of a command import it with a ``sitecustomize.py``. Writes below one folder
are counted over all processes: a file opened for writing, renamed, linked or deleted, a folder made or
deleted, an fsync. The group is killed before the chosen write; or, with a number of bytes, files of the
process cannot grow beyond that size, and the group is killed in the middle of the write that would exceed it.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

UNDER, COUNT, AT, BYTES, SPARED = "KILL_UNDER", "KILL_COUNT", "KILL_AT", "KILL_BYTES", "KILL_SPARED"
"""Names in the environment: the folder, the file whose length is the count, the write (0: none), the bytes,
and the group that is never killed, which runs the tests."""

CHANGES = ("os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def arm() -> None:
    """Count writes of this process from now on."""
    under, at, most = os.environ[UNDER], int(os.environ[AT]), os.environ.get(BYTES)
    counter = os.open(os.environ[COUNT], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    counting, fsync = [True], os.fsync

    def end(*_: object) -> None:
        if os.getpgrp() != int(os.environ[SPARED]):
            os.killpg(0, signal.SIGKILL)

    def count(path: str | bytes | None) -> None:
        if not counting or path is None or not str(Path(os.fsdecode(path)).absolute()).startswith(under):
            return
        os.write(counter, b".")
        if os.lseek(counter, 0, os.SEEK_CUR) != at:
            return
        if not most:
            end()
        counting.clear()
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(most or 0), resource.RLIM_INFINITY))

    def counted(handle: int) -> None:
        count(str(Path(f"/proc/self/fd/{handle}").readlink()))
        fsync(handle)

    signal.signal(signal.SIGXFSZ, end)
    os.fsync = counted  # type: ignore[assignment]
    sys.addaudithook(lambda event, arguments: count(_written_path(event, arguments)))


def _written_path(event: str, arguments: tuple[Any, ...]) -> str | bytes | None:
    """Return the path that an audit event is about to write, rename or delete; None for other events."""
    if event in CHANGES and not isinstance(arguments[0], int):
        return os.fspath(arguments[0])  # type: ignore[no-any-return]
    if event == "open":
        path, mode, flags = arguments
        is_write = (isinstance(mode, str) and set(mode) & set("wax+")) or (flags or 0) & WRITES
        if is_write and isinstance(path, str | bytes):
            return path
    return None


if UNDER in os.environ:
    arm()
