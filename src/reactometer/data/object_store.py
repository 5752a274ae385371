"""Read files of object stores such as S3, with the file systems and the credentials that pyarrow finds.

Source: https://arrow.apache.org/docs/python/filesystems.html.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from reactometer.errors import ConfigError, require
from reactometer.media.video import MEDIA_ENDINGS

if TYPE_CHECKING:
    from pyarrow import fs


def is_uri(path: Path | str) -> bool:
    """Return whether a path is a URI such as ``s3://bucket/folder``."""
    return "://" in str(path)


def find_objects(uri: str) -> list[str]:
    """Return the URIs of the video and sound files below a URI that are not hidden, sorted; or the URI of a
    file.

    Raises:
        ConfigError: pyarrow has no file system for the URI.
        OSError: the store cannot be read.
    """
    require("pyarrow", extra="parquet")
    from pyarrow import fs

    filesystem, path = _open(uri)
    if filesystem.get_file_info(path).is_file:
        return [uri]
    infos = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=True))
    names = sorted(info.path.removeprefix(path).lstrip("/") for info in infos if info.is_file)
    visible = (name for name in names if not any(part.startswith(".") for part in PurePosixPath(name).parts))
    return [f"{uri.rstrip('/')}/{name}" for name in visible if name.lower().endswith(MEDIA_ENDINGS)]


def hash_object(uri: str) -> str:
    """Return the SHA-256 of a file's URI, size and modification time, without downloading the content.

    Raises:
        ConfigError: pyarrow has no file system for the URI.
        OSError: there is no such file, or the store cannot be read.
    """
    filesystem, path = _open(uri)
    info = filesystem.get_file_info(path)
    if not info.is_file:
        raise FileNotFoundError(f"{uri}: no such file")
    return sha256(f"{uri} {info.size} {info.mtime_ns}".encode()).hexdigest()


@contextmanager
def local_copy(path: str) -> Iterator[str]:
    """Yield the path of a file on this machine: the file itself, or a copy of a URI's file that is deleted
    afterwards.

    Raises:
        OSError: the store cannot be read.
    """
    if not is_uri(path):
        yield path
        return
    from pyarrow import fs

    filesystem, object_path = _open(path)
    with TemporaryDirectory(prefix="reactometer-") as folder:
        copy = str(Path(folder) / PurePosixPath(object_path).name)
        fs.copy_files(object_path, copy, source_filesystem=filesystem)
        yield copy


def _open(uri: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a URI, and the path in it, which is taken literally, without URL quoting."""
    scheme, _, rest = uri.partition("://")
    host, _, name = rest.partition("/")
    filesystem, root = _connect(f"{scheme}://{host}/")
    return filesystem, f"{root.rstrip('/')}/{name.rstrip('/')}".rstrip("/")


@cache
def _connect(root: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a bucket or host, and the path of its root; cached, because connecting takes
    time."""
    import pyarrow as pa
    from pyarrow import fs

    try:
        filesystem, path = fs.FileSystem.from_uri(root)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError, ImportError) as error:
        expected = "a path, or s3://, gs://, abfs://, hdfs:// or fsspec+NAME://"
        raise ConfigError(f"{root}: not an object store: {error}", expected=expected) from error
    return filesystem, path
