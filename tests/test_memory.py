"""Freed memory is kept: a process that frees a large buffer and asks for it again and again meets no page fault.

Not from the second time on: up to 2.37, glibc cuts aligned memory out of a larger piece, and the cuttings, held back
in its cache of small pieces, keep a freed buffer from being found anew until that cache has seven of a size.
"""

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
for _ in range(24):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(16 << 20, dtype=torch.uint8)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

RETURNED = """
import numpy as np
from pathlib import Path
from reactometer.memory import keep_freed_memory, return_freed_memory
def own_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20
keep_freed_memory()
own_mb()
before = own_mb()
pictures = [np.ones(1 << 20, np.uint8) for _ in range(64)]
last = np.ones(1 << 20, np.uint8)  # so that what is freed is no end of the heap
del pictures
kept, told = own_mb() - before, return_freed_memory()
print(told, round(kept), round(own_mb() - before))
"""


def _faults(**environment: str) -> tuple[str, int]:
    """What the settings' function answered, and the page faults of a buffer of 16 MB that was had often before."""
    run = subprocess.run(
        [sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True, env={**os.environ, **environment}
    )
    kept, faults = run.stdout.split()
    return kept, int(faults)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_a_large_buffer_is_had_again_without_page_faults_unless_the_user_has_settings_of_their_own() -> None:
    kept, faults = _faults()
    assert kept == "True"
    assert faults < 100
    kept, faults = _faults(MALLOC_TOP_PAD_="131072")
    assert kept == "False"
    assert faults > 4000  # 16 MB are 4,096 pages


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc_trim is glibc's")
def test_what_was_kept_is_given_back_when_a_piece_of_work_is_done() -> None:
    run = subprocess.run([sys.executable, "-c", RETURNED], check=True, capture_output=True, text=True)
    told, kept_mb, left_mb = run.stdout.split()
    assert told == "True"
    assert int(kept_mb) >= 60
    assert int(left_mb) <= 5
