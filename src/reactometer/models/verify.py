"""Is every weight file what it should be? SHA-256 of those on this machine, of a bundle, of a model folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import IO
from zipfile import BadZipFile, ZipFile
from zlib import error as ZlibError

from reactometer.errors import ModelError, WeightsError
from reactometer.models.folder import DESCRIPTION_FILE, load_model
from reactometer.models.pretrained import ENCODER_WEIGHTS
from reactometer.models.store import MANIFEST, digest_of, list_weights, problem_of, read_manifest
from reactometer.paths import STARTER, WEIGHT_FILES, offline_folder, places

DAMAGED_ZIP = (BadZipFile, ZlibError, RuntimeError)
"""How a member of a zip cannot be read: damaged, packed in an unknown way, encrypted."""


@dataclass(frozen=True)
class Checked:
    """A file, or a whole model folder, that was looked at."""

    path: str
    problem: str = ""  # empty: none
    compared: bool = True  # False: it opens, but nothing says what its SHA-256 should be


def verify(target: Path | str | None = None) -> list[Checked]:
    """Compare weight files with what they should hash to.

    Args:
        target: a bundle (a folder or a zip), or a model folder; default: all weights on this machine, the starter
            model of the package first.

    Raises:
        WeightsError: the target is neither.
        ModelError: it is a folder, but no model folder.
    """
    if target is None:
        return list({checked.path: checked for checked in _machine()}.values())
    target = Path(target)
    if target.suffix == ".zip" and target.is_file():
        return list(_zip(target))
    if (target / MANIFEST).is_file():
        return list(_folder(target))
    return [_model(target)]


def _machine() -> Iterator[Checked]:
    yield _model(STARTER)
    for name, weights in WEIGHT_FILES.items():
        for path in places(name).values():
            if path.is_file():
                yield Checked(str(path), problem_of(path, weights.sha256))
    offline = offline_folder()
    if offline and (offline / MANIFEST).is_file():
        yield from _folder(offline)
    for held in list_weights():
        if held.folder and held.files:
            if all(file.name != ENCODER_WEIGHTS for file in held.files):
                yield Checked(str(held.files[0].parent / ENCODER_WEIGHTS), "it is not there")
            for file in held.files:
                digest = digest_of(held, file)
                yield Checked(str(file), problem_of(file, digest), digest is not None)


def _folder(folder: Path) -> Iterator[Checked]:
    return _compare(folder, lambda path: (folder / path).open("rb"))


def _zip(file: Path) -> Iterator[Checked]:
    try:
        with ZipFile(file) as archive:
            yield from _compare(file, archive.open)
    except BadZipFile as error:
        yield Checked(str(file), str(error))


def _compare(where: Path, open_file: Callable[[str], IO[bytes]]) -> Iterator[Checked]:
    """Every file that a bundle's manifest names, against its SHA-256 there."""
    try:
        with open_file(MANIFEST) as stream:
            files = read_manifest(stream.read().decode("utf-8"))
    except (OSError, KeyError, ValueError, *DAMAGED_ZIP) as error:
        yield Checked(str(where / MANIFEST), f"not a bundle's manifest: {error}")
        return
    for path, about in files.items():
        try:
            with open_file(path) as stream:
                got = file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
        except (FileNotFoundError, KeyError):
            yield Checked(str(where / path), "it is not there")
        except (OSError, *DAMAGED_ZIP) as error:
            yield Checked(str(where / path), str(error))
        else:
            problem = "" if got == about["sha256"] else f"its SHA-256 is {got}, not {about['sha256']}"
            yield Checked(str(where / path), problem)


def _model(folder: Path) -> Checked:
    """A model folder as a whole: it loads, and its weights are those that it names."""
    if not folder.is_dir():
        raise WeightsError(
            f"{folder}: {'neither a model folder nor a bundle' if folder.exists() else 'no such file or folder'}",
            fix="Give a model folder, or the folder or .zip that 'reactometer weights bundle' wrote",
        )
    try:
        load_model(folder, "cpu")
    except ModelError as error:
        if (folder / DESCRIPTION_FILE).is_file():
            return Checked(str(folder), str(error))
        raise
    return Checked(str(folder))
