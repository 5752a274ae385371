"""Folders, lists, patterns and files -> what a run has to do, with each file's content hash."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from reactometer.data.clips import read_rows
from reactometer.errors import DataError
from reactometer.files import sha256_of

VIDEO_ENDINGS = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".3gp", ".wmv", ".asf"),
    *(".flv", ".ogv", ".mxf", ".gif"),
)
SOUND_ENDINGS = (".wav", ".mp3", ".m4a", ".aac", ".flac", ".ogg", ".oga", ".opus", ".wma", ".aif", ".aiff")
"""Files of a folder that are taken; files that are named are taken whatever they are called."""

HASHING_THREADS = 4


@dataclass(frozen=True)
class Source:
    """One file of a run. Without a hash there is a problem, else ``problem`` is empty."""

    path: str  # as found: relative where its folder was given so
    size_bytes: int = 0
    modified_ns: int = 0
    sha256: str = ""  # of the content
    problem: str = ""


def find_files(given: Sequence[Path | str]) -> list[str]:
    """The files that are meant, each once, in order: those of a folder sorted by name.

    Args:
        given: files; folders, in which every video and sound file counts, at any depth, hidden ones left out; patterns
            such as ``clips/**/*.mp4``; lists, ``.txt`` with a path a line or ``.csv`` with a column ``path``, relative
            to the list's folder.

    Raises:
        DataError: a folder, list or pattern that has no file, or nothing given.
    """
    found = {path: None for one in given for path in _expand(Path(one))}
    if not found:
        raise DataError("no files given", expected="videos, folders, lists or patterns", fix="Name at least one")
    return list(found)


def _expand(given: Path) -> Iterator[str]:
    if given.is_dir():
        found = [str(file) for file in sorted(_walk(given, set()))]
    elif given.suffix.lower() in (".txt", ".csv") and given.is_file():
        found = [str(given.parent / name) for name in _listed(given)]
    elif any(sign in str(given) for sign in "*?[") and not given.exists():
        matching = Path(given.anchor).glob(str(given.relative_to(given.anchor)))
        found = [str(file) for file in sorted(matching) if file.is_file()]
    else:
        found = [str(given)]
    if not found:
        raise DataError(f"{given}: no video or sound file there", fix="Check the path, or name the files")
    yield from found


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
        elif one.suffix.lower() in (*VIDEO_ENDINGS, *SOUND_ENDINGS):
            yield one


def _listed(file: Path) -> list[str]:
    """The paths in a list, as they are written there."""
    if file.suffix.lower() == ".csv":
        return [row["path"] for row in read_rows(file, ("path",)) if row["path"]]
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not a list of paths: {error}", fix="Save it as UTF-8, a path a line") from error
    return [line.strip() for line in lines if line.strip()]


def hash_files(paths: Iterable[str], known: Mapping[str, Source], advance: Callable[[], None]) -> list[Source]:
    """Each file with its hash; one whose size and time are as they were known is not read again.

    A file that cannot be read gets the reason as its problem.
    """

    def hashed(path: str) -> Source:
        try:
            about = Path(path).stat()
            old = known.get(path)
            if old and old.sha256 and (old.size_bytes, old.modified_ns) == (about.st_size, about.st_mtime_ns):
                return old
            return Source(path, about.st_size, about.st_mtime_ns, sha256_of(Path(path)))
        except OSError as error:
            return Source(path, problem=error.strerror or type(error).__name__)

    sources = []
    with ThreadPoolExecutor(HASHING_THREADS) as threads:
        for source in threads.map(hashed, paths):
            sources.append(source)
            advance()
    return sources
