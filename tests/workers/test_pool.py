"""Processes that may die: a real one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pebble import ProcessPool

from reactometer.workers.pool import run_jobs

WaitFor = Callable[[Callable[[], bool]], None]
IsGone = Callable[[int], bool]


def _square_or_die(job: tuple[int, Path | None]) -> int:
    number, killed_once = job
    if number == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    if killed_once is not None and not killed_once.exists():
        killed_once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def _fail(number: int) -> int:
    raise ValueError(f"no {number}")


def test_a_dead_process_affects_only_its_job() -> None:
    jobs: list[tuple[int, Path | None]] = [(number, None) for number in range(11, 17)]
    done = dict(run_jobs(_square_or_die, jobs, workers=2, on_death=lambda job: -job[0]))
    assert done == {index: -13 if job[0] == 13 else job[0] ** 2 for index, job in enumerate(jobs)}


@pytest.mark.slow
def test_a_job_whose_process_dies_once_is_run_again(tmp_path: Path) -> None:
    """One worker takes the jobs in order, so the first death is of the first job, with others waiting behind
    it."""
    jobs: list[tuple[int, Path | None]] = [(20, tmp_path / "killed"), (11, None), (12, None)]
    done = dict(run_jobs(_square_or_die, jobs, workers=1, on_death=lambda job: -job[0]))
    assert done == {0: 400, 1: 121, 2: 144}


@pytest.mark.slow
def test_a_pool_that_breaks_during_scheduling_loses_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pebble then refuses further jobs with a RuntimeError."""
    schedule, calls = ProcessPool.schedule, count()

    def broken_once(pool: ProcessPool, *args: Any, **options: Any) -> Any:
        if next(calls) == 1:
            raise RuntimeError("Unexpected state")
        return schedule(pool, *args, **options)

    monkeypatch.setattr(ProcessPool, "schedule", broken_once)
    assert dict(run_jobs(abs, [-1, -2], workers=1, on_death=lambda job: 0)) == {0: 1, 1: 2}


def test_an_exception_passes_through() -> None:
    with pytest.raises(ValueError, match="no 1"):
        list(run_jobs(_fail, [1], workers=1, on_death=lambda job: job))


def test_no_jobs_is_no_work() -> None:
    assert list(run_jobs(_fail, [], workers=1, on_death=lambda job: job)) == []


WORK = """
import os, sys, time
from pathlib import Path

def work(number):
    Path(sys.argv[1], str(os.getpid())).touch()
    time.sleep(600)
"""

ENDLESS = """
import signal
from reactometer.workers.pool import run_jobs
from work import work

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored if the tests run in the background
for _ in run_jobs(work, range(8), 2, work):
    pass
"""


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")
@pytest.mark.parametrize(
    "signals",
    [
        pytest.param([signal.SIGINT, signal.SIGINT], id="ctrl-c twice"),
        pytest.param([signal.SIGKILL], id="killed", marks=pytest.mark.slow),
    ],
)
def test_no_process_outlives_the_one_that_started_it(
    signals: list[signal.Signals], tmp_path: Path, wait_for: WaitFor, is_gone: IsGone
) -> None:
    script, at_work = tmp_path / "endless.py", tmp_path / "at work"
    (tmp_path / "work.py").write_text(WORK)
    script.write_text(ENDLESS)
    at_work.mkdir()
    process = subprocess.Popen([sys.executable, script, at_work], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: len(list(at_work.iterdir())) == 2)
        for one in signals:
            process.send_signal(one)
        process.wait(30)
    finally:
        process.kill()
    wait_for(lambda: all(is_gone(int(file.name)) for file in at_work.iterdir()))
