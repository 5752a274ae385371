"""A folder or file on a disk or in an object store, by one set of names."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from errno import ENOENT
from functools import cache
from hashlib import file_digest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from reactometer.errors import ConfigError
from reactometer.io import make_folder, sha256_of, write_whole

if TYPE_CHECKING:
    from pyarrow import fs

ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""Where an S3-compatible server is that is not Amazon's, as Amazon's own tools take it; pyarrow does not."""

QUERY = re.compile(r"\?\w+=[^?&/\s]*(&\w+=[^?&/\s]*)*$")


@dataclass(frozen=True)
class Place:
    """A folder that is written into, or a file that is read; small enough to be sent to another process.

    Over what pyarrow reaches: a path; ``s3://bucket/folder``, ``gs://``, ``abfs://`` or ``hdfs://``, with what pyarrow
    takes behind a question mark (``?endpoint_override=host:9000&scheme=http``), or ``fsspec+NAME://``. Source:
    https://arrow.apache.org/docs/python/filesystems.html. A file that is not there raises FileNotFoundError; what an
    object store answers otherwise, OSError.
    """

    name: str  # as it was given

    @property
    def is_remote(self) -> bool:
        """Whether it is an address rather than a path."""
        return is_address(self.name)

    def beside(self, name: str) -> Place:
        """What has this name in this folder."""
        if not self.is_remote:
            return Place(str(Path(self.name) / name))
        address, query = split_address(self.name)
        return Place(f"{address.rstrip('/')}/{name}{query}")

    def absolute(self) -> Place:
        """The same for a process that works in another folder."""
        return self if self.is_remote else Place(str(Path(self.name).absolute()))

    def make(self) -> None:
        """Make the folder, where there are folders: an object store has none."""
        if not self.is_remote:
            make_folder(Path(self.name))

    def open(self) -> tuple[fs.FileSystem, str]:
        """pyarrow's file system, and the path in it."""
        if not self.is_remote:
            from pyarrow import fs

            return fs.LocalFileSystem(), self.name
        address, query = split_address(self.name)
        kind, _, path = address.partition("://")
        host, _, path = path.partition("/")
        filesystem, prefix = _connect(f"{kind}://{host}", query)
        return filesystem, prefix + path.rstrip("/")

    def about(self) -> tuple[int, int]:
        """Of a file: its size, bytes, and when it was changed, nanoseconds."""
        if not self.is_remote:
            status = Path(self.name).stat()
            return status.st_size, status.st_mtime_ns
        filesystem, path = self.open()
        info = filesystem.get_file_info(path)
        if not info.is_file:
            raise FileNotFoundError(ENOENT, os.strerror(ENOENT), self.name)
        return info.size, info.mtime_ns or 0

    def names(self, ending: str = "", *, deep: bool = False) -> list[str]:
        """What is in this folder, sorted; nothing where there is no folder. At any depth, by its path, if asked."""
        from pyarrow import fs

        filesystem, path = self.open()
        infos = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=deep))
        names = [info.path.removeprefix(path).lstrip("/") if deep else info.base_name for info in infos]
        return sorted(name for name in names if name.endswith(ending))

    def is_file(self) -> bool:
        """Whether there is such a file."""
        filesystem, path = self.open()
        return bool(filesystem.get_file_info(path).is_file)

    def read(self) -> bytes:
        """The whole of a file."""
        filesystem, path = self.open()
        with filesystem.open_input_stream(path) as stream:
            return bytes(stream.read())

    def write(self, data: bytes) -> None:
        """A file, which appears whole or not at all: renamed on a disk, and a store shows what has come in wholly."""
        if not self.is_remote:
            write_whole(Path(self.name), data)
            return
        filesystem, path = self.open()
        with filesystem.open_output_stream(path) as stream:
            stream.write(data)

    def delete(self) -> None:
        """A file, if it is there."""
        filesystem, path = self.open()
        if filesystem.get_file_info(path).is_file:
            filesystem.delete_file(path)

    def sha256(self) -> str:
        """Of a file's content, 64 hexadecimal digits."""
        if not self.is_remote:
            return sha256_of(Path(self.name))
        filesystem, path = self.open()
        with filesystem.open_input_stream(path) as stream:
            return file_digest(stream, "sha256").hexdigest()

    @contextmanager
    def on_disk(self) -> Iterator[Path]:
        """A file on this machine's disk: as it is, or a copy for as long as it is needed."""
        if not self.is_remote:
            yield Path(self.name)
            return
        filesystem, path = self.open()
        with TemporaryDirectory(prefix="reactometer-") as folder:
            copy = Path(folder) / Path(path).name
            with filesystem.open_input_stream(path) as stream, copy.open("wb") as file:
                shutil.copyfileobj(stream, file, 1 << 20)
            yield copy


def place(given: Path | str) -> Place:
    """What a path or an address stands for; ``file://`` is a path."""
    return Place(str(given).removeprefix("file://"))


def is_address(given: Path | str) -> bool:
    """Whether it is an address, such as ``s3://bucket/folder``, rather than a path."""
    return "://" in str(given) and not str(given).startswith("file://")


def split_address(address: str) -> tuple[str, str]:
    """An address, and what stands behind its question mark, with it; a file's name may have a question mark, too."""
    query = QUERY.search(address)
    return (address[: query.start()], query.group()) if query else (address, "")


@cache
def _connect(root: str, query: str) -> tuple[fs.FileSystem, str]:
    """The file system of a bucket or host, and what paths in it begin with; asked once a process: it may take time."""
    import pyarrow as pa
    from pyarrow import fs

    own = next((os.environ[name] for name in ENDPOINT_VARIABLES if os.environ.get(name)), "")
    if root.startswith("s3://") and own and "endpoint_override" not in query:
        scheme, _, host = own.rpartition("://")
        query += f"{'&' if query else '?'}endpoint_override={host.rstrip('/')}&scheme={scheme or 'https'}"
    try:
        filesystem, path = fs.FileSystem.from_uri(f"{root}/x{query}")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError, ImportError) as error:
        expected = "a path, or s3://, gs://, abfs://, hdfs:// or fsspec+NAME://"
        raise ConfigError(f"{root}: no such kind of place: {error}", expected=expected, fix="Correct it") from error
    return filesystem, path.removesuffix("x")
