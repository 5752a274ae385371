"""Weights for a machine without a network: a folder, or a zip of it, that ``REACTOMETER_WEIGHTS`` takes as it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

from reactometer.errors import WeightsError
from reactometer.io import appearing, refuse_existing, replacing, sha256_of
from reactometer.models.pretrained import ENCODER_WEIGHTS
from reactometer.models.store import (
    HUB_CACHE,
    MANIFEST,
    Held,
    digest_of,
    fetch_one,
    find_held,
    list_weights,
    problem_of,
)

LICENCES = "LICENCES.md"
FORMAT = 1


def bundle(out: Path | str, names: Sequence[str] = ()) -> list[Held]:
    """Write weights with their SHA-256, sources and licences where a machine without a network can take them.

    Args:
        out: a folder, or a ``.zip`` file, that does not exist yet; it appears whole or not at all.
        names: which weights; what is not here is fetched. Default: all that is on this machine.

    Raises:
        ConfigError: an unknown name.
        WeightsError: a file cannot be had, or is damaged, or nothing is here.
        OutputError: ``out`` exists.
    """
    out = Path(out)
    refuse_existing(out)
    chosen = [find_held(name) for name in dict.fromkeys(names)] or [held for held in list_weights() if held.files]
    if not chosen:
        raise WeightsError("no weights are on this machine", fix="Name what to fetch, such as 'yunet'")
    chosen = [fetch_one(held) for held in chosen]
    sources = {path: (held, file) for held in chosen for path, file in _layout(held).items()}
    about = {path: _describe(held, file) for path, (held, file) in sources.items()}
    texts = {MANIFEST: _manifest(about), LICENCES: _licences(chosen)}
    write = _write_zip if out.suffix == ".zip" else _write_folder
    write(out, {path: file for path, (_, file) in sources.items()}, texts)
    return chosen


def _layout(held: Held) -> dict[str, Path]:
    """Path in the bundle -> file on this machine."""
    if held.folder and not any(file.name == ENCODER_WEIGHTS for file in held.files):
        raise WeightsError(f"{held.files[0].parent}: no {ENCODER_WEIGHTS} in it", fix="Delete the folder, and fetch it")
    return {f"{held.folder}/{file.name}".lstrip("/"): file for file in held.files}


def _describe(held: Held, file: Path) -> dict[str, Any]:
    """What the manifest says of a file, which is looked at first: a damaged one is not handed on."""
    if problem := problem_of(file, digest_of(held, file)):
        raise WeightsError(
            f"{file} is damaged: {problem}", fix=f"Delete it, then 'reactometer weights fetch {held.name}'"
        )
    about = {"name": held.name, "sha256": sha256_of(file), "size_bytes": file.stat().st_size}
    revision = {"revision": file.parent.name} if held.place == HUB_CACHE else {}
    return {**about, "licence": held.licence, "source": held.source, **revision}


def _manifest(files: Mapping[str, Mapping[str, Any]]) -> str:
    return json.dumps({"format": FORMAT, "reactometer": version("reactometer"), "files": files}, indent=2) + "\n"


def _licences(chosen: Sequence[Held]) -> str:
    rows = [f"| {held.name} | {held.licence} | {held.source} |" for held in chosen]
    return "\n".join(
        [
            "# Licences of these weights",
            "",
            "Each belongs to whom it comes from, and keeps its own licence; `manifest.json` has every file's SHA-256.",
            "",
            "| weights | licence | source |",
            "| --- | --- | --- |",
            *rows,
            "",
            "Use them with `REACTOMETER_WEIGHTS` set to this folder (unpacked, if it came as a zip);",
            "`reactometer weights verify FOLDER` checks them.",
            "",
        ]
    )


def _write_folder(out: Path, files: Mapping[str, Path], texts: Mapping[str, str]) -> None:
    with appearing(out) as partial:
        for path, file in files.items():
            (partial / path).parent.mkdir(exist_ok=True)
            shutil.copyfile(file, partial / path)
        for path, text in texts.items():
            (partial / path).write_text(text, encoding="utf-8")


def _write_zip(out: Path, files: Mapping[str, Path], texts: Mapping[str, str]) -> None:
    with replacing(out) as partial, ZipFile(partial, "w", ZIP_STORED) as archive:  # weights do not get smaller
        for path, file in files.items():
            archive.write(file, path)
        for path, text in texts.items():
            archive.writestr(path, text)
