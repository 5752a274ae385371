"""Jobs as files: atomic writes, lookup by id, deletion after the retention time."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from reactometer.errors import OutputError
from reactometer.inference.prediction import Prediction, Window
from reactometer.serving.job_store import DONE, FAILED, Job, JobStore

PREDICTION = Prediction(
    "a.mp4",
    "ok",
    ("Joy",),
    2.0,
    1.0,
    True,
    (0.25,),
    (Window(0.0, 2.0, 1.0, (0.25,), ("voice unlike the training data",)),),
    coverage=0.9,
)


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path)


def _job(store: JobStore, created_s: float = 1.0, **outcome: object) -> Job:
    job = Job("anna", "a.mp4", {"window_s": 2.0, "baseline": None}, created_s=created_s, **outcome)  # type: ignore[arg-type]
    store.upload(job.id).touch()
    store.write(job)
    return job


def test_a_job_is_read_as_it_was_written(store: JobStore) -> None:
    done = _job(store, status=DONE, finished_s=2.0, media={"duration_s": 2.0}, predictions=[PREDICTION])
    failed = _job(store, status=FAILED, finished_s=2.0, error="no film")
    assert [store.read(job.id) for job in (done, failed)] == [done, failed]
    store.delete(done.id)
    assert store.read(done.id) is None and store.read(failed.id) == failed


def test_queued_jobs_resume_in_order_and_other_uploads_are_deleted(store: JobStore, tmp_path: Path) -> None:
    second, first = _job(store, 20.0), _job(store, 10.0)
    _job(store, status=DONE, finished_s=30.0)  # killed before its upload was deleted
    store.upload("of-nobody").touch()
    assert JobStore(tmp_path).unfinished() == [first, second]
    assert {file.name for file in store.uploads.iterdir()} == {first.id, second.id}


def test_old_results_are_deleted_and_queued_jobs_stay(store: JobStore) -> None:
    queued, old, new = (_job(store) for _ in range(3))
    now_s = time.time()
    for job, changed_s in ((queued, now_s - 100), (old, now_s - 100), (new, now_s)):
        os.utime(store.jobs / f"{job.id}.json", (changed_s, changed_s))
        if job is not queued:
            store.upload(job.id).unlink()
    store.purge(now_s - 50)
    assert [store.read(job.id) for job in (queued, old, new)] == [queued, None, new]


@pytest.mark.parametrize(
    "job_id", ["", "..", "../jobs/x", "absent", "a" * 24, "\u0661" * 24, "a" * 23 + "\n"]
)
def test_an_id_cannot_be_a_path(store: JobStore, job_id: str) -> None:
    (store.jobs / "..json").write_text("{}")
    assert store.read(job_id) is None


def test_a_damaged_job_is_named(store: JobStore) -> None:
    job_id = Job("anna", "a.mp4", {}).id
    store.upload(job_id).touch()
    (store.jobs / f"{job_id}.json").write_text("{")
    with pytest.raises(OutputError, match=rf"{job_id}.json: damaged.*Delete"):
        store.unfinished()
