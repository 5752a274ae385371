"""Find the files of a run in folders, lists, patterns and object stores, and identify each by its content."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from errno import ENOENT
from functools import cache
from hashlib import file_digest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from reactometer.data.manifest import read_listing
from reactometer.errors import ConfigError, DataError, require
from reactometer.io import Paths, each_path
from reactometer.media.video import MEDIA_ENDINGS

if TYPE_CHECKING:
    from pyarrow import fs

LIST_ENDINGS = (".txt", ".csv")

HASHING_THREADS = 4


@dataclass(frozen=True)
class Source:
    """One file of a run. A file without a hash has a ``problem``; otherwise ``problem`` is empty."""

    path: str  # as found: relative if its folder was given so; or a URI
    size_bytes: int = 0
    modified_ns: int = 0
    sha256: str = ""  # of the content
    problem: str = ""


def find_files(given: Paths) -> list[str]:
    """Return the files to predict, each once, in order; the files of a folder are sorted by name.

    Args:
        given: files; folders, searched at any depth for video and sound files that are not hidden; patterns such as
            ``clips/**/*.mp4``; lists, ``.txt`` with one path per line or ``.csv`` with a column ``path``, relative to
            the list's folder. Files and folders may be URIs of an object store, such as ``s3://bucket/clips``.

    Raises:
        ConfigError: a URI of an unknown kind.
        DataError: a folder, list or pattern without any file, a missing file, or nothing given; an object store that
            cannot be read. Files that a list names are not checked.
    """
    found = {path: None for one in each_path(given) for path in _expand(one)}
    if not found:
        raise DataError("no files given", expected="videos, folders, lists or patterns", fix="Name at least one")
    return list(found)


def _expand(given: Path | str) -> Sequence[str]:
    try:
        found = _in_store(str(given)) if is_uri(given) else _on_disk(Path(given))
    except OSError as error:
        raise DataError(f"{given}: cannot be read: {error}", fix="Check the address and your access to it") from error
    if not found:
        raise DataError(f"{given}: no video or sound file there", fix="Check the path, or name the files")
    return found


def _on_disk(given: Path) -> Sequence[str]:
    if given.is_dir():
        return [str(file) for file in sorted(_walk(given, set()))]
    if given.suffix.lower() in LIST_ENDINGS and given.is_file():
        return [name if is_uri(name) else str(given.parent / name) for name in _listed(given)]
    if any(sign in str(given) for sign in "*?[") and not given.exists():
        matching = Path(given.anchor).glob(str(given.relative_to(given.anchor)))
        return [str(file) for file in sorted(matching) if file.is_file()]
    return [str(given)] if given.exists() else []


def _in_store(uri: str) -> Sequence[str]:
    require("pyarrow", extra="parquet")
    from pyarrow import fs

    filesystem, path = open_path(uri)
    if filesystem.get_file_info(path).is_file:
        if uri.lower().endswith(LIST_ENDINGS):
            raise DataError(f"{uri}: lists are read from this machine only", fix="Copy the list to this machine")
        return [uri]
    infos = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=True))
    names = sorted(info.path.removeprefix(path).lstrip("/") for info in infos if info.is_file)
    return [
        f"{uri.rstrip('/')}/{name}"
        for name in names
        if name.lower().endswith(MEDIA_ENDINGS) and not any(part.startswith(".") for part in name.split("/"))
    ]


def _walk(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Yield media files at any depth. Each folder is entered once, also through links; a dead link is a file."""
    if folder.resolve() in seen:
        return
    seen.add(folder.resolve())
    for one in sorted(folder.iterdir()):
        if one.name.startswith("."):
            continue
        if one.is_dir():
            yield from _walk(one, seen)
        elif one.suffix.lower() in MEDIA_ENDINGS:
            yield one


def _listed(file: Path) -> list[str]:
    """Return the paths in a list as they are written there."""
    if file.suffix.lower() == ".csv":
        return [row["path"] for row in read_listing(file) if row["path"]]
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not a list of paths: {error}", fix="Save it as UTF-8, one path per line") from error
    return [line.strip() for line in lines if line.strip()]


def hash_file(source: Source) -> Source:
    """Return the file with the SHA-256 of its content, or with the problem that made it unreadable.

    Args:
        source: what is known of the file. Its content is not read again if its size and time have not changed.
    """
    try:
        filesystem, name = open_path(source.path)
        info = filesystem.get_file_info(name)
        if not info.is_file:
            raise FileNotFoundError(ENOENT, os.strerror(ENOENT), source.path)
        size_bytes, modified_ns = info.size, info.mtime_ns or 0
        if source.sha256 and (source.size_bytes, source.modified_ns) == (size_bytes, modified_ns):
            return source
        with filesystem.open_input_stream(name) as stream:
            return Source(source.path, size_bytes, modified_ns, file_digest(stream, "sha256").hexdigest())
    except (OSError, ValueError, ConfigError) as error:  # ValueError: a NUL; ConfigError: a URI of an unknown kind
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Source(source.path, problem=reason)


def hash_files(sources: Sequence[Source]) -> Iterator[Source]:
    """Hash files in order, in several threads; see :func:`hash_file`."""
    with ThreadPoolExecutor(HASHING_THREADS) as threads:
        yield from threads.map(hash_file, sources)


def is_uri(path: Path | str) -> bool:
    """Tell whether a path is a URI such as ``s3://bucket/folder``."""
    return "://" in str(path)


def open_path(path: str) -> tuple[fs.FileSystem, str]:
    """Return pyarrow's file system of a path or URI and the path in it; credentials are those that pyarrow finds.

    Args:
        path: on this machine; or ``s3://``, ``gs://``, ``abfs://``, ``hdfs://`` or ``fsspec+NAME://``. Source:
            https://arrow.apache.org/docs/python/filesystems.html. The path is taken literally, without URL quoting.

    Raises:
        ConfigError: pyarrow has no file system for the URI.
    """
    from pyarrow import fs

    if not is_uri(path):
        return fs.LocalFileSystem(), str(Path(path).absolute())  # a relative "take:1.mp4" would be taken for a URI
    scheme, _, rest = path.partition("://")
    host, _, name = rest.partition("/")
    filesystem, root = _connect(f"{scheme}://{host}/")
    return filesystem, f"{root.rstrip('/')}/{name.rstrip('/')}".rstrip("/")


@cache
def _connect(root: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a bucket or host and the path of its root; cached, since connecting takes time."""
    import pyarrow as pa
    from pyarrow import fs

    try:
        filesystem, path = fs.FileSystem.from_uri(root)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError, ImportError) as error:
        expected = "a path, or s3://, gs://, abfs://, hdfs:// or fsspec+NAME://"
        raise ConfigError(f"{root}: not an object store: {error}", expected=expected) from error
    return filesystem, path


@contextmanager
def local_copy(path: str) -> Iterator[str]:
    """Yield the path of a file on this machine: the file itself, or a copy of a URI's file that is deleted afterwards.

    Raises:
        OSError: the object store cannot be read.
    """
    if not is_uri(path):
        yield path
        return
    from pyarrow import fs

    filesystem, source = open_path(path)
    with TemporaryDirectory(prefix="reactometer-") as folder:
        copy = str(Path(folder) / Path(source).name)
        fs.copy_files(source, copy, source_filesystem=filesystem)
        yield copy
