"""Compare the speed of PyTorch, ONNX Runtime, and ONNX Runtime in 8 bits.

    python benchmarks/engines.py [VIDEO]

Encoders: images per second in batches of 32, the engines in turns, medians of the rounds. Predictions: ``predict`` of
one video (default: 20 s of the synthetic demo dataset) with a ResNet50 at 224 px and 32 frames in 10 s, in a warm
process. Weights are random and 8 bits are calibrated on noise, because neither changes the time; ``reactometer export``
measures what 8 bits cost in score.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measuring import bar, timed, write_video
from torch import Tensor

from reactometer.config import parse_config
from reactometer.inference.predictor import predict
from reactometer.media.video import probe
from reactometer.models.engines import as_tensors, open_graph
from reactometer.models.folder import LoadedModel
from reactometer.models.registry import Encoders, build_model, sampling_of
from reactometer.models.vision_encoders import Engine, FrameEncoder, load_frame_encoder
from reactometer.training.export import graphs_of, quantise_graph, write_graph

ENCODERS = {"random:resnet-50": 224, "random:resnet-18": 224, "random:convnext-tiny": 224, "starter": 64}
ROUNDS, BATCH_SIZE = 5, 32


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        print("| encoder | px | engine | images/s | times torch |\n" + "| --- " * 5 + "|")
        for name, size_px in ENCODERS.items():
            encoder = load_frame_encoder(name, size_px).eval()
            images = torch.randint(0, 256, (BATCH_SIZE, 3, size_px, size_px), dtype=torch.uint8)
            engines = {"torch": encoder.encode, **exported(encoder, size_px, Path(folder))}
            with torch.inference_mode():
                runs = {engine: partial(encode, images) for engine, encode in engines.items()}
                rates = {engine: BATCH_SIZE / seconds for engine, seconds in in_turns(runs, ROUNDS).items()}
            for engine, rate in rates.items():
                print(f"| {name} | {size_px} | {engine} | {rate:.1f} | {rate / rates['torch']:.2f} |", flush=True)
            if name == "random:resnet-50":
                bar("ResNet50, int8 / fp32", rates["onnx-int8"] / rates["onnx"], 3.0)
        video = Path(sys.argv[1]) if len(sys.argv) > 1 else write_video(Path(folder) / "rendered.mp4", 20)
        compare_predictions(video, Path(folder))


def exported(encoder: FrameEncoder, size_px: int, folder: Path) -> dict[str, Callable[..., Tensor]]:
    """Export the encoder in single precision and in 8 bits."""
    file, small = folder / "face.onnx", folder / "face-int8.onnx"
    graph = graphs_of(loaded(encoder, size_px).network, size_px)["face"]
    write_graph(graph, file)
    small.write_bytes(file.read_bytes())
    noise = np.random.default_rng(0).integers(0, 256, (16, 4, 3, size_px, size_px), dtype=np.uint8)
    quantise_graph(graph, small, [(images,) for images in noise])
    return {"onnx": as_tensors(open_graph(file)), "onnx-int8": as_tensors(open_graph(small))}


def in_turns(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Time all runs in turns, each once before; return the median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            run()
            seconds[name].append(timed(run))
    return {name: float(np.median(own)) for name, own in seconds.items()}


def loaded(encoder: FrameEncoder, size_px: int) -> LoadedModel:
    """Build the headline system with this encoder, which gets 32 frames in 10 s of a clip of 20 s."""
    model = {"name": "resnet50", "size_px": size_px, "n_frames": 64}
    config = parse_config({"model": model, "prepare": {"rate_hz": 3.2, "size_px": size_px}}, "benchmark")
    network = build_model(config.model, Encoders(encoder, None), [0.5]).eval()
    return LoadedModel(network, ("Joy",), sampling_of(config.model, network), config)


def compare_predictions(video: Path, folder: Path) -> None:
    """Print how many times faster than real time each engine predicts a video."""
    encoder = load_frame_encoder("random:resnet-50", 224).eval()
    model, duration_s = loaded(encoder, 224), probe(video).duration_s or 0.0

    def predict_by(engine: Engine | None) -> None:
        encoder.engine = engine
        predict([video], model, timeline=False, progress=False)

    engines = {"torch": None, **{name: Engine(name, run) for name, run in exported(encoder, 224, folder).items()}}
    runs = {name: partial(predict_by, engine) for name, engine in engines.items()}
    print(f"\n| ResNet50, {video.name}, {duration_s:.1f} s | times real time |\n| --- | --- |")
    times = {name: duration_s / seconds for name, seconds in in_turns(runs, 3).items()}
    for name, value in times.items():
        print(f"| {name} | {value:.1f} |")
    bar("ResNet50 whole prediction, fp32, times real time", times["onnx"], 5.0)
    bar("ResNet50 whole prediction, int8, times real time", times["onnx-int8"], 12.0)


if __name__ == "__main__":
    main()
