"""Run one function over many jobs in processes; a process that dies affects no other job."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import SpawnContext, SpawnProcess
from threading import Thread
from typing import Any, TypeVar

import cv2
from pebble import ProcessExpired, ProcessPool

from reactometer.machine import keep_freed_memory

Job = TypeVar("Job")
Result = TypeVar("Result")

DEATH_ERRORS = (ProcessExpired, BrokenProcessPool)
"""Errors of pebble if the process of a job died, or all processes before the job started."""


def run_jobs(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int, on_death: Callable[[Job], Result]
) -> Generator[tuple[int, Result], None, None]:
    """Yield ``(index, function(job))`` as jobs finish.

    If a process dies (a decoder crashes, the kernel runs out of memory), its job runs again at the end, when
    no other process competes for memory; a job whose process dies twice yields ``on_death(job)``. Exceptions
    pass through. Ctrl-C ends the processes at once, so jobs must write results atomically.
    """
    crashed: dict[int, Job] = {}
    for index, future in _run(function, dict(enumerate(jobs)), workers):
        if isinstance(future.exception(), DEATH_ERRORS):
            crashed[index] = jobs[index]
        else:
            yield index, future.result()
    for index, job in crashed.items():  # one pool per job, because a broken pool accepts no job
        for _, future in _run(function, {index: job}, 1):
            yield index, on_death(job) if isinstance(future.exception(), DEATH_ERRORS) else future.result()


def _run(
    function: Callable[[Job], Result], jobs: Mapping[int, Job], workers: int
) -> Iterator[tuple[int, Future[Result]]]:
    """Yield the index and the finished future of each job."""
    if not jobs:
        return
    n_workers = min(workers, len(jobs))
    pool = ProcessPool(n_workers, initializer=_initialise, initargs=(function,), context=IsolatedContext())
    indices: dict[Future[Result], int] = {}
    try:
        for index, job in jobs.items():
            try:
                future: Future[Result] = pool.schedule(function, args=(job,))
            except RuntimeError as error:  # all processes died before all jobs were scheduled
                future = Future()
                future.set_exception(BrokenProcessPool(str(error)))
            indices[future] = index
        for future in as_completed(list(indices)):
            yield indices.pop(future), future
    finally:
        pool.stop()  # type: ignore[no-untyped-call]
        pool.join()


class _IsolatedProcess(SpawnProcess):
    """Spawned process that does not import the user's script, unlike Python's.

    Jobs need nothing of the script, and a script without a guard would begin all its work again in each
    process.
    """

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802  # Python's own name
        main_module: dict[str, Any] = vars(sys.modules["__main__"])
        names = [name for name in ("__spec__", "__file__") if name in main_module]
        main_attributes: dict[str, Any] = {name: main_module.pop(name) for name in names}
        main_module["__spec__"] = None
        try:
            return SpawnProcess._Popen(process_obj)
        finally:
            main_module.update(main_attributes)


class IsolatedContext(SpawnContext):
    """Context that spawns processes, because a fork would copy the locks of running threads."""

    Process = _IsolatedProcess


def _initialise(_function: object) -> None:
    """Prepare a worker process; pebble makes it ignore Ctrl-C, which the parent handles.

    The function is an argument so that its modules are imported here: a process that dies while pebble
    imports them would keep pebble's locks.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # end at once, also inside a decoder's C code
    cv2.setNumThreads(1)
    keep_freed_memory()  # of frames, from one job to the next
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent is gone, because a killed parent cannot end it."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
