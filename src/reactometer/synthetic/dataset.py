"""Write the synthetic demo dataset: faces and voices with known intensities, in the ABAW5 layout."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av

from reactometer.errors import ConfigError, OutputError
from reactometer.io import atomic_folder, format_csv, format_json, write_atomic
from reactometer.labels import HUME_REACTION
from reactometer.synthetic.clip import SPLIT_SHARES, ClipPlan, clip_plan, render_clip
from reactometer.terminal import progress_bar
from reactometer.types import SOUND_RATE_HZ, ByteArray, FloatArray
from reactometer.workers.pool import run_jobs

_VERSION = 2
"""Version of the images and sounds; increase it if a change alters them."""

MIN_CLIPS = 4

Job = tuple[ClipPlan, Path]
"""A clip plan, and the file to write."""

_X264 = {
    "crf": "24",
    "preset": "veryfast",
    "threads": "1",
    "flags": "+bitexact",
    "x264-params": "bframes=0:mbtree=0",
}
"""The macroblock tree is off, because it makes the bytes differ between runs, even with one thread (x264 core
165)."""

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

    The folder gets ``data_info.csv`` (the challenge's columns, then ``Person`` and ``Stimulus``; with test
    labels) and ``<split>/mp4/<id>.mp4`` (H.264, AAC mono 16 kHz). The same settings give the same bytes for
    any ``workers``. A folder with the same dataset is unchanged.

    Args:
        out: the folder, created when all clips are rendered.
        n_clips: number of clips; about 60%, 15% and 25% in train, val and test.
        seed: random seed.
        duration_s: length of each clip, seconds.
        workers: number of processes; 1 renders in this process.
        progress: show a bar on standard error.

    Raises:
        ConfigError: fewer than four clips.
        OutputError: the folder exists with other contents.
    """
    if n_clips < MIN_CLIPS:
        raise ConfigError("too few clips to simulate", got=n_clips, expected=f"{MIN_CLIPS} or more")
    plans = [clip_plan(index, n_clips=n_clips, seed=seed, duration_s=duration_s) for index in range(n_clips)]
    settings = {"simulation": _VERSION, "n_clips": n_clips, "seed": seed, "duration_s": duration_s}
    metadata = format_json({**settings, "rate_hz": plans[0].rate_hz, "size_px": plans[0].size_px})
    if (out / "simulation.json").is_file() and (out / "simulation.json").read_text(
        encoding="utf-8"
    ) == metadata:
        return out
    with atomic_folder(out) as folder, progress_bar("rendering", n_clips, progress) as advance:
        for split in SPLIT_SHARES:
            (folder / split / "mp4").mkdir(parents=True)
        write_atomic(folder / "simulation.json", metadata)
        _write_table(folder / "data_info.csv", plans)
        jobs = [(plan, folder / plan.split / "mp4" / f"{plan.clip_id}.mp4") for plan in plans]
        for _ in (
            map(_write_clip, jobs)
            if workers == 1
            else run_jobs(_write_clip, jobs, workers, on_death=_crashed)
        ):
            advance()
    return out


def _write_table(path: Path, plans: list[ClipPlan]) -> None:
    header = ["File_ID", "Split", *HUME_REACTION, "Age", "Country", "Person", "Stimulus"]
    rows = []
    for plan in plans:
        labels = [f"{label:.4f}" for label in plan.labels]
        person_columns = [plan.age, plan.country, plan.person, plan.stimulus]
        rows.append([f"[{plan.clip_id}]", plan.split.title(), *labels, *person_columns])
    write_atomic(path, format_csv([header, *rows]))


def _write_clip(job: Job) -> None:
    plan, path = job
    frames, waveform = render_clip(plan)
    write_video(path, frames, plan.rate_hz, None if plan.sound == "absent" else waveform)


def _crashed(job: Job) -> None:
    raise OutputError(f"the worker that rendered {job[0].clip_id} died", fix="Free some memory and retry")


def write_video(path: Path, frames: ByteArray, rate_hz: float, waveform: FloatArray | None) -> None:
    """Write an MP4 file with H.264 and, with a waveform, AAC: the same bytes on every run."""
    with av.open(str(path), "w", "mp4", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream("libx264", rate=Fraction(rate_hz).limit_denominator(1001), options=_X264)
        video.height = frames.shape[1]
        video.width = frames.shape[2]
        video.pix_fmt = "yuv420p"
        sound = (
            None
            if waveform is None
            else container.add_stream("aac", SOUND_RATE_HZ, layout="mono", options=_AAC)
        )
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode(None))
        if sound is not None and waveform is not None:
            samples = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
            samples.sample_rate = SOUND_RATE_HZ
            container.mux(sound.encode(samples))
            container.mux(sound.encode(None))
