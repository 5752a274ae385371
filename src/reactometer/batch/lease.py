"""One process at a time in a run's folder: a lock on a disk, a lease in an object store, which has no locks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from uuid import uuid4

from filelock import FileLock, Timeout

from reactometer.batch.places import Place
from reactometer.errors import OutputError

LOCK = ".lock"
RENEWED_S, LAPSED_S, SETTLED_S = 15.0, 60.0, 2.0
"""A lease is renewed so often, has lapsed when it is so old (its holder was killed), and is looked at once more so long
after it was taken: of two that take it in one moment, the later one has it. Our choice."""


@contextmanager
def alone(folder: Place) -> Iterator[None]:
    """Be the only process in a run's folder.

    Raises:
        OutputError: another one is there; in an object store, or was so until less than a minute ago.
    """
    if folder.is_remote:
        with _lease(folder, _taken(folder, f"Wait for it, or, where it was killed, {LAPSED_S:.0f} s")):
            yield
        return
    try:
        with FileLock(Path(folder.name) / LOCK, timeout=0):
            yield
    except Timeout as error:
        raise _taken(folder, "Wait for it") from error


def _taken(folder: Place, wait: str) -> OutputError:
    return OutputError(f"{folder.name}: another process is at work in it", fix=f"{wait}, or name another folder")


@contextmanager
def _lease(folder: Place, taken: OutputError) -> Iterator[None]:
    lock, name, over = folder.beside(LOCK), uuid4().hex, Event()
    own, now = name.encode(), folder.beside(f"{name}{LOCK}")
    if lock.is_file():
        now.write(b"")  # what time it is by the store's clock; this machine's may be any
        now_ns, renewed_ns = now.about()[1], lock.about()[1]
        now.delete()
        if renewed_ns and now_ns - renewed_ns < LAPSED_S * 1e9:
            raise taken

    def renew() -> None:
        while not over.wait(RENEWED_S):
            with suppress(OSError):  # a store that is away for a moment: the next time will do
                if lock.read() == own:
                    lock.write(own)

    renewing = Thread(target=renew, daemon=True)
    try:
        lock.write(own)
        time.sleep(SETTLED_S)
        if lock.read() != own:
            raise taken
        renewing.start()
        yield
    finally:
        over.set()
        if renewing.ident:
            renewing.join()
        if lock.is_file() and lock.read() == own:  # else it has lapsed, and is somebody else's
            lock.delete()
