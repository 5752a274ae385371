"""The table of jobs, in SQLite and in a real PostgreSQL; and one service after the other on the latter."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from fixtures_of_faults import Fill
from fixtures_of_serving import Serving
from reactometer.errors import ConfigError, RequestError
from reactometer.serving.job_store import Job, JobTable, sqlite_address
from reactometer.types import Prediction, Window

PROGRAMS = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
PREDICTION = Prediction(
    "a.mp4", "ok", ("Joy",), 2.0, 1.0, True, (0.25,), (Window(0.0, 2.0, 1.0, (0.25,), ((0.0, 0.5),)),), coverage=0.9
)


@dataclass(frozen=True)
class Postgres:
    """A database server."""

    address: str
    start: Callable[[], None]
    stop: Callable[[], None]


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A database server of its own, run by the user that the package made where this one is root."""
    if PROGRAMS is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    folder = Path(shutil.copytree(tmp_path_factory.mktemp("postgres"), f"/tmp/reactometer-postgres-{os.getpid()}"))
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    shutil.chown(folder, user)
    as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if os.getuid() == 0 else []

    def run(program: str, *options: Path | str) -> None:
        command = [*as_user, *map(str, (PROGRAMS / program, "-D", folder / "data", *options))]
        subprocess.run(command, check=True, capture_output=True, cwd="/")

    try:
        run("initdb", "-U", "reactometer", "--auth=trust", "--no-sync")
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
        start = partial(run, "pg_ctl", "-o", options, "-w", "-l", folder / "log", "start")
        stop = partial(run, "pg_ctl", "-m", "immediate", "stop")
        start()
        yield Postgres(f"postgresql+psycopg://reactometer@/postgres?host={folder}", start, stop)
        stop()
    finally:
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return sqlite_address(tmp_path / "jobs.db")
    return str(request.getfixturevalue("postgres").address)


def _job(name: str, created_s: float) -> Job:
    return Job(name, "anna", "a.mp4", "/uploads/a", {"window_s": 2.0, "baseline": None}, created_s=created_s)


def test_a_job_goes_its_way(address: str) -> None:
    table, other = JobTable(address, "here"), JobTable(address, "elsewhere")
    table.add(_job("second", 20.0))
    table.add(_job("first", 10.0))
    other.add(_job("other", 5.0))
    assert table.get("first") == _job("first", 10.0)
    assert [job.id for job in table.unfinished()] == ["first", "second"]
    table.begin("first")
    assert (job := table.get("first")) and job.status == "running"
    assert table.predictions("first") == []
    table.finish("first", {"duration_s": 2.0}, [PREDICTION])
    assert (job := table.get("first")) and (job.status, job.about) == ("done", {"duration_s": 2.0})
    assert table.predictions("first") == [PREDICTION]
    table.fail("second", {}, "no film")
    assert (job := table.get("second")) and (job.status, job.error) == ("failed", "no film")
    assert table.unfinished() == [] and [job.id for job in other.unfinished()] == ["other"]
    table.forget(time.time() + 1)
    assert table.get("first") is None and table.get("second") is None
    other.delete("other")
    assert table.get("other") is None


def test_a_database_that_was_away_is_opened_anew(tmp_path: Path) -> None:
    """SQLite itself goes on writing into a file that is deleted: all that it then takes is lost."""
    folder = tmp_path / "data"
    folder.mkdir()
    table = JobTable(sqlite_address(folder / "jobs.db"), "here")
    table.add(_job("one", 1.0))
    shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(folder)
    for ask in (table.check, lambda: table.add(_job("two", 2.0))):
        with pytest.raises(RequestError, match="database") as caught:
            ask()
        assert (caught.value.status, caught.value.retry_s) == (503, 10)
    folder.mkdir()  # as where a disk is no longer mounted
    with pytest.raises(RequestError, match="database"):
        table.check()
    shutil.copytree(tmp_path / "copy", folder, dirs_exist_ok=True)
    table.check()
    table.add(_job("two", 2.0))
    assert [job.id for job in JobTable(sqlite_address(folder / "jobs.db"), "here").unfinished()] == ["one", "two"]


def test_a_database_without_room_says_so_and_goes_on_where_there_is_some(small_disk: Path, fill: Fill) -> None:
    table = JobTable(sqlite_address(small_disk / "jobs.db"), "here")
    table.add(_job("one", 1.0))
    filler = fill(small_disk)
    with pytest.raises(RequestError, match="disk") as caught:
        for number in range(1000):  # until the pages that it has are full
            table.add(_job(f"{number}", 2.0))
    assert (caught.value.status, caught.value.retry_s) == (507, 60)
    assert (job := table.get("one")) and job.created_s == 1.0
    filler.unlink()
    table.add(_job("two", 2.0))


def test_what_is_no_database_is_told(tmp_path: Path) -> None:
    for address in ("nonsense", "mysql://x", sqlite_address(tmp_path / "absent" / "jobs.db")):
        with pytest.raises(ConfigError, match=r"database cannot be opened"):
            JobTable(address, "here")


@pytest.mark.slow
def test_a_service_keeps_its_jobs_in_postgres(
    postgres: Postgres, serving: Serving, talking: Callable[[int], Path], tmp_path: Path
) -> None:
    with serving(tmp_path / "data", "--readers", "1", REACTOMETER_DATABASE=postgres.address) as server:
        done = server.post(talking(1)).json()
        left = server.post(talking(4), headers={"Prefer": "respond-async"}).headers["Location"]
        server.end(signal.SIGKILL)
    assert not (tmp_path / "data" / "jobs.db").exists()
    with serving(tmp_path / "data", "--database", postgres.address) as server:
        assert server.client.get(f"/v1/predictions/{done['id']}").json() == done
        assert server.wait(server.client.get(left))["status"] == "done"


@pytest.mark.slow
def test_a_service_goes_on_when_its_postgres_is_back(
    postgres: Postgres, serving: Serving, talking: Callable[[int], Path], tmp_path: Path
) -> None:
    """It stops under a clip that is read; while it is away, nothing is taken and nothing that was is lost."""
    with serving(tmp_path / "data", "--readers", "1", "--database", postgres.address) as server:
        left = server.post(talking(8), headers={"Prefer": "respond-async"}).headers["Location"]
        while server.client.get(left).json()["status"] != "running":
            time.sleep(0.05)
        postgres.stop()
        try:
            told = server.post(talking(1)), server.client.get(left), server.client.get("/readyz")
        finally:
            postgres.start()
        for answer in told:
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
            assert "the service's database does not answer" in answer.json()["error"]
        assert server.client.get("/readyz").status_code == 200
        assert server.wait(server.client.get(left))["status"] == "done"
        assert server.post(talking(1)).json()["status"] == "done"
    log = (tmp_path / "data.log").read_text()
    assert "the database does not do its work" in log and "Traceback" not in log
