"""What is given out: the code's version is the tag's, its wheel has no weights, and the starter's has its
licence."""

from __future__ import annotations

import re
import shutil
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest

from fixtures_of_releases import (
    PACKAGE,
    PROJECT,
    ROOT,
    STARTER_PACKAGE,
    TAGGED,
    Run,
    build,
    commit,
    git,
    run,
    slow,
)

LARGEST_WHEEL_BYTES, LARGEST_ARCHIVE_BYTES = 2**19, 5 * 2**20
LARGEST_STARTER_BYTES = 16 * 2**20  # as graphs and, for training, as weights
WEIGHTS = (".safetensors", ".onnx", ".pt", ".bin")


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


@pytest.mark.release
@slow
def test_a_package_index_can_render_the_description(uv: Run, built: tuple[Path, Path]) -> None:
    uv("tool", "run", "twine", "check", "--strict", *built)


# What is in it.


@slow
def test_the_wheel_holds_what_it_must_and_nothing_else(built: tuple[Path, Path]) -> None:
    _, wheel = built
    with zipfile.ZipFile(wheel) as archive_file:
        names = set(archive_file.namelist())
    data = {name for name in names if name.startswith("reactometer/") and not name.endswith(".py")}
    page = {f"reactometer/serving/page/{file.name}" for file in (PACKAGE / "serving" / "page").iterdir()}
    configs = {file.relative_to(PACKAGE.parent).as_posix() for file in (PACKAGE / "configs").rglob("*.toml")}
    assert data == page | configs | {"reactometer/py.typed", "reactometer/evaluation/report.html"}
    code = {file.relative_to(PACKAGE.parent).as_posix() for file in PACKAGE.rglob("*.py")}
    about = f"reactometer-{TAGGED}.dist-info/"
    assert {name for name in names - data if not name.startswith(about)} == code
    assert wheel.stat().st_size <= LARGEST_WHEEL_BYTES


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
    assert not [name for name in names if name.endswith(WEIGHTS)]
    assert archive.stat().st_size <= LARGEST_ARCHIVE_BYTES


@slow
def test_the_codes_wheel_is_apache_and_has_no_weights(built: tuple[Path, Path]) -> None:
    _, wheel = built
    about = _about(wheel)
    assert about["License-Expression"] == PROJECT["license"] == "Apache-2.0"
    assert about.get_all("License-File") == ["LICENSE"]
    with zipfile.ZipFile(wheel) as archive_file:
        assert not [name for name in archive_file.namelist() if name.endswith(WEIGHTS)]
        licence = archive_file.read(f"reactometer-{TAGGED}.dist-info/licenses/LICENSE")
    assert licence == (ROOT / "LICENSE").read_bytes()


# The starter model.


def test_the_starters_licence_names_each_weight_file_and_its_data() -> None:
    model = STARTER_PACKAGE / "model"
    about = tomllib.loads((ROOT / "starter" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    notice, card = ((model / name).read_text(encoding="utf-8") for name in ("LICENSE", "README.md"))
    (name,) = re.findall(r"^license_name: (.+)$", card, re.MULTILINE)
    assert f"SPDX-License-Identifier: LicenseRef-{name}\n" in notice, "what the card says"
    assert about["license"] == f"LicenseRef-{name}"
    weights = [file.name for file in model.iterdir() if file.suffix in WEIGHTS]
    assert len(weights) > 3
    for file in weights:
        assert f"  {file} " in notice
    parts = {"FER2013", "EmoDB", "RAVDESS"} & set(re.findall(r"\w+", card))
    assert parts <= set(re.findall(r"\w+", notice)), "what they were made of"


@slow
def test_the_starters_wheel_holds_the_weights_and_their_licence(built_starter: tuple[Path, Path]) -> None:
    archive, wheel = built_starter
    data = {file.relative_to(STARTER_PACKAGE.parent).as_posix() for file in STARTER_PACKAGE.glob("model/*")}
    with zipfile.ZipFile(wheel) as archive_file:
        files = {name: archive_file.read(name) for name in archive_file.namelist()}
    (folder,) = {name.partition("/")[0] for name in files} - {"reactometer_starter"}
    assert {name for name in files if not name.startswith(folder)} == {
        *data,
        "reactometer_starter/__init__.py",
    }
    licence = "reactometer_starter/model/LICENSE"
    assert (
        files[f"{folder}/licenses/{licence}"] == files[licence] == (ROOT / "starter" / licence).read_bytes()
    )
    assert max(archive.stat().st_size, wheel.stat().st_size) <= LARGEST_STARTER_BYTES
