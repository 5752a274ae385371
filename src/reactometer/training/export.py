"""Export a trained network to a checkpoint's ONNX graphs, and check that they predict as PyTorch does."""

from __future__ import annotations

import base64
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxscript.optimizer
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from reactometer.config import Config, ModelConfig, parse_config
from reactometer.data.cache import PreparedSet
from reactometer.data.inputs import BLOCK_SIZE, Item, split_parts
from reactometer.data.person_norm import FeatureStats
from reactometer.errors import DataError, ModelError
from reactometer.evaluation.evaluate import open_for_model
from reactometer.inference.checkpoint import (
    DESCRIPTION_FILE,
    WEIGHTS_FILE,
    LoadedModel,
    load_model,
    write_description,
)
from reactometer.inference.conformal import UNCERTAINTY_FILE
from reactometer.inference.inputs import open_source
from reactometer.inference.runtime import HEAD_GRAPH, Networks, head_inputs
from reactometer.inference.scores import join_names
from reactometer.inference.screening import SCREENING_FILE, hide
from reactometer.io import atomic_folder, format_json, parse_json_object, sha256_of
from reactometer.models.audio_encoders import SpeechEncoder
from reactometer.models.batches import Batch, Stream, collate
from reactometer.models.model import ReactionModel
from reactometer.models.onnx_encoder import GRAPH_FILE, OnnxEncoder
from reactometer.models.registry import describe_encoders, load_network, save_weights
from reactometer.models.vision_encoders import ClipEncoder, FrameEncoder
from reactometer.paths import find_checkpoint
from reactometer.terminal import quiet
from reactometer.training.features import encode_inputs

TOLERANCE = 1e-4
"""Maximum difference between an intensity of the graphs and of PyTorch, both in single precision."""

PROOF_CLIPS = 8
"""Number of clips on which :func:`prove` compares the graphs with PyTorch."""

MAX_FOLDED = 2**31
"""Maximum number of elements of a constant that is folded into a graph, such as a transposed matrix."""


@dataclass(frozen=True)
class ExportSpec:
    """A module to export, with its inputs and outputs."""

    module: nn.Module
    inputs: Mapping[str, Tensor]  # example tensors, by input name
    n_free: int  # number of leading dimensions with dynamic size, of each input
    outputs: tuple[str, ...]
    structure: str  # cache key: everything except the weights that determines the graph


_templates = dict[str, onnx.ModelProto]()
"""Graphs without weights, by structure. Members of an ensemble share a graph, because translation takes
seconds."""


def write_checkpoint(
    folder: Path,
    network: ReactionModel,
    labels: Sequence[str],
    config: Config,
    *,
    data: Mapping[str, Any],
    metrics: Mapping[str, Any],
    training_stats: Mapping[str, FeatureStats] = {},
    features: Mapping[str, Sequence[str]] = {},
) -> Path:
    """Write the weights, graphs and ``model.json`` of a trained network into a folder; ``proof`` is empty.

    The network is on the CPU, in evaluation mode. ``metrics`` are scores on val. ``training_stats`` belong to
    a model that normalises per person: statistics of the training clips' mean features, by stream.
    ``features`` are the names of the features from tables, by stream.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(network, folder / WEIGHTS_FILE, config.training.store)
    graphs = build_export_specs(network, config.model)
    for name, graph in graphs.items():
        write_graph(graph, folder / name, training_stats if name == HEAD_GRAPH else {})
    names = [WEIGHTS_FILE, *graphs]
    n_parameters = sum(parameter.numel() for parameter in network.parameters())
    for encoder in network.encoders.values():
        if not isinstance(encoder, OnnxEncoder):
            continue
        names.append(GRAPH_FILE)
        (folder / GRAPH_FILE).write_bytes(encoder.to_bytes())
        tensors = onnx.load(folder / GRAPH_FILE).graph.initializer
        n_parameters += sum(math.prod(tensor.dims) for tensor in tensors)
    description = {
        "config": config.model_dump(mode="json"),
        "inputs": {
            name: stream.model_copy(update={"columns": [*features.get(name, ())]}).model_dump(
                exclude_defaults=True
            )
            for name, stream in network.describe_inputs().items()
        },
        "precision": "float32",
        "n_parameters": n_parameters,
        "encoders": describe_encoders(network),
        "data": dict(data),
        "metrics": dict(metrics),
        "proof": {},
        "sha256": {name: sha256_of(folder / name) for name in names},
    }
    return write_description(folder, labels, description)


def export_weights(model: Path | str, data: Path | str, out: Path | str, *, progress: bool = True) -> Path:
    """Write a copy of a checkpoint without graphs, with the graphs of its weights; return its folder.

    ``data`` has the model's labels; its val clips prove that the graphs predict as PyTorch does.

    Raises:
        ModelError: the weights are missing or damaged, the graphs differ from PyTorch, or the model
            normalises per person, so that it needs statistics which only the graph contained.
        DataError, MediaError: the data cannot be used.
        OutputError: ``out`` exists already.
    """
    source = find_checkpoint(model)
    network, about = load_network(source)
    config = parse_config(about["config"], str(source))
    if config.model.person_norm:
        raise ModelError(f"{source}: its statistics were in the graphs", fix="Train the model again")
    with atomic_folder(Path(out)) as folder:
        statistics = {"data": about["data"], "metrics": about["metrics"]}
        features = {name: stream.get("columns", ()) for name, stream in about["inputs"].items()}
        write_checkpoint(folder, network, about["labels"], config, **statistics, features=features)
        prove(folder, network, open_for_model(load_model(folder, "cpu"), data, progress=progress))
        for name in (UNCERTAINTY_FILE, SCREENING_FILE):
            if (source / name).is_file():
                shutil.copy(source / name, folder)
    return Path(out)


def change_description(folder: Path, **changes: Any) -> None:
    """Change entries of a checkpoint's ``model.json``."""
    file = folder / DESCRIPTION_FILE
    file.write_text(format_json({**parse_json_object(file.read_bytes()), **changes}), encoding="utf-8")


def read_items(loaded: LoadedModel, prepared: PreparedSet, split: str, n_items: int) -> Iterator[Item]:
    """Yield the model's input of the first readable clips of a split, or of the dataset if the split is
    empty."""
    load_item = open_source(prepared, loaded.sampling)
    rows = [row for row in prepared.split(split) or prepared.rows if row.file]
    return (load_item(rows[part.index], part, None) for part in islice(split_parts(rows), n_items))


def prove(folder: Path, network: ReactionModel, prepared: PreparedSet) -> None:
    """Compare a checkpoint's graphs with its network on val clips, and record the differences in
    ``model.json``.

    Raises:
        DataError: no clip contains a stream of the model.
        ModelError: an intensity differs from PyTorch's by more than 1e-4.
    """
    loaded = load_model(folder, "cpu")
    clips = list(read_items(loaded, prepared, "val", PROOF_CLIPS))
    if not any(item.has(name) for item in clips for name in network.encoders):
        names = join_names(network.encoders)
        raise DataError("no clip contains input to compare the graphs on", expected=names)
    maxima = differences(network, loaded.networks, clips)
    for name, difference in maxima.items():
        if not difference <= TOLERANCE:  # also raise for NaN
            raise ModelError(
                "the exported graphs and PyTorch predict different intensities; the checkpoint is not "
                "written",
                got=f"a difference of {difference:.2g} ({name})",
                expected=f"at most {TOLERANCE}",
                fix="Report a bug with the output of 'reactometer doctor' and the encoder's name",
            )
    change_description(folder, proof={"n_clips": len(clips), "differences": maxima})


def differences(network: ReactionModel, networks: Networks, items: Sequence[Item]) -> dict[str, float]:
    """Return the largest difference of an intensity between PyTorch and the graphs, for each kind of input.

    Each clip is compared whole, in its own batch and in a batch of all, and with parts removed.
    """
    head = network.head_only(all_encoders=True)

    def encode(item: Item) -> tuple[Item, ...]:
        return encode_inputs(network, item, all_encoders=True), networks.encode(item)

    whole = [encode(item) for item in items]
    pairs: dict[str, list[tuple[Item, ...]]] = {
        "whole clips": whole,
        **{
            f"without {name}": [tuple(hide(item, name) for item in pair) for pair in whole]
            for name in network.encoders
        },
        "without input": [tuple(hide(item, *network.encoders) for item in pair) for pair in whole],
        "first third": [encode(_truncate(item, 1 / 3)) for item in items],
        "one frame": [encode(_truncate(item, 0.0)) for item in items],
    }
    maxima = {}
    for name, group in pairs.items():
        batches = [[pair] for pair in group]
        if name == "whole clips":
            batches.append(group)
        maxima[name] = float(
            np.max([_difference(head, networks, batch) for batch in batches])
        )  # NaN if one is NaN
    return maxima


def _truncate(item: Item, share: float) -> Item:
    """Keep the first ``share`` of each stream's steps, at least one."""
    streams = item.streams.items()
    return item.with_steps(
        {name: steps.select(slice(max(1, round(len(steps.mask) * share)))) for name, steps in streams}
    )


@torch.inference_mode()
def _difference(head: ReactionModel, networks: Networks, pairs: Sequence[tuple[Item, ...]]) -> float:
    """Compare the intensities of a batch of clips, each encoded by PyTorch and by the graphs."""
    expected = head(collate([item for item, _ in pairs], len(head.label_mean)))  # (B, L)
    got = networks.score([item for _, item in pairs])  # (B, L)
    return float(np.abs(got - expected.numpy()).max())


def build_export_specs(network: ReactionModel, config: ModelConfig) -> dict[str, ExportSpec]:
    """Return the modules of a model to export by file name: its encoders of images and speech, and the head.

    Contours are computed in NumPy. Networks over log-mel are in the head's graph. ``network`` is in
    evaluation mode, on the CPU.
    """
    streams = network.describe_inputs()
    structure = [
        config.model_dump(mode="json"),
        describe_encoders(network),
        repr(streams),
        len(network.label_mean),
    ]
    graphs = {}
    images = torch.zeros((2, 3, config.size_px, config.size_px), dtype=torch.uint8)
    for name, encoder in network.encoders.items():
        if isinstance(encoder, FrameEncoder):
            inputs, n_free = {"frames": images}, 1
        elif isinstance(encoder, ClipEncoder):
            inputs = {"clips": images[:, None].repeat(1, encoder.n_frames, 1, 1, 1)}
            n_free = 1
        elif isinstance(encoder, SpeechEncoder):
            inputs = {"waveform": torch.zeros((2, 50 * BLOCK_SIZE))}
            n_free = 2
        else:
            continue
        structured = json.dumps([name, *structure])
        graphs[f"{name}.onnx"] = ExportSpec(encoder, inputs, n_free, ("features",), structured)
    inputs = {}
    for index, (name, stream) in enumerate(streams.items()):
        # Different numbers, for a dimension each, and more than the stride of networks over log-mel.
        n_steps = 70 + 65 * index
        tensors = (
            torch.zeros((2, n_steps, stream.feature_size)),
            torch.ones((2, n_steps), dtype=torch.bool),
            torch.arange(n_steps).expand(2, n_steps) / 5.0,
        )
        inputs |= zip(head_inputs(name), tensors, strict=True)
    graphs[HEAD_GRAPH] = ExportSpec(
        _HeadGraph(network), inputs, 2, ("intensities",), json.dumps([HEAD_GRAPH, *structure])
    )
    return graphs


def write_graph(graph: ExportSpec, file: Path, stats: Mapping[str, FeatureStats]) -> None:
    """Write a graph to one ONNX file, with dynamic sizes and, if that is exact, weights in half precision.

    ``stats``, statistics of the training clips' mean features by stream, are kept as metadata.
    """
    if graph.structure not in _templates:
        _templates[graph.structure] = _translate(graph)
    model, weights = onnx.ModelProto(), graph.module.state_dict()
    model.CopyFrom(_templates[graph.structure])
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name].numpy(), tensor.name))
    onnxscript.optimizer.fold_constants(model, input_size_limit=MAX_FOLDED, output_size_limit=MAX_FOLDED)
    onnxscript.optimizer.remove_unused_nodes(model)
    _store_float16(model)
    for stream, stream_stats in stats.items():
        for name, values in (("mean", stream_stats.mean), ("std", stream_stats.std)):
            text = base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()
            model.metadata_props.add(key=f"{stream}_{name}", value=text)
    onnx.save(model, file)


def _translate(graph: ExportSpec) -> onnx.ModelProto:
    """Translate a module to a graph without weights. Its initializers are named as in the module's
    ``state_dict``."""
    shapes = (dict.fromkeys(range(graph.n_free), torch.export.Dim.DYNAMIC),) * len(graph.inputs)
    with quiet_exporter():
        program = torch.onnx.export(
            graph.module,
            tuple(graph.inputs.values()),
            dynamo=True,
            dynamic_shapes=shapes
            if len(shapes) == 1
            else (shapes,),  # an encoder has one argument, the head *inputs
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            verbose=False,
            # it would fuse batch norm into convolutions, whose weights then need single precision
            optimize=False,
        )
    if program is None:
        raise ModelError("PyTorch cannot export this network", got=type(graph.module).__name__)
    model, weights = program.model_proto, graph.module.state_dict()
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            tensor.ClearField("raw_data")
    for node in model.graph.node:
        node.ClearField("metadata_props")  # PyTorch's stack traces, with paths of this machine
    return model


def _store_float16(model: onnx.ModelProto) -> None:
    """Store matrices and kernels in half precision if that is exact, each with a cast to single precision."""
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        values = numpy_helper.to_array(tensor)
        half = values.astype(np.float16)
        if np.array_equal(half.astype(np.float32), values):
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
            casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])


class _HeadGraph(nn.Module):
    """The head's graph: features to intensities (B, L) in [0, 1]."""

    def __init__(self, network: ReactionModel) -> None:
        super().__init__()
        self.network = network.head_only(all_encoders=True)

    def forward(self, *inputs: Tensor) -> Tensor:
        streams = {
            name: Stream(*inputs[3 * index : 3 * index + 3])
            for index, name in enumerate(self.network.encoders)
        }
        batch = Batch(streams, *[inputs[1]] * 4)  # the head ignores the last four fields
        intensities: Tensor = self.network(batch)
        return intensities


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silence the exporter, and disable the fast path of attention, which cannot be exported."""
    is_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with quiet("torch.onnx", StringIO()):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(is_enabled)
