"""Write files and folders atomically; add the file's name to errors."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import file_digest
from io import StringIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from reactometer.errors import OutputError, ReactometerError

PART = ".part"
"""Suffix of a file while it is being written."""

Paths = Path | str | Sequence[Path | str]
"""Files or folders, or a single one of them."""

DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
WRITE_ERRNOS = (*DISK_FULL_ERRNOS, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
"""Error numbers of a full disk, and of any file that cannot be written."""


def as_path_list(paths: Paths) -> Sequence[Path | str]:
    """Return a sequence of paths, also for a single path."""
    return [paths] if isinstance(paths, Path | str) else paths


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder, which is renamed to ``folder`` once its files are on the disk, or deleted on
    an error.

    Raises:
        OutputError: the folder exists, or cannot be written.
    """
    if folder.exists():
        raise OutputError(f"{folder}: exists already", fix="Name another folder, or delete this one")
    with wrap_write_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = _temporary_name(folder)
        partial.mkdir()
        try:
            yield partial
            for path in (*partial.rglob("*"), partial):
                _flush(path)
            partial.rename(folder)
            _flush(folder.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def atomic_file(file: Path) -> Iterator[Path]:
    """Yield a temporary file that replaces ``file`` once it is on the disk; a reader sees the old file or the
    new one.

    The new name, too, is on the disk when the context ends. Parent folders are created, and a link is
    followed.

    Raises:
        OutputError: the file cannot be written; an earlier file is unchanged.
    """
    with wrap_write_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        target = file.resolve()
        partial = _temporary_name(target)
        partial.touch(exist_ok=False)  # unlike tempfile, with the permissions of the user's files
        try:
            yield partial
            _flush(partial)
            if target.exists() and not os.access(target, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            partial.replace(target)
            _flush(target.parent)
        finally:
            partial.unlink(missing_ok=True)


def write_atomic(file: Path, content: str | bytes) -> Path:
    """Write a file by :func:`atomic_file`, and return its path."""
    with atomic_file(file) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def write_plot(figure: Any, file: Path) -> Path:
    """Write a matplotlib figure by :func:`atomic_file`, in the format of the file's suffix; return its
    path."""
    with atomic_file(file) as partial:
        figure.savefig(partial, dpi=150, format=file.suffix[1:])
    return file


@contextmanager
def wrap_write_errors(path: Path) -> Iterator[None]:
    """Re-raise write errors as OutputError, naming the path."""
    try:
        yield
    except ReactometerError:
        raise
    except Exception as error:  # libraries have their own classes for a full disk
        if isinstance(error, OSError) or find_errno(error) in WRITE_ERRNOS:
            raise write_error(path, error) from error
        raise


def find_errno(error: BaseException | None) -> int | None:
    """Return the ``errno`` of an error or of its causes, such as ``errno.ENOSPC``, or ``None``."""
    while error is not None:
        match = re.search(
            r"\b(?:os error|errno) (\d+)", str(error), re.IGNORECASE
        )  # Rust's words, and Arrow's
        if isinstance(error, OSError) and error.errno:
            return error.errno
        if match:
            return int(match[1])
        error = error.__cause__ or error.__context__
    return None


def write_error(path: Path | str, error: Exception) -> OutputError:
    """Return the error that names a file or folder which could not be written."""
    number = find_errno(error)
    fix = "Free some space there and run it again" if number in DISK_FULL_ERRNOS else "Check its permissions"
    if number in (errno.EEXIST, errno.ENOTDIR):
        fix = "Move the file that is in place of a folder"
    reason = os.strerror(number) if number else error
    return OutputError(f"{path}: cannot be written: {reason}", fix=f"{fix}, or name another path")


@contextmanager
def wrap_decode_errors(source: object, error_class: type[ReactometerError], fix: str) -> Iterator[None]:
    """Re-raise any error that damaged contents cause as ``error_class``, naming the file."""
    try:
        yield
    except (ReactometerError, MemoryError):
        raise
    except Exception as error:  # NumPy, pandas, pyarrow, json and our own indexing raise many classes
        raise error_class(
            f"{source}: damaged: {type(error).__name__}: {str(error)[:200]}", fix=fix
        ) from error


def parse_json_object(text: str | bytes) -> dict[str, Any]:
    """Parse a text that holds one JSON object.

    Raises:
        ValueError: the text is not JSON, is nested too deeply, or holds something other than an object.
    """
    try:
        parsed = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(parsed, dict):
        raise ValueError("no JSON object")
    return parsed


def format_json(content: Mapping[str, Any]) -> str:
    """Format an object as indented JSON text that ends with a newline."""
    return json.dumps(content, indent=2) + "\n"


def format_csv(rows: Iterable[Iterable[object]]) -> str:
    """Format rows, the header first, as CSV text; ``None`` gives an empty cell."""
    text = StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def make_folder(path: Path) -> Path:
    """Create a folder if it is missing, and return it; call this before long work. Raise OutputError."""
    with wrap_write_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=path).close()
    return path


def check_writable(file: Path) -> None:
    """Raise OutputError if a file cannot be written; create nothing. Call this before long work."""
    with wrap_write_errors(file):
        TemporaryFile(dir=next(folder for folder in file.absolute().parents if folder.exists())).close()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _temporary_name(path: Path) -> Path:
    """Return a unique hidden name beside ``path``."""
    return path.with_name(f".{path.name[:40]}-{secrets.token_hex(4)}{PART}")


def _flush(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    if os.name != "posix":  # Windows cannot open a folder
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot flush folders
            raise
    finally:
        os.close(handle)
