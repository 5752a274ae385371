"""Real faults for the tests: a full disk, a read-only disk, a user without rights."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Fill = Callable[..., Path]


def _mounted(folder: Path, *options: str) -> Iterator[Path]:
    folder.mkdir()
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A separate disk of 12 MiB, in memory."""
    yield from _mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=12m", "none")


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """An empty disk that nobody can write, root neither."""
    yield from _mounted(tmp_path / "read-only", "-t", "tmpfs", "-o", "size=64k,ro", "none")


@pytest.fixture
def fill() -> Fill:
    """Fills a disk up to some bytes: ``fill(disk, free_bytes)`` -> the file to delete for room."""

    def fill(disk: Path, free_bytes: int = 0) -> Path:
        filler = disk / "filler"
        filler.write_bytes(bytes(shutil.disk_usage(disk).free - free_bytes))
        return filler

    return fill


@pytest.fixture
def as_nobody() -> list[str]:
    """Return a prefix that runs a command as a user without name or rights, who can read all files."""
    if os.getuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("only root can become somebody else, by util-linux's setpriv")
    may = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    return ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", *may]
