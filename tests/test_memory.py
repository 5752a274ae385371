"""Freed memory is kept: a process that frees a large buffer and asks for it again meets no page fault."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from reactometer.memory import keep_freed_memory
kept = keep_freed_memory()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(64 << 20, dtype=torch.uint8)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(**environment: str) -> tuple[str, int]:
    """What the settings' function answered, and the page faults of a buffer of 64 MB that was had once before."""
    run = subprocess.run(
        [sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True, env={**os.environ, **environment}
    )
    kept, faults = run.stdout.split()
    return kept, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_a_large_buffer_is_had_again_without_page_faults_unless_the_user_has_settings_of_their_own() -> None:
    kept, faults = _faults()
    assert kept == "True"
    assert faults < 1000  # 64 MB are 16,384 pages
    kept, faults = _faults(MALLOC_TOP_PAD_="131072")
    assert kept == "False"
