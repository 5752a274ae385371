"""What is given out: its version is the tag's, it holds what it must, and weights have their licence beside
them."""

from __future__ import annotations

import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest

from fixtures_of_releases import PACKAGE, PROJECT, ROOT, TAGGED, Run, build, commit, git, run, slow

LARGEST_BYTES = 14 * 2**20  # the starter is in it as graphs and, for training, as weights: 2 x 6.4 MB
WEIGHTS = sorted(
    file for file in PACKAGE.rglob("*") if file.suffix in (".safetensors", ".onnx", ".pt", ".bin")
)


def _about(wheel: Path) -> Any:
    with zipfile.ZipFile(wheel) as archive_file:
        (name,) = (name for name in archive_file.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive_file.read(name).decode())


# The version.


@slow
def test_a_tag_is_the_version(built: tuple[Path, Path]) -> None:
    archive, wheel = built
    assert (archive.name, wheel.name) == (
        f"reactometer-{TAGGED}.tar.gz",
        f"reactometer-{TAGGED}-py3-none-any.whl",
    )
    assert _about(wheel)["Version"] == TAGGED


def _without_git(source: Path, copy: Path) -> None:
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns(".git"))


def _inside_another(source: Path, copy: Path) -> None:
    """A tree without git of its own, in somebody's repository, whose tags are not ours."""
    copy.parent.mkdir()
    _without_git(source, copy)
    git(copy.parent, "init", "--quiet")
    commit(copy.parent, "vendored")
    git(copy.parent, "tag", "v7.7.7")


def _shallow(source: Path, copy: Path) -> None:
    run("git", "clone", "--quiet", "--depth", 1, "--no-tags", source.as_uri(), copy, cwd=source)


def _gone_on(source: Path, copy: Path) -> None:
    """A commit behind the tag; another tag on it is no version's."""
    run("git", "clone", "--quiet", source, copy, cwd=source)
    commit(copy, "one more")
    git(copy, "tag", "numbers-12")


@slow
@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (_without_git, r"0\.0\.0"),
        (_inside_another, r"0\.0\.0"),
        (_shallow, r"0\.0\.1\.dev1\+g[0-9a-f]+"),
        (_gone_on, r"9\.9\.10\.dev1\+g[0-9a-f]+"),
    ],
)
def test_what_has_no_tag_is_built_too_and_passes_for_no_release(
    uv: Run, source: Path, tmp_path: Path, make: Callable[[Path, Path], None], expected: str
) -> None:
    copy = tmp_path / "around" / "copy" if make is _inside_another else tmp_path / "copy"
    make(source, copy)
    (wheel,) = build(uv, copy, tmp_path / "dist", "--wheel")
    assert re.fullmatch(expected, _about(wheel)["Version"]), wheel.name


# What is in it.


@slow
def test_the_wheel_holds_what_it_must_and_nothing_else(built: tuple[Path, Path]) -> None:
    _, wheel = built
    with zipfile.ZipFile(wheel) as archive_file:
        names = set(archive_file.namelist())
    data = {name for name in names if name.startswith("reactometer/") and not name.endswith(".py")}
    page = {f"reactometer/serving/page/{file.name}" for file in (PACKAGE / "serving" / "page").iterdir()}
    starter = {f"reactometer/starter/{file.name}" for file in (PACKAGE / "starter").iterdir()}
    configs = {file.relative_to(PACKAGE.parent).as_posix() for file in (PACKAGE / "configs").rglob("*.toml")}
    assert data == page | starter | configs | {"reactometer/py.typed", "reactometer/evaluation/report.html"}
    code = {file.relative_to(PACKAGE.parent).as_posix() for file in PACKAGE.rglob("*.py")}
    about = f"reactometer-{TAGGED}.dist-info/"
    assert {name for name in names - data if not name.startswith(about)} == code
    assert wheel.stat().st_size <= LARGEST_BYTES


@slow
def test_the_source_distribution_holds_what_it_is_built_and_tested_from(built: tuple[Path, Path]) -> None:
    archive, _ = built
    with tarfile.open(archive) as archive_file:
        names = {name.partition("/")[2] for name in archive_file.getnames()}
    assert {
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "constraints.txt",
        "Makefile",
        "tests/test_release.py",
    } <= names
    assert not {name for name in names if name.split("/")[0] in (".venv", "runs", "demo", "dist", "site")}
    assert archive.stat().st_size <= LARGEST_BYTES


def test_weights_in_the_package_have_their_licence_beside_them() -> None:
    assert WEIGHTS
    for file in WEIGHTS:
        notice = (file.parent / "LICENSE").read_text(encoding="utf-8")
        card = (file.parent / "README.md").read_text(encoding="utf-8")
        (name,) = re.findall(r"^license_name: (.+)$", card, re.MULTILINE)
        assert f"SPDX-License-Identifier: LicenseRef-{name}\n" in notice, "what the card says"
        assert f"  {file.name} " in notice, "each file is named"
        assert f"LicenseRef-{name}" in PROJECT["license"], "the package's licence does not hide it"
        parts = {"FER2013", "EmoDB"} & set(re.findall(r"\w+", card))
        assert parts <= set(re.findall(r"\w+", notice)), "what they were made of"


@slow
def test_the_wheel_carries_the_licences(built: tuple[Path, Path]) -> None:
    _, wheel = built
    about = _about(wheel)
    licences = [file.parent / "LICENSE" for file in WEIGHTS]
    expected = {"LICENSE", *(file.relative_to(ROOT).as_posix() for file in licences)}
    assert set(about.get_all("License-File")) == expected
    assert about["License-Expression"] == PROJECT["license"]
    with zipfile.ZipFile(wheel) as archive_file:
        for file in licences:
            assert archive_file.read(file.relative_to(PACKAGE.parent).as_posix()) == file.read_bytes()
        for name in expected:
            assert (
                archive_file.read(f"reactometer-{TAGGED}.dist-info/licenses/{name}")
                == (ROOT / name).read_bytes()
            )
