"""The speed of predictions: whole processes, warm processes, and where the time goes.

    python benchmarks/predicting.py [SHORT LONG] [--only starts|stages|resnet|device] [--device cuda]

SHORT and LONG are videos (default: 2.4 and 20 s of the synthetic demo dataset). Everything is measured in
turns in one run; figures are medians of the rounds.

* starts: ``reactometer predict`` as a whole process on both videos, beside ``python -c "import torch"``.
* stages: ``predict`` of LONG with the starter model and timeline in a warm process, sparse (32 frames per 10
  s) and dense (every frame), and beside it a prediction in one thread and one process, in which the stages
  are timed, except the voice's encoder, which is timed apart. The rest is RGB, crops, JPEG, the timeline, the
  head and Python.
* resnet: ``predict`` of LONG with a ResNet50 at 224 px and 32 frames per 10 s, in single precision and in 8
  bits. Weights are random and 8 bits are calibrated on noise, because neither changes the time.
* device (only by name): ``predict`` of LONG with this ResNet50 and every frame on ``--device``, in images per
  second, beside its graph alone on batches of noise.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
from measuring import bar, processor_s, timed, write_video

from reactometer.data.inputs import to_item
from reactometer.inference.checkpoint import LoadedModel, load_model
from reactometer.inference.predictor import PredictOptions, Predictor, predict_files
from reactometer.inference.runtime import FRAME_BATCH_SIZE, open_graph, signatures_of
from reactometer.media import segments
from reactometer.media.audio import read_sound
from reactometer.media.faces import load_detector
from reactometer.media.tracking import track_face
from reactometer.media.video import probe, read_frames
from reactometer.paths import STARTER

RATES = {"sparse": 3.2, "dense": 60.0}
ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", nargs="*", type=Path)
    parser.add_argument("--only", choices=("starts", "stages", "resnet", "device"))
    parser.add_argument("--device", default="cuda", help="of --only device")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        short, long = options.videos or (write_video(folder / f"{s}.mp4", s) for s in (2, 20))
        if options.only in (None, "starts"):
            compare_starts(short, long)
        if options.only in (None, "stages"):
            show_stages(long)
        if options.only in (None, "resnet"):
            compare_precisions(long, folder)
        if options.only == "device":
            compare_with_bare_graph(long, folder, options.device)


def in_turns(runs: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Time all runs in turns, each once before; return the median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            value = timed(run)
            if number:
                seconds[name].append(value)
    return {name: float(np.median(times)) for name, times in seconds.items()}


def compare_starts(short: Path, long: Path) -> None:
    """Print how long whole processes take."""

    def process(*command: object) -> Callable[[], object]:
        words = [sys.executable, *map(str, command)]
        return lambda: subprocess.run(words, check=True, capture_output=True)

    torch = 'python -c "import torch"'
    seconds = in_turns(
        {
            torch: process("-c", "import torch"),
            "reactometer --help": process("-m", "reactometer", "--help"),
            f"predict {short.name}": process("-m", "reactometer", "predict", short),
            f"predict {long.name}": process("-m", "reactometer", "predict", long),
        }
    )
    print("| whole process | s |\n| --- | --- |")
    print("\n".join(f"| {name} | {value:.2f} |" for name, value in seconds.items()), flush=True)
    bar(
        "whole process, short clip / import torch",
        seconds[f"predict {short.name}"] / seconds[torch],
        0.6,
        at_most=True,
    )
    length_s = probe(long).duration_s or 0.0
    bar("whole process, long clip, times real time", length_s / seconds[f"predict {long.name}"], 12.0)


def show_stages(video: Path) -> None:
    """Print a table and the bars of each rate."""
    info, model = probe(video), load_model(STARTER, "cpu")
    duration_s = info.duration_s or 0.0
    n_frames = info.frame_count or 0
    for name, rate_hz in RATES.items():
        stages, serial_s, whole_s, used_s = measure_stages(video, model, rate_hz)
        rest_s = max(serial_s - sum(stages.values()), 0.0)
        print(f"\n{name}: {video.name}, {duration_s:.1f} s, {n_frames} frames, medians of {ROUNDS} rounds\n")
        print("| stage | CPU s | share |\n| --- | --- | --- |")
        totals = {"the rest": rest_s, "whole prediction, one thread": serial_s, "whole prediction": used_s}
        for stage, seconds in {**stages, **totals}.items():
            print(f"| {stage} | {seconds:.3f} | {seconds / serial_s:.0%} |")
        print(f"\nwall time of the whole prediction: {whole_s:.3f} s\n")
        if name == "sparse":
            bar("warm, sparse, times real time", duration_s / whole_s, 35.0)
        else:
            bar("warm, dense, frames/s", n_frames / whole_s, 160.0)
        bar(f"{name}, CPU time outside decoder, detector, encoders", rest_s / serial_s, 0.10, at_most=True)


def measure_stages(
    video: Path, model: LoadedModel, rate_hz: float
) -> tuple[dict[str, float], float, float, float]:
    """Return the CPU seconds of each stage and of the prediction in one thread; wall and CPU seconds of
    ``predict``."""
    seconds: defaultdict[str, list[float]] = defaultdict(list)

    def watch(name: str, function: Callable[..., Any]) -> Any:
        def watched(*arguments: object) -> object:
            start_s = time.process_time()
            try:
                return function(*arguments)
            finally:
                seconds[name][-1] += time.process_time() - start_s

        return watched

    def watch_each(name: str, read: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def watched(path: Path, **options: object) -> Iterator[Any]:
            step = watch(name, partial(next, read(path, **options), None))
            return iter(step, None)

        return watched

    one = load_model(STARTER, "cpu", threads=1)
    face = watch("encode faces", one.networks.encoders["face"])
    one = replace(one, networks=replace(one.networks, encoders={**one.networks.encoders, "face": face}))
    predictor = Predictor(one, PredictOptions(rate_hz=rate_hz))
    detector = watch("detect faces", load_detector("auto"))
    spec = predictor.decode_spec
    voices = [
        to_item(clip, replace(one.sampling, media=("voice",)))
        for _, clip in predictor.read(video, isolated=False)
    ]

    def predict_in_one_thread() -> None:
        predictor.reset()
        with (
            patch.object(segments, "read_frames", watch_each("decode", read_frames)),
            patch.object(segments, "read_sound", watch_each("decode sound", read_sound)),
        ):
            track = partial(track_face, detector=detector, rate_hz=spec.rate_hz, size_px=spec.size_px)
            windows = segments.stream_windows(video, track, spec.window_specs)
            predictor.predict_segments(str(video), windows)

    stages: dict[str, Callable[[], object]] = {
        "one thread": predict_in_one_thread,
        "encode voice": lambda: [one.networks.encode(item) for item in voices],
    }
    for _ in range(ROUNDS + 1):
        start_s = processor_s()
        seconds["wall"].append(timed(lambda: predict_files([video], model, rate_hz=rate_hz, progress=False)))
        seconds["CPU"].append(processor_s() - start_s)
        for name in ("decode", "decode sound", "detect faces", "encode faces"):
            seconds[name].append(0.0)
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        for name, stage in stages.items():
            start_s = time.process_time()
            stage()
            seconds[name].append(time.process_time() - start_s)
        cv2.setNumThreads(threads)
    medians = {name: float(np.median(times[1:])) for name, times in seconds.items()}
    serial_s, whole_s, used_s = (medians.pop(name) for name in ("one thread", "wall", "CPU"))
    return medians, serial_s, whole_s, used_s


def compare_precisions(video: Path, folder: Path) -> None:
    """Print how many times faster than real time a ResNet50 predicts a video, in single precision and in 8
    bits."""
    from reactometer.training.quantise import quantise_graph

    write_resnet(folder / "float32", n_frames=64, rate_hz=3.2)
    single = load_model(folder / "float32", "cpu")
    noise = np.random.default_rng(0).integers(0, 256, (16, 4, 3, 224, 224), dtype=np.uint8)
    file = folder / "float32" / "face.onnx"
    with redirect_stderr(StringIO()):
        quantise_graph(file, [{"frames": one} for one in noise])
    graph = open_graph(file, *signatures_of(single.networks.inputs, 224, 1)[file.name], "cpu")
    eight_bits = replace(single, networks=replace(single.networks, encoders={"face": graph}))
    options = {"timeline": False, "progress": False}
    runs = {
        "float32": partial(predict_files, [video], single, **options),
        "int8": partial(predict_files, [video], eight_bits, **options),
    }
    duration_s = probe(video).duration_s or 0.0
    times = {name: duration_s / seconds for name, seconds in in_turns(runs, 3).items()}
    print(f"\n| ResNet50, {video.name}, {duration_s:.1f} s | times real time |\n| --- | --- |")
    print("\n".join(f"| {name} | {value:.1f} |" for name, value in times.items()))
    bar("ResNet50, float32, times real time", times["float32"], 6.0)
    bar("ResNet50, int8, times real time", times["int8"], 14.0)


def compare_with_bare_graph(video: Path, folder: Path, device: str) -> None:
    """Print how many images per second a ResNet50 encodes in a prediction of every frame, and alone."""
    write_resnet(folder, n_frames=1024, rate_hz=240.0)
    model = load_model(folder, device)
    images = np.random.default_rng(0).integers(0, 256, (FRAME_BATCH_SIZE, 3, 224, 224), dtype=np.uint8)
    (prediction,) = predict_files([video], model, timeline=False, progress=False)
    n_faces = sum(sample.box is not None for sample in prediction.samples)
    runs = {
        "in a prediction": partial(predict_files, [video], model, timeline=False, progress=False),
        "alone": partial(model.networks.encoders["face"], images),
    }
    seconds = in_turns(runs)
    rates = {"in a prediction": n_faces / seconds["in a prediction"], "alone": len(images) / seconds["alone"]}
    print(f"\n| ResNet50 on {device}, {video.name}, every frame | images/s |\n| --- | --- |")
    print("\n".join(f"| {name} | {value:.0f} |" for name, value in rates.items()))
    bar(
        f"ResNet50 on {device}, images/s in a prediction / alone",
        rates["in a prediction"] / rates["alone"],
        0.8,
    )


def write_resnet(folder: Path, n_frames: int, rate_hz: float) -> None:
    """Write a checkpoint of a ResNet50 with random weights."""
    from reactometer.config import parse_config
    from reactometer.models.registry import build_model, load_encoders
    from reactometer.training.export import write_checkpoint

    model = {"name": "resnet50", "encoder": "random:resnet-50", "size_px": 224, "n_frames": n_frames}
    config = parse_config({"model": model, "prepare": {"rate_hz": rate_hz, "size_px": 224}}, "benchmark")
    network = build_model(config.model, load_encoders(config.model), [0.5]).eval()
    with redirect_stderr(StringIO()):
        write_checkpoint(folder, network, ["Joy"], config, data={}, metrics={})


if __name__ == "__main__":
    main()
