"""Write a copy of a checkpoint whose encoders compute in 8 bits, if its score on val is about the same."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from reactometer.data.cache import PreparedSet
from reactometer.data.inputs import Item
from reactometer.errors import ModelError
from reactometer.evaluation.evaluate import evaluate, open_for_model
from reactometer.evaluation.metrics import mean_over_varying
from reactometer.inference.checkpoint import WEIGHTS_FILE, LoadedModel, load_model
from reactometer.inference.runtime import Networks
from reactometer.io import atomic_folder, sha256_of
from reactometer.paths import find_checkpoint
from reactometer.training.export import change_description, quiet_exporter, read_items

MAX_LOSS = 0.005
"""Maximum loss of mean Pearson on the val split in 8 bits."""

CALIBRATION_CLIPS = 64
"""Number of train clips for the calibration of 8 bits."""


def export(
    model: Path | str, data: Path | str, out: Path | str, *, progress: bool = True
) -> tuple[float, float]:
    """Write a copy of a checkpoint whose encoders of images and speech compute in 8 bits.

    The calibration uses clips of the train split. The copy has no PyTorch weights.

    Args:
        model: a checkpoint, or "starter".
        data: a dataset with the model's labels, prepared or not.
        out: the new checkpoint's folder.
        progress: show a progress bar on standard error.

    Returns:
        Mean Pearson on the val split in single precision and in 8 bits; a constant prediction counts as 0.

    Raises:
        ModelError: the checkpoint is an ensemble or has no such encoder, or 8 bits lose more than 0.005 of
            mean Pearson. Then nothing is written.
        DataError, MediaError: the data cannot be used.
        OutputError: ``out`` exists already.
    """
    source = find_checkpoint(model)
    loaded = load_model(source, "cpu")
    if loaded.ensemble:
        fix = "Export each member, and join the new checkpoints with 'reactometer model join'"
        raise ModelError(f"{source}: an ensemble cannot be exported", fix=fix)
    if not loaded.networks.encoders or loaded.precision != "float32":
        raise ModelError(
            f"{source}: no encoder of images or speech in single precision",
            fix="Use the checkpoint without this export",
        )
    with atomic_folder(Path(out)) as folder:
        prepared = open_for_model(loaded, data, progress=progress)
        before = _pearson(loaded, prepared, progress)
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns(WEIGHTS_FILE), dirs_exist_ok=True)
        for stream in loaded.networks.encoders:
            items = read_items(loaded, prepared, "train", CALIBRATION_CLIPS)
            quantise_graph(folder / f"{stream}.onnx", encoder_inputs(loaded.networks, stream, items))
        digests = {file.name: sha256_of(file) for file in sorted(folder.glob("*.onnx"))}
        change_description(folder, precision="int8", sha256=digests)
        after = _pearson(load_model(folder, "cpu"), prepared, progress)
        if not after >= before - MAX_LOSS:
            raise ModelError(
                "in 8 bits the model loses too much of its score on val; the copy is not written",
                got=f"mean Pearson {after:.4f} instead of {before:.4f}",
                expected=f"a loss of at most {MAX_LOSS}",
                fix="Use the checkpoint without this export, or calibrate on more train clips",
            )
        change_description(folder, proof={**loaded.description["proof"], "pearson": [before, after]})
    return before, after


def _pearson(loaded: LoadedModel, prepared: PreparedSet, progress: bool) -> float:
    scored = evaluate(loaded, prepared.folder, split="val", n_resamples=0, in_sample=True, progress=progress)
    return mean_over_varying(scored.metrics.pearson, scored.targets)


def encoder_inputs(networks: Networks, stream: str, items: Iterable[Item]) -> Iterator[dict[str, np.ndarray]]:
    """Yield the inputs of a stream's encoder, by name, for each clip."""
    graph = networks.encoders[stream]
    inputs: list[dict[str, np.ndarray]] = []

    def record(*arrays: np.ndarray) -> list[np.ndarray]:
        inputs.append(dict(zip(graph.inputs, arrays, strict=True)))
        return graph(*arrays)

    recording: Any = {**networks.encoders, stream: record}
    for item in items:
        replace(networks, encoders=recording).encode(item)
        yield from inputs
        inputs.clear()


def quantise_graph(file: Path, examples: Iterable[dict[str, np.ndarray]]) -> None:
    """Replace a graph by one that computes in 8 bits (static quantisation in the QDQ format).

    Weights are signed with one scale per channel. Activations are unsigned with one scale per tensor, from
    the smallest and the largest value in the examples. In a network with attention, only convolutions and
    matrix products are quantised, because the rest gains nothing. ``examples`` are typical inputs, by name.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class ExampleReader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(iterator, None)

    iterator = iter(examples)
    has_attention = any(node.op_type == "Softmax" for node in onnx.load(file).graph.node)
    prepared = file.with_suffix(".prepared.onnx")
    with quiet_exporter():
        quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(file),
            ExampleReader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,  # else products overflow on CPUs without VNNI
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"] if has_attention else None,
        )
    prepared.unlink()
