"""Every installed dependency is pinned, matches its pin, and has a licence that is compatible with ours."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGE = "reactometer"

PERMISSIVE = (
    "apache",
    "mit",
    "bsd",
    "psf",
    "python software foundation",
    "isc",
    "bsl-1.0",
    "zlib",
    "cc0",
    "cnri",
)
WEAK = ("mpl-2.0", "mozilla", "llvm-exception", "lgpl")
"""Licences that an Apache-2.0 package may depend on; the weak ones bind changes to the library's own files
only. LGPL libraries (pebble) are imported unmodified and can be replaced by their user."""

NO_COPYLEFT = ("gpl", "gnu", "affero", "sspl", "commons", "noncommercial", "proprietary", "?")


def _requirements(package: metadata.Distribution, extras: Iterable[str] = ()) -> Iterator[Requirement]:
    """Return what a package with some of its extras requires on this machine; ours, as pyproject.toml says
    today."""
    lines = package.requires or []
    if package.name == PACKAGE:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        lines = sum((project["optional-dependencies"][extra] for extra in extras), project["dependencies"])
    for one in map(Requirement, lines):
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield one


def _installed(extras: Iterable[str] = ()) -> dict[str, metadata.Distribution]:
    """Return reactometer and all its installed dependencies, direct and indirect, by name."""
    packages: dict[str, metadata.Distribution] = {}
    queue, seen = [(PACKAGE, frozenset(extras))], set[tuple[str, frozenset[str]]]()
    while queue:
        name, extras = queue.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            packages[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        queue += [
            (canonicalize_name(one.name), frozenset(one.extras))
            for one in _requirements(packages[name], extras)
        ]
    return packages


def _licence(package: metadata.Distribution) -> str:
    about: Any = package.metadata
    classifiers = [
        line.split(" :: ")[-1] for line in about.get_all("Classifier") or () if line.startswith("License")
    ]
    return (
        about.get("License-Expression")
        or "; ".join(classifiers)
        or (about.get("License") or "?").splitlines()[0]
    )


def _pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs), "each line is NAME==VERSION"
    return {canonicalize_name(name): version for name, version in pairs}


def _public(version: str) -> str:
    return version.partition("+")[0]  # torch's wheels for processors say "+cpu"


def _is_of_cuda(name: str) -> bool:
    """Of what PyTorch's build for NVIDIA's GPUs brings along, in versions and under terms of their own."""
    return canonicalize_name(name).startswith(("nvidia-", "cuda-", "triton"))


def test_every_dependency_is_pinned_and_the_pin_is_in_its_range() -> None:
    """Of the package, of each extra, and of what builds it."""
    pins, project = _pins(), tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    starter = tomllib.loads((ROOT / "starter" / "pyproject.toml").read_text(encoding="utf-8"))
    pins["reactometer-starter"] = starter["project"]["version"]
    groups = [one["build-system"]["requires"] for one in (project, starter)]
    groups += [project["project"]["dependencies"]]
    groups += project["project"]["optional-dependencies"].values()
    for one in map(Requirement, [line for group in groups for line in group]):
        if one.name == PACKAGE:  # an extra that includes others
            continue
        pin = pins.get(canonicalize_name(one.name))
        assert pin is not None, f"{one.name}: no pin"
        assert one.specifier.contains(pin, prereleases=True), f"{one}: the pin is {pin}"


def test_all_that_is_installed_for_it_is_pinned_too_and_fits() -> None:
    """As deep as it goes; what a package itself pins exactly (torch its CUDA) needs no other pin."""
    pins, packages = _pins(), _installed(["dev"])
    assert len(packages) > 100
    for name, package in packages.items():
        if _is_of_cuda(name):
            continue
        for one in _requirements(package, ["dev"] if name == PACKAGE else ()):
            if one.name == PACKAGE:
                continue
            distribution = packages.get(canonicalize_name(one.name))
            assert distribution is not None, f"{name} needs {one}, which is not installed"
            version = _public(distribution.version)
            assert one.specifier.contains(version, prereleases=True), (
                f"{name} needs {one}, {version} is installed"
            )
            if name == "torch" and _is_of_cuda(one.name):
                continue
            is_exact = any(part.operator == "==" for part in one.specifier)
            pin = pins.get(canonicalize_name(one.name))
            assert is_exact or pin == version, f"{one.name}: pinned to {pin}, {version} is installed"


@pytest.mark.parametrize("extras", [[], ["evaluate", "parquet", "train", "serve", "ray"]])
def test_what_runs_is_licensed_so_that_whoever_uses_ours_may_use_it(extras: list[str]) -> None:
    for name, package in _installed(extras).items():
        if _is_of_cuda(name):
            continue
        licence = _licence(package).lower()
        assert any(word in licence for word in (*PERMISSIVE, *WEAK)), f"{name}: {licence}"
        strong = licence.replace("gnu library or lesser general public license (lgpl)", "").replace(
            "lgpl", ""
        )
        assert not any(word in strong for word in NO_COPYLEFT), f"{name}: {licence}"
