"""Progress on the terminal, and exit statuses."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

OK, SOME_FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
"""Exit statuses: success; some items failed and are listed; wrong use; stopped with Ctrl-C."""

messages = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
"""Progress, warnings and errors; results go to standard output."""


def format_score(value: float | None, decimals: int = 4) -> str:
    """Format a score, or "undefined"."""
    return "undefined" if value is None else f"{value:.{decimals}f}"


def is_first_process() -> bool:
    """Return True in the first process of a distributed training (rank 0), and without one."""
    ranks = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in ranks)


@contextmanager
def quiet(logger_name: str, output: TextIO, module: str = "") -> Iterator[None]:
    """Silence a library: drop its log and the warnings of its modules, and send what it prints to
    ``output``."""
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(output):
            warnings.filterwarnings("ignore", module=module)
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def progress_bar(title: str, total: int, show: bool = True, done: int = 0) -> Iterator[Callable[[], None]]:
    """Show a bar on standard error that starts at ``done``; the body gets a function that advances it by
    one."""
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *times)
    with Progress(*columns, console=messages, disable=not show) as progress:
        task = progress.add_task(title, total=total, completed=done)
        yield lambda: progress.advance(task)
