"""Run a checkpoint's ONNX graphs with ONNX Runtime."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from pydantic import BaseModel

from reactometer.data.inputs import Item, Steps, all_steps, no_steps
from reactometer.data.person_norm import FeatureStats
from reactometer.data.power_transform import Power, transform
from reactometer.errors import ModelError, suggestion
from reactometer.inference.graph_check import check_graph
from reactometer.machine import default_threads
from reactometer.media.audio_features import voice_contours
from reactometer.types import FloatArray

DEVICES: Mapping[str, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "directml": "DmlExecutionProvider",
    "qnn": "QNNExecutionProvider",
}
"""Device name -> execution provider (https://onnxruntime.ai/docs/execution-providers)."""

AUTOMATIC = ("cuda", "cpu")
"""Devices that "auto" tries, in this order. Name another device to use it: its numbers or speed depend on the
graph."""

HEAD_GRAPH = "head.onnx"

FRAME_BATCH_SIZE = 32
"""Maximum number of face crops that are encoded together."""

MAX_RUN_BYTES = 4 << 30
"""Maximum memory of all running sessions of the process, bytes, in addition to the weights."""

OUT_OF_MEMORY = ("Available memory of", "Failed to allocate", "would require more than", "bad_alloc")
"""Parts of ONNX Runtime's messages about memory."""

_OPENERS = ThreadPoolExecutor(2, "open-graph")

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]
"""Name -> element type, as ONNX Runtime names it, and the fixed dimensions."""


class StreamInput(BaseModel, extra="forbid", strict=True, frozen=True):
    """One stream of a model's input.

    The face is one image per frame or a clip of ``n_frames``. The voice is a waveform (for a speech encoder,
    or for contours) or log-mel. Any stream can be precomputed features.
    """

    kind: Literal["frames", "clips", "waveform", "contours", "log-mel", "features"]
    feature_size: int  # of one step of the head's input
    n_frames: int = 0  # of a clip
    columns: list[str] = []  # of a table: the names of the features
    powers: list[Power] = []  # the transformation of each; empty: none

    @property
    def medium(self) -> str | None:
        """The medium that the stream is computed from, "face" or "voice"; ``None`` for features."""
        if self.kind == "features":
            return None
        return "face" if self.kind in ("frames", "clips") else "voice"


@dataclass(frozen=True)
class Graph:
    """An ONNX graph, open or being opened in another thread."""

    opening: Future[onnxruntime.InferenceSession]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def session(self) -> onnxruntime.InferenceSession:
        """The opened session; raises ModelError if the graph does not fit, or ONNX Runtime cannot run it."""
        return self.opening.result()

    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray]:
        """Run the graph on its inputs, in their order.

        Raises:
            ModelError: ONNX Runtime fails, for example because the graph needs too much memory.
        """
        feed = dict(zip(self.inputs, map(np.ascontiguousarray, arrays), strict=True))
        try:
            return [np.asarray(output) for output in self.session.run(self.outputs, feed, run_options())]
        except Exception as error:  # ONNX Runtime raises classes of its own
            problem, fix = "a graph of the checkpoint failed", ""
            if any(words in str(error) for words in OUT_OF_MEMORY):
                problem = f"a graph of the checkpoint needs more than {MAX_RUN_BYTES >> 30} GiB of memory"
                fix = "Use a smaller model, or a checkpoint that you trust"
            raise ModelError(problem, got=_first_line(error), fix=fix) from error


@dataclass(frozen=True)
class Networks:
    """The graphs of one checkpoint and their inputs."""

    inputs: Mapping[str, StreamInput]  # by name of the stream, in the order of the head's inputs
    head: Graph
    encoders: Mapping[str, Graph] = field(default_factory=dict)  # by stream: those that are graphs
    digests: Mapping[str, str] = field(default_factory=dict)  # SHA-256 of each encoder's graph

    @property
    def media(self) -> tuple[str, ...]:
        """The streams that are read from video and sound."""
        return tuple(name for name, stream in self.inputs.items() if stream.medium)

    @property
    def feature_sizes(self) -> dict[str, int]:
        """Number of precomputed features per step, by stream."""
        return {
            name: stream.feature_size for name, stream in self.inputs.items() if stream.kind == "features"
        }

    @property
    def training_stats(self) -> dict[str, FeatureStats]:
        """Mean and standard deviation of the training features by stream, if the model normalises per
        person."""
        metadata = self.head.session.get_modelmeta().custom_metadata_map
        stats = {}
        for name in self.inputs:
            if f"{name}_mean" in metadata:
                encoded = metadata[f"{name}_mean"], metadata[f"{name}_std"]
                mean, std = (np.frombuffer(base64.b64decode(text), "<f4") for text in encoded)
                stats[name] = FeatureStats(mean, std)
        return stats

    def encode_frames(self, images: np.ndarray) -> FloatArray:
        """Encode face crops (K, 3, H, W) uint8 RGB; return features (K, D) float32."""
        batches = [
            images[start : start + FRAME_BATCH_SIZE] for start in range(0, len(images), FRAME_BATCH_SIZE)
        ]
        return np.concatenate([self.encoders["face"](batch)[0] for batch in batches])

    def encode(self, item: Item) -> Item:
        """Replace images and waveform of a clip by their features; keep only the streams of this model.

        Features from tables are transformed. A stream that the item lacks has no steps.
        """
        return replace(item, streams={name: self._encode(name, item.streams) for name in self.inputs})

    def complete(self, item: Item) -> Item:
        """Like :meth:`encode`, for an item whose media are encoded already."""
        streams = {
            name: (item.streams.get(name) or no_steps(stream.feature_size))
            if stream.medium
            else self._encode(name, item.streams)
            for name, stream in self.inputs.items()
        }
        return replace(item, streams=streams)

    def _encode(self, name: str, streams: Mapping[str, Steps]) -> Steps:
        stream = self.inputs[name]
        steps = streams.get(name) or streams.get(stream.medium or "") or no_steps(stream.feature_size)
        if stream.kind == "contours":
            return encode_contours(steps)
        if stream.kind == "waveform":
            if not steps.mask.any():
                return no_steps(stream.feature_size)
            return steps._replace(values=self.encoders[name](steps.values.reshape(1, -1))[0][0])
        if stream.kind in ("log-mel", "features") or steps.values.ndim == 2:
            return transform(steps, stream.powers)
        if stream.kind == "clips":
            features = np.zeros((min(len(steps.mask), 1), stream.feature_size), np.float32)  # (1, D)
            if steps.mask.any():
                frames = steps.visible
                features = self.encoders[name](frames[None, spread_indices(len(frames), stream.n_frames)])[0]
            return Steps(features, np.array([steps.mask.any()])[: len(features)], steps.times_s[:1])
        features = np.zeros((len(steps.mask), stream.feature_size), np.float32)  # (T, D)
        if steps.mask.any():
            features[steps.mask] = self.encode_frames(steps.visible)
        return steps._replace(values=features)

    def score(self, items: Sequence[Item]) -> FloatArray:
        """Score encoded clips as one batch.

        Returns:
            Intensities (B, L) in [0, 1]; the training mean for a clip without usable face or voice.

        Raises:
            ModelError: the graph returns values outside [0, 1].
        """
        padded = pad_items(items)
        (intensities,) = self.head(*(array for name in self.inputs for array in padded[name]))
        valid = (intensities >= 0.0) & (intensities <= 1.0)  # false for NaN, too
        if not valid.all():
            got = intensities[~valid][0]
            raise ModelError(
                "a graph of the checkpoint returns invalid intensities", got=got, expected="0 to 1"
            )
        return intensities


def head_inputs(name: str) -> tuple[str, str, str]:
    """Return the inputs of the head's graph for a stream: steps (B, T, D), mask (B, T) and times (B, T) in
    seconds."""
    return name, f"{name}_mask", f"{name}_times_s"


def signatures_of(
    streams: Mapping[str, StreamInput], size_px: int, n_labels: int
) -> dict[str, tuple[Tensors, Tensors]]:
    """Return the inputs and outputs of each graph of a model, by file name."""
    inputs = dict[str, Any]()
    outputs: Tensors = {"intensities": ("float", (n_labels,))}
    signatures: dict[str, tuple[Tensors, Tensors]] = {HEAD_GRAPH: (inputs, outputs)}
    for name, stream in streams.items():
        features = "float", (stream.feature_size,)
        inputs |= zip(head_inputs(name), (features, ("bool", ()), ("float", ())), strict=True)
        images = 3, size_px, size_px
        shapes = {
            "frames": ("uint8", images),
            "clips": ("uint8", (stream.n_frames, *images)),
            "waveform": ("float", ()),
        }
        if stream.kind in shapes:
            signatures[f"{name}.onnx"] = {stream.kind: shapes[stream.kind]}, {"features": features}
    return signatures


def encode_contours(steps: Steps) -> Steps:
    """Return the contours of the voiced steps of a waveform."""
    values, is_voiced = voice_contours(steps.values.reshape(-1))  # (N, D), (N,)
    return all_steps(values[is_voiced], steps.times_s[is_voiced])


def pad_items(items: Sequence[Item]) -> dict[str, Steps]:
    """Pad each stream of B clips with zeros to the longest clip, and to at least one step.

    Returns:
        By stream: steps (B, T, ...), mask (B, T) bool and times (B, T) float32.
    """
    return {name: _pad([item.streams[name] for item in items]) for name in items[0].streams}


def _pad(rows: Sequence[Steps]) -> Steps:
    length = max(1, *(len(steps.mask) for steps in rows))
    first = rows[0].values
    values = np.zeros((len(rows), length, *first.shape[1:]), first.dtype)
    mask = np.zeros((len(rows), length), bool)
    times_s = np.zeros((len(rows), length), np.float32)
    for index, steps in enumerate(rows):
        values[index, : len(steps.mask)] = steps.values
        mask[index, : len(steps.mask)] = steps.mask
        times_s[index, : len(steps.mask)] = steps.times_s
    return Steps(values, mask, times_s)


def spread_indices(count: int, n_frames: int) -> np.ndarray:
    """Return ``n_frames`` evenly spread indices of ``count`` frames, in order; some are repeated if there are
    fewer."""
    return (2 * np.arange(n_frames) + 1) * count // (2 * n_frames)


def open_graph(
    file: Path, inputs: Tensors, outputs: Tensors, device: str = "auto", threads: int = 0
) -> Graph:
    """Check a graph, and open it with ONNX Runtime in another thread.

    Args:
        file: an ONNX file.
        inputs: of the graph, in the order of :meth:`Graph.__call__`'s arguments.
        outputs: of the graph, in the order of :meth:`Graph.__call__`'s results.
        device: "auto" (CUDA if available, else CPU), or one of :data:`DEVICES`, such as "cuda:1".
        threads: CPU threads; 0: ``OMP_NUM_THREADS``, or one per core that this process may use.

    Raises:
        ModelError: the graph is refused, see :func:`~reactometer.inference.graph_check.check_graph`, or the
            device is unknown. :attr:`Graph.session` raises the errors of opening.
    """
    options = session_options(threads or default_threads(), is_foldable=check_graph(file))
    providers = providers_of(device)

    def open_session() -> onnxruntime.InferenceSession:
        try:
            session = onnxruntime.InferenceSession(str(file), options, providers=providers)
        except Exception as error:  # ONNX Runtime raises classes of its own
            raise ModelError(f"{file}: ONNX Runtime cannot run this graph", got=_first_line(error)) from error
        _check_tensors(f"{file}: inputs", session.get_inputs(), inputs)
        _check_tensors(f"{file}: outputs", session.get_outputs(), outputs)
        provider, available = providers[0][0], session.get_providers()
        if device != "auto" and provider not in available:
            got = f"ONNX Runtime falls back from {provider} to {available[0]}"
            fix = "Check the driver, or add --device cpu"
            raise ModelError(f"device '{device}' cannot be used", got=got, fix=fix)
        return session

    return Graph(_OPENERS.submit(open_session), tuple(inputs), tuple(outputs))


def _check_tensors(title: str, nodes: Sequence[onnxruntime.NodeArg], expected: Tensors) -> None:
    got = {
        node.name: (
            node.type.removeprefix("tensor(").removesuffix(")"),
            tuple(size for size in node.shape if isinstance(size, int)),
        )
        for node in nodes
    }
    if got != expected:
        raise ModelError(f"{title} do not fit model.json", got=ascii(got)[:400], expected=dict(expected))


def session_options(threads: int, *, is_foldable: bool) -> onnxruntime.SessionOptions:
    """Return options that limit the memory of a graph.

    All sessions of the process share one arena. A run that needs more than :data:`MAX_RUN_BYTES` raises an
    error with one of :data:`OUT_OF_MEMORY`. Constant folding and weights use memory outside of the arena; the
    size of the file bounds the weights.

    Args:
        threads: number of threads inside an operator.
        is_foldable: fold constants, see :func:`~reactometer.inference.graph_check.check_graph`.
    """
    _register_arena()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised, not printed
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.load_model_format", "ONNX")  # do not guess from the first bytes
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # spinning slows the decoder down
    if not is_foldable:
        options.add_session_config_entry("optimization.disable_specified_optimizers", "ConstantFolding")
    return options


def run_options() -> onnxruntime.RunOptions:
    """Return options that shrink the arena after each run.

    Otherwise a sequence of growing inputs fills the arena with free blocks that are too small for the next
    input.
    """
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


@cache
def _register_arena() -> None:
    """Register the CPU arena of the process. See OrtArenaCfg,
    https://onnxruntime.ai/docs/get-started/with-c.html."""
    exact = 1
    default = -1  # extend the arena by the requested size, not to the next power of two
    allocator = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    memory_type = onnxruntime.OrtMemType.DEFAULT
    memory = onnxruntime.OrtMemoryInfo("Cpu", allocator, 0, memory_type)
    onnxruntime.create_and_register_allocator(
        memory, onnxruntime.OrtArenaCfg(MAX_RUN_BYTES, exact, default, default)
    )


def providers_of(device: str) -> list[tuple[str, dict[str, object]]]:
    """Return the execution providers of a device with their options, the device's own first.

    Raises:
        ModelError: the device is unknown, or this build of ONNX Runtime does not support it.
    """
    available = onnxruntime.get_available_providers()
    if device == "auto":
        device = next(name for name in AUTOMATIC if DEVICES[name] in available)
    name, _, index = device.partition(":")
    if name not in DEVICES or not (index.isdecimal() or not index):
        raise ModelError(f"unknown device '{device}'", fix=suggestion(name, ("auto", *DEVICES)))
    provider = DEVICES[name]
    if provider not in available:
        here = ", ".join(key for key, value in DEVICES.items() if value in available)
        fix = "Install a package such as onnxruntime-gpu, or add --device cpu"
        raise ModelError(f"device '{device}' is not available", got=f"ONNX Runtime with {here}", fix=fix)
    options: dict[str, object] = {"device_id": index} if index else {}
    return [(provider, options), *([] if name == "cpu" else [(DEVICES["cpu"], {})])]


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
