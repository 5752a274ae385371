"""Jobs as files: written whole, found by their id alone, deleted after their time."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from reactometer.serving.job_store import DONE, FAILED, Job, JobStore
from reactometer.types import Prediction, Window

PREDICTION = Prediction(
    "a.mp4", "ok", ("Joy",), 2.0, 1.0, True, (0.25,), (Window(0.0, 2.0, 1.0, (0.25,), ((0.0, 0.5),)),), coverage=0.9
)


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path)


def _taken(store: JobStore, created_s: float = 1.0, **outcome: object) -> Job:
    job = Job(store.new_id(), "anna", "a.mp4", {"window_s": 2.0, "baseline": None}, created_s=created_s, **outcome)  # type: ignore[arg-type]
    store.upload(job.id).touch()
    store.write(job)
    return job


def test_a_job_is_read_as_it_was_written(store: JobStore) -> None:
    done = _taken(store, status=DONE, finished_s=2.0, media={"duration_s": 2.0}, predictions=[PREDICTION])
    failed = _taken(store, status=FAILED, finished_s=2.0, error="no film")
    assert [store.read(job.id) for job in (done, failed)] == [done, failed]
    store.delete(done.id)
    assert store.read(done.id) is None and store.read(failed.id) == failed


def test_what_was_left_is_found_in_order_and_other_uploads_go(store: JobStore, tmp_path: Path) -> None:
    second, first = _taken(store, 20.0), _taken(store, 10.0)
    _taken(store, status=DONE, finished_s=30.0)  # killed before its upload was deleted
    store.upload("of-nobody").touch()
    assert JobStore(tmp_path).unfinished() == [first, second]
    assert {file.name for file in store.uploads.iterdir()} == {first.id, second.id}


def test_results_are_forgotten_after_their_time_and_no_job_is_that_waits(store: JobStore) -> None:
    waiting, old, new, ahead = (_taken(store) for _ in range(4))
    now_s = time.time()
    for job, changed_s in ((waiting, now_s - 100), (old, now_s - 100), (new, now_s), (ahead, now_s + 1e6)):
        os.utime(store.jobs / f"{job.id}.json", (changed_s, changed_s))
        if job is not waiting:
            store.upload(job.id).unlink()
    store.purge(now_s - 50)
    assert [store.read(job.id) for job in (waiting, old, new, ahead)] == [waiting, None, new, None]


@pytest.mark.parametrize("job_id", ["", "..", "../jobs/x", "absent", "a" * 24, "\u0661" * 24, "a" * 23 + "\n"])
def test_an_id_is_no_path(store: JobStore, job_id: str) -> None:
    (store.jobs / "..json").write_text("{}")
    assert store.read(job_id) is None
