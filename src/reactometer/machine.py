"""CPU cores and freed memory of this machine."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_MAX = -4  # parameters of glibc's mallopt(3), malloc.h
SETTINGS = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1, M_TOP_PAD: 64 << 20}
"""No buffer is mapped separately, nothing is trimmed off the heap, and the heap grows by 64 MB."""


def default_workers() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_threads() -> int:
    """Return the number of CPU threads for one computation: ``OMP_NUM_THREADS`` if it is set, else one per
    CPU."""
    n_threads = os.environ.get("OMP_NUM_THREADS", "")
    return int(n_threads) if n_threads.isdecimal() and int(n_threads) > 0 else default_workers()


@cache
def keep_freed_memory() -> bool:
    """Make glibc keep freed memory, and return whether it does.

    By default large tensors are mapped anew each time. The page faults take up to 45% of eager PyTorch's time
    on a CPU. Other allocators, other systems, and processes with ``MALLOC_...`` variables of mallopt(3) stay
    as they are.
    """
    library = None if any(name.startswith("MALLOC_") for name in os.environ) else _glibc()
    return library is not None and all(
        library.mallopt(parameter, value) for parameter, value in SETTINGS.items()
    )


def return_freed_memory() -> None:
    """Return free pages to the system once (malloc_trim(3))."""
    if library := _glibc():
        library.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return library if hasattr(library, "gnu_get_libc_version") else None  # not musl
