"""Peak memory of ``reactometer predict`` on 1, 10 and 20 minutes of the same video: does it grow with length?

    python benchmarks/memory.py MODEL

Prints the peak resident memory of each run (whole process, as the kernel counts it) and the ratios.
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

LENGTHS_MIN = (1, 10, 20)

MEASURE = """
import resource, subprocess, sys
subprocess.run([sys.executable, "-m", "reactometer", *sys.argv[1:]], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
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
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for minutes in LENGTHS_MIN:
            path = Path(folder) / f"{minutes}.mp4"
            write_video(path, minutes)
            tables = ["--out", f"{folder}/clips.csv", "--timeline", f"{folder}/timeline.csv"]
            command = [sys.executable, "-c", MEASURE, "predict", "--model", sys.argv[1], str(path), *tables]
            peaks[minutes] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(f"{minutes:2d} min: {peaks[minutes]:.0f} MiB")
    for minutes in LENGTHS_MIN[1:]:
        print(f"{minutes} minutes / {LENGTHS_MIN[0]} minute: {peaks[minutes] / peaks[LENGTHS_MIN[0]]:.2f}")


if __name__ == "__main__":
    main()
