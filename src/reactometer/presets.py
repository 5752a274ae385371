"""Configurations that come with the package, by their names; and defaults that help texts show before any is read."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from reactometer.errors import ConfigError, suggestion

DETECTOR: Final = "auto"
RATE_HZ, SIZE_PX = 6.0, 224
"""Of :class:`reactometer.config.PrepareConfig`."""

FOLDER = Path(__file__).with_name("configs")


def find_config(name: Path | str) -> Path:
    """A TOML file by its path, or by its name one that comes with the package: ``resnet50``, ``small/resnet50``.

    Raises:
        ConfigError: neither is there.
    """
    if (path := Path(name)).is_file():
        return path
    known = {file.relative_to(FOLDER).with_suffix("").as_posix(): file for file in sorted(FOLDER.rglob("*.toml"))}
    if (found := known.get(path.as_posix())) is None:
        fix = f"Give the path of a TOML file, or the name of one inside the package. {suggestion(path.stem, known)}"
        raise ConfigError(f"{path}: no such configuration file", fix=fix)
    return found
