"""Memory and time of ``reactometer predict`` on 1 to 60 minutes of the same video: do they grow as they should?

    python benchmarks/memory.py [MODEL]

Default: the starter model. Prints the peak resident memory of each run (whole process, as the kernel counts it), the
seconds, and how well a line through the seconds fits.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from reactometer.data.simulated_clip import clip_plan, render_clip
from reactometer.weights import STARTER

LENGTHS_MIN = (1, 10, 30, 60)

MEASURE = """
import resource, subprocess, sys, time
began_s = time.perf_counter()
subprocess.run([sys.executable, "-m", "reactometer", *sys.argv[1:]], check=True, capture_output=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, time.perf_counter() - began_s)
"""


def write_video(path: Path, minutes: int) -> None:
    """The embedded data set's first clip, again and again, with its sound."""
    frames, waveform = render_clip(clip_plan(0))
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=Fraction(10), options={"preset": "ultrafast"})
        video.width = video.height = frames.shape[1]
        sound = container.add_stream("aac", 16_000, layout="mono")
        for turn in range(minutes * 60 // 3):
            for frame in frames:
                container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            heard = av.AudioFrame.from_ndarray(waveform[None].astype(np.float32), format="fltp", layout="mono")
            heard.sample_rate, heard.pts = 16_000, turn * len(waveform)
            container.mux(sound.encode(heard))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))


def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else str(STARTER)
    peaks, seconds = [], []
    print("| video, min | peak, MiB | s |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for minutes in LENGTHS_MIN:
            path = Path(folder) / f"{minutes}.mp4"
            write_video(path, minutes)
            tables = ["--out", f"{folder}/clips.csv", "--timeline", f"{folder}/timeline.csv"]
            command = [sys.executable, "-c", MEASURE, "predict", "--model", model, str(path), *tables]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            peaks.append(float(said[0]))
            seconds.append(float(said[1]))
            print(f"| {minutes} | {peaks[-1]:.0f} | {seconds[-1]:.1f} |", flush=True)
    r = float(np.corrcoef(LENGTHS_MIN, seconds)[0, 1])
    for name, value, limit, met in (
        ("peak memory, 60 min / 1 min", peaks[-1] / peaks[0], "<= 1.10", peaks[-1] <= 1.1 * peaks[0]),
        ("peak memory of 60 min, MiB", peaks[-1], "< 954, 1 GB", peaks[-1] < 954),
        ("R squared of time on length", r**2, "> .99", r**2 > 0.99),
    ):
        print(f"bar: {name}: {value:.3f} (asked: {limit}): {'met' if met else 'NOT MET'}")


if __name__ == "__main__":
    main()
