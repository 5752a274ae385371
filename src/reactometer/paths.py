"""Names of weight files -> verified files on this machine: an offline folder, the cache folder, or the network."""

from __future__ import annotations

import os
import urllib.error
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse, IncompleteRead
from pathlib import Path

from filelock import FileLock

from reactometer.errors import ConfigError, WeightsError, suggestion
from reactometer.io import NO_WRITING, sha256_of, system_error, unwritable

STARTER = Path(__file__).resolve().parent / "starter"
"""The model folder inside the package: what predicts where no model is named, and a backbone by its name."""

FOLDER_VARIABLE = "REACTOMETER_WEIGHTS"  # a folder of weight files, for machines without a network
CACHE_VARIABLE = "REACTOMETER_CACHE"  # where downloads and prepared clips are kept
ADDRESS_VARIABLE = "REACTOMETER_WEIGHTS_URL"  # a mirror that holds the files under their file names
TIMEOUT_S = 10.0
ATTEMPTS = 3  # at getting further
CHUNK_BYTES = 1 << 16
OFFLINE, CACHE = "offline folder", "cache"
"""Where a file can lie on this machine, in the order that is looked in."""

Report = Callable[[int], None]
"""Is told, while a file comes in, how many of its bytes are here."""

_failures: dict[tuple[str, Path], str] = {}  # address and target -> message; one timeout a process, not one a clip


@dataclass(frozen=True)
class WeightFile:
    """One file of weights: where it comes from, and how to know that it is the right one."""

    name: str
    file_name: str
    url: str
    sha256: str
    size_bytes: int
    licence: str
    source: str


WEIGHT_FILES: dict[str, WeightFile] = {
    "yunet": WeightFile(
        name="yunet",
        file_name="yunet_n_320_320.onnx",
        url="https://raw.githubusercontent.com/ShiqiYu/libfacedetection.train/master/onnx/yunet_n_320_320.onnx",
        sha256="81dbde155e982455488235acb8ec2dec5d647edf7cf7080d33e4abb69b93a0d2",
        size_bytes=317_434,
        licence="Apache-2.0",
        source="Wu, Peng, Yu: YuNet, a tiny millisecond-level face detector (2023), github.com/ShiqiYu",
    ),
}


def cache_folder() -> Path:
    """Where this package keeps files between runs: ``$REACTOMETER_CACHE``, else the user's cache folder.

    Raises:
        WeightsError: the user has no home.
    """
    try:
        if own := os.environ.get(CACHE_VARIABLE):
            return Path(own).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "reactometer"
    except RuntimeError as error:
        what, fix = "no home to keep files in", f"Set HOME, or {CACHE_VARIABLE} to a folder that you can write into"
        raise WeightsError(what, got="no HOME, and a user unknown here", fix=fix) from error


def offline_folder() -> Path | None:
    """The user's own folder of weights, ``$REACTOMETER_WEIGHTS``, if that is set.

    Raises:
        WeightsError: it is in the home of a user who is unknown here.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    try:
        return Path(folder).expanduser() if folder else None
    except RuntimeError as error:
        raise WeightsError(f"{FOLDER_VARIABLE}={folder}", got=error, fix="Name a folder that is there") from error


def places(name: str) -> dict[str, Path]:
    """Where the file of a name can lie on this machine, whether it does or not: OFFLINE, CACHE -> path, if they are.

    Raises:
        ConfigError: the name is none of ``WEIGHT_FILES``.
    """
    if name not in WEIGHT_FILES:
        raise ConfigError("unknown weights", got=repr(name), fix=suggestion(name, WEIGHT_FILES))
    file_name, offline = WEIGHT_FILES[name].file_name, offline_folder()
    found = {OFFLINE: offline / file_name} if offline else {}
    with suppress(WeightsError):
        found[CACHE] = cache_folder() / "weights" / file_name
    return found


def check_file(path: Path, weights: WeightFile) -> None:
    """Raise WeightsError where a file is not the one described."""
    if sha256_of(path) != weights.sha256:
        raise _wrong_file(path, weights)


def find_weights(name: str, report: Report | None = None) -> Path:
    """Path of the verified file of a name in ``WEIGHT_FILES``.

    Looks into the folder ``$REACTOMETER_WEIGHTS``, then into the cache folder, then downloads into the cache folder,
    from ``$REACTOMETER_WEIGHTS_URL`` where that is set. Raises ConfigError for an unknown name, and WeightsError
    where the file cannot be had or is not the right one; an address that failed is tried once a process.
    """
    paths = places(name)
    weights, offline = WEIGHT_FILES[name], paths.get(OFFLINE)
    if offline and offline.is_file():
        check_file(offline, weights)
        return offline
    cached = paths.get(CACHE) or cache_folder()  # which says why there is none
    if cached.is_file() and sha256_of(cached) == weights.sha256:
        return cached
    return _download_once(weights, cached, report or (lambda _: None))


def _download_once(weights: WeightFile, target: Path, report: Report) -> Path:
    """Download, unless this process has already failed to; processes that want the same file wait for each other."""
    base = os.environ.get(ADDRESS_VARIABLE)
    url = f"{base.rstrip('/')}/{weights.file_name}" if base else weights.url
    if message := _failures.get((url, target)):
        raise _unavailable(weights, url, target, message)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not (target.is_file() and sha256_of(target) == weights.sha256):
                _download(weights, url, target, report)
    except (OSError, HTTPException, ValueError) as error:
        message = str(error) or type(error).__name__
        if not isinstance(error, urllib.error.URLError) and system_error(error) in NO_WRITING:
            message = str(unwritable(target, error, weights.size_bytes)).rstrip(".")
        _failures[url, target] = message
        raise _unavailable(weights, url, target, _failures[url, target]) from error
    return target


def _download(weights: WeightFile, url: str, target: Path, report: Report) -> None:
    """Fetch into a ``.part`` file, going on where a cut connection left off, and rename it once it is verified."""
    target.unlink(missing_ok=True)  # what lies there is not the right file
    part, most, left = target.with_name(f"{target.name}.part"), 0, ATTEMPTS
    while left:
        left -= 1
        resumed = part.is_file()
        try:
            _fetch(url, part, weights.size_bytes, report)
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not left:
                raise
            part.unlink(missing_ok=True)
        except (ConnectionError, HTTPException):
            if part.is_file() and part.stat().st_size > most:  # cut again, but further on than ever
                most, left = part.stat().st_size, ATTEMPTS
            if not left:
                raise
        else:
            if sha256_of(part) == weights.sha256:
                part.replace(target)
                return
            found = _identity(part)
            part.unlink()
            if not (resumed and left):  # else the part was of another file, and a whole one may be right
                expected = f"SHA-256 {weights.sha256} and {weights.size_bytes} bytes"
                raise ValueError(f"a file with {found} instead of {expected}")


def _fetch(url: str, part: Path, size_bytes: int, report: Report) -> None:
    """Append to the part file what it lacks; at most one byte more than ``size_bytes`` is ever kept."""
    have = part.stat().st_size if part.is_file() else 0
    import urllib.request  # here, since most commands fetch nothing

    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    response: HTTPResponse
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        resumed = have > 0 and response.status == HTTPStatus.PARTIAL_CONTENT
        have = have if resumed else 0
        with part.open("ab" if resumed else "wb") as file:
            while have <= size_bytes and (chunk := response.read(min(CHUNK_BYTES, size_bytes + 1 - have))):
                have += file.write(chunk)
                report(have)
        untold = response.length is None and not response.chunked  # as long as the connection stays
        if have <= size_bytes and (response.length or (untold and have < size_bytes)):
            raise IncompleteRead(b"", size_bytes - have)


def _identity(path: Path) -> str:
    return f"SHA-256 {sha256_of(path)} and {path.stat().st_size} bytes"


def _wrong_file(path: Path, weights: WeightFile) -> WeightsError:
    return WeightsError(
        f"{path} is not {weights.name}'s weight file",
        got=_identity(path),
        expected=f"SHA-256 {weights.sha256} and {weights.size_bytes} bytes",
        fix=f"Delete it, and fetch it again from {weights.url}",
    )


def _unavailable(weights: WeightFile, url: str, target: Path, message: str) -> WeightsError:
    return WeightsError(
        f"cannot download {weights.name}'s weight file from {url}",
        got=message,
        fix=f"Put {weights.file_name} into {target.parent}, or into a folder of your own and set {FOLDER_VARIABLE} "
        f"to that folder, or set {ADDRESS_VARIABLE} to a mirror",
    )
