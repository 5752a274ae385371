"""What is read again is as it was written, or an error says that it is damaged."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

from reactometer.errors import ReactometerError

SEAL = "seal"
"""What a sealed text calls the SHA-256 of all else that it says."""


def seal(about: Mapping[str, Any]) -> str:
    """An object as JSON that says of itself whether it is as it was written; see :func:`unseal`."""
    return json.dumps({**about, SEAL: _digest(about)}, indent=2) + "\n"


def unseal(text: str | bytes) -> dict[str, Any]:
    """What :func:`seal` was given; a text without a seal, as earlier versions wrote them, is taken as it is.

    Raises:
        ValueError: not JSON, no object, or not as it was written.
    """
    try:
        about = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(about, dict):
        raise ValueError("no JSON object")
    if SEAL in about and about.pop(SEAL) != _digest(about):
        raise ValueError("not as it was written")
    return about


@contextmanager
def told_of(what: object, kind: type[ReactometerError], fix: str) -> Iterator[None]:
    """Whatever a reader stumbles over in damaged contents is raised as an error of this kind, which names them."""
    try:
        yield
    except ReactometerError:
        raise
    except Exception as error:  # NumPy, pandas, pyarrow, json and our own indexing have many kinds
        raise kind(f"{what}: damaged: {type(error).__name__}: {str(error)[:200]}", fix=fix) from error


def _digest(about: Mapping[str, Any]) -> str:
    return sha256(json.dumps(json.loads(json.dumps(about)), sort_keys=True).encode()).hexdigest()
