"""The table of jobs, in SQLite and in a real PostgreSQL; and one service after the other on the latter."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fixtures_of_serving import Serving
from reactometer.errors import ConfigError
from reactometer.records import Prediction, Window
from reactometer.serving.jobs import Job, JobTable, sqlite_address

PROGRAMS = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
PREDICTION = Prediction(
    "a.mp4", "ok", ("Joy",), 2.0, 1.0, True, (0.25,), (Window(0.0, 2.0, 1.0, (0.25,), ((0.0, 0.5),)),), coverage=0.9
)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a database server of its own, run by the user that the package made where this one is root."""
    if PROGRAMS is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    folder = Path(shutil.copytree(tmp_path_factory.mktemp("postgres"), f"/tmp/reactometer-postgres-{os.getpid()}"))
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    shutil.chown(folder, user)
    as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if os.getuid() == 0 else []

    def run(*command: Path | str) -> None:
        subprocess.run([*as_user, *map(str, command)], check=True, capture_output=True, cwd="/")

    try:
        run(PROGRAMS / "initdb", "-D", folder / "data", "-U", "reactometer", "--auth=trust", "--no-sync")
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
        run(PROGRAMS / "pg_ctl", "-D", folder / "data", "-o", options, "-w", "-l", folder / "log", "start")
        yield f"postgresql+psycopg://reactometer@/postgres?host={folder}"
        run(PROGRAMS / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return sqlite_address(tmp_path / "jobs.db")
    return str(request.getfixturevalue("postgres"))


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


def test_what_is_no_database_is_told(tmp_path: Path) -> None:
    for address in ("nonsense", "mysql://x", sqlite_address(tmp_path / "absent" / "jobs.db")):
        with pytest.raises(ConfigError, match=r"the database cannot be opened.*expected an address such as"):
            JobTable(address, "here")


@pytest.mark.slow
def test_a_service_keeps_its_jobs_in_postgres(
    postgres: str, serving: Serving, talking: Callable[[int], Path], tmp_path: Path
) -> None:
    with serving(tmp_path / "data", "--readers", "1", REACTOMETER_DATABASE=postgres) as server:
        done = server.post(talking(1)).json()
        left = server.post(talking(4), headers={"Prefer": "respond-async"}).headers["Location"]
        server.end(signal.SIGKILL)
    assert not (tmp_path / "data" / "jobs.db").exists()
    with serving(tmp_path / "data", "--database", postgres) as server:
        assert server.client.get(f"/v1/predictions/{done['id']}").json() == done
        assert server.wait(server.client.get(left))["status"] == "done"
