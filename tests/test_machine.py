"""Settings of glibc's malloc that the user has made stay as they are."""

from __future__ import annotations

import pytest

from reactometer.machine import keep_freed_memory


def test_the_users_own_settings_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TOP_PAD_", "131072")
    assert not keep_freed_memory.__wrapped__()
