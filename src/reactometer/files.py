"""Files and folders that appear whole or not at all, texts that say whether they are whole, the SHA-256 of a file."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import struct
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from errno import EINVAL
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from reactometer.errors import OutputError

PART = ".part"
"""Ending of a file that is being written; one that is found was left by a process that died."""

LEFTOVER_S = 3600.0
"""Age from which a file that should not be there belongs to no process that is still alive."""

DAMAGED_ZIP = (OSError, LookupError, ValueError, EOFError, RuntimeError, struct.error, zlib.error, BadZipFile)
"""What reading a zip archive (such as NumPy's and PyTorch's files) raises where a bit or the end of it is not right."""

SEAL = "seal"
"""What a sealed text calls the SHA-256 of all else that it says."""


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """A folder to write into, which gets its name when all of it is on the disk, and is gone where something fails.

    Raises:
        OutputError: there is something of that name already.
    """
    refuse_existing(folder)
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
def replacing(file: Path) -> Iterator[Path]:
    """A file to write, which takes the place of ``file`` once it is on the disk: a reader sees the old one or it.

    When this ends, the name, too, is on the disk: what is done or deleted after it is so after a power cut, too.
    """
    file = file.resolve()  # a link stays one
    partial = _beside(file)
    partial.touch(exist_ok=False)  # with the rights that the user's files have
    try:
        yield partial
        _settle(partial)
        partial.replace(file)
        _settle(file.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """A file of text in UTF-8, by :func:`replacing`."""
    with replacing(file) as partial:
        partial.write_text(text, encoding="utf-8", newline="")


def seal(about: Mapping[str, Any]) -> str:
    """An object as JSON that says of itself whether it is as it was written; see :func:`unseal`."""
    return json.dumps({**about, SEAL: _digest(about)}, indent=2) + "\n"


def unseal(text: str | bytes) -> dict[str, Any]:
    """What :func:`seal` was given; a text without a seal, as earlier versions wrote them, is taken as it is.

    Raises:
        ValueError: not JSON, no object, or not as it was written.
    """
    about = json.loads(text)
    if not isinstance(about, dict):
        raise ValueError("no JSON object")
    if SEAL in about and about.pop(SEAL) != _digest(about):
        raise ValueError("not as it was written")
    return about


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
        OutputError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: no folder can be made there: {error.strerror}", fix="Name another place") from error
    return path


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
        if error.errno != EINVAL:  # of what cannot be waited for
            raise
    finally:
        os.close(handle)


def _digest(about: Mapping[str, Any]) -> str:
    return sha256(json.dumps(json.loads(json.dumps(about)), sort_keys=True).encode()).hexdigest()
