"""Image encoders of other projects as ONNX files: frozen, and copied into the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
import onnxscript.optimizer
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from reactometer.config import ModelConfig
from reactometer.errors import ConfigError, WeightsError
from reactometer.inference.runtime import FRAME_BATCH_SIZE, Graph, StreamInput, open_graph, signatures_of
from reactometer.models.encoder_files import check_features, read_settings
from reactometer.models.vision_encoders import ImageNormalizer

GRAPH_FILE = "face.onnx"
PREFIX = "encoder/"
"""Prefix of the names in the file's graph, so that they differ from those of the layers around it."""

MIN_FEATURES = 32
"""Minimum width of an output that is not taken for the scores of a classifier."""


class OnnxEncoder(nn.Module):
    """An ONNX graph with its normalisation: one feature vector per uint8 image; ONNX Runtime runs it."""

    input_kind: Final = "frames"
    pretrained = True
    checkpointing = False
    graph: Tensor  # (bytes,) uint8: the file, so that it is saved with the other weights

    def __init__(self, graph: bytes, size_px: int, feature_size: int, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.register_buffer("graph", torch.frombuffer(bytearray(graph), dtype=torch.uint8))
        self.size_px = size_px
        self.feature_size = feature_size
        self.settings = settings

    @cached_property
    def session(self) -> Graph:
        """The opened graph, checked as any graph of a checkpoint."""
        inputs = {"face": StreamInput(kind="frames", feature_size=self.feature_size)}
        signature = signatures_of(inputs, self.size_px, 1)[GRAPH_FILE]
        with TemporaryDirectory() as folder:
            file = Path(folder) / GRAPH_FILE
            file.write_bytes(self.to_bytes())
            graph = open_graph(file, *signature)
            _ = graph.session  # read the file before it is deleted
        return graph

    def forward(self, frames: Tensor) -> Tensor:
        """Encode images (K, 3, H, W) uint8 RGB; return features (K, D) float32."""
        features = [self.session(batch.cpu().numpy())[0] for batch in torch.split(frames, FRAME_BATCH_SIZE)]
        return torch.from_numpy(np.concatenate(features)).to(frames.device)

    def to_bytes(self) -> bytes:
        """Return the ONNX file."""
        return self.graph.cpu().numpy().tobytes()

    def describe(self) -> dict[str, Any]:
        """Describe the encoder for :func:`rebuild_onnx`, in types that JSON supports."""
        return {
            "graph_bytes": len(self.graph),
            "feature_size": self.feature_size,
            "settings": dict(self.settings),
        }


def rebuild_onnx(description: Mapping[str, Any], size_px: int) -> OnnxEncoder:
    """Build the encoder that :meth:`OnnxEncoder.describe` described, without its graph."""
    empty = bytes(int(description["graph_bytes"]))
    return OnnxEncoder(empty, size_px, int(description["feature_size"]), description["settings"])


def load_onnx(file: Path, config: ModelConfig) -> OnnxEncoder:
    """Load an ONNX file as a frozen encoder, with the settings in the JSON file beside it.

    Layout, number of channels and image size are read from the graph as far as it fixes them.

    Raises:
        ConfigError: the configuration trains the encoder, or its image size is not the graph's.
        WeightsError: the file is no image encoder, or the check on synthetic faces fails.
    """
    if not config.frozen or config.pooling != "network":
        raise ConfigError(
            f"{file.name}: an ONNX encoder is not trained, and pools by itself",
            got=f"model.frozen = {config.frozen}, model.pooling = {config.pooling!r}",
            fix='Set model.frozen=true and model.pooling="network"',
        )
    settings = read_settings(file)
    try:
        model = onnx.compose.add_prefix(onnx.load(file), PREFIX)
        _replace_input(file, model, settings, config.size_px)
        feature_size = _replace_output(file, model, settings, config.size_px)
        onnxscript.optimizer.remove_unused_nodes(model)
        encoder = OnnxEncoder(model.SerializeToString(), config.size_px, feature_size, settings)
        check_features(str(file), encoder, config.size_px)
    except (ConfigError, WeightsError):
        raise
    except Exception as error:  # onnx and ONNX Runtime raise classes of their own
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise WeightsError(
            f"{file}: ONNX Runtime cannot use this file as an encoder",
            got=reason[:300],
            fix="Export it again with a dynamic batch size, and with standard operators only",
        ) from error
    return encoder


def _replace_input(file: Path, model: onnx.ModelProto, settings: dict[str, Any], size_px: int) -> None:
    """Put the normalisation before the graph; the new input is ``frames`` (n, 3, H, W) uint8 RGB."""
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    shapes = [[size.dim_value for size in value.type.tensor_type.shape.dim] for value in inputs]  # 0: dynamic
    if [len(shape) for shape in shapes] != [4]:
        raise WeightsError(
            f"{file}: not an encoder of images",
            got=f"inputs of shape {shapes}",
            expected="one of 4 dimensions",
        )
    (shape,), source = shapes, inputs[0]
    layouts = [name for name, axis in (("NCHW", 1), ("NHWC", 3)) if shape[axis] in (1, 3)]
    layout = settings.setdefault("layout", layouts[0] if len(layouts) == 1 else "unknown")
    if layout == "unknown":
        fix = f'Set "layout": "NCHW" or "NHWC" in {file.with_suffix(".json")}'
        raise WeightsError(f"{file}: the layout of the input is unknown", got=f"shape {shape}", fix=fix)
    n_channels = shape.pop(1 if layout == "NCHW" else 3)
    if sizes := sorted({size for size in shape[1:] if size} - {size_px}):
        fix = f"Set model.size_px={sizes[0]}"
        raise ConfigError(
            f"{file}: the size of the images is fixed", got=f"model.size_px = {size_px}", fix=fix
        )
    settings["do_grayscale"] = settings["do_grayscale"] or n_channels == 1
    matrix, offset = _affine(ImageNormalizer(settings))
    nodes = [
        helper.make_node("Cast", ["frames"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["pixels", "pixel_matrix", "pixel_offset"], ["normalised"]),
        helper.make_node(
            "Transpose", ["normalised"], ["arranged"], perm=(0, 2, 3, 1) if layout == "NHWC" else (0, 1, 2, 3)
        ),
        helper.make_node("Cast", ["arranged"], [source.name], to=source.type.tensor_type.elem_type),
    ]
    nodes += graph.node
    del graph.node[:], graph.input[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.append(numpy_helper.from_array(matrix, "pixel_matrix"))
    graph.initializer.append(numpy_helper.from_array(offset, "pixel_offset"))
    graph.input.append(helper.make_tensor_value_info("frames", TensorProto.UINT8, ("n", 3, size_px, size_px)))
    model.ir_version = max(model.ir_version, 4)  # before, weights had to be inputs, too


def _affine(normalizer: ImageNormalizer) -> tuple[np.ndarray, np.ndarray]:
    """Return a normalisation as the kernel (C, 3, 1, 1) and the bias (C,) of a convolution, float32."""
    colours = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0]], dtype=torch.uint8)
    values = normalizer(colours.view(4, 3, 1, 1)).double()  # (4, C, 1, 1): of red, green, blue and black
    matrix = (values[:3] - values[3:]).transpose(0, 1) / 255  # (C, 3, 1, 1)
    return matrix.float().numpy(), values[3].flatten().float().numpy()


def _replace_output(file: Path, model: onnx.ModelProto, settings: Mapping[str, Any], size_px: int) -> int:
    """Make ``features`` (n, D) float32 the graph's only output; return D."""
    graph = model.graph
    outputs = [value.name for value in graph.output]
    tensors = {name for node in graph.node for name in node.output}
    layers = [node for node in graph.node if node.op_type in ("Gemm", "MatMul")]
    before_last = layers[-1].input[0].removeprefix(PREFIX) if layers else ""
    beside = file.with_suffix(".json")
    chosen = settings.get("output")
    output = f"{PREFIX}{chosen}" if chosen else outputs[0]
    if output not in tensors or (not chosen and len(outputs) > 1):
        names = ", ".join(name.removeprefix(PREFIX) for name in outputs)
        fix = f'Set "output" in {beside} to one of them, or to an inner tensor such as "{before_last}"'
        raise WeightsError(f"{file}: the output is unknown", got=chosen, expected=names, fix=fix)
    del graph.output[:]
    graph.node.append(helper.make_node("Cast", [output], ["features"], to=TensorProto.FLOAT))
    graph.output.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    shape = session.run(None, {"frames": np.zeros((2, 3, size_px, size_px), np.uint8)})[0].shape
    if len(shape) == 4:  # a map
        graph.node[-1].output[0] = "map"
        perm = (0, 3, 1, 2) if settings["layout"] == "NHWC" else (0, 1, 2, 3)
        graph.node.append(helper.make_node("Transpose", ["map"], ["channels_first"], perm=perm))
        graph.node.append(helper.make_node("GlobalAveragePool", ["channels_first"], ["pooled"]))
        graph.node.append(helper.make_node("Flatten", ["pooled"], ["features"]))
        shape = (shape[0], shape[perm[1]])
    if len(shape) != 2 or shape[0] != 2:
        expected = "(images, features), or a map of features"
        raise WeightsError(f"{file}: the output has another shape", got=shape, expected=expected)
    if shape[1] < MIN_FEATURES and not chosen:
        raise WeightsError(
            f"{file}: the output looks like the scores of a classifier",
            got=f"{shape[1]} values",
            fix=f'Set "output": "{before_last}" in {beside} for the features before its last layer, or '
            f'"{output.removeprefix(PREFIX)}" for the scores',
        )
    graph.output[0].CopyFrom(helper.make_tensor_value_info("features", TensorProto.FLOAT, ("n", shape[1])))
    return int(shape[1])
