"""What the benchmarks share: a video to read, a clock, and a line a bar that bench.py gathers."""

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
    """The embedded data set's first clip, again and again, with its sound: 160 px, 10 frames a second."""
    frames, waveform = render_clip(clip_plan(0))
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=Fraction(10), options={"preset": "ultrafast"})
        video.width = video.height = frames.shape[1]
        sound = container.add_stream("aac", 16_000, layout="mono")
        for turn in range(seconds * 10 // len(frames)):
            for frame in frames:
                container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            heard = av.AudioFrame.from_ndarray(waveform[None].astype(np.float32), format="fltp", layout="mono")
            heard.sample_rate, heard.pts = 16_000, turn * len(waveform)
            container.mux(sound.encode(heard))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
    return path


def timed(run: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began_s = time.perf_counter()
    run()
    return time.perf_counter() - began_s


def processes(pid: int) -> list[int]:
    """A process, and all those that its threads started and that still run, with theirs."""
    listed = [file.read_text().split() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    return [pid, *(below for pids in listed for child in pids for below in processes(int(child)))]


def processor_s() -> float:
    """Processor time so far of this process, of those it has waited for, and of those that it has now, seconds."""
    waited = resource.getrusage(resource.RUSAGE_CHILDREN)
    running = processes(os.getpid())[1:]
    ticks = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13] for pid in running]
    running_s = sum(int(own) for pair in ticks for own in pair) / os.sysconf("SC_CLK_TCK")
    return time.process_time() + waited.ru_utime + waited.ru_stime + running_s


def cost_of_one(run: Callable[[Path], object], few: Path, many: Path, counts: tuple[int, int]) -> tuple[float, float]:
    """Seconds that one more of what is in two folders, so many in each, takes; and those that starting takes."""
    short_s, long_s = timed(lambda: run(few)), timed(lambda: run(many))
    each_s = (long_s - short_s) / (counts[1] - counts[0])
    return each_s, short_s - counts[0] * each_s


def bar(name: str, value: float, limit: float, *, at_most: bool = False) -> bool:
    """Print what was measured, what was asked for, and whether it is met; returns the last."""
    met = value <= limit if at_most else value >= limit
    asked = f"{'<=' if at_most else '>='} {limit:g}"
    print(f"bar: {name}: {value:.3g} (asked: {asked}): {'met' if met else 'NOT MET'}", flush=True)
    return met
