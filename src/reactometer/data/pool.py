"""Run one function over many jobs in processes, any of which may die without taking another job with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.context import SpawnContext, SpawnProcess
from threading import Lock, Thread, current_thread, main_thread
from types import FrameType
from typing import Any, TypeVar

import cv2

from reactometer.memory import keep_freed_memory

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_jobs(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int, on_death: Callable[[Job], Result]
) -> Iterator[tuple[int, Result]]:
    """Yield ``(index, function(job))`` as jobs finish, at most ``2 * workers`` of them under way.

    When a process dies (a decoder that crashes, a kernel that runs out of memory), the jobs that were under way run
    again one at a time; the one whose process dies again gets ``on_death(job)``. Exceptions pass through. Ctrl-C ends
    the processes at once: a job leaves its result whole or not at all.
    """
    with _ended_by_ctrl_c():
        yield from _run_jobs(function, jobs, workers, on_death)


def _run_jobs(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int, on_death: Callable[[Job], Result]
) -> Iterator[tuple[int, Result]]:
    waiting = list(range(len(jobs)))[::-1]
    suspects: list[int] = []
    while waiting or suspects:
        alone = bool(suspects)
        queue = [suspects.pop()] if alone else waiting
        under_way: dict[Future[Result], int] = {}
        pool = _pool(1 if alone else workers)
        try:
            while queue or under_way:
                while queue and len(under_way) < 2 * workers:
                    index = queue.pop()
                    under_way[pool.submit(function, jobs[index])] = index
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    result = future.result()
                    yield under_way.pop(future), result
        except BrokenProcessPool:
            if alone:
                yield from ((index, on_death(jobs[index])) for index in under_way.values())
            else:
                suspects += under_way.values()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def default_workers() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _ended_by_ctrl_c() -> Iterator[None]:
    """Ctrl-C kills the processes that were started inside before it does anything else.

    Where KeyboardInterrupt is met that would be too late: a second Ctrl-C can come at any moment of the clearing up,
    and a process that is left is waited for.
    """
    others, usual = set(multiprocessing.active_children()), signal.getsignal(signal.SIGINT)
    if current_thread() is not main_thread() or not callable(usual):  # elsewhere it does not arrive, or is ignored
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        usual(number, frame)

    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=_Context(), initializer=_begin)


class _Process(SpawnProcess):
    """A new process that does not run the user's script once more, as Python's own do to find what it defines.

    Jobs need nothing of it, and a script that is not written for that would begin all its work again in each process.
    """

    _hiding = Lock()

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802  # Python's own name
        script: dict[str, Any] = vars(sys.modules["__main__"])
        found_by: tuple[str, ...] = ("__spec__", "__file__")
        with _Process._hiding:
            hidden = {name: script.pop(name) for name in found_by if name in script}
            script["__spec__"] = None
            try:
                return SpawnProcess._Popen(process_obj)
            finally:
                script.update(hidden)


class _Context(SpawnContext):
    """Processes are started anew: a fork would copy the locks of running threads."""

    Process = _Process


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    cv2.setNumThreads(1)
    keep_freed_memory()  # of pictures, from one job to the next, until the process ends
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed tells nobody, and this process would wait for its next job for ever."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
