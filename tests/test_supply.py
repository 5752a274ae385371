"""What is installed with the package: pinned, as pinned, under licences that go with ours, and listed."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from sbom import PACKAGE, bill, licence_of, needed, requirements

ROOT = Path(__file__).parents[1]

PERMISSIVE = ("apache", "mit", "bsd", "psf", "python software foundation", "isc", "bsl-1.0", "zlib", "cc0", "cnri")
WEAK = ("mpl-2.0", "mozilla", "llvm-exception", "lgpl")
"""Licences that an Apache-2.0 package may depend on; the weak ones bind changes to the library's own files only.
LGPL libraries (pebble) are imported unmodified and can be replaced by their user."""

NO_COPYLEFT = ("gpl", "gnu", "affero", "sspl", "commons", "noncommercial", "proprietary", "?")


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
    pins, told = _pins(), tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = [told["build-system"]["requires"], told["project"]["dependencies"]]
    groups += told["project"]["optional-dependencies"].values()
    for one in map(Requirement, [line for group in groups for line in group]):
        pin = pins.get(canonicalize_name(one.name))
        assert pin is not None, f"{one.name}: no pin"
        assert one.specifier.contains(pin, prereleases=True), f"{one}: the pin is {pin}"


def test_all_that_is_installed_for_it_is_pinned_too_and_fits() -> None:
    """As deep as it goes; what a package itself pins exactly (torch its CUDA) needs no other pin."""
    pins, packages = _pins(), needed(["dev"])
    assert len(packages) > 100
    for name, package in packages.items():
        if _is_of_cuda(name):
            continue
        for one in requirements(package, ["dev"] if name == PACKAGE else ()):
            own = packages.get(canonicalize_name(one.name))
            assert own is not None, f"{name} needs {one}, which is not installed"
            version = _public(own.version)
            assert one.specifier.contains(version, prereleases=True), f"{name} needs {one}, {version} is installed"
            if name == "torch" and _is_of_cuda(one.name):
                continue
            is_exact = any(part.operator == "==" for part in one.specifier)
            pin = pins.get(canonicalize_name(one.name))
            assert is_exact or pin == version, f"{one.name}: pinned to {pin}, {version} is installed"


@pytest.mark.parametrize("extras", [[], ["serve", "onnx", "openvino", "ray"]])
def test_what_runs_is_licensed_so_that_whoever_uses_ours_may_use_it(extras: list[str]) -> None:
    for name, package in needed(extras).items():
        if _is_of_cuda(name):
            continue
        licence = licence_of(package).lower()
        assert any(word in licence for word in (*PERMISSIVE, *WEAK)), f"{name}: {licence}"
        strong = licence.replace("gnu library or lesser general public license (lgpl)", "").replace("lgpl", "")
        assert not any(word in strong for word in NO_COPYLEFT), f"{name}: {licence}"


def test_the_bill_of_materials_lists_it_all(tmp_path: Path) -> None:
    out = tmp_path / "sbom.json"
    command = [sys.executable, str(ROOT / "deploy" / "sbom.py"), "--extra", "serve", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    told = json.loads(out.read_text(encoding="utf-8"))
    assert {key: told[key] for key in ("bomFormat", "specVersion")} == {"bomFormat": "CycloneDX", "specVersion": "1.6"}
    versions = {one["name"]: one["version"] for one in told["components"]}
    assert versions["torch"] == metadata.version("torch") and "fastapi" in versions and "pytest" not in versions
    known = {one["bom-ref"] for one in told["components"]} | {told["metadata"]["component"]["bom-ref"]}
    assert len(known) == len(told["components"]) + 1
    assert {one["ref"] for one in told["dependencies"]} == known
    assert all(set(one["dependsOn"]) <= known for one in told["dependencies"])
    (ours,) = (one for one in told["dependencies"] if one["ref"].startswith(f"pkg:pypi/{PACKAGE}@"))
    assert {"pkg:pypi/numpy@" + versions["numpy"], "pkg:pypi/fastapi@" + versions["fastapi"]} <= set(ours["dependsOn"])
    assert all(one["licenses"][0]["license"]["name"] for one in bill()["components"])
