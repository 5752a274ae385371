"""Write files and folders that appear whole or not at all; name the file in errors of decoding."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import file_digest
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from reactometer.errors import OutputError, ReactometerError

PART = ".part"
"""Ending of a file that is being written; one that is found was left by a process that died."""

LEFTOVER_S = 3600.0
"""Age from which a file that should not be there belongs to no process that is still alive."""

Paths = Path | str | Sequence[Path | str]
"""Files or folders, or a single one of them."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
NO_WRITING = (*NO_ROOM, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
"""What a system says where a file cannot be written, whatever is written."""


def each_path(given: Paths) -> Sequence[Path | str]:
    """What is given, where a path by itself is one path and not the letters of its name."""
    return [given] if isinstance(given, Path | str) else given


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """A folder to write into, which gets its name when all of it is on the disk, and is gone where something fails.

    Raises:
        OutputError: there is something of that name already, or it cannot be written.
    """
    refuse_existing(folder)
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = _beside(folder)
        partial.mkdir()
        try:
            yield partial
            for path in (*partial.rglob("*"), partial):
                _settle(path)
            partial.rename(folder)
            _settle(folder.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def replacing(file: Path, size_bytes: int | None = None) -> Iterator[Path]:
    """A file to write, which takes the place of ``file`` once it is on the disk: a reader sees the old one or it.

    When this ends, the name, too, is on the disk: what is done or deleted after it is so after a power cut, too.

    Args:
        file: its folder is made if need be; a link is followed.
        size_bytes: how large it will be, where that is known.

    Raises:
        OutputError: it cannot be written; what was there before is as it was.
    """
    with writing(file, size_bytes):
        file.parent.mkdir(parents=True, exist_ok=True)
        target = file.resolve()
        partial = _beside(target)
        partial.touch(exist_ok=False)  # with the rights that the user's files have
        try:
            yield partial
            _settle(partial)
            if target.exists() and not os.access(target, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            partial.replace(target)
            _settle(target.parent)
        finally:
            partial.unlink(missing_ok=True)


def write_whole(file: Path, content: str | bytes) -> Path:
    """Write a file, as :func:`replacing` does; returns it."""
    data = content.encode() if isinstance(content, str) else content
    with replacing(file, len(data)) as partial:
        partial.write_bytes(data)
    return file


def write_picture(figure: Any, file: Path, dpi: int = 150) -> Path:
    """Write a figure of matplotlib, as :func:`replacing` does; returns its file.

    Raises:
        OutputError: it cannot be written, or its ending names no kind of picture.
    """
    kinds = figure.canvas.get_supported_filetypes()
    if (kind := file.suffix[1:].lower()) not in kinds:
        raise OutputError(f"{file}: no such kind of picture", got=kind, expected=", ".join(kinds))
    picture = BytesIO()
    figure.savefig(picture, dpi=dpi, format=kind)
    return write_whole(file, picture.getvalue())


@contextmanager
def writing(path: Path, size_bytes: int | None = None) -> Iterator[None]:
    """Raise OutputError, as of :func:`unwritable`, where a file is written inside and cannot be."""
    try:
        yield
    except ReactometerError:
        raise
    except Exception as error:  # libraries have their own for a full disk
        if isinstance(error, OSError) or system_error(error) in NO_WRITING:
            raise unwritable(path, error, size_bytes) from error
        raise


def system_error(error: BaseException | None) -> int | None:
    """The system's number of what is behind an error, such as ``errno.ENOSPC``; None where nothing says so."""
    while error is not None:
        said = re.search(r"\b(?:os error|errno) (\d+)", str(error), re.IGNORECASE)  # Rust's words, and Arrow's
        if isinstance(error, OSError) and error.errno:
            return error.errno
        if said:
            return int(said[1])
        error = error.__cause__ or error.__context__
    return None


def unwritable(path: Path | str, error: Exception, size_bytes: int | None = None) -> OutputError:
    """What to say of a file or folder (by its path, or in words) that could not be written, of so many bytes."""
    number = system_error(error)
    what = f"{path}: cannot be written: {os.strerror(number) if number else error}"
    if number not in NO_ROOM:
        return OutputError(what, fix="See to its permissions, or name another place")
    got = None
    with suppress(OSError):
        folders = Path(path).absolute().parents if isinstance(path, Path) else ()
        got = next((f"{shutil.disk_usage(own).free:,} bytes free" for own in folders if own.is_dir()), None)
    expected = None if size_bytes is None else f"{size_bytes:,} bytes"
    return OutputError(what, got=got, expected=expected, fix="Make room there and run it again, or name another place")


@contextmanager
def decoding(source: object, error_class: type[ReactometerError], fix: str) -> Iterator[None]:
    """Re-raise any error that damaged contents cause as ``error_class``, naming the file."""
    try:
        yield
    except ReactometerError:
        raise
    except Exception as error:  # NumPy, pandas, pyarrow, json and our own indexing raise many classes
        raise error_class(f"{source}: damaged: {type(error).__name__}: {str(error)[:200]}", fix=fix) from error


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


def clear_leftovers(folder: Path) -> None:
    """Delete what processes that were killed left half-written, at any depth."""
    for leftover in folder.rglob(f"*{PART}"):
        clear_old(leftover)


def clear_old(file: Path) -> None:
    """Delete a file, unless it is so young that a process may be at work with it."""
    with suppress(FileNotFoundError):
        if time.time() - file.stat().st_mtime > LEFTOVER_S:
            file.unlink()


def refuse_existing(path: Path) -> None:
    """Raise OutputError where there is something of that name already."""
    if path.exists():
        raise OutputError(f"{path}: exists already", fix="Name another folder, or delete this one")


def make_folder(path: Path) -> Path:
    """The folder, made if need be; call it before long work whose results go there.

    Raises:
        OutputError: it cannot be made, or written into.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=path).close()
    return path


def check_place(file: Path) -> None:
    """Raise OutputError, before any work, where a file cannot be written later; nothing is made."""
    with writing(file):
        TemporaryFile(dir=next(place for place in file.absolute().parents if place.exists())).close()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _beside(path: Path) -> Path:
    """A name that nobody else has, for what will be ``path``; hidden, and taken for no file of a kind."""
    return path.with_name(f".{path.name[:40]}-{secrets.token_hex(4)}{PART}")


def _settle(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    if path.is_dir() and os.name != "posix":  # where a folder cannot be opened
        return
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of what cannot be waited for
            raise
    finally:
        os.close(handle)
