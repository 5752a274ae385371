"""Weights by name, as they are on this machine: where each file lies, what is known of it, and how to get it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reactometer.console import download_bar
from reactometer.errors import ConfigError, ReactometerError, WeightsError, suggestion
from reactometer.io import parse_json_object, sha256_of
from reactometer.models.pretrained import ENCODER_CONFIG, ENCODER_FILES, ENCODER_WEIGHTS, PRETRAINED
from reactometer.paths import OFFLINE, STARTER, WEIGHT_FILES, find_weights, offline_folder, places

HUB_CACHE, PACKAGE, NOWHERE = "Hugging Face cache", "in the package", "not here"
MANIFEST = "manifest.json"
"""In a bundle: every file's SHA-256, size, source and licence."""

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
UNKNOWN_LICENCE = "see its model card"


@dataclass(frozen=True)
class Held:
    """Weights of one name: what is known of them, and their files on this machine, if they are here."""

    name: str
    licence: str
    source: str
    place: str = NOWHERE  # OFFLINE, CACHE, HUB_CACHE, PACKAGE or NOWHERE
    files: tuple[Path, ...] = ()
    size_bytes: int | None = None  # of all files; None: not known, since they are not here
    sha256: str | None = None  # of the weights themselves, as it should be; None: nothing on this machine says it

    @property
    def folder(self) -> str:
        """Where an encoder's files go in a folder of weights: ``<owner>--<name>``; empty for a single file."""
        return self.name.replace("/", "--") if "/" in self.name else ""


def known_names() -> list[str]:
    """Every name that is listed: our own files, the well-known encoders, and those of the offline folder."""
    offline = offline_folder()
    folders = sorted(path.parent.name for path in offline.glob(f"*--*/{ENCODER_CONFIG}")) if offline else []
    others = [name for name in (folder.replace("--", "/", 1) for folder in folders) if REPOSITORY.fullmatch(name)]
    return list(dict.fromkeys([*WEIGHT_FILES, *PRETRAINED, *others]))


def list_weights() -> list[Held]:
    """All weights of :func:`known_names`; no network is asked."""
    return [find_held(name) for name in known_names()]


def shipped() -> Held:
    """The starter model, which is part of the package: nothing to fetch, and nothing to carry."""
    from reactometer.models.folder import DESCRIPTION_FILE, WEIGHTS_FILE

    file = STARTER / WEIGHTS_FILE
    digest = json.loads((STARTER / DESCRIPTION_FILE).read_text(encoding="utf-8"))["sha256"][WEIGHTS_FILE]
    licence = f"see {STARTER / 'README.md'}"
    return Held("starter", licence, "trained by this project", PACKAGE, (file,), file.stat().st_size, digest)


def find_held(name: str) -> Held:
    """What is known of a name, and where its files are on this machine; no network is asked.

    Args:
        name: of ``WEIGHT_FILES``, or an encoder's on the Hugging Face Hub, ``owner/name``.

    Raises:
        ConfigError: it is neither.
    """
    if name in WEIGHT_FILES:
        return _file(name)
    if name in PRETRAINED or REPOSITORY.fullmatch(name):
        return _encoder(name)
    raise ConfigError("unknown weights", got=repr(name), fix=suggestion(name, known_names()))


def fetch(names: Sequence[str]) -> tuple[list[Held], list[str]]:
    """Get weights onto this machine, unless they are here: single files checked by SHA-256, encoders from the Hub.

    Args:
        names: as :func:`find_held` takes them; all are looked at before anything is fetched.

    Returns:
        Those that are here now, and a message for each that cannot be had.

    Raises:
        ConfigError: an unknown name.
    """
    fetched, failed = [], []
    for held in [find_held(name) for name in names]:
        try:
            fetched.append(fetch_one(held))
        except ReactometerError as error:
            failed.append(str(error))
    return fetched, failed


def fetch_one(held: Held) -> Held:
    """Get the weights of one name; a cut download never lies there as a whole file, and goes on where it stopped.

    An encoder's goes on within one call only: stopped altogether, its files that are whole stay, the others begin anew.

    Raises:
        WeightsError: they cannot be had, or what lies there is not what it should be.
    """
    if held.name in WEIGHT_FILES:
        size_bytes = WEIGHT_FILES[held.name].size_bytes
        with download_bar(held.name, size_bytes, show=not held.files) as report:
            find_weights(held.name, report)
    elif held.place != OFFLINE and (not held.files or _drop_damaged(held)):
        _fetch_encoder(held.name)
    return find_held(held.name)


def _fetch_encoder(name: str) -> None:
    """Get an encoder's files into Hugging Face's cache, and check them."""
    from reactometer.models.hub import download

    folder = download(name, ENCODER_FILES)
    if not (folder / ENCODER_WEIGHTS).is_file():
        raise WeightsError(
            f"'{name}' on the Hugging Face Hub has no {ENCODER_WEIGHTS}",
            fix="No pickle is read. Save it elsewhere with transformers' save_pretrained, and put that folder into "
            f"$REACTOMETER_WEIGHTS as {name.replace('/', '--')}",
        )
    if damaged := _drop_damaged(find_held(name)):
        raise WeightsError(f"'{name}' did not come as it is on the Hub", got="; ".join(damaged), fix="Try again")


def _drop_damaged(held: Held) -> list[str]:
    """Delete those of an encoder's files in Hugging Face's cache that are damaged; returns what was wrong with each."""
    damaged = {file: problem for file in held.files if (problem := problem_of(file, digest_of(held, file)))}
    for file in damaged:
        file.resolve().unlink()
        file.unlink(missing_ok=True)
    return [f"{file.name}: {problem}" for file, problem in damaged.items()]


def digest_of(held: Held, file: Path) -> str | None:
    """What a file of these weights should hash to, SHA-256 or git's SHA-1; None where nothing on this machine says it.

    A bundle's manifest says it, and Hugging Face's cache: its files are named after it, large ones after their SHA-256.
    """
    if not held.folder:
        return held.sha256
    if held.place == OFFLINE:
        return _manifest_digest(file)
    blob = file.resolve()
    return blob.name if blob.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name) else None


def problem_of(file: Path, digest: str | None) -> str:
    """What is wrong with a file that is to hash to ``digest``, or only to open where that is None; "" for nothing."""
    if digest is None:
        return _unreadable(file)
    kind, got = ("SHA-256", sha256_of(file)) if len(digest) == 64 else ("SHA-1", _git_sha1(file))
    return "" if got == digest else f"its {kind} is {got}, not {digest}"


def read_manifest(text: str) -> dict[str, dict[str, Any]]:
    """The files of a bundle by their path in it: name, sha256, size_bytes, licence, source.

    Raises:
        ValueError: not a manifest.
    """
    files = parse_json_object(text).get("files")
    if not isinstance(files, dict) or not all(
        isinstance(about, dict) and isinstance(about.get("sha256"), str) for about in files.values()
    ):
        raise ValueError("not a list of files with their SHA-256")
    return files


def _file(name: str) -> Held:
    weights = WEIGHT_FILES[name]
    for place, path in places(name).items():
        if path.is_file() and (place == OFFLINE or sha256_of(path) == weights.sha256):
            return Held(name, weights.licence, weights.source, place, (path,), path.stat().st_size, weights.sha256)
    return Held(name, weights.licence, weights.source, size_bytes=weights.size_bytes, sha256=weights.sha256)


def _encoder(name: str) -> Held:
    known = PRETRAINED.get(name)
    licence = known.licence if known else UNKNOWN_LICENCE
    source = f"huggingface.co/{name}" + (f", {known.pretrained_on}" if known else "")
    place, folder = _encoder_folder(name)
    if folder is None:
        return Held(name, licence, source)
    files = tuple(sorted({file for pattern in ENCODER_FILES for file in folder.glob(pattern)}))
    held = Held(name, licence, source, place, files, sum(file.stat().st_size for file in files))
    return replace(held, sha256=digest_of(held, folder / ENCODER_WEIGHTS))


def _encoder_folder(name: str) -> tuple[str, Path | None]:
    """Where an encoder is, found as a model's configuration finds it."""
    from huggingface_hub import try_to_load_from_cache

    offline = offline_folder()
    if offline and (offline / name.replace("/", "--") / ENCODER_CONFIG).is_file():
        return OFFLINE, offline / name.replace("/", "--")
    try:
        cached = [try_to_load_from_cache(name, file) for file in (ENCODER_CONFIG, ENCODER_WEIGHTS)]
    except ValueError as error:  # how the Hub's client refuses a name, and says why
        raise ConfigError(f"no repository on the Hub has this name: {error}", expected="OWNER/NAME") from error
    if all(isinstance(path, str) for path in cached):
        return HUB_CACHE, Path(str(cached[0])).parent
    return NOWHERE, None


def _manifest_digest(file: Path) -> str | None:
    """SHA-256 of an encoder's file in the offline folder, from the manifest there, if there is one."""
    try:
        files = read_manifest((file.parent.parent / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(files[path]["sha256"]) if (path := f"{file.parent.name}/{file.name}") in files else None


def _git_sha1(file: Path) -> str:
    from hashlib import sha1

    content = file.read_bytes()
    return sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _unreadable(file: Path) -> str:
    """Why a file cannot be what its ending says, where nothing says what it should hash to."""
    from safetensors import SafetensorError, safe_open

    try:
        if file.suffix == ".safetensors":
            with safe_open(file, "numpy"):
                return ""
        json.loads(file.read_text(encoding="utf-8"))
    except (SafetensorError, ValueError, OSError) as error:
        return str(error)
    return ""
