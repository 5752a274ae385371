"""How long the default package takes to install once all is downloaded, and how large its own wheel is.

    python benchmarks/installing.py [--keep FOLDER] [--constraints constraints.txt]

The wheel is built from a copy of the source, all that it needs is downloaded into a folder (``--keep`` reuses it), and
pip then installs from there, without an index, into fresh virtual environments: all of it; with torch there before; and
without byte code (``--no-compile``), where the first start writes it. Bars: the wheel's size, and the time, torch among
it. Then what the environment holds by package, and what would go with each of some direct dependencies if that were
optional: MiB, the files that byte code is written for, and how long writing it takes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import bar

ROOT = Path(__file__).resolve().parents[1]
WHEEL_MIB, INSTALL_S = 12.0, 60.0
LARGEST = 10
LIKELY = ("lightning", "transformers", "pandas", "plotly", "tensorboardX", "matplotlib", "pyarrow", "scipy", "rich")

SHARES = """
import compileall, importlib.metadata as metadata, json, pathlib, re, sys, tempfile, time
from pip._vendor.packaging.markers import Marker

def norm(name):
    return re.sub(r"[-_.]+", "-", name).lower()

kept, needs, files = {}, {}, {}
for own in metadata.distributions():
    name = norm(own.metadata["Name"])
    paths = [pathlib.Path(own.locate_file(file)) for file in own.files or ()]
    paths = [path for path in paths if path.suffix != ".pyc" and path.is_file()]
    kept[name], files[name] = sum(path.stat().st_size for path in paths) / 2**20, paths
    needs[name] = set()
    for line in own.requires or ():
        needed, _, condition = line.partition(";")
        if not condition.strip() or Marker(condition.strip()).evaluate({"extra": ""}):
            needs[name].add(norm(re.match(r"[\\w.-]+", needed).group()))

def reached(without):
    found, left = set(), ["reactometer"]
    while left:
        name = left.pop()
        if name in found or name not in kept or name == without:
            continue
        found.add(name)
        left += needs[name]
    return found

everything, told = reached(None), {}
for name in sorted(needs["reactometer"]):
    gone = everything - reached(name)
    sources = [path for one in gone for path in files[one] if path.suffix == ".py"]
    started = time.perf_counter()
    if name in sys.argv[1:]:
        for path in sources:
            with tempfile.NamedTemporaryFile() as out:
                try:
                    import py_compile; py_compile.compile(str(path), cfile=out.name + "c", quiet=2)
                    pathlib.Path(out.name + "c").unlink()
                except (OSError, ValueError):
                    pass
    seconds = time.perf_counter() - started
    told[name] = [sum(kept[one] for one in gone), len(sources), seconds, sorted(gone - {name})]
print(json.dumps({"sizes": kept, "shares": told}))
"""
"""Run by the environment's own Python: the size of every package in it; what each direct dependency alone brings."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="a folder for what is downloaded; used again if it is there")
    parser.add_argument("--constraints", type=Path, default=ROOT / "constraints.txt")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build_wheel(folder)
        size_mib = wheel.stat().st_size / 2**20
        bar("the project's own wheel, MiB", size_mib, WHEEL_MIB, at_most=True)
        downloads = asked.keep or folder / "downloads"
        downloads.mkdir(parents=True, exist_ok=True)
        _pip(Path(sys.executable), "download", "-q", "-d", downloads, "-c", asked.constraints, wheel)
        total_mib = sum(path.stat().st_size for path in downloads.iterdir()) / 2**20
        print(f"downloaded: {len(list(downloads.iterdir()))} files, {total_mib:.0f} MiB")
        install(folder, wheel, downloads, asked.constraints)


def build_wheel(folder: Path) -> Path:
    """The wheel, built from a copy, so that nothing is left beside the source."""
    copy = folder / "source"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    _pip(Path(sys.executable), "wheel", "-q", "--no-deps", "-w", folder / "wheel", copy)
    (wheel,) = (folder / "wheel").glob("*.whl")
    return wheel


def install(folder: Path, wheel: Path, downloads: Path, constraints: Path) -> None:
    """Time it in each way, and print the bar of the plain one and the environment's largest packages."""
    index = ("--no-index", "--find-links", downloads, "-c", constraints)
    seconds: dict[str, float] = {}
    whole = _environment(folder / "whole")
    seconds["all, torch among it"] = _pip(whole, "install", "-q", *index, wheel)
    second = _environment(folder / "second")
    seconds["torch alone"] = _pip(second, "install", "-q", *index, "torch")
    seconds["all, torch there before"] = _pip(second, "install", "-q", *index, wheel)
    shutil.rmtree(folder / "second")
    bare = _environment(folder / "bare")
    seconds["all, without byte code (--no-compile)"] = _pip(bare, "install", "-q", "--no-compile", *index, wheel)
    program = bare.with_name("reactometer")
    seconds["its first `reactometer --help`"] = _timed(program, "--help")
    seconds["its second"] = _timed(program, "--help")
    seconds["byte code for all of it, in all processes"] = _timed(
        bare, "-m", "compileall", "-q", "-j", "0", bare.parents[1] / "lib"
    )
    shutil.rmtree(folder / "bare")
    print("\n| installed from files that are here | s |\n| --- | --- |")
    print("\n".join(f"| {what} | {value:.1f} |" for what, value in seconds.items()))
    print()
    bar("install of the default package, torch among it, s", seconds["all, torch among it"], INSTALL_S, at_most=True)
    bar("install, torch there before, s", seconds["all, torch there before"], INSTALL_S, at_most=True)
    _print_sizes(whole)


def _print_sizes(python: Path) -> None:
    names = [name.lower() for name in LIKELY]
    done = subprocess.run([python, "-c", SHARES, *names], check=True, capture_output=True, text=True)
    told = json.loads(done.stdout)
    sizes = sorted(told["sizes"].items(), key=lambda pair: pair[1], reverse=True)
    print(f"\n{len(sizes)} packages, {sum(told['sizes'].values()):.0f} MiB without byte code; the largest:\n")
    print("| | MiB |\n| --- | --- |")
    print("\n".join(f"| {name} | {mib:.0f} |" for name, mib in sizes[:LARGEST]))
    print("\n| without | fewer MiB | fewer Python files | their byte code, s | goes with it |\n" + "| --- " * 5 + "|")
    for name in names:
        if name in told["shares"]:
            mib, count, seconds, gone = told["shares"][name]
            print(f"| {name} | {mib:.0f} | {count} | {seconds:.1f} | {', '.join(gone)} |")


def _environment(folder: Path) -> Path:
    """A fresh virtual environment; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder / "bin" / "python"


def _pip(python: Path, *arguments: str | Path) -> float:
    return _timed(python, "-m", "pip", "--disable-pip-version-check", *arguments)


def _timed(program: Path, *arguments: str | Path) -> float:
    """Seconds of a command. Raises RuntimeError with its last words where it fails."""
    apart = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    started_s = time.perf_counter()
    done = subprocess.run([program, *arguments], capture_output=True, text=True, env=apart, check=False)
    if done.returncode and "compileall" not in arguments:  # some packages bring files of other Pythons
        raise RuntimeError(f"{arguments[:4]}: {done.stderr.strip()[-300:]}")
    return time.perf_counter() - started_s


if __name__ == "__main__":
    main()
