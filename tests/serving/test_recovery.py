"""A full disk or a jumping clock loses no accepted clip."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fixtures_of_faults import Fill
from fixtures_of_serving import Server, Serving

Talking = Callable[[int], Path]
FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)
pytestmark = pytest.mark.slow


def _start_clip(server: Server, clip: Path) -> str:
    """Return the location of a clip that is being decoded."""
    location = server.post(clip, headers={"Prefer": "respond-async"}).headers["Location"]
    while (document := server.client.get(location).json())["status"] == "queued" or not document["progress"]:
        time.sleep(0.05)
    return str(location)


def _log(server: Server) -> str:
    return server.folder.with_name(f"{server.folder.name}.log").read_text()


def test_a_full_disk_is_507_until_there_is_room(
    serving: Serving,
    talking: Talking,
    small_disk: Path,
    fill: Fill,
    wait_for: Callable[[Callable[[], bool]], None],
) -> None:
    with serving(small_disk, "--workers", "1", TMPDIR=str(small_disk)) as server:
        done = server.post(talking(1)).json()
        running = _start_clip(server, talking(8))
        filler = fill(small_disk)
        for clip in (talking(1), bytes(1_500_000)):  # a large body is first spooled to a temporary file
            answer = server.post(clip)
            assert (answer.status_code, answer.headers["Retry-After"]) == (507, "60"), answer.text
            assert answer.json()["error"].startswith("the disk of the service is full. hint: Try again later")
        assert len(list((small_disk / "uploads").iterdir())) <= 1
        assert server.client.get(f"/v1/predictions/{done['id']}").json() == done
        wait_for(lambda: _log(server).count("cannot be written") > 2)  # the result of the running clip
        filler.unlink()
        assert server.wait(server.client.get(running))["status"] == "done"
        assert server.post(talking(1)).json()["status"] == "done"
        assert "Traceback" not in _log(server)


@pytest.mark.skipif(FAKETIME is None, reason="no libfaketime here (Debian: apt-get install faketime)")
def test_a_clock_jump_during_a_clip_is_harmless(serving: Serving, talking: Talking, tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0d\n")
    environment = {"LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(clock)}
    environment |= {"FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    with serving(tmp_path / "data", "--workers", "1", **environment) as server:
        running = _start_clip(server, talking(8))
        clock.write_text("-400d\n")
        after = server.post(talking(1), headers={"Prefer": "respond-async"})
        first, second = server.wait(server.client.get(running)), server.wait(after)
        assert (first["status"], second["status"]) == ("done", "done")
        assert (first["created"][:4] == first["finished"][:4], second["created"] < second["finished"]) == (
            False,
            True,
        )
        assert server.post(talking(1)).json()["predictions"] == second["predictions"]
