"""Measure memory and time of ``reactometer predict`` on 1 to 60 minutes of the same video.

    python benchmarks/memory.py [MODEL]

Default: the starter model. Print the peak resident memory of each run (the sum of the peaks of the process
and of its media worker), the seconds, and the fit of a line through the seconds.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from measuring import bar, write_video

from reactometer.paths import STARTER

LENGTHS_MIN = (1, 10, 30, 60)

MEASURE = """
import contextlib, pathlib, subprocess, sys, time
start_s = time.perf_counter()
process = subprocess.Popen([sys.executable, "-m", "reactometer", *sys.argv[1:]], stdout=-3, stderr=-3)
peaks_kb = {}
while process.poll() is None:
    with contextlib.suppress(OSError):
        children = [pid for file in pathlib.Path(f"/proc/{process.pid}/task").glob("*/children")
                    for pid in file.read_text().split()]
        for pid in (process.pid, *map(int, children)):
            for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmHWM"):
                    peaks_kb[pid] = int(line.split()[1])
    time.sleep(0.1)
assert process.returncode == 0
print(sum(peaks_kb.values()) / 1024, time.perf_counter() - start_s)
"""


def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else str(STARTER)
    peaks, seconds = [], []
    print("| video, min | peak, MiB | s |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for minutes in LENGTHS_MIN:
            path = Path(folder) / f"{minutes}.mp4"
            write_video(path, 60 * minutes)
            tables = ["-o", f"{folder}/clips.csv"]
            command = [sys.executable, "-c", MEASURE, "predict", str(path), "-m", model, *tables]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            peaks.append(float(output[0]))
            seconds.append(float(output[1]))
            print(f"| {minutes} | {peaks[-1]:.0f} | {seconds[-1]:.1f} |", flush=True)
    r = float(np.corrcoef(LENGTHS_MIN, seconds)[0, 1])
    bar("peak memory of 1 min, MiB", peaks[0], 400, at_most=True)
    bar("peak memory of 60 min, MiB", peaks[-1], 440, at_most=True)
    bar("R squared of time on length", r**2, 0.99)


if __name__ == "__main__":
    main()
