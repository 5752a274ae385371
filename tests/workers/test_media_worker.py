"""A process that reads files for another: what kills it kills nothing else, and it outlives nobody."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from reactometer.errors import MediaError
from reactometer.inference.predictor import predict_files
from reactometer.media.segments import MAX_SEGMENT, WindowSpec
from reactometer.types import MediaInfo, PreparedClip
from reactometer.workers import media_worker
from reactometer.workers.decoder import DecodeSpec
from reactometer.workers.media_worker import MediaWorker, ResourceLimits

SPEC = DecodeSpec("haar", 6.0, 224, (MAX_SEGMENT, WindowSpec(1.0, 0.5)))
LONGEST_S = 60.0


@pytest.fixture
def worker() -> Iterator[MediaWorker]:
    worker = MediaWorker()
    yield worker
    worker.close()


def _until(holds: Callable[[], bool]) -> None:
    until_s = time.monotonic() + LONGEST_S
    while not holds():
        assert time.monotonic() < until_s
        time.sleep(0.05)


def _same(one: PreparedClip, other: PreparedClip) -> bool:
    return one.samples == other.samples and np.array_equal(one.waveform, other.waveform)  # type: ignore[arg-type]


@pytest.mark.slow
def test_another_process_decodes_the_same(worker: MediaWorker, simulated: Path) -> None:
    for file in sorted(simulated.rglob("*.mp4"))[:2]:
        info, *segments = worker.read(file, SPEC)
        assert isinstance(info, MediaInfo) and info.width_px > 0
        here = list(SPEC.stream(file))
        assert [shape for shape, _ in segments] == [shape for shape, _ in here]  # type: ignore[misc]
        assert all(_same(one[1], other[1]) for one, other in zip(segments, here, strict=True))  # type: ignore[index]


@pytest.mark.slow
def test_a_process_is_replaced_after_its_maximum_number_of_files(
    worker: MediaWorker, simulated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media_worker, "MAX_FILES", 2)
    processes = []
    for file in sorted(simulated.rglob("*.mp4"))[:5]:
        assert len([*worker.read(file, SPEC)]) > 1
        processes.append(worker._process.pid if worker._process else None)
    assert [processes.count(one) for one in dict.fromkeys(processes)] == [2, 2, 1]
    assert not Path(f"/proc/{processes[0]}").exists()


def test_an_unreadable_file_does_not_end_the_process(
    worker: MediaWorker, simulated: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.mp4").write_text("no film")
    video = min(simulated.rglob("*.mp4"))
    first = worker.start()
    with pytest.raises(MediaError, match=r"cannot read .*text.mp4"):
        list(worker.read(tmp_path / "text.mp4", SPEC))
    assert len(list(worker.read(video, SPEC))) > 2
    assert worker.start() is first


def test_a_process_that_dies_is_reported_and_replaced(worker: MediaWorker, simulated: Path) -> None:
    video = min(simulated.rglob("*.mp4"))
    segments = worker.read(video, SPEC)
    next(segments)
    assert worker._process is not None
    worker._process.kill()
    with pytest.raises(MediaError, match=r"died .*SIGKILL"):
        list(segments)
    assert len(list(worker.read(video, SPEC))) > 2


@pytest.mark.slow
def test_a_stalled_file_is_an_error(simulated: Path) -> None:
    worker = MediaWorker(ResourceLimits(stall_s=1.0))
    worker.start()
    assert worker._process is not None
    stopped = worker._process
    time.sleep(2.0)  # it is awake by now
    stopped.send_signal(signal.SIGSTOP)
    with pytest.raises(MediaError, match="no data for"):
        list(worker.read(min(simulated.rglob("*.mp4")), SPEC))
    assert stopped.poll() == -signal.SIGKILL


@pytest.mark.slow
def test_memory_is_bounded(simulated: Path) -> None:
    """The kernel holds the process to the limit that the caller named; how much a decoder takes is not ours
    to say."""
    worker = MediaWorker(ResourceLimits(memory_bytes=4 * 2**30))
    assert len(list(worker.read(min(simulated.rglob("*.mp4")), SPEC))) > 2
    assert worker._process is not None
    limits = Path(f"/proc/{worker._process.pid}/limits").read_text()
    assert re.search(rf"Max address space +{4 * 2**30} ", limits)
    worker.close()


@pytest.mark.slow
def test_cpu_time_is_limited_per_file(simulated: Path) -> None:
    video = min(simulated.rglob("*.mp4"))
    worker = MediaWorker(ResourceLimits(cpu_s=2.0))
    first = worker.start()
    assert worker._process is not None
    while _processor_s(worker._process.pid) < 4.0:  # of many files it is more
        assert len(list(worker.read(video, SPEC))) > 2
    assert worker.start() is first
    worker.close()


@pytest.mark.slow
def test_a_file_beyond_the_limit_of_cpu_time_is_an_error(simulated: Path) -> None:
    video = min(simulated.rglob("*.mp4"))
    worker = MediaWorker(ResourceLimits(cpu_s=0.001))  # until the next whole second, as the kernel counts
    with pytest.raises(MediaError, match="CPU time"):
        for _ in range(1000):  # the kernel ends it when its next whole second is over
            list(worker.read(video, SPEC))
    worker.close()


def _processor_s(process: int) -> float:
    user, system = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
def test_a_decoder_that_crashes_leaves_no_core(worker: MediaWorker, simulated: Path) -> None:
    """A crash writes its core file into the working folder, if at all."""
    usual = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (usual[1], usual[1]))
    try:
        list(worker.read(min(simulated.rglob("*.mp4")), SPEC))
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, usual)
    assert worker._process is not None
    limits = Path(f"/proc/{worker._process.pid}/limits").read_text()
    assert re.search(r"Max core file size +0 ", limits)


def test_an_exception_of_check_stops_the_file(worker: MediaWorker, simulated: Path) -> None:
    def never() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        list(worker.read(min(simulated.rglob("*.mp4")), SPEC, check=never))
    assert worker._process is None


@pytest.mark.slow
def test_it_ends_when_its_parent_is_killed(simulated: Path, tmp_path: Path) -> None:
    code = f"from test_media_worker import _wait_to_be_killed; _wait_to_be_killed({str(tmp_path / 'pid')!r})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parent)
    _until((tmp_path / "pid").is_file)
    _until(lambda: bool((tmp_path / "pid").read_text()))
    child = int((tmp_path / "pid").read_text())
    process.kill()
    process.wait()
    _until(
        lambda: (
            not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]
        )
    )


def _wait_to_be_killed(pid_file: str) -> None:
    worker = MediaWorker()
    worker.start()
    assert worker._process is not None
    Path(pid_file).write_text(str(worker._process.pid))
    time.sleep(LONGEST_S)


@pytest.mark.slow
def test_a_script_needs_no_guard(simulated: Path, tmp_path: Path) -> None:
    """A first script: only the call, at module level."""
    video = min(simulated.rglob("*.mp4"))
    script = tmp_path / "script.py"
    script.write_text(
        f"from reactometer import load_model\nprint(load_model('starter').predict({str(video)!r}).status)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "ok\n", done.stderr


def test_an_isolated_prediction_is_the_same(simulated: Path) -> None:
    video = min(simulated.rglob("*.mp4"))
    isolated, in_process = (
        predict_files([video], progress=False, isolated=is_isolated)[0] for is_isolated in (True, False)
    )
    assert isolated == in_process


@pytest.mark.slow
def test_the_process_imports_only_what_decoding_needs() -> None:
    code = "import sys, reactometer.workers.decoder; print(*{name.split('.')[0] for name in sys.modules})"
    modules = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert {"av", "cv2", "numpy"} <= set(modules)
    assert not {"pydantic", "onnxruntime", "torch", "scipy", "pandas"} & set(modules)
