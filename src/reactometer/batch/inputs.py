"""Folders, lists, patterns and files -> what a run has to do, with each file's content hash."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from reactometer.batch.places import Place, is_address, place, split_address
from reactometer.data.manifest import read_listing
from reactometer.errors import ConfigError, DataError
from reactometer.io import Paths, each_path
from reactometer.media.video import MEDIA_ENDINGS

LIST_ENDINGS = (".txt", ".csv")

HASHING_THREADS = 4


@dataclass(frozen=True)
class Source:
    """One file of a run. Without a hash there is a problem, else ``problem`` is empty."""

    path: str  # as found: relative where its folder was given so
    size_bytes: int = 0
    modified_ns: int = 0
    sha256: str = ""  # of the content
    problem: str = ""


def find_files(given: Paths) -> list[str]:
    """The files that are meant, each once, in order: those of a folder sorted by name.

    Args:
        given: files; folders, in which every video and sound file counts, at any depth, hidden ones left out; patterns
            such as ``clips/**/*.mp4``; lists, ``.txt`` with a path a line or ``.csv`` with a column ``path``, relative
            to the list's folder. All of them may be addresses, such as ``s3://bucket/clips``: there, ``*`` goes
            through folders, too.

    Raises:
        DataError: a folder, list or pattern that has no file, a file that is not there, or nothing given; an object
            store that cannot be read. What a list names is not looked for.
    """
    found = {path: None for one in each_path(given) for path in _expand(one)}
    if not found:
        raise DataError("no files given", expected="videos, folders, lists or patterns", fix="Name at least one")
    return list(found)


def _expand(given: Path | str) -> Sequence[str]:
    try:
        found = _in_store(place(given)) if is_address(given) else _on_disk(Path(place(given).name))
    except OSError as error:
        raise DataError(f"{given}: cannot be read: {error}", fix="Check the address and your access to it") from error
    if not found:
        raise DataError(f"{given}: no video or sound file there", fix="Check the path, or name the files")
    return found


def _on_disk(given: Path) -> Sequence[str]:
    if given.is_dir():
        return [str(file) for file in sorted(_walk(given, set()))]
    if given.suffix.lower() in LIST_ENDINGS and given.is_file():
        return [name if is_address(name) else str(given.parent / name) for name in _listed(given)]
    if _is_pattern(str(given)) and not given.exists():
        matching = Path(given.anchor).glob(str(given.relative_to(given.anchor)))
        return [str(file) for file in sorted(matching) if file.is_file()]
    return [str(given)] if given.exists() else []


def _in_store(given: Place) -> Sequence[str]:
    """As on a disk; what is no file is taken for a folder."""
    address, query = split_address(given.name)
    parts = address.split("/")
    if _is_pattern(address):
        plain = next(number for number, part in enumerate(parts) if _is_pattern(part))
        found = _media(Place("/".join(parts[:plain]) + query))
        return [name for name in found if fnmatchcase(split_address(name)[0], address)]
    if not given.is_file():
        return _media(given)
    if not address.lower().endswith(LIST_ENDINGS):
        return [given.name]
    folder = Place("/".join(parts[:-1]) + query)
    with given.on_disk() as file:
        return [name if is_address(name) else folder.beside(name).name for name in _listed(file)]


def _media(folder: Place) -> Sequence[str]:
    names = [name for name in folder.names(deep=True) if name.lower().endswith(MEDIA_ENDINGS)]
    return [folder.beside(name).name for name in names if not any(part.startswith(".") for part in name.split("/"))]


def _is_pattern(name: str) -> bool:
    return any(sign in name for sign in "*?[")


def _walk(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Media files at any depth; through links, but not twice into a folder; a link to nothing is a file, and fails."""
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
    """The paths in a list, as they are written there."""
    if file.suffix.lower() == ".csv":
        return [row["path"] for row in read_listing(file) if row["path"]]
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not a list of paths: {error}", fix="Save it as UTF-8, a path a line") from error
    return [line.strip() for line in lines if line.strip()]


def hash_file(old: Source) -> Source:
    """A file with its hash; one whose size and time are as they were known is not read again.

    A file that cannot be read gets the reason as its problem.

    Args:
        old: what was known of it, or its path alone.
    """
    try:
        size_bytes, modified_ns = place(old.path).about()
        if old.sha256 and (old.size_bytes, old.modified_ns) == (size_bytes, modified_ns):
            return old
        return Source(old.path, size_bytes, modified_ns, place(old.path).sha256())
    except (OSError, ConfigError) as error:  # ConfigError: an address of no kind of place
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Source(old.path, problem=reason)


def hash_files(sources: Sequence[Source]) -> Iterator[Source]:
    """The files with their hashes, in order, by threads; see :func:`hash_file`."""
    with ThreadPoolExecutor(HASHING_THREADS) as threads:
        yield from threads.map(hash_file, sources)
