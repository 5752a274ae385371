"""Find the files of a run in folders, lists, patterns and object stores, and identify each by its content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.request import url2pathname

from reactometer.data.manifest import read_listing
from reactometer.data.object_store import find_objects, hash_object, is_uri
from reactometer.errors import ConfigError, DataError, missing_path_hint
from reactometer.io import Paths, as_path_list, sha256_of
from reactometer.media.video import MEDIA_ENDINGS

LIST_ENDINGS = (".txt", ".csv")

HASHING_THREADS = 4


@dataclass(frozen=True)
class InputFile:
    """One file of a run. A file without a hash has a ``problem``; otherwise ``problem`` is empty."""

    path: str  # relative if its folder is relative; or a URI
    sha256: str = ""  # of the content
    problem: str = ""


def find_files(inputs: Paths) -> list[str]:
    """Return the files to predict, each once, in order; the files of a folder are sorted by name.

    Args:
        inputs: files; folders, searched at any depth for video and sound files that are not hidden; patterns
            such as ``clips/**/*.mp4``; lists, ``.txt`` with one path per line or ``.csv`` with a column
            ``path``, relative to the list's folder. Files and folders may be URIs of an object store, such as
            ``s3://bucket/clips``.

    Raises:
        ConfigError: a URI of an unknown scheme.
        DataError: no inputs, a missing file, or a folder, list or pattern without files. Listed files are not
            checked.
    """
    paths: list[str] = []
    for entry in map(str, as_path_list(inputs)):
        if entry.startswith(("http://", "https://")):
            raise DataError(f"{entry}: not a file on this machine", fix=missing_path_hint(Path(entry)))
        path = url2pathname(entry.removeprefix("file://")) if entry.startswith("file://") else entry
        try:
            files = find_objects(path) if is_uri(path) else _expand(Path(path))
        except OSError as error:
            raise DataError(f"{entry}: cannot be read: {error}", fix="Check your access to it") from error
        if not files:
            raise _no_files(entry, Path(path))
        paths += files
    if not paths:
        raise DataError("no files to predict", expected="files, folders, lists or patterns", fix="Add a path")
    return list(dict.fromkeys(paths))


def _no_files(entry: str, path: Path) -> DataError:
    """Return the error of an entry without files: a missing file, or a folder, list or pattern."""
    if is_uri(entry):
        return DataError(f"{entry}: no video or sound file", fix="Check the address")
    if path.exists():
        kind = "the folder" if path.is_dir() else "the list"
        fix = "Name the files; in a folder, files need a known ending, such as .mp4, .mov or .wav"
        return DataError(f"{entry}: no video or sound file in {kind}", fix=fix)
    if any(character in entry for character in "*?["):
        return DataError(f"{entry}: no file matches the pattern", fix="Check the pattern")
    return DataError(f"{entry}: no such file", fix=missing_path_hint(path))


def _expand(path: Path) -> Sequence[str]:
    if path.is_dir():
        return [str(file) for file in sorted(_walk(path, set()))]
    if path.suffix.lower() in LIST_ENDINGS and path.is_file():
        return [name if is_uri(name) else str(path.parent / name) for name in _read_list(path)]
    if any(character in str(path) for character in "*?[") and not path.exists():
        matching = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
        return [str(file) for file in sorted(matching) if file.is_file()]
    return [str(path)] if path.exists() else []


def _walk(folder: Path, visited: set[Path]) -> Iterator[Path]:
    """Yield media files at any depth. Each folder is entered once, also through links; broken links count as
    files."""
    if folder.resolve() in visited:
        return
    visited.add(folder.resolve())
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(entry, visited)
        elif entry.suffix.lower() in MEDIA_ENDINGS:
            yield entry


def _read_list(file: Path) -> list[str]:
    """Return the paths in a list, unchanged."""
    if file.suffix.lower() == ".csv":
        return [row["path"] for row in read_listing(file) if row["path"]]
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file}: not a list of paths: {error}", fix="Save it as UTF-8, one path per line"
        ) from error
    return [line.strip() for line in lines if line.strip()]


def hash_file(path: str) -> InputFile:
    """Return a file with the SHA-256 of its content, or with a problem if it is unreadable.

    See :func:`~reactometer.data.object_store.hash_object` for the hash of an object.
    """
    try:
        return InputFile(path, hash_object(path) if is_uri(path) else sha256_of(Path(path)))
    except (OSError, ValueError, ConfigError) as error:  # ValueError: a NUL in the name
        return InputFile(path, problem=getattr(error, "strerror", None) or str(error))


def hash_files(paths: Sequence[str]) -> Iterator[InputFile]:
    """Hash files in order, in several threads; see :func:`hash_file`."""
    with ThreadPoolExecutor(HASHING_THREADS) as threads:
        yield from threads.map(hash_file, paths)
