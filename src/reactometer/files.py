"""Folders that can be written into; files and folders that appear whole or not at all, or are damaged; SHA-256."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path

from reactometer.errors import OutputError, ReactometerError

PART = ".part"
"""Ending of a file that is being written; one that is found was left by a process that died."""


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """A folder to write into, which gets its name when all is written, and is gone where something fails.

    Raises:
        OutputError: there is something of that name already.
    """
    refuse_existing(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        yield partial
        partial.chmod(0o755)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A file to write, which takes the place of ``file`` once it is on the disk: a reader sees the old one or it."""
    handle, name = tempfile.mkstemp(dir=file.parent, suffix=PART)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        with partial.open("rb+") as written:
            os.fsync(written.fileno())
        partial.chmod(0o644)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def refuse_existing(path: Path) -> None:
    """Raise OutputError where there is something of that name already."""
    if path.exists():
        raise OutputError(f"{path}: exists already", fix="Name another folder, or delete this one")


def make_folder(path: Path) -> Path:
    """The folder, made if need be; call it before long work whose results go there.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: no folder can be made there: {error.strerror}", fix="Name another place") from error
    return path


@contextmanager
def told_of(what: object, kind: type[ReactometerError], fix: str) -> Iterator[None]:
    """Whatever a reader stumbles over in damaged contents is raised as an error of this kind, which names them."""
    try:
        yield
    except ReactometerError:
        raise
    except Exception as error:  # NumPy, pandas, pyarrow, json and our own indexing have many kinds
        raise kind(f"{what}: damaged: {type(error).__name__}: {str(error)[:200]}", fix=fix) from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
