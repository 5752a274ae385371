"""Write the synthetic demo dataset: synthetic faces and voices with known intensities, in the ABAW5 layout."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from reactometer.errors import ConfigError, OutputError
from reactometer.io import PART, clear_leftovers, replacing, write_whole
from reactometer.labels import HUME_REACTION
from reactometer.synthetic.clip import SPLIT_SHARES, ClipPlan, clip_plan, render_clip
from reactometer.terminal import progress_bar
from reactometer.types import SOUND_RATE_HZ, ByteArray, FloatArray
from reactometer.workers.pool import run_jobs

_VERSION = 2
"""Version of the images and sounds; raise it when a change alters them."""

MIN_CLIPS = 4

_X264 = {"crf": "24", "preset": "veryfast", "threads": "1", "flags": "+bitexact", "x264-params": "bframes=0:mbtree=0"}
"""The macroblock tree is off: with it even one thread does not give the same bytes on every run (x264 core 165)."""

_AAC = {"b": "48k", "aac_coder": "fast", "flags": "+bitexact"}


def simulate(
    out: Path,
    *,
    n_clips: int = 480,
    seed: int = 0,
    duration_s: float = 3.0,
    workers: int = 2,
    progress: bool = False,
) -> Path:
    """Write the dataset into the folder ``out``, and return ``out``.

    The folder gets ``data_info.csv`` (the challenge's columns, then ``Person`` and ``Stimulus``; with test labels) and
    ``<split>/mp4/<id>.mp4`` (H.264, AAC mono 16 kHz). The same settings give the same bytes for any ``workers``. A
    folder with a part of the same dataset is completed.

    Args:
        out: the folder.
        n_clips: number of clips; about 60, 15 and 25% of them in train, val and test.
        seed: random seed.
        duration_s: length of each clip, seconds.
        workers: number of processes; 1 renders in this process.
        progress: show a bar on standard error.

    Raises:
        ConfigError: fewer than four clips.
        OutputError: the folder contains anything else.
    """
    if n_clips < MIN_CLIPS:
        raise ConfigError("too few clips to simulate", got=n_clips, expected=f"{MIN_CLIPS} or more")
    plans = [clip_plan(index, n_clips=n_clips, seed=seed, duration_s=duration_s) for index in range(n_clips)]
    settings = {"n_clips": n_clips, "seed": seed, "duration_s": duration_s}
    settings |= {"rate_hz": plans[0].rate_hz, "size_px": plans[0].size_px}
    _claim(out, json.dumps({"simulation": _VERSION, **settings}, indent=2))
    clear_leftovers(out)
    for split in SPLIT_SHARES:
        (out / split / "mp4").mkdir(parents=True, exist_ok=True)
    if not (out / "data_info.csv").is_file():
        _write_table(out / "data_info.csv", plans)
    jobs = [_Job(plan, _path(out, plan)) for plan in plans if not _path(out, plan).is_file()]
    finished = map(_write_clip, jobs) if workers == 1 else run_jobs(_write_clip, jobs, workers, on_death=_died)
    with progress_bar("rendering", n_clips, progress, n_clips - len(jobs)) as advance:
        for _ in finished:
            advance()
    return out


@dataclass(frozen=True)
class _Job:
    plan: ClipPlan
    path: Path


def _claim(out: Path, record: str) -> None:
    """Claim the folder for this dataset; raise OutputError if it contains anything else."""
    about = out / "simulation.json"
    if about.is_file() and about.read_text(encoding="utf-8") == record:
        return
    if out.exists() and not (out.is_dir() and all(entry.name.endswith(PART) for entry in out.iterdir())):
        raise OutputError(
            f"will not simulate into {out}",
            got="a simulation with other settings" if about.is_file() else "a folder with other files",
            expected="a new or an empty folder",
            fix="Choose another folder, or delete this one",
        )
    write_whole(about, record)


def _write_table(path: Path, plans: list[ClipPlan]) -> None:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["File_ID", "Split", *HUME_REACTION, "Age", "Country", "Person", "Stimulus"])
    for plan in plans:
        labels = [f"{label:.4f}" for label in plan.labels]
        who = [plan.age, plan.country, plan.person, plan.stimulus]
        writer.writerow([f"[{plan.clip_id}]", plan.split.title(), *labels, *who])
    write_whole(path, table.getvalue())


def _path(out: Path, plan: ClipPlan) -> Path:
    return out / plan.split / "mp4" / f"{plan.clip_id}.mp4"


def _write_clip(job: _Job) -> None:
    """Render one clip, and write it atomically."""
    frames, waveform = render_clip(job.plan)
    with replacing(job.path) as partial:
        _write_video(partial, frames, job.plan.rate_hz, None if job.plan.sound == "absent" else waveform)


def _died(job: _Job) -> None:
    raise OutputError(f"the process that rendered {job.path} died", fix="Look for memory; run it again to go on")


def _write_video(path: Path, frames: ByteArray, rate_hz: float, waveform: FloatArray | None) -> None:
    """Write an MP4 file with H.264 and, with a waveform, AAC: the same bytes on every run."""
    with av.open(str(path), "w", "mp4", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream("libx264", rate=Fraction(rate_hz).limit_denominator(1001), options=_X264)
        video.height, video.width, video.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        sound = None if waveform is None else container.add_stream("aac", SOUND_RATE_HZ, layout="mono", options=_AAC)
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode(None))
        if sound is not None and waveform is not None:
            samples = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
            samples.sample_rate = SOUND_RATE_HZ
            container.mux(sound.encode(samples))
            container.mux(sound.encode(None))
