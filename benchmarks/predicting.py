"""Where the time of a prediction goes, stage by stage, and how much of it the stages share.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/predicting.py [VIDEO]     # as the command sets it

``predict`` of one video (default: 20 s of the embedded data set) with the starter model in a warm process, sparse (32
frames looked at in 10 s) and dense (every frame). Each stage's own time is measured apart, on the same frames, in one
thread: decoding every frame, and the sound, turning those looked at to RGB, finding faces, and encoding faces and the
voice, this of the file and of each window of the timeline. Rounds take turns; figures are medians. "The rest" is what
the processes' time holds beside these: crops, JPEG, the timeline, the head, Python.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from measuring import bar, processor_s, timed, write_video

from reactometer.data.batches import collate, to_item
from reactometer.inference.predictor import DEFAULT_HOP_S, DEFAULT_WINDOW_S, predict
from reactometer.media.audio import read_sound
from reactometer.media.faces import load_detector
from reactometer.media.segments import PART, WindowShape
from reactometer.media.tracking import follow_face
from reactometer.media.video import probe, read_frames, sample_frames
from reactometer.models.folder import LoadedModel, load_model
from reactometer.models.heads import voice_stream
from reactometer.models.showing import FaceMemory
from reactometer.models.vision_encoders import FrameEncoder
from reactometer.paths import STARTER
from reactometer.workers.media_worker import Reading

RATES = {"sparse": 3.2, "dense": 60.0}
ROUNDS = 5


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        show_stages(Path(sys.argv[1]) if len(sys.argv) > 1 else write_video(Path(folder) / "rendered.mp4", 20))


def show_stages(video: Path) -> None:
    """A table and the bars of each rate."""
    info, model = probe(video), load_model(STARTER, "cpu")
    duration_s, n_frames = info.duration_s or 0.0, info.frame_count or 0
    for name, rate_hz in RATES.items():
        seconds, used = measure(video, model, rate_hz)
        whole, own = seconds.pop("whole"), sum(seconds.values())
        print(f"\n{name}: {video.name}, {duration_s:.1f} s, {n_frames} frames, in turns, medians of {ROUNDS}\n")
        print("| stage, alone in one thread | s | share of the whole's time |\n| --- | --- | --- |")
        for stage, own_s in seconds.items():
            print(f"| {stage} | {own_s:.3f} | {own_s / whole:.0%} |")
        print(f"| the rest | {max(used - own, 0.0):.3f} | {max(used - own, 0.0) / whole:.0%} |")
        print(f"| **whole prediction** (processor time {used:.2f} s) | {whole:.3f} | 100% |\n")
        slowest = max(seconds, key=lambda stage: seconds[stage])
        if name == "sparse":
            bar("whole prediction, times real time", duration_s / whole, 20.0)
        else:
            bar("dense, frames/s end to end", n_frames / whole, 60.0)
        bar(f"{name}, time outside decoder, detector and encoder", max(used - own, 0.0) / used, 0.10, at_most=True)
        if seconds[slowest] >= 0.5 * whole:
            bar(f"{name}, whole / {slowest} alone", whole / seconds[slowest], 1.15, at_most=True)


def measure(video: Path, model: LoadedModel, rate_hz: float) -> tuple[dict[str, float], float]:
    """Seconds of each stage alone and of the whole; and the processor time of the whole."""
    detector, threads = load_detector("auto"), (cv2.getNumThreads(), torch.get_num_threads())
    rgb = [frame.rgb() for frame in sample_frames(read_frames(video), rate_hz) if frame.rgb is not None]
    faces = list(follow_face(read_frames(video), detector, rate_hz=rate_hz, size_px=model.config.prepare.size_px))
    encoder, voice = model.network.face_encoder, model.network.voice_encoder
    assert isinstance(encoder, FrameEncoder)
    reading = Reading(model.config.prepare, (PART, WindowShape(DEFAULT_WINDOW_S, DEFAULT_HOP_S)))
    heard_alone = replace(model.sampling, looks=False)
    sounds = [collate([to_item(clip, heard_alone)], 0) for _, clip in reading.windows(video)]
    stages: dict[str, Callable[[], object]] = {
        "decode": lambda: list(read_frames(video)),
        "decode sound": lambda: list(read_sound(video)),
        "to RGB": lambda: [frame.rgb() for frame in decoded if frame.rgb is not None],
        "find faces": lambda: [detector(picture) for picture in rgb],
        "encode faces": lambda: FaceMemory(encoder, model.sampling, torch.device("cpu")).learn(faces),
        "encode voice": lambda: [voice_stream(voice, sound) for sound in sounds if voice is not None],
    }
    seconds: dict[str, list[float]] = {name: [] for name in (*stages, "whole")}
    used = []
    for _ in range(ROUNDS + 1):
        began_s = processor_s()
        seconds["whole"].append(timed(lambda: predict([video], model, rate_hz=rate_hz, progress=False)))
        used.append(processor_s() - began_s)
        cv2.setNumThreads(1), torch.set_num_threads(1)
        decoded = list(sample_frames(read_frames(video), rate_hz))
        for name, stage in stages.items():
            seconds[name].append(timed(stage))
        cv2.setNumThreads(threads[0]), torch.set_num_threads(threads[1])
    return {name: float(np.median(own[1:])) for name, own in seconds.items()}, float(np.median(used[1:]))


if __name__ == "__main__":
    main()
