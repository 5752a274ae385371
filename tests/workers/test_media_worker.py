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
from reactometer.inference.predictor import predict
from reactometer.media.segments import MAX_SEGMENT, WindowSpec
from reactometer.types import MediaInfo, PreparedClip
from reactometer.workers import media_worker
from reactometer.workers.decoder import DecodeSpec
from reactometer.workers.media_worker import MediaWorker, ResourceLimits

SPEC = DecodeSpec("haar", 6.0, 224, (MAX_SEGMENT, WindowSpec(1.0, 0.5)))
LONGEST_S = 60.0


@pytest.fixture
def reader() -> Iterator[MediaWorker]:
    reader = MediaWorker()
    yield reader
    reader.close()


def _until(holds: Callable[[], bool]) -> None:
    until_s = time.monotonic() + LONGEST_S
    while not holds():
        assert time.monotonic() < until_s
        time.sleep(0.05)


def _same(one: PreparedClip, other: PreparedClip) -> bool:
    return one.samples == other.samples and np.array_equal(one.waveform, other.waveform)  # type: ignore[arg-type]


@pytest.mark.slow
def test_another_process_reads_the_same(reader: MediaWorker, simulated: Path) -> None:
    for file in sorted(simulated.rglob("*.mp4"))[:2]:
        info, *shown = reader.read(file, SPEC)
        assert isinstance(info, MediaInfo) and info.width_px > 0
        here = list(SPEC.stream(file))
        assert [shape for shape, _ in shown] == [shape for shape, _ in here]  # type: ignore[misc]
        assert all(_same(one[1], other[1]) for one, other in zip(shown, here, strict=True))  # type: ignore[index]


@pytest.mark.slow
def test_a_process_that_has_read_enough_makes_place_for_another(
    reader: MediaWorker, simulated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media_worker, "MAX_FILES", 2)
    processes = []
    for file in sorted(simulated.rglob("*.mp4"))[:5]:
        assert len([*reader.read(file, SPEC)]) > 1
        processes.append(reader._process.pid if reader._process else None)
    assert [processes.count(one) for one in dict.fromkeys(processes)] == [2, 2, 1]
    assert not Path(f"/proc/{processes[0]}").exists()


def test_a_file_that_cannot_be_read_leaves_the_process_be(reader: MediaWorker, simulated: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no film")
    video = next(simulated.rglob("*.mp4"))
    first = reader.start()
    with pytest.raises(MediaError, match=r"cannot read .*text.mp4"):
        list(reader.read(tmp_path / "text.mp4", SPEC))
    assert len(list(reader.read(video, SPEC))) > 2
    assert reader.start() is first


def test_a_process_that_dies_is_told_of_and_replaced(reader: MediaWorker, simulated: Path) -> None:
    video = next(simulated.rglob("*.mp4"))
    shown = reader.read(video, SPEC)
    next(shown)
    assert reader._process is not None
    reader._process.kill()
    with pytest.raises(MediaError, match=r"died .*SIGKILL"):
        list(shown)
    assert len(list(reader.read(video, SPEC))) > 2


@pytest.mark.slow
def test_a_file_of_which_nothing_comes_is_given_up(simulated: Path) -> None:
    reader = MediaWorker(ResourceLimits(stall_s=1.0))
    reader.start()
    assert reader._process is not None
    stopped = reader._process
    time.sleep(2.0)  # it is awake by now
    stopped.send_signal(signal.SIGSTOP)
    with pytest.raises(MediaError, match="no data for"):
        list(reader.read(next(simulated.rglob("*.mp4")), SPEC))
    assert stopped.poll() == -signal.SIGKILL


@pytest.mark.slow
def test_memory_is_bounded(simulated: Path) -> None:
    """The kernel holds the process to the limit that the caller named; how much a decoder takes is not ours to say."""
    reader = MediaWorker(ResourceLimits(memory_bytes=4 * 2**30))
    assert len(list(reader.read(next(simulated.rglob("*.mp4")), SPEC))) > 2
    assert reader._process is not None
    limits = Path(f"/proc/{reader._process.pid}/limits").read_text()
    assert re.search(rf"Max address space +{4 * 2**30} ", limits)
    reader.close()


@pytest.mark.slow
def test_processor_time_is_bounded_for_each_file_anew(simulated: Path) -> None:
    video = next(simulated.rglob("*.mp4"))
    reader = MediaWorker(ResourceLimits(cpu_s=2.0))
    first = reader.start()
    assert reader._process is not None
    while _processor_s(reader._process.pid) < 4.0:  # of many files it is more
        assert len(list(reader.read(video, SPEC))) > 2
    assert reader.start() is first
    reader.close()


@pytest.mark.slow
def test_a_file_that_takes_too_much_processor_time_is_given_up(simulated: Path) -> None:
    video = next(simulated.rglob("*.mp4"))
    reader = MediaWorker(ResourceLimits(cpu_s=0.001))  # until the next whole second, as the kernel counts
    with pytest.raises(MediaError, match="CPU time"):
        for _ in range(1000):  # the kernel ends it when its next whole second is over
            list(reader.read(video, SPEC))
    reader.close()


def _processor_s(process: int) -> float:
    user, system = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
def test_a_decoder_that_crashes_leaves_no_core(reader: MediaWorker, simulated: Path) -> None:
    """Where this process would leave one."""
    usual = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (usual[1], usual[1]))
    try:
        list(reader.read(next(simulated.rglob("*.mp4")), SPEC))
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, usual)
    assert reader._process is not None
    limits = Path(f"/proc/{reader._process.pid}/limits").read_text()
    assert re.search(r"Max core file size +0 ", limits)


def test_who_does_not_want_a_file_any_more_gets_no_more_of_it(reader: MediaWorker, simulated: Path) -> None:
    def never() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        list(reader.read(next(simulated.rglob("*.mp4")), SPEC, check=never))
    assert reader._process is None


@pytest.mark.slow
def test_it_ends_when_its_parent_is_killed(simulated: Path, tmp_path: Path) -> None:
    code = f"from test_media_worker import _wait_to_be_killed; _wait_to_be_killed({str(tmp_path / 'pid')!r})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parent)
    _until((tmp_path / "pid").is_file)
    _until(lambda: bool((tmp_path / "pid").read_text()))
    child = int((tmp_path / "pid").read_text())
    process.kill()
    process.wait()
    _until(lambda: not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2])


def _wait_to_be_killed(told: str) -> None:
    reader = MediaWorker()
    reader.start()
    assert reader._process is not None
    Path(told).write_text(str(reader._process.pid))
    time.sleep(LONGEST_S)


@pytest.mark.slow
def test_a_script_needs_no_guard(simulated: Path, tmp_path: Path) -> None:
    """What a first-time user writes: nothing but the call, at the top of a file."""
    video = next(simulated.rglob("*.mp4"))
    script = tmp_path / "script.py"
    script.write_text(f"from reactometer import predict\nprint(predict([{str(video)!r}], progress=False)[0].status)\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "ok\n", done.stderr


def test_apart_and_here_give_the_same_prediction(simulated: Path) -> None:
    video = next(simulated.rglob("*.mp4"))
    apart, here = (predict([video], progress=False, isolated=own)[0] for own in (True, False))
    assert apart == here


@pytest.mark.slow
def test_the_process_imports_only_what_reading_needs() -> None:
    code = "import sys, reactometer.workers.decoder; print(*{name.split('.')[0] for name in sys.modules})"
    modules = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert {"av", "cv2", "numpy"} <= set(modules)
    assert not {"pydantic", "onnxruntime", "torch", "scipy", "pandas"} & set(modules)
