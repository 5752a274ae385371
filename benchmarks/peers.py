"""Compare this package with other tools that run offline: size, start, frames per second and memory.

    python benchmarks/peers.py VIDEO NAME=PYTHON... [--rounds 3]

NAME is "reactometer", "plain" or "facex". PYTHON is the Python of a virtual environment that contains only
this
tool: ``pip install .`` for reactometer, ``pip install opencv-python-headless onnxruntime`` for plain, ``pip
install facex``. Every tool reads every frame of VIDEO, in a process of its own, in turns; figures are medians
of the rounds.

* plain: the loop that people write by hand with OpenCV, YuNet and ONNX Runtime, here with the starter's face
  encoder. One face per frame, no time, no voice, no intervals.
* facex: seven expressions per frame, as its documentation shows it. Other rivals (py-feat, LibreFace,
  DeepFace, EmotiEffLib, hsemotion) download weights at first use and cannot run offline; fer 25.10 misses
  packages.
* start: the seconds of the whole process beyond those of a second pass over VIDEO in the same process.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

YUNET_SIDE_PX = 480  # the detector's input, as in reactometer
TOOLS = ("pip", "setuptools", "pkg_resources", "_distutils_hack")  # part of every virtual environment


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("video", type=Path)
    parser.add_argument("peers", nargs="+", metavar="NAME=PYTHON")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        time_passes(arguments.peers[0], arguments.video)
        return
    pythons = dict(peer.split("=", 1) for peer in arguments.peers)
    runs: dict[str, list[tuple[float, float, float, int]]] = {name: [] for name in pythons}
    for _ in range(arguments.rounds):
        for name, python in pythons.items():
            runs[name].append(measure(python, name, arguments.video))
    print("| | installed, MiB | start, s | frames/s, whole process | frames/s, warm | peak memory, MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, rows in runs.items():
        whole_s, warm_s, peak_mib = (median(column) for column in list(zip(*rows, strict=True))[:3])
        n_frames = rows[0][3]
        speeds = f"{whole_s - warm_s:.2f} | {n_frames / whole_s:.0f} | {n_frames / warm_s:.0f}"
        print(f"| {name} | {installed_mib(pythons[name]):.0f} | {speeds} | {peak_mib:.0f} |")


def measure(python: str, name: str, video: Path) -> tuple[float, float, float, int]:
    """Return the seconds of a process that reads VIDEO once and of a second pass, its peak MiB, and the
    frames."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [python, __file__, str(video), name, "--worker"]
    start_s = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        peaks_kib: dict[int, int] = {}
        while process.poll() is None:
            for pid in (process.pid, *children_of(process.pid)):
                peaks_kib[pid] = max(peaks_kib.get(pid, 0), peak_kib(pid))
            time.sleep(0.02)
        wall_s = time.perf_counter() - start_s
        output = process.stdout.read().decode().split() if process.stdout else []
    if process.returncode:
        raise SystemExit(f"{name} fails in {python}")
    warm_s, n_frames = float(output[-2]), int(output[-1])
    return wall_s - warm_s, warm_s, sum(peaks_kib.values()) / 1024, n_frames


def children_of(pid: int) -> list[int]:
    try:
        return [
            int(child)
            for file in Path(f"/proc/{pid}/task").glob("*/children")
            for child in file.read_text().split()
        ]
    except OSError:  # the process has ended
        return []


def peak_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def installed_mib(python: str) -> float:
    """Return the size of an environment's packages with their byte code, MiB."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    folder = Path(subprocess.check_output([python, "-c", code], text=True).strip())
    files = (
        file for file in folder.rglob("*") if file.relative_to(folder).parts[0].split("-")[0] not in TOOLS
    )
    return sum(file.lstat().st_blocks for file in files) * 512 / 2**20


def time_passes(name: str, video: Path) -> None:
    """Read the video twice in this process; print the seconds of the second pass and the number of frames."""
    run = LOOPS[name](video)
    run()
    start_s = time.perf_counter()
    n_frames = run()
    print(time.perf_counter() - start_s, n_frames)


def reactometer(video: Path) -> Callable[[], int]:
    from reactometer import load_model
    from reactometer.inference.predictor import predict_files
    from reactometer.paths import STARTER

    model = load_model(STARTER, "cpu")

    def run() -> int:
        (prediction,) = predict_files([video], model, rate_hz=240.0, progress=False)
        assert prediction.frames_read is not None
        return prediction.frames_read

    return run


def plain(video: Path) -> Callable[[], int]:
    import cv2
    import numpy as np
    import onnxruntime

    from reactometer.paths import find_checkpoint

    weights = Path(os.environ["REACTOMETER_WEIGHTS"]) / "yunet_n_320_320.onnx"
    encoder = find_checkpoint("starter") / "face.onnx"
    session = onnxruntime.InferenceSession(str(encoder), providers=["CPUExecutionProvider"])

    detector = cv2.FaceDetectorYN.create(str(weights), "", (YUNET_SIDE_PX, YUNET_SIDE_PX))

    def run() -> int:
        n_frames = 0
        for frame in frames_of(video):
            n_frames += 1
            scale = YUNET_SIDE_PX / max(frame.shape)
            small = cv2.resize(frame, None, fx=scale, fy=scale)
            detector.setInputSize((small.shape[1], small.shape[0]))
            _, faces = detector.detect(small)
            for face in () if faces is None else faces[:1]:
                x, y, w, h = (max(0, int(value / scale)) for value in face[:4])
                crop = cv2.cvtColor(cv2.resize(frame[y : y + h, x : x + w], (64, 64)), cv2.COLOR_BGR2RGB)
                session.run(None, {"frames": np.ascontiguousarray(crop.transpose(2, 0, 1)[None])})
        return n_frames

    return run


def facex(video: Path) -> Callable[[], int]:
    from facex import PoolManager

    pool = PoolManager(1)
    return lambda: sum(1 for frame in frames_of(video) if pool.predict(frame) is not None)


def frames_of(video: Path) -> Iterator[Any]:
    import cv2

    file = cv2.VideoCapture(str(video))
    while (read := file.read())[0]:
        yield read[1]


LOOPS: dict[str, Callable[[Path], Callable[[], int]]] = {
    "reactometer": reactometer,
    "plain": plain,
    "facex": facex,
}

if __name__ == "__main__":
    sys.exit(main())
