"""What the tests of prediction share: which files are read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reactometer.media import stream


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read, in order, as they are read; and few windows are held at a time."""
    from reactometer.inference import everyone, predictor

    names: list[str] = []
    for module in (everyone, predictor):
        monkeypatch.setattr(module, "AT_ONCE", 3)

    def read(path: Path, *arguments: Any) -> Iterator[tuple[stream.WindowShape, Any]]:
        names.append(path.name)
        return stream.stream_windows(path, *arguments)

    monkeypatch.setattr(predictor, "stream_windows", read)
    return names
