"""A model -> ONNX graphs: one an encoder, and one that joins their features to intensities."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from reactometer.data.batches import BLOCK_SIZE, Batch
from reactometer.media.voice import MEL_BANDS
from reactometer.models.encoders import ClipEncoder, FrameEncoder
from reactometer.models.network import ReactionModel
from reactometer.models.voice_encoders import SpeechEncoder, StepConvolution, VoiceEncoder

Runnable = FrameEncoder | ClipEncoder | VoiceEncoder | StepConvolution | SpeechEncoder
"""Encoders that another engine can run; contours have nothing but NumPy in them, and given features no encoder."""

JOINT = "joint"
"""Name of the graph that takes features and gives intensities."""

FACE_INPUTS, VOICE_INPUTS = ("frames", "frame_mask", "frame_times_s"), ("voice", "voice_mask", "voice_times_s")


@dataclass(frozen=True)
class Graph:
    """What is exported: a function of tensors, what its inputs are called, and examples of them."""

    module: nn.Module
    inputs: Mapping[str, tuple[Tensor, tuple[str | None, ...]]]  # an example, and the name of each free dimension
    output: str


def runnable(network: ReactionModel) -> dict[str, Runnable]:
    """The encoders that another engine can run, by modality."""
    pairs = (("face", network.face_encoder), ("voice", network.voice_encoder))
    return {name: encoder for name, encoder in pairs if isinstance(encoder, Runnable)}


def graphs_of(network: ReactionModel, size_px: int) -> dict[str, Graph]:
    """The graphs of a model: "face" and "voice" where an encoder can be exported, and the joint.

    Args:
        network: in evaluation mode, on the CPU.
        size_px: side of the pictures it is shown, pixels.
    """
    graphs = {name: _encoder_graph(encoder, size_px) for name, encoder in runnable(network).items()}
    return {**graphs, JOINT: _joint_graph(network)}


def write_graph(graph: Graph, file: Path) -> None:
    """Export a graph to one ONNX file whose free dimensions stay free.

    Needs onnx and onnxscript. Source: ``torch.onnx.export`` with ``dynamo=True``.
    """
    shapes = {
        name: {place: torch.export.Dim.DYNAMIC for place, free in enumerate(frees) if free}
        for name, (_, frees) in graph.inputs.items()
    }
    with _quiet():
        torch.onnx.export(
            _Keyless(graph.module),
            tuple(example for example, _ in graph.inputs.values()),
            file,
            dynamo=True,
            dynamic_shapes=(tuple(shapes.values()),),
            input_names=list(graph.inputs),
            output_names=[graph.output],
            external_data=False,
            verbose=False,
        )


def quantise_graph(graph: Graph, file: Path, examples: Iterable[Sequence[np.ndarray]]) -> None:
    """Replace an exported graph by one that computes in 8 bits: static quantisation of weights and activations.

    Weights are signed, a scale a channel, activations unsigned, a scale a tensor, from the least and the largest value
    seen. Of a network with attention only convolutions and matrix products are quantised: the rest gains nothing, and
    OpenVINO 2026.4 answers NaN with softmax and layer norm in 8 bits.

    Source: onnxruntime.quantization, ``quantize_static`` in QDQ format, which OpenVINO reads too.

    Args:
        graph: what was exported.
        file: where it was written.
        examples: inputs in the graph's order, such as it will meet.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, np.ndarray] | None:
            own = next(left, None)
            return None if own is None else dict(zip(graph.inputs, own, strict=True))

    left, attends = iter(examples), any("att" in name for name, _ in graph.module.named_modules())
    prepared = file.with_suffix(".prepared.onnx")
    with _quiet():
        quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(file),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"] if attends else None,
        )
    prepared.unlink()


class _Keyless(nn.Module):
    """Takes its inputs by place alone, whatever they are called inside."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *inputs: Tensor) -> Tensor:
        result: Tensor = self.inner(*inputs)
        return result


class _Encode(nn.Module):
    """The ``encode`` of an encoder as a module of its own."""

    def __init__(self, encoder: Runnable) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.encoder.encode(*inputs)


class _Joint(nn.Module):
    """Features of face and voice -> intensities, (B, L) in [0, 1]."""

    def __init__(self, network: ReactionModel) -> None:
        super().__init__()
        self.network = network.on_features(every=True)

    def forward(self, *inputs: Tensor) -> Tensor:
        shown = list(inputs)
        mask = inputs[1]
        nothing = (mask.new_zeros(0), mask[:, :1] & False, mask.new_zeros(0))
        face = shown[:3] if self.network.looks else nothing
        voice = shown[-3:] if self.network.listens else nothing
        intensities: Tensor = self.network(Batch._make((*face, *voice, *[mask] * 4)))
        return intensities


def _encoder_graph(encoder: Runnable, size_px: int) -> Graph:
    inputs: dict[str, tuple[Tensor, tuple[str | None, ...]]]
    pictures = torch.zeros((2, 3, size_px, size_px), dtype=torch.uint8)
    fixed = (None, None, None)
    if isinstance(encoder, FrameEncoder):
        inputs = {"frames": (pictures, ("frames", *fixed))}
    elif isinstance(encoder, ClipEncoder):
        clips = pictures[:, None].repeat(1, encoder.n_frames, 1, 1, 1)
        inputs = {"clips": (clips, ("clips", None, *fixed))}
    elif isinstance(encoder, SpeechEncoder):
        inputs = {"waveform": (torch.zeros((2, 50 * BLOCK_SIZE)), ("clips", "samples"))}
    else:
        width = MEL_BANDS if isinstance(encoder, VoiceEncoder) else encoder.input_size
        inputs = {
            "voice": (torch.zeros((2, 96, width)), ("clips", "steps", None)),
            "voice_mask": (torch.ones((2, 96), dtype=torch.bool), ("clips", "steps")),
        }
        if isinstance(encoder, StepConvolution):
            inputs["voice_times_s"] = (torch.zeros((2, 96)), ("clips", "steps"))
    return Graph(_Encode(encoder), inputs, "features")


def _joint_graph(network: ReactionModel) -> Graph:
    inputs: dict[str, tuple[Tensor, tuple[str | None, ...]]] = {}
    for encoder, names, count in ((network.face_encoder, FACE_INPUTS, 5), (network.voice_encoder, VOICE_INPUTS, 7)):
        if encoder is not None:
            free = ("clips", names[0])
            inputs[names[0]] = (torch.zeros((2, count, encoder.feature_size)), (*free, None))
            inputs[names[1]] = (torch.ones((2, count), dtype=torch.bool), free)
            inputs[names[2]] = (torch.arange(count).expand(2, count) / 5.0, free)
    return Graph(_Joint(network), inputs, "intensities")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's advice to itself, and attention in the form that can be exported."""
    logger, fast = logging.getLogger("torch.onnx"), torch.backends.mha.get_fastpath_enabled()
    level = logger.level
    logger.setLevel(logging.ERROR)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        torch.backends.mha.set_fastpath_enabled(fast)
