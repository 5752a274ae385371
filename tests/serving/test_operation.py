"""Authentication, limits, crashes and restarts of the service."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fixtures_of_serving import Server, Serving
from reactometer.cli.app import app
from reactometer.errors import ReactometerError

Talking = Callable[[int], Path]
KEYS = {name: f"{name}-0123456789abcdef" for name in ("anna", "ben")}
LATER = {"Prefer": "respond-async"}


@pytest.fixture(scope="module")
def guarded(serving: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "keys").write_text("# clients\n\n" + "".join(f"{name} {key}\n" for name, key in KEYS.items()))
    options = (
        "--keys",
        str(folder / "keys"),
        "--workers",
        "1",
        "--queue",
        "3",
        "--per-client",
        "2",
        "--max-mb",
        "0.4",
    )
    with serving(folder / "data", *options) as server:
        yield server


def _key(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {KEYS[name]}"}


def test_requests_without_a_key_are_refused(guarded: Server, talking: Talking) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer nobodys"},
        {"Authorization": f"Bearer {KEYS['anna'][:-1]}"},
    ):
        answer = guarded.post(talking(1), headers=headers)
        assert answer.status_code == 401 and answer.headers["WWW-Authenticate"] == "Bearer"
    assert guarded.client.get("/v1/model").status_code == 401
    assert guarded.client.get("/readyz").status_code == 200
    assert guarded.client.get("/v1/model", headers=_key("ben")).status_code == 200


def test_a_client_sees_only_its_clips(guarded: Server, talking: Talking) -> None:
    answer = guarded.post(talking(1), headers=_key("anna"))
    location = f"/v1/predictions/{answer.json()['id']}"
    assert guarded.client.get(location, headers=_key("anna")).json()["status"] == "done"
    absent = guarded.client.get("/v1/predictions/absent", headers=_key("ben"))
    for answer in (
        guarded.client.get(location, headers=_key("ben")),
        guarded.client.delete(location, headers=_key("ben")),
    ):
        assert (answer.status_code, answer.json()) == (404, absent.json())
    assert guarded.client.get(location, headers=_key("anna")).status_code == 200


def test_too_many_clips_of_a_client_are_refused_with_retry_after(guarded: Server, talking: Talking) -> None:
    accepted = [guarded.post(talking(6), headers=_key(name) | LATER) for name in ("anna", "anna", "ben")]
    assert [answer.status_code for answer in accepted] == [202, 202, 202]
    refused = guarded.post(talking(6), headers=_key("anna") | LATER)
    assert refused.status_code == 429 and int(refused.headers["Retry-After"]) >= 1
    assert "too many clips queued or running for this client (got 2" in refused.json()["error"]
    assert len(list(guarded.folder.joinpath("uploads").iterdir())) <= 3
    for answer, name in zip(accepted, ("anna", "anna", "ben"), strict=True):
        assert guarded.client.delete(answer.headers["Location"], headers=_key(name)).status_code == 204


@pytest.mark.slow
def test_a_full_queue_refuses_uploads(serving: Serving, talking: Talking, tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--workers", "1", "--queue", "1") as server:
        answers = [server.post(talking(6), headers=LATER) for _ in range(4)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert (
            refused
            and "too many clips in the queue (got 1; expected at most 1)" in refused[0].json()["error"]
        )
        accepted = [answer for answer in answers if answer.status_code == 202]
        assert [server.wait(answer)["status"] for answer in accepted] == ["done"] * len(accepted)


def test_uploads_that_are_too_large_are_refused(guarded: Server) -> None:
    body = b"x" * 500_000
    declared = guarded.post(body, headers=_key("anna"))
    assert declared.status_code == 413 and "expected at most 400,000 bytes" in declared.json()["error"]
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
    chunks = (head, body, b"\r\n--b--\r\n")
    headers = _key("anna") | {"Content-Type": "multipart/form-data; boundary=b"}
    undeclared = guarded.client.post("/v1/predictions", content=iter(chunks), headers=headers)
    assert undeclared.status_code == 413
    guarded.wait_for_no_uploads()


@pytest.mark.slow
def test_a_crash_of_a_decoder_fails_only_its_clip(serving: Serving, talking: Talking, tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--workers", "1") as server:
        first, second = (server.post(talking(8), headers=LATER) for _ in range(2))
        while server.client.get(first.headers["Location"]).json()["progress"] == 0.0:
            time.sleep(0.05)
        tasks = Path(f"/proc/{server.process.pid}/task").glob("*/children")
        pids = [int(pid) for file in tasks for pid in file.read_text().split()]
        readers = [pid for pid in pids if b"workers.decoder" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert len(readers) == 1
        subprocess.run(["kill", "-9", str(readers[0])], check=True)
        assert "clip.mp4: the decoder process died" in server.wait(first)["error"]
        assert server.wait(second)["status"] == "done"


@pytest.mark.slow
def test_accepted_clips_survive_a_kill(serving: Serving, talking: Talking, tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--workers", "1") as server:
        done = server.post(talking(1)).json()
        accepted = [server.post(talking(2), headers=LATER).headers["Location"] for _ in range(2)]
        (server.folder / "uploads" / "of-nobody").touch()  # an upload that was cut
        server.end(signal.SIGKILL)
    with serving(tmp_path / "data", "--workers", "1") as server:
        assert server.client.get(f"/v1/predictions/{done['id']}").json() == done
        documents = [server.wait(server.client.get(location)) for location in accepted]
        assert [document["status"] for document in documents] == ["done"] * 2
        assert len({str(document["predictions"]) for document in documents}) == 1
        server.wait_for_no_uploads()


@pytest.mark.slow
def test_sigterm_finishes_running_clips_and_keeps_queued_clips(
    serving: Serving, talking: Talking, tmp_path: Path
) -> None:
    with serving(tmp_path / "data", "--workers", "1") as server:
        first, second = (server.post(talking(4), headers=LATER).json()["id"] for _ in range(2))
        while server.client.get(f"/v1/predictions/{first}").json()["status"] != "running":
            time.sleep(0.05)
        server.end(signal.SIGTERM)
    jobs = [json.loads(file.read_text()) for file in (tmp_path / "data" / "jobs").iterdir()]
    assert {job["id"]: job["status"] for job in jobs} == {first: "done", second: "queued"}
    assert [file.name for file in (tmp_path / "data" / "uploads").iterdir()] == [second]


@pytest.mark.slow
def test_results_are_deleted_after_the_retention_time(
    serving: Serving, talking: Talking, tmp_path: Path
) -> None:
    with serving(tmp_path / "data") as server:
        location = f"/v1/predictions/{server.post(talking(1)).json()['id']}"
        assert server.end(signal.SIGINT) == 0
    with serving(tmp_path / "data", "--keep-hours", "0") as server:
        assert server.client.get(location).status_code == 404


def _refused(*options: str) -> str:
    error = CliRunner().invoke(app, ["serve", *options]).exception
    assert isinstance(error, ReactometerError), error
    return " ".join(str(error).split())


@pytest.mark.slow
def test_invalid_options_are_errors(guarded: Server, tmp_path: Path) -> None:
    assert "another service uses this folder" in _refused("--jobs", str(guarded.folder))
    port = guarded.address.rsplit(":", 1)[1]
    assert f"cannot listen at 127.0.0.1:{port}" in _refused("--jobs", str(tmp_path / "one"), "--port", port)
    (tmp_path / "keys").write_text("anna short\n")
    assert "malformed keys" in _refused("--keys", str(tmp_path / "keys"))
    assert "cannot be read" in _refused("--keys", str(tmp_path / "absent"))
    assert "--allow-host" in _refused("--jobs", str(tmp_path / "two"), "--allow-host", "a.*.example")
