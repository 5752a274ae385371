"""The table of our decisions gives the values in the code."""

import re
from importlib import import_module
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "project" / "decisions.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `([\w.]+)\.(\w+)` \| ([^|]+) \|", PAGE, re.MULTILINE)


@pytest.mark.parametrize(("module", "name", "value"), ROWS, ids=str)
def test_a_decision_has_the_value_in_the_code(module: str, name: str, value: str) -> None:
    constant = getattr(import_module(f"reactometer.{module}"), name)
    if re.fullmatch(r"[\d.]+", value):
        assert float(value) == constant


def test_the_table_is_read() -> None:
    assert len(ROWS) > 15
