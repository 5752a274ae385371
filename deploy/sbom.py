"""The bill of materials of what runs here: CycloneDX 1.6 as JSON, made of what pip has installed, without a network.

    python deploy/sbom.py [--extra serve]... [--out sbom.json]

It lists reactometer, all that it needs to run (with each extra named), and of each its version, licence and needs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any
from uuid import uuid4

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGE = "reactometer"


def needed(extras: Iterable[str] = ()) -> dict[str, metadata.Distribution]:
    """What is installed of all that the package needs, itself too, by name; what is not installed is left out."""
    found: dict[str, metadata.Distribution] = {}
    left, seen = [(PACKAGE, frozenset(extras))], set[tuple[str, frozenset[str]]]()
    while left:
        name, own = left.pop()
        if (name, own) in seen:
            continue
        seen.add((name, own))
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        left += [(canonicalize_name(one.name), frozenset(one.extras)) for one in requirements(found[name], own)]
    return dict(sorted(found.items()))


def requirements(package: metadata.Distribution, extras: Iterable[str] = ()) -> Iterator[Requirement]:
    """What a package needs on this machine, with some of its extras."""
    for one in map(Requirement, package.requires or ()):
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield one


def licence_of(package: metadata.Distribution) -> str:
    """Its licence in its own words: an SPDX expression, else its classifiers, else the first line of its text."""
    about: Any = package.metadata
    classifiers = [line.split(" :: ")[-1] for line in about.get_all("Classifier") or () if line.startswith("License")]
    return about.get("License-Expression") or "; ".join(classifiers) or (about.get("License") or "?").splitlines()[0]


def bill(extras: Iterable[str] = ()) -> dict[str, Any]:
    """The bill of materials, as JSON can hold it."""
    packages = needed(extras)
    references = {name: f"pkg:pypi/{name}@{package.version}" for name, package in packages.items()}
    components = {
        name: {
            "type": "application" if name == PACKAGE else "library",
            "bom-ref": references[name],
            "name": name,
            "version": package.version,
            "purl": references[name],
            "licenses": [{"license": {"name": licence_of(package)}}],
        }
        for name, package in packages.items()
    }
    names = {name: {canonicalize_name(one.name) for one in requirements(own)} for name, own in packages.items()}
    names[PACKAGE] |= {canonicalize_name(one.name) for one in requirements(packages[PACKAGE], extras)}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid4()}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
            "component": components.pop(PACKAGE),
        },
        "components": list(components.values()),
        "dependencies": [
            {"ref": references[name], "dependsOn": sorted(references[one] for one in own if one in references)}
            for name, own in names.items()
        ],
    }


def main() -> None:
    """Write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extra", action="append", default=[])
    parser.add_argument("--out", type=Path, default=Path("sbom.json"))
    asked = parser.parse_args()
    told = bill(asked.extra)
    asked.out.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    print(f"{asked.out}: {len(told['components'])} packages")


if __name__ == "__main__":
    main()
