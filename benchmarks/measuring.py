"""Shared parts of the benchmarks: a video, timers, and the bars that bench.py collects."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from reactometer.synthetic.clip import clip_plan, render_clip


def write_video(path: Path, seconds: int) -> Path:
    """Write the first clip of the synthetic demo dataset, repeated, with sound: 160 px, 10 frames per
    second."""
    frames, waveform = render_clip(clip_plan(0))
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=Fraction(10), options={"preset": "ultrafast"})
        video.width = video.height = frames.shape[1]
        sound = container.add_stream("aac", 16_000, layout="mono")
        for repetition in range(seconds * 10 // len(frames)):
            for frame in frames:
                container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            audio = av.AudioFrame.from_ndarray(
                waveform[None].astype(np.float32), format="fltp", layout="mono"
            )
            audio.sample_rate = 16_000
            audio.pts = repetition * len(waveform)
            container.mux(sound.encode(audio))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
    return path


def timed(run: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    start_s = time.perf_counter()
    run()
    return time.perf_counter() - start_s


def processes(pid: int) -> list[int]:
    """Return the ids of a process and of all its descendants that are running."""
    children = [file.read_text().split() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    return [pid, *(below for pids in children for child in pids for below in processes(int(child)))]


def processor_s() -> float:
    """Return the CPU seconds of this process and of its finished and running children."""
    waited = resource.getrusage(resource.RUSAGE_CHILDREN)
    running = processes(os.getpid())[1:]
    ticks = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13] for pid in running]
    running_s = sum(int(tick) for pair in ticks for tick in pair) / os.sysconf("SC_CLK_TCK")
    return time.process_time() + waited.ru_utime + waited.ru_stime + running_s


def cost_of_one(
    run: Callable[[Path], object], few: Path, many: Path, counts: tuple[int, int]
) -> tuple[float, float]:
    """Return the seconds per item and the seconds of the start, from runs on two folders with ``counts``
    items."""
    short_s = timed(lambda: run(few))
    long_s = timed(lambda: run(many))
    each_s = (long_s - short_s) / (counts[1] - counts[0])
    return each_s, short_s - counts[0] * each_s


def bar(name: str, value: float, limit: float, *, at_most: bool = False) -> bool:
    """Print a measurement, its limit and whether the limit is met; return the last."""
    met = value <= limit if at_most else value >= limit
    bound = f"{'<=' if at_most else '>='} {limit:g}"
    print(f"bar: {name}: {value:.3g} (limit: {bound}): {'met' if met else 'NOT MET'}", flush=True)
    return met
