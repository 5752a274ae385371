"""How fast each engine runs encoders, next to the processor's own peak, and whole predictions with ResNet50.

    python benchmarks/engines.py [VIDEO]

Encoders: pictures a second in batches of 32, the engines in turn within each round, medians of the rounds; beside them,
in the same rounds, products of matrices (1024 x 8192 x 1024, single precision) by PyTorch, ONNX Runtime and OpenVINO,
the fastest of which counts as the processor's peak (on AMD's processors PyTorch's own is half of it). The share of
that peak is (pictures a second) x (floating-point operations a picture) / peak.

Predictions: ``predict`` of one video (default: 20 s of the embedded data set) with a ResNet50 of random weights at 224
px, 32 frames looked at in 10 s, in a warm process. Weights change no time. 8 bits are calibrated on noise, for the same
reason; what they cost in score, ``reactometer export`` measures.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from measuring import bar, timed, write_video
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from reactometer.config import parse_config
from reactometer.inference.predictor import predict
from reactometer.media.video import probe
from reactometer.models.encoders import Engine, FrameEncoder, load_frame_encoder
from reactometer.models.engines import as_tensors, open_graph
from reactometer.models.folder import LoadedModel
from reactometer.models.graphs import Graph, graphs_of, quantise_graph, write_graph
from reactometer.models.zoo import Encoders, build_model, sampling_of

ENCODERS = {"random:resnet-50": 224, "random:resnet-18": 224, "random:convnext-tiny": 224, "starter": 64}
ROUNDS, BATCH = 5, 32
ROWS, INNER = 1024, 8192

Encode = Callable[..., Tensor]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        print("| encoder | px | engine | pictures/s | times torch | share of fp32 peak |\n" + "| --- " * 6 + "|")
        shares = {name: compare_engines(name, size_px, Path(folder)) for name, size_px in ENCODERS.items()}
        best, eight = shares["random:resnet-50"]
        bar("ResNet50, fp32, of the GEMM peak", best, 0.85)
        bar("ResNet50, int8 / fp32", eight, 3.0)
        video = Path(sys.argv[1]) if len(sys.argv) > 1 else write_video(Path(folder) / "rendered.mp4", 20)
        predictions(video, Path(folder))


def compare_engines(name: str, size_px: int, folder: Path) -> tuple[float, float]:
    """A row an engine; the best share of the peak in single precision, and how many times that 8 bits reach."""
    encoder = load_frame_encoder(name, size_px).eval()
    pictures = torch.randint(0, 256, (BATCH, 3, size_px, size_px), dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        encoder(pictures[:1])
    work = counter.get_total_flops()
    runs: dict[str, Encode] = {"torch": encoder.encode, **exported(encoder, size_px, folder)}
    rates, peak = measure(runs, pictures, products(folder))
    for engine, rate in rates.items():
        share = f"{rate * work / peak:.2f}"
        print(f"| {name} | {size_px} | {engine} | {rate:.1f} | {rate / rates['torch']:.2f} | {share} |", flush=True)
    best = max(rates["onnx"], rates["openvino"])
    print(f"the fastest product of matrices beside {name}: {peak / 1e9:.0f} GFLOP/s\n", file=sys.stderr)
    return best * work / peak, max(rates["onnx-int8"], rates["openvino-int8"]) / best


def exported(encoder: FrameEncoder, size_px: int, folder: Path) -> dict[str, Encode]:
    """The encoder's graph in both runtimes, in single precision and in 8 bits."""
    file, small = folder / "face.onnx", folder / "face-int8.onnx"
    network = loaded(encoder, size_px).network
    graph = graphs_of(network, size_px)["face"]
    write_graph(graph, file)
    small.write_bytes(file.read_bytes())
    noise = np.random.default_rng(0).integers(0, 256, (16, 4, 3, size_px, size_px), dtype=np.uint8)
    quantise_graph(graph, small, [(some,) for some in noise])
    files = {"onnx": file, "openvino": file, "onnx-int8": small, "openvino-int8": small}
    return {engine: as_tensors(open_graph(own, engine)) for engine, own in files.items()}


def products(folder: Path) -> list[Encode]:
    """A product of matrices, by each that can make one."""
    file, product = folder / "product.onnx", torch.nn.Linear(INNER, ROWS, bias=False).requires_grad_(False)
    write_graph(Graph(product, {"matrix": (torch.zeros(ROWS, INNER), (None, None))}, "product"), file)
    return [product, *(as_tensors(open_graph(file, engine)) for engine in ("onnx", "openvino"))]


def measure(runs: Mapping[str, Encode], pictures: Tensor, products: Sequence[Encode]) -> tuple[dict[str, float], float]:
    """Pictures a second of each engine, medians; and the largest rate of a product, operations a second."""
    matrix, peak = torch.randn(ROWS, INNER), 0.0
    seconds: dict[str, list[float]] = {engine: [] for engine in runs}
    with torch.inference_mode():
        for _ in range(ROUNDS):
            for product in products * 3:
                peak = max(peak, 2 * ROWS * INNER * ROWS / timed(lambda product=product: product(matrix)))
            for engine, run in runs.items():
                run(pictures)
                seconds[engine].append(timed(lambda run=run: run(pictures)))
    return {engine: len(pictures) / float(np.median(own)) for engine, own in seconds.items()}, peak


def loaded(encoder: FrameEncoder, size_px: int) -> LoadedModel:
    """The headline system with this encoder, shown 32 frames in 10 s of a clip of 20 s."""
    model = {"name": "resnet50", "size_px": size_px, "n_frames": 64}
    config = parse_config({"model": model, "prepare": {"rate_hz": 3.2, "size_px": size_px}}, "benchmark")
    network = build_model(config.model, Encoders(encoder, None), [0.5]).eval()
    return LoadedModel(network, ("Joy",), sampling_of(config.model, network), config)


def predictions(video: Path, folder: Path) -> None:
    """Seconds of video predicted a second, of each engine."""
    encoder = load_frame_encoder("random:resnet-50", 224).eval()
    model, duration_s = loaded(encoder, 224), probe(video).duration_s or 0.0
    runs: dict[str, Encode | None] = {"torch": None, **exported(encoder, 224, folder)}
    seconds: dict[str, list[float]] = {engine: [] for engine in runs}
    for _ in range(3):
        for engine, run in runs.items():
            encoder.engine = Engine(engine, engine, run) if run else None
            seconds[engine].append(timed(lambda: predict([video], model, timeline=False, progress=False)))
    print(f"\n| ResNet50, {video.name}, {duration_s:.1f} s | times real time |\n| --- | --- |")
    times = {engine: duration_s / float(np.median(own)) for engine, own in seconds.items()}
    for engine, value in times.items():
        print(f"| {engine} | {value:.1f} |")
    bar("ResNet50 whole prediction, fp32, times real time", max(times["onnx"], times["openvino"]), 5.0)
    bar("ResNet50 whole prediction, int8, times real time", max(times["onnx-int8"], times["openvino-int8"]), 12.0)


if __name__ == "__main__":
    main()
