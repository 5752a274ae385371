"""A run over many files with one process and with two: how much of a second one is gained, and what a clip costs.

    python benchmarks/scaling.py [--clips 24] [--seconds 10] [--rounds 3] [--ray]

``reactometer predict FOLDER --out RESULTS`` with the starter model on copies of a rendered clip, each of its own
content, with one process and with two, each of which computes in one thread. Either way so many clips, and three times
as many, and the speed is taken from the difference: what starting costs is shown apart. Rounds take turns; figures are
medians. With ``--ray``, on a Ray cluster that each command starts for itself.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from statistics import median

from measuring import bar, cost_of_one, write_video

BAR, TIMES_MORE, WORKERS = 0.90, 3, (1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--seconds", type=int, default=10, help="of a clip")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ray", action="store_true", help="on a Ray cluster of this machine")
    asked = parser.parse_args()
    seconds: dict[int, list[float]] = {workers: [] for workers in WORKERS}
    starts: dict[int, list[float]] = {workers: [] for workers in WORKERS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        counts = asked.clips, TIMES_MORE * asked.clips
        few, many = (_write_clips(folder / str(count), count, asked.seconds) for count in counts)
        for number in range(asked.rounds):
            for workers in WORKERS:
                run = partial(_run, workers, asked.ray, folder / f"runs-{workers}-{number}")
                each_s, start_s = cost_of_one(run, few, many, counts)
                seconds[workers].append(each_s)
                starts[workers].append(start_s)
        kept = (
            sum(file.stat().st_size for file in (folder / "runs-1-0" / many.name).rglob("*") if file.is_file())
            / counts[1]
        )
        read = sum(file.stat().st_size for file in many.iterdir()) / counts[1]
    for workers in WORKERS:
        print(f"{workers} of one thread: {median(seconds[workers]):.3f} s a clip of {asked.seconds} s;", end=" ")
        print(f"starting and ending {median(starts[workers]):.1f} s.")
    print(f"Bytes a clip: {read:,.0f} read, {kept:,.0f} kept.\n")
    ratio = median(one / (2 * two) for one, two in zip(*seconds.values(), strict=True))
    bar("speed of two processes / twice that of one", ratio, BAR)


def _write_clips(folder: Path, count: int, seconds: int) -> Path:
    """So many clips that differ in a part that no decoder reads."""
    folder.mkdir()
    data = write_video(folder / "0.mp4", seconds).read_bytes()
    for number in range(1, count):
        (folder / f"{number}.mp4").write_bytes(data + (12).to_bytes(4, "big") + b"free" + number.to_bytes(4, "big"))
    return folder


def _run(workers: int, ray: bool, out: Path, clips: Path) -> None:
    results = ["--out", str(out / clips.name), "--workers", str(workers), *(["--ray", "local"] if ray else [])]
    command = [sys.executable, "-m", "reactometer", "predict", str(clips), *results]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


if __name__ == "__main__":
    main()
