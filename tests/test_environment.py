"""The page of environment variables names each variable that the code reads or sets."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_page_names_every_variable() -> None:
    page = (ROOT / "docs" / "reference" / "environment.md").read_text(encoding="utf-8")
    code = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "src").rglob("*.py"))
    names = set(re.findall(r'environ(?:\.get\(|\.setdefault\(|\[)\s*"(\w+)"', code))
    names |= set(re.findall(r'"((?:REACTOMETER|HF|RANK|LOCAL|NODE|SLURM)_?[A-Z_]*)"', code))
    assert {"OMP_NUM_THREADS", "ORT_DISABLE_TELEMETRY", "REACTOMETER_CACHE", "SLURM_PROCID"} <= names
    assert {name for name in names if f"`{name}`" not in page} == set()
