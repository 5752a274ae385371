"""Runs on a real Ray cluster of two nodes on this machine, with separate processes and object stores."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pandas as pd
import pytest

from reactometer.batch.ray_backend import _unpack
from reactometer.batch.result_store import FAILED_FILE, JOURNAL
from reactometer.batch.run import predict_folder
from reactometer.errors import ClusterError, ReactometerError
from reactometer.inference.predictor import predict_files

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc"),
]
NODE = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 100_000_000, "include_dashboard": False}


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Start a cluster; ``address`` is the head's, ``second`` a node that a test may kill."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    nodes = Cluster()
    nodes.add_node(**NODE)
    nodes.second = nodes.add_node(**NODE)
    yield nodes
    nodes.shutdown()


def test_a_run_on_a_cluster_equals_a_local_run(
    two_nodes: Any,
    videos: Path,
    tmp_path: Path,
    check_run: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Relative paths work on nodes with another working directory, and existing results are reused."""
    monkeypatch.chdir(videos.parent)
    both = [videos.name, str(videos / "a" / "0.mp4")]
    twice = predict_folder(
        both, tmp_path / "twice", device="cpu", ray=two_nodes.address, gpus=0.5, progress=False
    )
    assert (twice.n_files, twice.n_computed) == (8, 6)
    result = predict_folder(
        [videos.name], tmp_path / "out", device="cpu", ray=two_nodes.address, gpus=0.5, progress=False
    )
    assert (result.n_files, result.n_computed, len(result.failures)) == (7, 6, 1)
    check_run(tmp_path / "out", videos, videos.name)
    reason = pd.read_csv(tmp_path / "out" / FAILED_FILE)["reason"][0]
    assert f"cannot read {videos.name}/b/broken.mp4" in reason
    again = predict_folder([videos.name], tmp_path / "out", device="cpu", workers=1, progress=False)
    assert (again.n_computed, again.n_before) == (0, 6)


def test_files_of_an_object_store_on_a_cluster(
    two_nodes: Any, videos: Path, put: Callable[[Path, str], str], tmp_path: Path
) -> None:
    source = put(videos / "a", "on-a-cluster")
    result = predict_folder([source], tmp_path / "out", device="cpu", ray=two_nodes.address, progress=False)
    assert not result.failures
    index = pd.read_csv(tmp_path / "out" / "files.csv")
    plain = predict_files([f"{videos / 'a'}/{Path(path).name}" for path in index["path"]], progress=False)
    for label in plain[0].labels:
        position = plain[0].labels.index(label)
        expected = [one.intensities[position] for one in plain if one.intensities]
        assert index[label].tolist() == pytest.approx(expected, abs=1e-5)


def _n_kept(out: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in (out / JOURNAL).glob("*.jsonl"))


def test_a_node_is_killed_in_mid_run_and_the_run_completes(
    two_nodes: Any,
    many: Path,
    tmp_path: Path,
    check_run: Callable[..., None],
    wait_for: Callable[[Callable[[], bool]], None],
) -> None:
    def kill() -> None:
        wait_for(lambda: _n_kept(tmp_path / "out") >= 5)
        left.append(40 - _n_kept(tmp_path / "out"))
        two_nodes.remove_node(two_nodes.second, allow_graceful=False)

    left: list[int] = []
    killing = Thread(target=kill)
    killing.start()
    result = predict_folder([many], tmp_path / "out", ray=two_nodes.address, progress=False)
    killing.join()
    assert left[0] > 0  # it was in mid-run
    assert (result.n_computed, result.failures) == (40, {})
    check_run(tmp_path / "out", many)


def test_a_crashing_file_does_not_stop_the_others(many: Path, tmp_path: Path) -> None:
    """The file kills the process of the cluster, not only its decoder process."""
    from reactometer.synthetic.dataset import simulate

    simulate(tmp_path / "long", n_clips=4, duration_s=10.0, workers=1)
    shutil.copy(min((tmp_path / "long").rglob("*.mp4")), many / "5.mp4")
    over = False

    def kill() -> None:
        while not over:
            for opened in Path("/proc").glob("[0-9]*/fd/*"):
                process = opened.parents[1]
                with suppress(OSError):  # it has ended meanwhile
                    if opened.readlink() == many / "5.mp4":
                        parent = int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
                        if b"ray::_predict" in Path(f"/proc/{parent}/cmdline").read_bytes():
                            os.kill(parent, signal.SIGKILL)
            time.sleep(0.02)

    killing = Thread(target=kill)
    killing.start()
    try:
        result = predict_folder([many], tmp_path / "out", workers=2, ray="local", progress=False)
    finally:
        over = True
        killing.join()
    assert list(result.failures) == [str(many / "5.mp4")]
    assert "the decoder process died" in result.failures[str(many / "5.mp4")]
    index = pd.read_csv(tmp_path / "out" / "files.csv")
    assert len(index) == len(set(index["sha256"])) == 39


def test_a_machine_with_another_version_is_refused() -> None:
    with pytest.raises(ClusterError, match="another version"):
        _unpack(None, "", "0.0.1")


def _works_for(process: Path, mark: str) -> bool:
    """Return True for a process with ``mark`` in its environment, except Ray's agents, which run on for a
    minute."""
    with suppress(OSError):
        return (
            mark.encode() in (process / "environ").read_bytes()
            and b"Agent" not in (process / "cmdline").read_bytes()
        )
    return False


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_local_cluster_ends_with_its_run(
    how: signal.Signals, many: Path, tmp_path: Path, wait_for: Callable[[Callable[[], bool]], None]
) -> None:
    script = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    script += "from reactometer.cli.app import main; main()"
    command = [
        sys.executable,
        "-c",
        script,
        "predict",
        str(many),
        "--out-dir",
        str(tmp_path / "out"),
        "--ray",
        "local",
    ]
    with (tmp_path / "said.txt").open("w") as log:
        process = subprocess.Popen(command, stderr=log, env={**os.environ, "STARTED_BY": str(tmp_path)})
    wait_for(lambda: process.poll() is not None or _n_kept(tmp_path / "out") > 0)
    assert process.poll() is None, (tmp_path / "said.txt").read_text()
    process.send_signal(how)
    assert process.wait(60) == (130 if how == signal.SIGINT else -signal.SIGKILL)
    wait_for(lambda: not any(_works_for(one, str(tmp_path)) for one in Path("/proc").glob("[0-9]*")))


def test_a_missing_cluster_is_reported_quickly(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for address, words in (("127.0.0.1:9", "Connection refused"), ("ray://127.0.0.1:9", "Ray client")):
        with pytest.raises(ClusterError, match=words):
            predict_folder([videos], tmp_path / "out", ray=address, progress=False)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ClusterError, match="Invalid address format"):
        predict_folder([videos], tmp_path / "out", ray="cluster", progress=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ReactometerError, match=r"ray is not installed.*reactometer\[ray\]"):
        predict_folder([videos], tmp_path / "out", ray="local", progress=False)
