"""Build the package and install it into separate environments, as a user would.

From the package index, with the versions of constraints.txt, and outside the checkout. A Python that is not
on this machine, and that uv cannot fetch, is skipped with a reason that names it; the one that runs the tests
is always tested.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGE = ROOT / "src" / "reactometer"
STARTER_PACKAGE = ROOT / "starter" / "reactometer_starter"

RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"
PYTHONS: list[str] = [
    line.rsplit(" ", 1)[1] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)
]
TAGGED = "9.9.9"
LONGEST_S = 600

BIN = Path(sys.executable).parent
PINS = ("--constraint", ROOT / "constraints.txt")

Run = Callable[..., str]
Install = Callable[[str], Path]
InstallExtra = Callable[[str, str], Path]
Test = TypeVar("Test", bound=Callable[..., None])


def variables_outside() -> dict[str, str]:
    """Return this machine's variables without those of the checkout; uv uses the package index of pip."""
    variables = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")
    }
    for name, pips, join in (
        ("UV_DEFAULT_INDEX", "PIP_INDEX_URL", " "),
        ("UV_INDEX", "PIP_EXTRA_INDEX_URL", " "),
        ("UV_FIND_LINKS", "PIP_FIND_LINKS", ","),
    ):
        if pips in variables:
            variables.setdefault(name, join.join(variables[pips].split()))
    return variables


def run(*command: object, cwd: Path, status: int = 0, **variables: str) -> str:
    """Run a command to its end, and hold its exit status against the one wanted; all that it printed."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=variables_outside() | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )
    assert done.returncode == status, (
        f"{' '.join(map(str, command))}: {done.returncode}\n{done.stdout[-4000:]}"
    )
    return done.stdout


@pytest.fixture(scope="session")
def room() -> Iterator[Path]:
    """A folder for gigabytes, gone when the tests are done; uv's cache lies in it, and environments link into
    that."""
    with tempfile.TemporaryDirectory(prefix="reactometer-release-") as name:
        yield Path(name)


@pytest.fixture(scope="session")
def uv(room: Path) -> Run:
    """Runs uv with a cache that is empty at first."""

    def uv(*arguments: object, cwd: Path = room, status: int = 0) -> str:
        variables = {"UV_CACHE_DIR": str(room / "cache"), "UV_PYTHON_INSTALL_DIR": str(room / "pythons")}
        return run(BIN / "uv", *arguments, cwd=cwd, status=status, **variables)

    return uv


def git(folder: Path, *arguments: object) -> None:
    identity = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org", "-c", "commit.gpgsign=false")
    run("git", *identity, *arguments, cwd=folder)


def commit(folder: Path, message: str) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", message)


@pytest.fixture(scope="session")
def source(room: Path) -> Path:
    """A repository of this checkout's files as they are now, with the tag v9.9.9 on its only commit."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    folder = room / "source"
    for name in filter(None, names):
        if (ROOT / name).is_file() or (ROOT / name).is_symlink():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name, follow_symlinks=False)
    git(folder, "init", "--quiet")
    commit(folder, "all of it")
    git(folder, "tag", f"v{TAGGED}")
    return folder


def build(uv: Run, source: Path, out: Path, *options: str) -> list[Path]:
    uv("build", "--quiet", *options, "--build-constraint", ROOT / "constraints.txt", "--out-dir", out, source)
    return [*out.glob("*.tar.gz"), *out.glob("*.whl")]


@pytest.fixture(scope="session")
def built(uv: Run, source: Path, room: Path) -> tuple[Path, Path]:
    """The source distribution, and the wheel that was built from it and from nothing else."""
    archive, wheel = build(uv, source, room / "dist")
    return archive, wheel


@pytest.fixture(scope="session")
def built_starter(uv: Run, source: Path, room: Path) -> tuple[Path, Path]:
    """The source distribution and the wheel of the starter model."""
    archive, wheel = build(uv, source / "starter", room / "dist-starter")
    return archive, wheel


def slow(test: Test) -> Test:
    """Marks a test that builds or installs; .ci/run runs these in a separate line."""
    pytest.mark.slow(test)
    pytest.mark.release(test)
    return test


def _interpreter(wanted: str, uv: Run) -> str:
    """A Python of a version: the one that runs, one of the PATH or of pyenv, or one that uv fetches; else a
    skip."""
    named = shutil.which(f"python{wanted}")
    pyenv = sorted(
        Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob(f"versions/{wanted}.*/bin/python")
    )
    for python in (
        [sys.executable] * (wanted == RUNNING)
        + ([named] if named else [])
        + [str(one) for one in pyenv[::-1]]
    ):
        command = [python, "-c", "import ensurepip, ssl, sys; print('%d.%d' % sys.version_info[:2])"]
        if subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() == wanted:
            return python
    try:
        uv("python", "install", "--quiet", wanted)
        return uv("python", "find", "--managed-python", wanted).strip()
    except AssertionError as error:
        pytest.skip(
            f"NOT TESTED on Python {wanted}: there is none here, and uv cannot fetch it: {error}"[:300]
        )


@pytest.fixture(scope="session")
def install(uv: Run, built: tuple[Path, Path], room: Path) -> Install:
    """Makes an environment of a Python's version with the wheel and all that it needs, without the starter;
    its folder of programs."""

    def install(python: str) -> Path:
        folder = room / python
        if not folder.exists():
            uv("venv", "--quiet", "--python", _interpreter(python, uv), folder)
            uv("pip", "install", "--quiet", "--python", folder / "bin" / "python", *PINS, built[1])
        return folder / "bin"

    return install


@pytest.fixture
def install_extra(
    uv: Run, built: tuple[Path, Path], built_starter: tuple[Path, Path], install: Install, tmp_path: Path
) -> InstallExtra:
    """Makes an environment with what one extra adds, and the starter, on top of a plain one; its folder of
    programs.

    The plain one's packages are seen by a .pth file, so that they are unpacked and compiled once.
    """

    def install_extra(python: str, extra: str) -> Path:
        base, folder = install(python), tmp_path / "environment"
        uv("venv", "--quiet", "--python", _interpreter(python, uv), folder)
        packages = f"lib/python{python}/site-packages"
        (folder / packages / "base.pth").write_text(f"{base.parent / packages}\n")
        starter = f"reactometer-starter @ {built_starter[1].as_uri()}"
        (tmp_path / "wanted.in").write_text(f"reactometer[{extra}] @ {built[1].as_uri()}\n{starter}\n")
        options = (
            "--quiet",
            "--no-header",
            "--no-annotate",
            "--python",
            base / "python",
            *PINS,
            tmp_path / "wanted.in",
        )
        there = _names(uv("pip", "freeze", "--quiet", "--python", base / "python"))
        wanted = _names(uv("pip", "compile", *options))
        assert {name: wanted[name] for name in there} == there, "an extra adds, and changes nothing"
        more = [f"{name}=={wanted[name]}" for name in wanted.keys() - there]
        uv("pip", "install", "--quiet", "--no-deps", "--python", folder / "bin" / "python", starter, *more)
        return folder / "bin"

    return install_extra


def _names(listing: str) -> dict[str, str]:
    """Names and public versions in what uv lists, without packages that come from a file."""
    pairs = [line.split("==") for line in listing.split() if "==" in line]
    return {name: number.partition("+")[0] for name, number in pairs}
