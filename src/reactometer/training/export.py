"""Export a trained network to a checkpoint's ONNX graphs, and prove on real clips that they equal PyTorch."""

from __future__ import annotations

import base64
import json
import logging
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
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

from reactometer.config import Config, ModelConfig
from reactometer.data.cache import FEATURES, PreparedSet
from reactometer.data.feature_store import open_store
from reactometer.data.inputs import BLOCK_SIZE, Item, MediaReader, parts_of, to_item
from reactometer.data.person_norm import Moments
from reactometer.errors import DataError, ModelError
from reactometer.evaluation.evaluate import evaluate, open_for
from reactometer.inference.checkpoint import (
    DEGRADATION_FILES,
    DESCRIPTION_FILE,
    MEMBER,
    WEIGHTS_FILE,
    LoadedModel,
    load_model,
    write_description,
)
from reactometer.inference.conformal import REFERENCES_FILE, UNCERTAINTY_FILE
from reactometer.inference.runtime import FACE_INPUTS, HEAD_GRAPH, MEANS, VOICE_INPUTS, Networks
from reactometer.io import Paths, appearing, decoding, each_path, parse_json_object, sha256_of
from reactometer.media.faces import load_detector
from reactometer.media.segments import prepare_clip, settled
from reactometer.models.audio_encoders import SpeechEncoder
from reactometer.models.batches import Batch, collate
from reactometer.models.heads import masked_moments
from reactometer.models.model import ReactionModel
from reactometer.models.registry import Encoders
from reactometer.models.vision_encoders import ClipEncoder, FrameEncoder
from reactometer.models.weights import load_network, save_weights
from reactometer.paths import STARTER
from reactometer.terminal import progress_bar
from reactometer.training.features import encode_item, population

TOLERANCE = 1e-4
"""Maximum difference of an intensity from PyTorch's in single precision."""

TOLERATED_LOSS = 0.005
"""Maximum loss of mean Pearson on the val split in 8 bits."""

PROOF_CLIPS, CALIBRATION_CLIPS = 8, 64
"""Number of clips that the proof compares, and that 8 bits are calibrated on; our choice."""

MAX_FOLDED = 2**31
"""Maximum number of elements of a constant that is computed when a graph is written, such as a transposed matrix."""

Inputs = Mapping[str, tuple[Tensor, tuple[str | None, ...]]]
"""By name, an example of an input, and the name of each dimension whose size is free."""

Exportable = FrameEncoder | ClipEncoder | SpeechEncoder
"""Encoders with a graph of their own. Contours are computed in NumPy; log-mel networks are in the head's graph."""


@dataclass(frozen=True)
class Exported:
    """An exported checkpoint and its differences from PyTorch."""

    folder: Path
    n_clips: int
    differences: Mapping[str, float]  # input of the proof -> largest difference of an intensity
    pearson: tuple[float, float] | None = None  # in 8 bits: mean Pearson on the val split in single precision and now


@dataclass(frozen=True)
class Graph:
    """A function of tensors to export, with its inputs and the names of its outputs."""

    module: nn.Module
    inputs: Inputs
    outputs: tuple[str, ...]
    structure: str  # all that the graph depends on besides the module's weights


_templates = dict[str, onnx.ModelProto]()
"""Graphs without weights, by structure: translating one takes seconds, and members of an ensemble share it."""


def save_checkpoint(
    folder: Path,
    network: ReactionModel,
    labels: Sequence[str],
    config: Config,
    prepared: PreparedSet,
    *,
    data: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> None:
    """Write a trained network into an empty folder: weights, graphs, ``model.json``, and the proof on val clips.

    Args:
        folder: exists.
        network: on the CPU, in evaluation mode.
        labels: (L,) names.
        config: what it was trained with.
        prepared: the clips that it was trained on.
        data: describes the training data, as JSON can hold it.
        metrics: its scores on val.

    Raises:
        ModelError: an intensity differs from PyTorch's by more than 1e-4.
    """
    write_checkpoint(folder, network, labels, config, data=data, metrics=metrics)
    loaded = load_model(folder, "cpu")
    clips = list(islice(_items(loaded, (), prepared, "val"), PROOF_CLIPS))
    prove(folder, network, loaded, clips)


def export(
    model: Path | str,
    data: Paths,
    out: Path | str,
    *,
    int8: bool = False,
    cache: Path | str | None = None,
    progress: bool = True,
) -> list[Exported]:
    """Export a model's weights to a new checkpoint, and prove that its graphs equal PyTorch.

    Each encoder becomes an ONNX graph, and so does the network from features to intensities. The graphs' intensities
    are compared with PyTorch's on whole clips, without face, without voice, without both, on the first third of the
    clips, on one frame, and on all clips in one batch. In 8 bits, the encoders are calibrated on clips of the train
    split, and the score on the val split is compared instead.

    Args:
        model: a folder with weights: a checkpoint, one of the older kind without graphs, an ensemble, or "starter".
        data: a dataset (a folder, a CSV file, or a prepared dataset), or video files, which are enough for single
            precision.
        out: the new checkpoint's folder.
        int8: compute the encoders in 8 bits.
        cache: folder of the prepared clips if ``data`` is not prepared yet; default: the user's cache folder.
        progress: show a progress bar on standard error.

    Returns:
        One record per member of an ensemble, or one.

    Raises:
        ModelError: an intensity differs by more than 1e-4, or 8 bits cost more than 0.005 of mean Pearson. Nothing is
            written then.
        DataError, MediaError: the data cannot be used.
        OutputError: ``out`` exists already.
    """
    data, out = each_path(data), Path(out)
    source = STARTER if str(model) == "starter" else Path(model)
    if _are_videos(data) and int8:
        raise DataError("8 bits need a dataset: clips to calibrate on, and labels to score on", got="video files")
    with decoding(source / DESCRIPTION_FILE, ModelError, "Give a folder that 'reactometer train' named"):
        description = parse_json_object((source / DESCRIPTION_FILE).read_bytes())
        names = list(description.get("members", []))
        if not all(re.fullmatch(MEMBER, name) for name in names):
            raise ValueError(f"members {names}")
    done = list[Exported]()
    with progress_bar("exporting", 2 * max(1, len(names)), progress) as advance, appearing(out) as partial:
        for name in names or ["."]:
            (partial / name).mkdir(exist_ok=True)
            exported = _export_one(source / name, partial / name, data, cache, int8, advance)
            done.append(replace(exported, folder=out / name))
            _copy_extras(source / name, partial / name)
        if names:
            write_description(partial, description["labels"], {"members": names})
            _copy_extras(source, partial)
    return done


def _copy_extras(source: Path, folder: Path) -> None:
    """Copy what else a checkpoint holds: intervals, the degradation curves, the card."""
    for name in (UNCERTAINTY_FILE, REFERENCES_FILE, *DEGRADATION_FILES, "README.md", "LICENSE"):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _export_one(
    source: Path,
    folder: Path,
    data: Sequence[Path | str],
    cache: Path | str | None,
    int8: bool,
    advance: Callable[[], None],
) -> Exported:
    """Export one model into an empty folder, and check it."""
    network, known = load_network(source)
    config = Config.model_validate(known["config"])
    write_checkpoint(folder, network, known["labels"], config, data=known["data"], metrics=known["metrics"])
    loaded = load_model(folder, "cpu")
    prepared = None if _are_videos(data) else open_for(loaded, data[0], cache, progress=False)
    exported = prove(folder, network, loaded, list(islice(_items(loaded, data, prepared, "val"), PROOF_CLIPS)))
    advance()
    if int8 and prepared is not None:
        exported = replace(exported, pearson=_quantise(folder, network, loaded, prepared))
    advance()
    return exported


def write_checkpoint(
    folder: Path,
    network: ReactionModel,
    labels: Sequence[str],
    config: Config,
    *,
    data: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> Path:
    """Write weights, graphs and ``model.json`` into a folder, without a proof, see :func:`save_checkpoint`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(network, folder / WEIGHTS_FILE, config.training.store)
    graphs = graphs_of(network, config.model)
    moments = population(network) if config.model.person_norm else {}
    for name, graph in graphs.items():
        write_graph(graph, folder / name, config.training.store, moments if name == HEAD_GRAPH else {})
    face, voice = network.describe_inputs()
    about = {
        "config": config.model_dump(mode="json"),
        "inputs": {
            name: stream.model_dump() for name, stream in (("face", face), ("voice", voice)) if stream is not None
        },
        "precision": "float32",
        "n_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "encoders": Encoders(network.face_encoder, network.voice_encoder).describe(),
        "data": dict(data),
        "metrics": dict(metrics),
        "proof": {},
        "sha256": {name: sha256_of(folder / name) for name in (WEIGHTS_FILE, *graphs)},
    }
    return write_description(folder, labels, about)


def _change_description(folder: Path, **changes: Any) -> None:
    about = parse_json_object((folder / DESCRIPTION_FILE).read_bytes())
    labels = about["labels"]
    kept = {name: value for name, value in about.items() if name not in ("format", "reactometer", "labels")}
    write_description(folder, labels, {**kept, **changes})


def prove(folder: Path, network: ReactionModel, loaded: LoadedModel, clips: Sequence[Item]) -> Exported:
    """Compare the graphs with PyTorch on clips, and keep the differences in ``model.json``."""
    if not any(item.seen.any() or len(item.voice) for item in clips):
        raise DataError("no clip contains a face or a voice to compare the graphs on")
    found = differences(network, loaded.networks, clips)
    exported = Exported(folder, len(clips), found)
    check(exported)
    _change_description(folder, proof={"n_clips": len(clips), "differences": found})
    return exported


def _quantise(folder: Path, network: ReactionModel, loaded: LoadedModel, prepared: PreparedSet) -> tuple[float, float]:
    """Replace the encoders' graphs by ones in 8 bits; return mean Pearson on val before and after."""
    before = _pearson(loaded, prepared)
    for name, graph in graphs_of(network, loaded.config.model).items():
        if name != HEAD_GRAPH:
            items = islice(_items(loaded, (), prepared, "train"), CALIBRATION_CLIPS)
            quantise_graph(graph, folder / name, _encoder_inputs(loaded.networks, name, items))
    (folder / WEIGHTS_FILE).unlink()
    digests = {file.name: sha256_of(file) for file in sorted(folder.glob("*.onnx"))}
    _change_description(folder, precision="int8", sha256=digests)
    pearson = before, _pearson(load_model(folder, "cpu"), prepared)
    check(Exported(folder, 0, {}, pearson))
    about = parse_json_object((folder / DESCRIPTION_FILE).read_bytes())
    _change_description(folder, proof={**about["proof"], "pearson": pearson})
    return pearson


def _are_videos(data: Sequence[Path | str]) -> bool:
    files = [Path(one) for one in data]
    videos = [file.is_file() and file.suffix.lower() not in (".csv", ".parquet") for file in files]
    if all(videos) and files:
        return True
    if len(files) != 1:
        raise DataError("give one dataset, or video files", got=", ".join(map(str, files)) or "nothing")
    return False


def _items(loaded: LoadedModel, data: Sequence[Path | str], prepared: PreparedSet | None, split: str) -> Iterator[Item]:
    """Yield the model's input of the clips of a split, if the dataset has it, or of all clips."""
    if prepared is None:
        settings = settled(loaded.config.prepare)
        detector = load_detector(settings.detector)
        yield from (to_item(prepare_clip(Path(one), settings, detector), loaded.sampling) for one in data)
        return
    read = MediaReader(loaded.sampling) if prepared.feature_sizes is None else open_store(prepared.folder / FEATURES)
    rows = [row for row in prepared.split(split) or prepared.rows if row.file]
    yield from (read(rows[part.index], part, None) for part in parts_of(rows))


def _encoder_inputs(networks: Networks, name: str, items: Iterable[Item]) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield the arguments of an encoder's graph when some clips are encoded."""
    stream, inputs = name.removesuffix(".onnx"), list[tuple[np.ndarray, ...]]()
    graph = networks.encoders[stream]

    def record(*arrays: np.ndarray) -> list[np.ndarray]:
        inputs.append(arrays)
        return graph(*arrays)

    recording: Any = {**networks.encoders, stream: record}
    for item in items:
        replace(networks, encoders=recording).encode(item)
        yield from inputs
        inputs.clear()


def _pearson(loaded: LoadedModel, prepared: PreparedSet) -> float:
    """Return mean Pearson on val over the labels that vary; a constant prediction counts as 0."""
    scored = evaluate(loaded, prepared.folder, split="val", n_resamples=0, progress=False)
    spread = np.ptp(scored.truth, axis=0)  # (L,)
    known = [r or 0.0 for r, varies in zip(scored.metrics.pearson, spread > 0, strict=True) if varies]
    if not known:
        raise DataError(f"{prepared.folder}: no label varies over split 'val'", fix="8 bits need clips that differ")
    return float(np.mean(known))


def check(exported: Exported) -> None:
    """Raise ModelError if the intensities differ from PyTorch's, or, in 8 bits, if the score is lower."""
    if exported.pearson is not None:
        before, after = exported.pearson
        if not after >= before - TOLERATED_LOSS:
            raise ModelError(
                "in 8 bits the model loses too much of its score on val; it is not kept",
                got=f"mean Pearson {after:.4f} instead of {before:.4f}",
                expected=f"a loss of at most {TOLERATED_LOSS}",
                fix="Leave --int8 out, or calibrate on more train clips",
            )
        return
    for name, difference in exported.differences.items():
        if not difference <= TOLERANCE:  # NaN, too
            raise ModelError(
                "the exported graphs give other intensities than PyTorch; they are not kept",
                got=f"a difference of {difference:.2g} ({name})",
                expected=f"at most {TOLERANCE}",
                fix="Please report the versions of the packages and the encoder's name",
            )


def differences(network: ReactionModel, networks: Networks, items: Sequence[Item]) -> dict[str, float]:
    """Return the largest difference of an intensity between PyTorch and the graphs, for each kind of input.

    Args:
        network: the model, run by PyTorch.
        networks: the same model, run by ONNX Runtime.
        items: the clips. Each is compared whole, alone and in one batch with the others, and with parts removed.
    """
    head = network.on_features(every=True)

    def encode(item: Item) -> tuple[Item, Item]:
        return encode_item(network, item, every=True), networks.encode(item)

    whole = [encode(item) for item in items]
    pairs: dict[str, list[tuple[Item, Item]]] = {
        "whole clips": whole,
        "without face": [(_unseen(slow), _unseen(fast)) for slow, fast in whole],
        "without voice": [(_silent(slow), _silent(fast)) for slow, fast in whole],
        "without both": [(_silent(_unseen(slow)), _silent(_unseen(fast))) for slow, fast in whole],
        "first third": [encode(_beginning(item, 1 / 3)) for item in items],
        "one frame": [encode(_beginning(item, 0.0)) for item in items],
    }
    found = {}
    for name, own in pairs.items():
        groups = [[pair] for pair in own] + ([own] if name == "whole clips" else [])  # then all in one batch
        found[name] = float(np.max([_difference(head, networks, group) for group in groups]))  # NaN if one is NaN
    return found


def _unseen(item: Item) -> Item:
    return replace(item, frames=np.zeros_like(item.frames), seen=np.zeros_like(item.seen))


def _silent(item: Item) -> Item:
    return replace(item, voice=item.voice[:0], voice_times_s=item.voice_times_s[:0])


def _beginning(item: Item, share: float) -> Item:
    """Keep the first frames and steps of sound, at least one of each."""
    frames, steps = max(1, round(len(item.times_s) * share)), max(1, round(len(item.voice) * share))
    return replace(
        item,
        frames=item.frames[:frames],
        seen=item.seen[:frames],
        times_s=item.times_s[:frames],
        voice=item.voice[:steps],
        voice_times_s=item.voice_times_s[:steps],
    )


@torch.inference_mode()
def _difference(head: ReactionModel, networks: Networks, pairs: Sequence[tuple[Item, Item]]) -> float:
    """Compare the intensities of a batch of clips, each encoded by PyTorch and by the graphs."""
    expected = head(collate([slow for slow, _ in pairs], len(head.label_mean)))  # (B, L)
    got, _ = networks.score([fast for _, fast in pairs])  # (B, L)
    return float(np.abs(got - expected.numpy()).max())


def graphs_of(network: ReactionModel, config: ModelConfig) -> dict[str, Graph]:
    """Return the graphs of a model by file name: its encoders of images and speech, and the head.

    Args:
        network: in evaluation mode, on the CPU.
        config: what it was built from.
    """
    pairs = (("face.onnx", network.face_encoder), ("voice.onnx", network.voice_encoder))
    graphs = {
        name: _encoder_graph(encoder, config.size_px) for name, encoder in pairs if isinstance(encoder, Exportable)
    }
    graphs[HEAD_GRAPH] = _head_graph(network)
    encoders = Encoders(network.face_encoder, network.voice_encoder).describe()
    about = [config.model_dump(mode="json"), encoders, len(network.label_mean)]
    return {name: replace(graph, structure=json.dumps([name, *about])) for name, graph in graphs.items()}


def write_graph(graph: Graph, file: Path, store: str = "float32", moments: Mapping[str, Moments] = {}) -> None:
    """Write a graph to one ONNX file. Its free dimensions stay free.

    Args:
        graph: what is exported.
        file: a new file.
        store: with "float16", weights that are numbers of half precision are stored so; they are computed in single.
        moments: mean and standard deviation of the training set's features by stream, kept as metadata.
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
    if store == "float16":
        _halve_weights(model)
    for stream, own in moments.items():
        for kind, values in (("mean", own.mean), ("std", own.std)):
            text = base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()
            model.metadata_props.add(key=f"{stream}_{kind}", value=text)
    onnx.save(model, file)


def _translate(graph: Graph) -> onnx.ModelProto:
    """Translate a module to a graph without weights. Its initializers are named as in the module's state."""
    shapes = {
        name: {index: torch.export.Dim.DYNAMIC for index, free in enumerate(frees) if free}
        for name, (_, frees) in graph.inputs.items()
    }
    with _quiet():
        program = torch.onnx.export(
            graph.module,
            tuple(example for example, _ in graph.inputs.values()),
            dynamo=True,
            dynamic_shapes=(tuple(shapes.values()),),
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            verbose=False,
            optimize=False,  # it would join batch norm and convolution, whose weights are then no half precision's
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


def _halve_weights(model: onnx.ModelProto) -> None:
    """Store matrices and kernels in half precision if they are numbers of half precision, with a cast to single."""
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


def quantise_graph(graph: Graph, file: Path, examples: Iterable[Sequence[np.ndarray]]) -> None:
    """Replace an exported graph by one that computes in 8 bits (static quantisation in the QDQ format).

    Weights are signed with one scale per channel. Activations are unsigned with one scale per tensor, from the smallest
    and the largest value in the examples. In a network with attention, only convolutions and matrix products are
    quantised, because the rest gains nothing.

    Args:
        graph: the exported graph.
        file: its ONNX file.
        examples: typical inputs, in the graph's order.
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


class _Encode(nn.Module):
    """Make a module of an encoder's ``encode``."""

    def __init__(self, encoder: Exportable) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, *inputs: Tensor) -> Tensor:
        encode = self.encoder if isinstance(self.encoder, FrameEncoder) else self.encoder.encode
        features: Tensor = encode(*inputs)
        return features


class _Head(nn.Module):
    """Compute intensities (B, L) in [0, 1], and the mean over time of each stream (B, D), from features."""

    def __init__(self, network: ReactionModel) -> None:
        super().__init__()
        self.network = network.on_features(every=True)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        mask = inputs[1]
        nothing = (mask.new_zeros(0), mask[:, :1] & False, mask.new_zeros(0))
        face = inputs[:3] if self.network.looks else nothing
        voice = inputs[-3:] if self.network.listens else nothing
        batch = Batch._make((*face, *voice, *[mask] * 4))
        streams = self.network.streams(batch)
        intensities = self.network.answer(self.network.head(*streams), batch)
        return intensities, *(masked_moments(one.values, one.mask)[0] for one in streams if one is not None)


def _encoder_graph(encoder: Exportable, size_px: int) -> Graph:
    images = torch.zeros((2, 3, size_px, size_px), dtype=torch.uint8)
    fixed = (None, None, None)
    inputs: dict[str, tuple[Tensor, tuple[str | None, ...]]]
    if isinstance(encoder, FrameEncoder):
        inputs = {"frames": (images, ("frames", *fixed))}
    elif isinstance(encoder, ClipEncoder):
        clips = images[:, None].repeat(1, encoder.n_frames, 1, 1, 1)
        inputs = {"clips": (clips, ("clips", None, *fixed))}
    else:
        inputs = {"waveform": (torch.zeros((2, 50 * BLOCK_SIZE)), ("clips", "samples"))}
    return Graph(_Encode(encoder), inputs, ("features",), "")


def _head_graph(network: ReactionModel) -> Graph:
    inputs: dict[str, tuple[Tensor, tuple[str | None, ...]]] = {}
    face, voice = network.describe_inputs()
    outputs = ["intensities"]
    for stream, size, names, count in (
        ("face", face and face.feature_size, FACE_INPUTS, 5),
        ("voice", voice and voice.feature_size, VOICE_INPUTS, 70),
    ):
        if size:
            free = ("clips", names[0])
            inputs[names[0]] = (torch.zeros((2, count, size)), (*free, None))
            inputs[names[1]] = (torch.ones((2, count), dtype=torch.bool), free)
            inputs[names[2]] = (torch.arange(count).expand(2, count) / 5.0, free)
            outputs.append(MEANS[stream])
    return Graph(_Head(network), inputs, tuple(outputs), "")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, and keep attention in the form that can be exported."""
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
