"""This package beside what else installs and runs offline: time, memory, size, times of frames, rows against frames.

    python benchmarks/peers.py CLIPS [--peer-python PATH]... [--rounds 2]

Side by side in one run, in turns, each as a process of its own: ``reactometer predict`` with the starter model; OpenCV,
YuNet and ONNX Runtime written the plain way, with the starter's own face network; opensmile's eGeMAPS against our
contours of the voice; and rivals whose weights come inside their pip package. A peer is looked for in this Python and
in those named; where it is in none, a line says so. opensmile is licensed for non-commercial research: it is compared
with and never depended on.

Speed and memory are of ``WolfgangLanger_Pexels.mp4`` (472 frames of 640 x 360), times and rows of ``face_noface.mov``
(HEVC, a variable frame rate, the face leaves). "Whole" is the file's frames by the wall time of the process, from its
start to its end; "warm" is a second pass in a process that has made one. Medians over the rounds.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

LOOPS = Path(__file__).with_name("peer_loops.py")
SPEED, TIMES, SPEECH = "WolfgangLanger_Pexels.mp4", "face_noface.mov", ("face_noface.mov", "single_face.mp4")
EVERY_FRAME = ("--rate", "60")  # more than any of the files has


@dataclass(frozen=True)
class Peer:
    """Something to compare: its loop, the packages it takes, and what its numbers are."""

    name: str
    loop: str
    packages: tuple[str, ...]
    does: str
    options: tuple[str, ...] = ()
    command: bool = False  # the whole process is the command line


OURS = "6 emotions a file and a window, face and voice, intervals, doubts; face followed, crop turned upright"
PLAIN = "6 numbers a face by the same network; no voice, no windows, nobody followed, no intervals"
PEERS = (
    Peer("reactometer predict, 5 looks/s", "reactometer", ("reactometer",), OURS, command=True),
    Peer("reactometer predict, every frame", "reactometer", ("reactometer",), OURS, EVERY_FRAME, command=True),
    Peer("plain loop, every frame", "plain", ("opencv-python-headless", "onnxruntime"), PLAIN),
    Peer("plain loop, about 5 looks/s", "plain_5hz", ("opencv-python-headless", "onnxruntime"), PLAIN),
    Peer("fer", "fer", ("fer",), "7 expressions a face (64 x 64 network), Haar boxes of the whole frame; no voice"),
    Peer("facex", "facex", ("facex",), "7 expressions a face, Haar boxes of the whole frame; no voice"),
    Peer("mediapipe face mesh", "mediapipe", ("mediapipe",), "468 points of a followed face; no emotion, no voice"),
)
VOICE = (
    Peer("contours", "contours", ("reactometer",), "43 contours, 50 steps a second"),
    Peer("opensmile eGeMAPS v02", "opensmile", ("opensmile",), "25 descriptors, 100 steps a second; 88 functionals"),
)


@dataclass
class Measured:
    """What the rounds gave of one peer."""

    python: str
    about: dict[str, Any]
    whole_s: list[float] = field(default_factory=list)
    warm_s: list[float] = field(default_factory=list)
    peak_mib: list[float] = field(default_factory=list)
    told: dict[str, Any] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--peer-python", action="append", default=[], help="a Python that has rivals; repeatable")
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
    if not (asked.clips / SPEED).is_file():
        print(f"skipped: no {asked.clips / SPEED}; name the folder that holds it")
        return
    pythons = [sys.executable, *asked.peer_python]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        compare_faces(asked.clips, pythons, asked.rounds, folder)
        compare_voice(asked.clips, pythons, asked.rounds, folder)


def compare_faces(clips: Path, pythons: Sequence[str], rounds: int, folder: Path) -> None:
    """Print the table of what reads videos."""
    measured = _find(PEERS, pythons)
    weights = run(sys.executable, "export", str(folder / "network.onnx")).told["weights"]
    common = ("--weights", weights, "--network", str(folder / "network.onnx"))
    truth = {file: run(sys.executable, "truth", str(clips / file)).told["times_s"] for file in (SPEED, TIMES)}
    for _ in range(rounds):
        for peer, own in list(measured.items()):
            try:
                _measure(peer, own, clips / SPEED, common)
            except RuntimeError as error:
                print(f"{peer.name}: does not run: {error}")
                del measured[peer]
    n_frames = len(truth[SPEED])
    print(
        "\n| | version | frames/s, whole | warm | start, s | peak MiB | installed MiB, and torch | largest error of a "
        f"frame's time, s | rows for {len(truth[TIMES])} frames | intervals |\n" + "| --- " * 10 + "|"
    )
    for peer, own in measured.items():
        rows, has_intervals = _rows(peer, own, clips / TIMES, common, folder)
        whole_s, warm_s = median(own.whole_s), median(own.warm_s)
        speed = f"{n_frames / whole_s:.0f} | {n_frames / warm_s:.0f} | {whole_s - warm_s:.1f}"
        size = f"{own.about['mib']:.0f} + {own.about['torch_mib']:.0f}"
        size += f" (less {', '.join(own.about['absent'])})" if own.about["absent"] else ""
        cells = [peer.name, own.about["version"], speed, f"{median(own.peak_mib):.0f}", size]
        seen = sum(row["face"] for row in rows)
        unseen = f"{len(rows) - seen} of them no face" if len(rows) > seen else "none where there is no face"
        cells += [f"{_time_error(rows, truth[TIMES]):.4f}", f"{len(rows)}, {unseen}", "yes" if has_intervals else "no"]
        print("| " + " | ".join(cells) + " |")
    print()
    for peer in measured:
        print(f"* {peer.name}: {peer.does}.")


def compare_voice(clips: Path, pythons: Sequence[str], rounds: int, folder: Path) -> None:
    """Print the table of what listens."""
    sound = folder / "sound.wav"
    files = [str(clips / file) for file in SPEECH]
    seconds = run(sys.executable, "write_sound", str(sound), *files).told["seconds"]
    measured = _find(VOICE, pythons)
    for _ in range(rounds):
        for peer, own in measured.items():
            _measure(peer, own, sound, (), passes=6)
    print(f"\n{seconds:.1f} s of sound of {' and '.join(SPEECH)}:\n")
    print("| | version | whole process, s | warm, ms | times real time, warm | peak MiB | installed MiB, and torch | |")
    print("| --- " * 8 + "|")
    for peer, own in measured.items():
        whole_s, warm_s = median(own.whole_s), median(own.warm_s)
        speed = f"{whole_s:.1f} | {1000 * warm_s:.0f} | {seconds / warm_s:.0f} | {median(own.peak_mib):.0f}"
        size = f"{own.about['mib']:.0f} + {own.about['torch_mib']:.0f}"
        print(f"| {peer.name} | {own.about['version']} | {speed} | {size} | {peer.does} |")


@dataclass(frozen=True)
class Ran:
    """A finished process: what it printed as JSON (if it does), its wall time and its peak memory."""

    told: dict[str, Any]
    wall_s: float
    peak_mib: float


def run(python: str, *arguments: str) -> Ran:
    """Run one of the loops, or with ``-m`` a module. Raises RuntimeError with its last words where it fails."""
    first = [] if arguments[0] == "-m" else [str(LOOPS)]
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as errors:
        started_s = time.perf_counter()
        process = subprocess.Popen([python, *first, *arguments], stdout=said, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started_s
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        errors.seek(0)
        lines = said.read().splitlines()
        if process.returncode:
            words = errors.read().strip().splitlines() or ["no word"]
            raise RuntimeError(words[-1][:300])
    told = json.loads(lines[-1]) if first else {}
    return Ran(told, wall_s, usage.ru_maxrss / 1024)


def _find(peers: Sequence[Peer], pythons: Sequence[str]) -> dict[Peer, Measured]:
    """The peers that are installed in one of the Pythons; a line for each that is in none."""
    found = {}
    for peer in peers:
        for python in pythons:
            try:
                found[peer] = Measured(python, run(python, "installed", *peer.packages).told)
                break
            except RuntimeError:
                continue
        else:
            print(f"{peer.name}: not installed; pip install {' '.join(peer.packages)}, and --peer-python PATH")
    return found


def _measure(peer: Peer, own: Measured, file: Path, common: Sequence[str], passes: int = 2) -> None:
    arguments = (peer.loop, str(file), "--passes", str(passes), *common, *peer.options)
    ran = run(own.python, *arguments)
    _, *later_s = ran.told["passes_s"]
    own.warm_s.append(median(later_s))
    own.told = ran.told
    if peer.command:
        with tempfile.TemporaryDirectory() as folder:
            ran, later_s = run(own.python, *_command(peer, file, Path(folder))), []
    own.whole_s.append(ran.wall_s - sum(later_s))
    own.peak_mib.append(ran.peak_mib)


def _command(peer: Peer, file: Path, folder: Path) -> list[str]:
    tables = [f"--{table}={folder / table}.csv" for table in ("out", "timeline", "frames")]
    return ["-m", "reactometer", "predict", str(file), *tables, *peer.options]


def _rows(
    peer: Peer, own: Measured, file: Path, common: Sequence[str], folder: Path
) -> tuple[list[dict[str, Any]], bool]:
    """What a peer writes of a file, a row a frame, and whether its numbers have intervals."""
    if peer.command:
        run(own.python, *_command(peer, file, folder))
        rows = _read(folder / "frames.csv")
        intervals = any(column.endswith("_low") for column in _read(folder / "out.csv")[0])
        return [{"time_s": float(row["time_s"]), "face": row["state"] == "face"} for row in rows], intervals
    run(own.python, peer.loop, str(file), *common, "--rows", str(folder / "rows.csv"))
    rows = _read(folder / "rows.csv")
    return [{"frame": int(row["frame"]), "time_s": float(row["time_s"]), "face": True} for row in rows], False


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _time_error(rows: Sequence[dict[str, Any]], truth: Sequence[float]) -> float:
    """Largest difference, seconds, from the container's own time of the same frame.

    Where a row names no frame, it is the row's place if there is a row a frame, else the frame nearest to it.
    """
    if len(rows) == len(truth):
        rows = [{"frame": place, **row} for place, row in enumerate(rows)]
    errors = [
        abs(row["time_s"] - truth[row["frame"]])
        if "frame" in row
        else min(abs(row["time_s"] - time_s) for time_s in truth)
        for row in rows
    ]
    return max(errors)


if __name__ == "__main__":
    main()
