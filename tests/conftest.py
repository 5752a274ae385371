"""What the tests share: where the real test data lies, and what says so when it is absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[1].parent / "shared"

if (SHARED / "weights").is_dir():
    os.environ.setdefault("REACTOMETER_WEIGHTS", str(SHARED / "weights"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, visibly, what needs the real test data where it is absent."""
    if (SHARED / "data").is_dir():
        return
    for item in items:
        if item.get_closest_marker("shared"):
            item.add_marker(pytest.mark.skip(reason=f"the real test data is not at {SHARED / 'data'}"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real clips, voices and faces; only for tests marked ``shared``."""
    return SHARED / "data"
