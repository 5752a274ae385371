"""Measure how long the downloaded default package takes to install, and its size on disk.

    python benchmarks/installing.py [--keep FOLDER] [--constraints constraints.txt]

The wheel is built from a copy of the source, its dependencies are downloaded into a folder (``--keep`` reuses
it), and pip installs from there, without an index, into fresh virtual environments: with byte code; and
without (``--no-compile``), when the first start writes it. Bars: the wheel's size, the time, and the size on
disk of all packages with their byte code, without pip and setuptools. Then the largest packages.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import bar

ROOT = Path(__file__).resolve().parents[1]
WHEEL_MIB, INSTALL_S, DISK_MIB = 0.5, 20.0, 520.0
LARGEST = 10
TOOLS = ("pip", "setuptools", "pkg_resources", "_distutils_hack")
"""Packages that ``venv`` puts into an environment."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", type=Path, help="folder of the downloads; reused if it exists")
    parser.add_argument("--constraints", type=Path, default=ROOT / "constraints.txt")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build_wheel(folder)
        size_mib = wheel.stat().st_size / 2**20
        bar("the project's wheel, MiB", size_mib, WHEEL_MIB, at_most=True)
        downloads = options.keep or folder / "downloads"
        downloads.mkdir(parents=True, exist_ok=True)
        _pip(Path(sys.executable), "download", "-q", "-d", downloads, "-c", options.constraints, wheel)
        total_mib = sum(path.stat().st_size for path in downloads.iterdir()) / 2**20
        print(f"downloaded: {len(list(downloads.iterdir()))} files, {total_mib:.0f} MiB")
        install(folder, wheel, downloads, options.constraints)


def build_wheel(folder: Path) -> Path:
    """Build the wheel from a copy of the source, which leaves the source unchanged."""
    copy = folder / "source"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    _pip(Path(sys.executable), "wheel", "-q", "--no-deps", "-w", folder / "wheel", copy)
    (wheel,) = (folder / "wheel").glob("*.whl")
    return wheel


def install(folder: Path, wheel: Path, downloads: Path, constraints: Path) -> None:
    """Time the installation with and without byte code; print the bars and the largest packages."""
    index = ("--no-index", "--find-links", downloads, "-c", constraints)
    bare = _environment(folder / "bare")
    seconds = {"without byte code (--no-compile)": _pip(bare, "install", "-q", "--no-compile", *index, wheel)}
    seconds["its first `reactometer --help`"] = _timed(bare.with_name("reactometer"), "--help")
    seconds["its second"] = _timed(bare.with_name("reactometer"), "--help")
    shutil.rmtree(folder / "bare")
    whole = _environment(folder / "whole")
    seconds["with byte code"] = _pip(whole, "install", "-q", *index, wheel)
    print("\n| installed from local files | s |\n| --- | --- |")
    print("\n".join(f"| {step} | {value:.1f} |" for step, value in seconds.items()))
    print()
    bar("install of the default package, s", seconds["with byte code"], INSTALL_S, at_most=True)
    (packages,) = (whole.parents[1] / "lib").glob("python*/site-packages")
    sizes = {
        path.name: _size_mib(path) for path in packages.iterdir() if path.name.split("-")[0] not in TOOLS
    }
    bar("size on disk, MiB", sum(sizes.values()), DISK_MIB, at_most=True)
    largest = sorted(sizes.items(), key=lambda pair: pair[1], reverse=True)[:LARGEST]
    print("\n| the largest | MiB |\n| --- | --- |")
    print("\n".join(f"| {name} | {mib:.0f} |" for name, mib in largest))


def _size_mib(path: Path) -> float:
    """Return the size on disk in MiB, as ``du`` counts it."""
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    return sum(file.lstat().st_blocks for file in files) * 512 / 2**20


def _environment(folder: Path) -> Path:
    """Create a fresh virtual environment; return its Python."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder / "bin" / "python"


def _pip(python: Path, *arguments: str | Path) -> float:
    return _timed(python, "-m", "pip", "--disable-pip-version-check", *arguments)


def _timed(program: Path, *arguments: str | Path) -> float:
    """Run a command and return its seconds; raise RuntimeError with the end of its errors if it fails."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    start_s = time.perf_counter()
    done = subprocess.run([program, *arguments], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{arguments[:4]}: {done.stderr.strip()[-300:]}")
    return time.perf_counter() - start_s


if __name__ == "__main__":
    main()
