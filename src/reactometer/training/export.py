"""Export a model to ONNX graphs in its folder, and prove on real clips that they equal PyTorch."""

from __future__ import annotations

import copy
import logging
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from reactometer.data.batches import BLOCK_SIZE, Batch, Item, MediaReader, collate, parts_of, to_item
from reactometer.data.cache import FEATURES, PreparedSet
from reactometer.data.feature_store import open_store
from reactometer.data.prepare import settled
from reactometer.errors import ConfigError, DataError, ModelError, OutputError, suggestion
from reactometer.evaluation.evaluate import evaluate, open_for
from reactometer.io import Paths, appearing, each_path, format_json, sha256_of
from reactometer.media.audio_features import MEL_BANDS
from reactometer.media.faces import load_detector
from reactometer.media.segments import prepare_clip
from reactometer.models.audio_encoders import SpeechEncoder, StepConvolution, VoiceEncoder
from reactometer.models.engines import (
    ABOUT_FILE,
    EXPORTED,
    Run,
    Runnable,
    attach_engine,
    engine_folder,
    open_graph,
    require_onnx,
    runnable,
)
from reactometer.models.folder import WEIGHTS_FILE, LoadedModel, load_model
from reactometer.models.model import ReactionModel
from reactometer.models.showing import encode_item
from reactometer.models.vision_encoders import ClipEncoder, Engine, FrameEncoder
from reactometer.paths import STARTER
from reactometer.terminal import progress_bar

TOLERANCE = 1e-4
"""Largest difference of an intensity from PyTorch's in single precision."""

TOLERATED_LOSS = 0.005
"""Largest loss of mean Pearson on the val split in 8 bits."""

PROOF_CLIPS, CALIBRATION_CLIPS = 12, 64
"""Clips that the proof compares, and that 8 bits are calibrated on; our choice."""

JOINT = "joint"
"""The graph that takes features and gives intensities."""

FACE_INPUTS, VOICE_INPUTS = ("frames", "frame_mask", "frame_times_s"), ("voice", "voice_mask", "voice_times_s")

Inputs = Mapping[str, tuple[Tensor, tuple[str | None, ...]]]
"""By name, an example of an input, and the name of each dimension whose size is free."""


@dataclass(frozen=True)
class Exported:
    """An exported engine and its differences from PyTorch."""

    folder: Path  # the engine's
    engine: str
    n_clips: int
    differences: Mapping[str, float]  # input of the proof -> largest difference of an intensity
    pearson: tuple[float, float] | None = None  # in 8 bits: mean Pearson on the val split of PyTorch and of the engine


@dataclass(frozen=True)
class Graph:
    """A function of tensors to export, with its inputs and the name of its output."""

    module: nn.Module
    inputs: Inputs
    output: str


def export(
    model: Path | str,
    data: Paths,
    *,
    engine: str,
    out: Path | str | None = None,
    cache: Path | str | None = None,
    progress: bool = True,
) -> list[Exported]:
    """Export a model to ``engines/ENGINE`` in its folder, and prove that it equals PyTorch.

    Each encoder becomes an ONNX graph, and so does the network from features to intensities. The graphs' intensities
    are compared with PyTorch's on whole clips, without face, without voice, without both, on the first third of the
    clips, on one frame, and on all clips in one batch. In 8 bits, the encoders are calibrated on clips of the train
    split, and the score on the val split is compared instead.

    Args:
        model: a model folder, an ensemble's folder, or "starter".
        data: a dataset (a folder, a CSV file, or a prepared dataset), or video files, which are enough for single
            precision.
        engine: one of :data:`~reactometer.models.engines.EXPORTED`.
        out: a folder for a copy of the model that holds the engine; default: the model's own folder.
        cache: folder of the prepared clips if ``data`` is not prepared yet; default: the user's cache folder.
        progress: show a progress bar on standard error.

    Returns:
        One record per member of an ensemble, or one.

    Raises:
        ConfigError: the engine is unknown.
        ModelError: a package is missing, an intensity differs by more than 1e-4, or 8 bits cost more than 0.005 of
            mean Pearson. Nothing is written then.
        DataError, MediaError: the data cannot be used.
        OutputError: the engine or ``out`` exists already.
    """
    data = each_path(data)
    if engine not in EXPORTED:
        raise ConfigError(f"no engine '{engine}' to export for", fix=suggestion(engine, EXPORTED))
    require_onnx("onnx", "onnxruntime", "onnxscript")
    source = STARTER if str(model) == "starter" else Path(model)
    if out is None and source == STARTER:
        raise OutputError("the starter model stays as it came", fix="Name a folder for a copy with --out")
    if out is not None:
        load_model(source, "cpu")  # raises before anything is copied
        with appearing(Path(out)) as partial:
            shutil.copytree(source, partial, dirs_exist_ok=True)
            done = _export_all(partial, data, engine, cache, progress)
        return [replace(one, folder=Path(out) / one.folder.relative_to(partial)) for one in done]
    return _export_all(source, data, engine, cache, progress)


def _export_all(
    folder: Path, data: Sequence[Path | str], engine: str, cache: Path | str | None, progress: bool
) -> list[Exported]:
    """Export a model, or all members of an ensemble or none."""
    loaded = load_model(folder, "cpu")
    folders = [folder / str(name) for name in loaded.description.get("members", [])] or [folder]
    if (first := engine_folder(folders[0], engine)).exists():
        raise OutputError(f"{first}: exists already", fix="Delete it to export again")
    prepared = None if _are_videos(data) else open_for(loaded, data[0], cache, progress=progress)
    if prepared is None and engine == "onnx-int8":
        raise DataError("8 bits need a dataset: clips to calibrate on, and labels to score on", got="video files")
    done = list[Exported]()
    try:
        for member, own in zip(loaded.each, folders, strict=True):
            final = engine_folder(own, engine)
            with progress_bar(f"exporting {engine}", 3, progress) as advance, appearing(final) as partial:
                done.append(replace(_export_one(member, data, prepared, engine, partial, advance), folder=final))
    except BaseException:
        for one in done:
            shutil.rmtree(one.folder)
        raise
    return done


def _are_videos(data: Sequence[Path | str]) -> bool:
    files = [Path(one) for one in data]
    videos = [file.is_file() and file.suffix.lower() not in (".csv", ".parquet") for file in files]
    if all(videos) and files:
        return True
    if len(files) != 1:
        raise DataError("give one dataset, or video files", got=", ".join(map(str, files)) or "nothing")
    return False


def _export_one(
    member: LoadedModel,
    data: Sequence[Path | str],
    prepared: PreparedSet | None,
    engine: str,
    folder: Path,
    advance: Callable[[], None],
) -> Exported:
    """Export one model into an empty folder, and check it."""
    train = list(islice(_items(member, data, prepared, "train"), CALIBRATION_CLIPS))
    clips = list(islice(_items(member, data, prepared, "val"), PROOF_CLIPS))
    if not any(item.seen.any() or len(item.voice) for item in clips):
        raise DataError("no clip contains a face or a voice to compare the engine on")
    graphs = graphs_of(member.network, member.sampling.size_px)
    for name, graph in graphs.items():
        write_graph(graph, folder / f"{name}.onnx")
        if name != JOINT and engine == "onnx-int8":
            quantise_graph(graph, folder / f"{name}.onnx", _encoder_inputs(member, name, train))
    advance()
    about = {
        "engine": engine,
        "weights_sha256": member.description["sha256"][WEIGHTS_FILE],
        "graphs": {f"{name}.onnx": sha256_of(folder / f"{name}.onnx") for name in graphs},
        "labels": list(member.labels),
    }
    (folder / ABOUT_FILE).write_text(format_json(about), encoding="utf-8")
    network = copy.deepcopy(member.network)
    attach_engine(network, engine, folder, about["weights_sha256"])
    fast = replace(member, network=network, engine=engine)
    found = differences(member, fast, open_graph(folder / f"{JOINT}.onnx"), clips)
    advance()
    pearson = _pearson(member, fast, prepared) if engine == "onnx-int8" and prepared is not None else None
    exported = Exported(folder, engine, len(clips), found, pearson)
    check(exported)
    proof = {"n_clips": len(clips), "differences": found, "pearson": pearson}
    (folder / ABOUT_FILE).write_text(format_json({**about, "proof": proof}), encoding="utf-8")
    advance()
    return exported


def _items(member: LoadedModel, data: Sequence[Path | str], prepared: PreparedSet | None, split: str) -> Iterator[Item]:
    """Yield the model's input of the clips of a split, if the dataset has it, or of all clips."""
    if prepared is None:
        settings = settled(member.config.prepare)
        detector = load_detector(settings.detector)
        yield from (to_item(prepare_clip(Path(one), settings, detector), member.sampling) for one in data)
        return
    read = MediaReader(member.sampling) if prepared.feature_sizes is None else open_store(prepared.folder / FEATURES)
    rows = [row for row in prepared.split(split) or prepared.rows if row.file]
    yield from (read(rows[part.index], part, None) for part in parts_of(rows))


def _encoder_inputs(member: LoadedModel, name: str, items: Iterable[Item]) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield the arguments of an encoder when some clips are encoded."""
    encoder, inputs = runnable(member.network)[name], list[tuple[np.ndarray, ...]]()

    def record(*tensors: Tensor) -> Tensor:
        inputs.append(tuple(tensor.numpy() for tensor in tensors))
        return encoder.encode(*tensors)

    for item in items:
        encoder.engine = Engine("recording", record)
        try:
            encode_item(member.network, item, every=True)
        finally:
            encoder.engine = None
        yield from inputs
        inputs.clear()


def _pearson(member: LoadedModel, fast: LoadedModel, prepared: PreparedSet) -> tuple[float, float]:
    """Return mean Pearson on val of PyTorch and of the engine, over the labels that vary; a constant counts as 0."""
    before, after = (
        evaluate(one, prepared.folder, split="val", n_resamples=0, progress=False).metrics.pearson
        for one in (member, fast)
    )
    pairs = [(slow, quick or 0.0) for slow, quick in zip(before, after, strict=True) if slow is not None]
    if not pairs:
        raise DataError(f"{prepared.folder}: no label varies over split 'val'", fix="8 bits need clips that differ")
    slow, quick = np.mean(pairs, axis=0).tolist()
    return slow, quick


def check(exported: Exported) -> None:
    """Raise ModelError if the intensities differ from PyTorch's, or, in 8 bits, if the score is lower."""
    if exported.pearson is not None:
        before, after = exported.pearson
        if not after >= before - TOLERATED_LOSS:
            raise ModelError(
                f"in 8 bits the model loses too much of its score on val; {exported.engine} is not kept",
                got=f"mean Pearson {after:.4f} instead of {before:.4f}",
                expected=f"a loss of at most {TOLERATED_LOSS}",
                fix="Use --engine onnx, or calibrate on more train clips",
            )
        return
    for name, difference in exported.differences.items():
        if not difference <= TOLERANCE:  # NaN, too
            raise ModelError(
                f"{exported.engine} gives other intensities than PyTorch; it is not kept",
                got=f"a difference of {difference:.2g} ({name})",
                expected=f"at most {TOLERANCE}",
                fix="Please report the versions of the packages and the encoder's name",
            )


def differences(member: LoadedModel, fast: LoadedModel, joint: Run, items: Sequence[Item]) -> dict[str, float]:
    """Return the largest difference of an intensity between PyTorch and an engine, for each kind of input.

    Args:
        member: the model, run by PyTorch.
        fast: the same model, run by the engine.
        joint: the engine's graph from features to intensities.
        items: the clips. Each is compared whole, alone and in one batch with the others, and with parts removed.
    """
    unseen = [replace(item, seen=np.zeros_like(item.seen)) for item in items]
    inputs = {
        "whole clips": list(items),
        "without face": unseen,
        "without voice": [_silent(item) for item in items],
        "without both": [_silent(item) for item in unseen],
        "first third": [_beginning(item, 1 / 3) for item in items],
        "one frame": [_beginning(item, 0.0) for item in items],
    }
    head = member.network.on_features(every=True)
    found = {}
    for name, own in inputs.items():
        pairs = [tuple(encode_item(one.network, item, every=True) for one in (member, fast)) for item in own]
        groups = [[pair] for pair in pairs] + ([pairs] if name == "whole clips" else [])  # then all in one batch
        found[name] = float(np.max([_difference(head, joint, group) for group in groups]))  # NaN if one is NaN
    return found


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
def _difference(head: ReactionModel, joint: Run, pairs: Sequence[tuple[Item, ...]]) -> float:
    """Compare the intensities of a batch of clips, each encoded by PyTorch and by the engine."""
    n_labels = len(head.label_mean)
    expected = head(collate([slow for slow, _ in pairs], n_labels))  # (B, L)
    batch = collate([fast for _, fast in pairs], n_labels)
    names = (*(FACE_INPUTS if head.looks else ()), *(VOICE_INPUTS if head.listens else ()))
    got = joint(*(getattr(batch, name).numpy() for name in names))  # (B, L)
    return float(np.abs(got - expected.numpy()).max())


def graphs_of(network: ReactionModel, size_px: int) -> dict[str, Graph]:
    """Return the graphs of a model: "face" and "voice" if the encoder can be exported, and the joint graph.

    Args:
        network: in evaluation mode, on the CPU.
        size_px: side of the face crops, pixels.
    """
    graphs = {name: _encoder_graph(encoder, size_px) for name, encoder in runnable(network).items()}
    return {**graphs, JOINT: _joint_graph(network)}


def write_graph(graph: Graph, file: Path) -> None:
    """Write a graph to one ONNX file. Its free dimensions stay free."""
    shapes = {
        name: {place: torch.export.Dim.DYNAMIC for place, free in enumerate(frees) if free}
        for name, (_, frees) in graph.inputs.items()
    }
    with _quiet():
        torch.onnx.export(
            graph.module,
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

    def __init__(self, encoder: Runnable) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.encoder.encode(*inputs)


class _Joint(nn.Module):
    """Compute intensities, (B, L) in [0, 1], from the features of face and voice."""

    def __init__(self, network: ReactionModel) -> None:
        super().__init__()
        self.network = network.on_features(every=True)

    def forward(self, *inputs: Tensor) -> Tensor:
        mask = inputs[1]
        nothing = (mask.new_zeros(0), mask[:, :1] & False, mask.new_zeros(0))
        face = inputs[:3] if self.network.looks else nothing
        voice = inputs[-3:] if self.network.listens else nothing
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
