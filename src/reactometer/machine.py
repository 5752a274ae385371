"""Use of the machine: how many cores, and what becomes of freed memory."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

# Parameters of glibc's mallopt(3), malloc.h, and what they are set to.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
SETTINGS = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1, M_TOP_PAD: 64 << 20}
"""No buffer is mapped alone, nothing is trimmed off the heap, and it grows by 64 MB. (Any size of M_MMAP_THRESHOLD over
32 MB would be refused by a glibc older than 2.35.)"""


def default_workers() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_threads() -> int:
    """Return the number of CPU threads for one computation: ``OMP_NUM_THREADS`` if it is set, else one per CPU."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) > 0 else default_workers()


@cache
def keep_freed_memory() -> bool:
    """Have glibc serve large buffers from its heap and give none of them back to the system before the process ends.

    By default large tensors are mapped anew each time, and memory freed at the heap's end is given back. The page
    faults that follow take up to 45 % of eager PyTorch's time on a CPU. Later calls change nothing. Other
    allocators, other systems, and processes with ``MALLOC_...`` variables of mallopt(3) stay as they are.

    Returns:
        Whether the settings were taken.
    """
    library = None if any(name.startswith("MALLOC_") for name in os.environ) else _glibc()
    return library is not None and all(library.mallopt(parameter, value) for parameter, value in SETTINGS.items())


def return_freed_memory() -> bool:
    """Give back to the system, once, whole pages that are free (malloc_trim(3)): between two pieces of work.

    Returns:
        Whether there was something to give back, on a system that can.
    """
    library = _glibc()
    return library is not None and bool(library.malloc_trim(0))


@cache
def _glibc() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return library if hasattr(library, "gnu_get_libc_version") else None  # not musl
