"""Run a checkpoint's ONNX graphs with ONNX Runtime."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime
from pydantic import BaseModel, ConfigDict

from reactometer.data.inputs import Item
from reactometer.data.person_norm import Moments
from reactometer.errors import ModelError, suggestion
from reactometer.inference.graph_check import check_graph
from reactometer.inference.session_limits import (
    MAX_RUN_BYTES,
    bounded_run_options,
    bounded_session_options,
    is_out_of_memory,
)
from reactometer.machine import default_threads
from reactometer.media.audio_features import contours
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
"""Devices that "auto" tries, in this order. The others are used only by name, because their numbers or their speed
depend on the graph."""

FACE_GRAPH, VOICE_GRAPH, HEAD_GRAPH = "face.onnx", "voice.onnx", "head.onnx"

BATCH_FRAMES = 32
"""Maximum number of face crops that are encoded together."""

_OPENERS = ThreadPoolExecutor(2, "open-graph")

FACE_INPUTS, VOICE_INPUTS = ("frames", "frame_mask", "frame_times_s"), ("voice", "voice_mask", "voice_times_s")
"""Inputs of the head's graph: features or spectrogram (B, T, D), mask (B, T) and times in seconds (B, T)."""

MEANS = {"face": "face_mean", "voice": "voice_mean"}
"""Outputs of the head's graph besides "intensities": the mean over time of each stream's standardised features."""


ENCODER_INPUTS: Mapping[str, Mapping[str, str]] = {
    "frames": {"frames": "uint8"},
    "clips": {"clips": "uint8"},
    "waveform": {"waveform": "float32"},
}
"""Input name and element type of the encoders that are graphs, by kind of stream."""


class FaceInput(BaseModel):
    """What a model takes of the face: one image per frame, a clip of ``n_frames``, or given features."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    kind: Literal["frames", "clips", "features"]
    feature_size: int
    n_frames: int = 0  # of a clip


class VoiceInput(BaseModel):
    """What a model takes of the voice: the waveform (for a speech encoder, or for contours), log-mel or features."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    kind: Literal["waveform", "contours", "log-mel", "features"]
    feature_size: int  # of one step that the head's graph takes


@dataclass(frozen=True)
class Graph:
    """An ONNX graph, open or being opened in another thread."""

    opening: Future[onnxruntime.InferenceSession]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    sizes: Mapping[str, tuple[int, ...]]  # of the fixed dimensions of each input and output
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def session(self) -> onnxruntime.InferenceSession:
        """The session, waited for; raises ModelError if ONNX Runtime cannot run the graph."""
        return self.opening.result()

    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray]:
        """Run the graph on its inputs, in their order.

        Raises:
            ModelError: ONNX Runtime cannot compute it, for example because it needs more memory than there is.
        """
        feed = dict(zip(self.inputs, map(np.ascontiguousarray, arrays), strict=True))
        try:
            return [np.asarray(output) for output in self.session.run(self.outputs, feed, bounded_run_options())]
        except Exception as error:  # ONNX Runtime raises classes of its own
            problem, fix = "a graph of the checkpoint failed", ""
            if is_out_of_memory(error):
                problem = f"a graph of the checkpoint needs more than {MAX_RUN_BYTES >> 30} GiB of memory"
                fix = "Use a smaller model, or another checkpoint if this one is a stranger's"
            raise ModelError(problem, got=_first_line(error), fix=fix) from error


@dataclass(frozen=True)
class Networks:
    """The graphs of one checkpoint, and what they take."""

    face: FaceInput | None
    voice: VoiceInput | None
    head: Graph
    encoders: Mapping[str, Graph] = field(default_factory=dict)  # "face", "voice": those that are graphs
    digests: Mapping[str, str] = field(default_factory=dict)  # SHA-256 of each encoder's graph

    @property
    def uses_face(self) -> bool:
        """Whether intensities depend on the face."""
        return self.face is not None

    @property
    def uses_voice(self) -> bool:
        """Whether intensities depend on the voice."""
        return self.voice is not None

    @property
    def streams(self) -> dict[str, FaceInput | VoiceInput | None]:
        """Both streams by name; ``None`` for one that the model does not use."""
        return {"face": self.face, "voice": self.voice}

    @property
    def feature_sizes(self) -> dict[str, int] | None:
        """Number of given features per step, by stream; ``None`` for a model of media."""
        given = {name: stream for name, stream in self.streams.items() if stream and stream.kind == "features"}
        return {name: stream.feature_size for name, stream in given.items()} or None

    @property
    def population(self) -> dict[str, Moments]:
        """Mean and standard deviation of the training set's features by stream, of a model that normalises people."""
        known = self.head.metadata
        moments = {}
        for name in MEANS:
            if f"{name}_mean" in known:
                mean, std = (
                    np.frombuffer(base64.b64decode(known[f"{name}_{kind}"]), "<f4") for kind in ("mean", "std")
                )
                moments[name] = Moments(mean, std)
        return moments

    def encode_frames(self, images: np.ndarray) -> FloatArray:
        """Encode face crops (K, 3, H, W) uint8 RGB: features (K, D) float32."""
        parts = [images[start : start + BATCH_FRAMES] for start in range(0, len(images), BATCH_FRAMES)]
        return np.concatenate([self.encoders["face"](part)[0] for part in parts])

    def encode_face(self, item: Item) -> Item:
        """Replace the images of a clip by their features: one step per frame, or one per clip.

        Frames without a face get zeros. Given features stay as they are.
        """
        seen, times_s = item.seen, item.times_s
        if self.face is None:
            return replace(item, frames=np.zeros((0, 1), np.float32), seen=seen[:0], times_s=times_s[:0])
        if item.frames.ndim == 2:
            return item
        if self.face.kind == "clips":
            features = np.zeros((min(len(seen), 1), self.face.feature_size), np.float32)  # (1, D)
            if seen.any():
                features = self.encoders["face"](spread_frames(item.frames[seen], self.face.n_frames)[None])[0]
            return replace(item, frames=features, seen=np.array([seen.any()])[: len(seen)], times_s=times_s[:1])
        features = np.zeros((len(seen), self.face.feature_size), np.float32)  # (T, D)
        if seen.any():
            features[seen] = self.encode_frames(item.frames[seen])
        return replace(item, frames=features)

    def encode_voice(self, item: Item) -> Item:
        """Replace the waveform of a clip by features; log-mel, given features and silence stay as they are."""
        if self.voice is None or self.voice.kind not in ("waveform", "contours"):
            return item
        if not len(item.voice):
            return replace(item, voice=np.zeros((0, self.voice.feature_size), np.float32))
        waveform = item.voice.reshape(-1)  # (N * 320,)
        if self.voice.kind == "contours":
            values, speaks = contours(waveform)  # (N, D), (N,)
            return replace(item, voice=values[speaks], voice_times_s=item.voice_times_s[speaks])
        return replace(item, voice=self.encoders["voice"](waveform[None])[0][0])

    def encode(self, item: Item) -> Item:
        """Replace images and waveform of a clip by their features."""
        return self.encode_voice(self.encode_face(item))

    def score(self, items: Sequence[Item]) -> tuple[FloatArray, dict[str, FloatArray]]:
        """Score encoded clips as one batch.

        Returns:
            Intensities (B, L) in [0, 1], the training mean for a clip without usable face or voice; and by stream the
            mean over time of its standardised features (B, D).

        Raises:
            ModelError: the graph returns something other than intensities.
        """
        faces = [(item.frames, item.seen, item.times_s) for item in items]
        voices = [(item.voice, np.ones(len(item.voice), bool), item.voice_times_s) for item in items]
        arrays = [*(pad(faces) if self.uses_face else ()), *(pad(voices) if self.uses_voice else ())]
        outputs = dict(zip(self.head.outputs, self.head(*arrays), strict=True))
        intensities = outputs["intensities"]
        valid = (intensities >= 0.0) & (intensities <= 1.0)  # false for NaN, too
        if not valid.all():
            got, expected = intensities[~valid][0], "numbers from 0 to 1"
            raise ModelError("a graph of the checkpoint returns no intensities", got=got, expected=expected)
        return intensities, {name: outputs[key] for name, key in MEANS.items() if key in outputs}


def signature_of_head(face: FaceInput | None, voice: VoiceInput | None) -> tuple[dict[str, str], list[str]]:
    """Return the inputs (name -> element type) and the outputs of the graph from features to intensities."""
    names = (*(FACE_INPUTS if face else ()), *(VOICE_INPUTS if voice else ()))
    inputs = {name: "bool" if name.endswith("mask") else "float32" for name in names}
    return inputs, ["intensities", *(MEANS[name] for name, has in (("face", face), ("voice", voice)) if has)]


def pad(rows: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pad the steps, mask and times of B clips with zeros to the longest, and to at least one step.

    Returns:
        Steps (B, T, D) float32, mask (B, T) bool and times (B, T) float32.
    """
    length = max(1, *(len(steps) for steps, _, _ in rows))
    values = np.zeros((len(rows), length, rows[0][0].shape[1]), np.float32)
    mask, times_s = np.zeros((len(rows), length), bool), np.zeros((len(rows), length), np.float32)
    for row, (steps, seen, at_s) in enumerate(rows):
        values[row, : len(steps)], mask[row, : len(steps)], times_s[row, : len(steps)] = steps, seen, at_s
    return values, mask, times_s


def spread_frames(frames: np.ndarray, n_frames: int) -> np.ndarray:
    """Return ``n_frames`` of the frames (T, ...), in order and evenly spread; some are repeated if T is smaller."""
    return frames[(2 * np.arange(n_frames) + 1) * len(frames) // (2 * n_frames)]


def open_graph(
    file: Path, inputs: Mapping[str, str], outputs: Sequence[str], device: str = "auto", threads: int = 0
) -> Graph:
    """Check a graph, and begin to open it with ONNX Runtime, in another thread.

    Args:
        file: an ONNX file.
        inputs: name -> element type.
        outputs: names of its float32 outputs, in order.
        device: "auto" (CUDA if it can be used here, else CPU), or one of :data:`DEVICES`, such as "cuda:1".
        threads: CPU threads; 0: ``OMP_NUM_THREADS``, or one per core that this process may use.

    Raises:
        ModelError: the graph does not fit or is refused, see :func:`~reactometer.inference.graph_check.check_graph`, or
            there is no such device. :attr:`Graph.session` raises it if ONNX Runtime cannot run the graph there.
    """
    summary = check_graph(file, inputs, outputs)
    options = bounded_session_options(threads or default_threads(), is_foldable=summary.is_foldable)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # it would steal the decoder's time
    opening = _OPENERS.submit(_open_session, file, options, device, providers_of(device))
    tensors = {**summary.inputs, **summary.outputs}
    sizes = {key: tuple(size for size in shape or () if size is not None) for key, (_, shape) in tensors.items()}
    return Graph(opening, tuple(inputs), tuple(outputs), sizes, summary.metadata_props)


def _open_session(
    file: Path, options: onnxruntime.SessionOptions, device: str, providers: list[tuple[str, dict[str, object]]]
) -> onnxruntime.InferenceSession:
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=providers)
    except Exception as error:  # ONNX Runtime raises classes of its own
        raise ModelError(f"{file}: ONNX Runtime cannot run this graph", got=_first_line(error)) from error
    name = providers[0][0]
    if device != "auto" and name not in session.get_providers():
        raise ModelError(
            f"device '{device}' cannot be used",
            got=f"ONNX Runtime falls back from {name} to {session.get_providers()[0]}",
            fix="Check the driver, or add --device cpu",
        )
    return session


def providers_of(device: str) -> list[tuple[str, dict[str, object]]]:
    """Return the execution providers of a device with their options, the device's own first.

    Raises:
        ModelError: there is no such device, or this build of ONNX Runtime does not support it.
    """
    available = onnxruntime.get_available_providers()
    if device == "auto":
        device = next(name for name in AUTOMATIC if DEVICES[name] in available)
    name, _, index = device.partition(":")
    if name not in DEVICES or not (index.isdecimal() or not index):
        raise ModelError(f"no device '{device}'", fix=suggestion(name, ("auto", *DEVICES)))
    provider = DEVICES[name]
    if provider not in available:
        here = ", ".join(key for key, value in DEVICES.items() if value in available)
        fix = "Install ONNX Runtime's package for it, such as onnxruntime-gpu, or add --device cpu"
        raise ModelError(f"device '{device}' is not available", got=f"ONNX Runtime with {here}", fix=fix)
    options: dict[str, object] = {"device_id": index} if index else {}
    return [(provider, options), *([] if name == "cpu" else [(DEVICES["cpu"], {})])]


def device_of(graph: Graph) -> str:
    """Return the name of the device that runs a graph."""
    provider = graph.session.get_providers()[0]
    return next((name for name, value in DEVICES.items() if value == provider), provider)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
