"""Texts that say of themselves whether they are as they were written, and what reading a damaged archive raises."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from hashlib import sha256
from typing import Any
from zipfile import BadZipFile

DAMAGED_ZIP = (OSError, LookupError, ValueError, EOFError, RuntimeError, struct.error, zlib.error, BadZipFile)
"""What reading a zip archive (such as NumPy's and PyTorch's files) raises where a bit or the end of it is not right."""

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


def _digest(about: Mapping[str, Any]) -> str:
    return sha256(json.dumps(json.loads(json.dumps(about)), sort_keys=True).encode()).hexdigest()
