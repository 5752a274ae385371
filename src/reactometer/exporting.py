"""A model folder -> the same with an engine exported into it, proved equal to PyTorch on real clips."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reactometer.console import progress_bar
from reactometer.data.batches import Item, MediaReader, parts_of, to_item
from reactometer.data.cache import FEATURES, PreparedSet
from reactometer.data.features import open_store
from reactometer.data.prepare import settled
from reactometer.errors import ConfigError, DataError, ModelError, OutputError, suggestion
from reactometer.evaluation.evaluate import evaluate, open_for
from reactometer.io import Paths, appearing, each_path, sha256_of
from reactometer.media.faces import load_detector
from reactometer.media.stream import prepare_clip
from reactometer.models.encoders import Engine
from reactometer.models.engines import (
    ABOUT_FILE,
    EXPORTED,
    engine_folder,
    open_graph,
    require_packages,
)
from reactometer.models.folder import WEIGHTS_FILE, LoadedModel, load_model
from reactometer.models.graphs import JOINT, graphs_of, quantise_graph, runnable, write_graph
from reactometer.models.parity import differences, times_torch, with_engine
from reactometer.models.showing import encode_item
from reactometer.paths import STARTER

TOLERANCE = 1e-4
"""Largest difference of an intensity from PyTorch's that single precision may make."""

TOLERATED_LOSS = 0.005
"""Largest loss of mean Pearson on val that 8 bits may cost."""

PROOF_CLIPS, CALIBRATION_CLIPS = 12, 64
"""Clips that parity is shown on, and that 8 bits are calibrated on; our choice."""


@dataclass(frozen=True)
class Exported:
    """What was exported, and how it compares with PyTorch."""

    folder: Path  # the engine's
    engine: str
    n_clips: int
    differences: Mapping[str, float]  # what is shown of the clips -> largest difference of an intensity
    times_torch: float  # how fast its encoders are, PyTorch's being 1
    pearson: tuple[float, float] | None = None  # of 8 bits: mean Pearson on val, PyTorch's and its own


def export(
    model: Path | str,
    data: Paths,
    *,
    engine: str,
    out: Path | str | None = None,
    cache: Path | str | None = None,
    progress: bool = True,
) -> list[Exported]:
    """Export a model for an engine, into ``engines/ENGINE`` of its folder, and prove that it says the same.

    Every encoder becomes an ONNX graph, and so does what joins their features to intensities; ``engine.json`` says
    what each takes and gives. The graphs' intensities are compared with PyTorch's on clips as they are, without face,
    without voice, without both, on the first third of them, on one frame, and on all of them in one batch. In 8 bits,
    encoders are calibrated on train clips, and what counts is the score on val.

    Args:
        model: a model folder, an ensemble's, or "starter".
        data: a data set (a folder, a CSV, or a prepared one), or video files, which show parity and no score.
        engine: one of :data:`~reactometer.models.engines.EXPORTED`.
        out: a folder for a copy of the model that holds the engine; default: the model's own folder.
        cache: where prepared clips are kept when ``data`` is not prepared yet; default: the user's cache folder.
        progress: show a bar on standard error.

    Returns:
        One record a member of an ensemble, or one.

    Raises:
        ConfigError: no such engine.
        ModelError: a package is missing; an intensity differs by more than 1e-4; 8 bits cost more than .005 of the mean
            Pearson. Nothing is written then.
        DataError, MediaError: the data cannot be used.
        OutputError: the engine, or ``out``, is there already.
    """
    data = each_path(data)
    if engine not in EXPORTED:
        raise ConfigError(f"no engine '{engine}' to export for", fix=suggestion(engine, EXPORTED))
    quantiser = ["onnxruntime"] if engine.endswith("int8") else []
    require_packages(*dict.fromkeys(["onnx", "onnxscript", *quantiser, EXPORTED[engine]]))
    source = STARTER if str(model) == "starter" else Path(model)
    if out is None and source == STARTER:
        raise OutputError("the starter model stays as it came", fix="Name a folder for a copy with --out")
    if out is not None:
        load_model(source, "cpu")  # raises, before anything is copied
        with appearing(Path(out)) as partial:
            shutil.copytree(source, partial, dirs_exist_ok=True)
            done = _export_all(partial, data, engine, cache, progress)
        return [replace(one, folder=Path(out) / one.folder.relative_to(partial)) for one in done]
    return _export_all(source, data, engine, cache, progress)


def _export_all(
    folder: Path, data: Sequence[Path | str], engine: str, cache: Path | str | None, progress: bool
) -> list[Exported]:
    loaded = load_model(folder, "cpu")
    folders = [folder / str(name) for name in loaded.description.get("members", [])] or [folder]
    if (first := engine_folder(folders[0], engine)).exists():
        raise OutputError(f"{first}: exists already", fix="Delete it to export again")
    prepared = None if _are_videos(data) else open_for(loaded, data[0], cache, progress=progress)
    if prepared is None and engine.endswith("int8"):
        raise DataError("8 bits need a data set: clips to calibrate on, and labels to score on", got="video files")
    done = list[Exported]()
    try:
        for member, place in zip(loaded.each, folders, strict=True):
            final = engine_folder(place, engine)
            with progress_bar(f"exporting {engine}", 4, progress) as advance, appearing(final) as partial:
                done.append(replace(_export_one(member, data, prepared, engine, partial, advance), folder=final))
    except BaseException:
        for one in done:  # of an ensemble, all members have the engine or none
            shutil.rmtree(one.folder)
        raise
    return done


def _are_videos(data: Sequence[Path | str]) -> bool:
    files = [Path(one) for one in data]
    videos = [file.is_file() and file.suffix.lower() not in (".csv", ".parquet") for file in files]
    if all(videos) and files:
        return True
    if len(files) != 1:
        raise DataError("give one data set, or video files", got=", ".join(map(str, files)) or "nothing")
    return False


def _export_one(
    member: LoadedModel,
    data: Sequence[Path | str],
    prepared: PreparedSet | None,
    engine: str,
    folder: Path,
    advance: Callable[[], None],
) -> Exported:
    """Export one model into ``folder``/, which holds its description at the end."""
    train = list(islice(_items(member, data, prepared, "train"), CALIBRATION_CLIPS))
    clips = list(islice(_items(member, data, prepared, "val"), PROOF_CLIPS))
    if not any(item.seen.any() or len(item.voice) for item in clips):
        raise DataError("none of the clips shows or says anything to prove an engine with")
    graphs = graphs_of(member.network, member.sampling.size_px)
    for name, graph in graphs.items():
        write_graph(graph, folder / f"{name}.onnx")
        if name != JOINT and engine.endswith("int8"):
            quantise_graph(graph, folder / f"{name}.onnx", _encoder_inputs(member, name, train))
    advance()
    about = {
        "engine": engine,
        "weights_sha256": member.description["sha256"][WEIGHTS_FILE],
        "graphs": {f"{name}.onnx": sha256_of(folder / f"{name}.onnx") for name in graphs},
        "takes": {name: _describe(graph.inputs) for name, graph in graphs.items()},
        "labels": list(member.labels),
        "times_torch": 1.0,
    }
    _write_about(folder, about)
    fast = with_engine(member, folder, engine)
    found = differences(member, fast, open_graph(folder / f"{JOINT}.onnx", engine), clips)
    advance()
    exported = Exported(folder, engine, len(clips), found, times_torch(member, fast, clips))
    advance()
    if engine.endswith("int8") and prepared is not None:
        exported = replace(exported, pearson=_pearson(member, fast, prepared))
    check(exported)
    proof = {"n_clips": len(clips), "differences": found, "pearson": exported.pearson}
    _write_about(folder, {**about, "times_torch": round(exported.times_torch, 2), "proof": proof})
    advance()
    return exported


def check(exported: Exported) -> None:
    """Refuse what says something else than PyTorch, or, in 8 bits, what scores less."""
    if exported.pearson is not None:
        before, after = exported.pearson
        if not after >= before - TOLERATED_LOSS:
            raise ModelError(
                f"in 8 bits the model loses too much of its score on val, so that {exported.engine} is not kept",
                got=f"mean Pearson {after:.4f} instead of {before:.4f}",
                expected=f"a loss of at most {TOLERATED_LOSS}",
                fix=f"Use --engine {exported.engine.removesuffix('-int8')}, or calibrate on more train clips",
            )
        return
    wrong = {name: difference for name, difference in exported.differences.items() if not difference <= TOLERANCE}
    for name, difference in wrong.items():  # NaN, too
        raise ModelError(
            f"{exported.engine} says something else than PyTorch, so that it is not kept",
            got=f"a difference of {difference:.2g} ({name})",
            expected=f"at most {TOLERANCE}",
            fix="Use another engine; and please report the versions of the packages and the encoder's name",
        )


def _items(member: LoadedModel, data: Sequence[Path | str], prepared: PreparedSet | None, split: str) -> Iterator[Item]:
    """What the model is shown of clips: of a split if the data set has it, or of every video."""
    if prepared is None:
        settings = settled(member.config.prepare)
        detector = load_detector(settings.detector)
        yield from (to_item(prepare_clip(Path(one), settings, detector), member.sampling) for one in data)
        return
    read = MediaReader(member.sampling) if prepared.feature_sizes is None else open_store(prepared.folder / FEATURES)
    rows = [row for row in prepared.split(split) or prepared.rows if row.file]
    yield from (read(rows[part.index], part, None) for part in parts_of(rows))


def _encoder_inputs(member: LoadedModel, name: str, items: Iterable[Item]) -> Iterator[tuple[np.ndarray, ...]]:
    """What reaches an encoder of a few clips: its arguments, noted as it is called."""
    encoder, noted = runnable(member.network)[name], []

    def note(*inputs: torch.Tensor) -> torch.Tensor:
        noted.append(tuple(tensor.numpy() for tensor in inputs))
        return encoder.encode(*inputs)

    for item in items:
        encoder.engine = Engine("noting", "noting", note)
        try:
            encode_item(member.network, item, every=True)
        finally:
            encoder.engine = None
        yield from noted
        noted.clear()


def _pearson(member: LoadedModel, fast: LoadedModel, prepared: PreparedSet) -> tuple[float, float]:
    """Mean Pearson on val of PyTorch and of the engine, over the labels that vary; a constant answer counts as 0."""
    before, after = (
        evaluate(one, prepared.folder, split="val", n_resamples=0, progress=False).metrics.pearson
        for one in (member, fast)
    )
    pairs = [(slow, quick or 0.0) for slow, quick in zip(before, after, strict=True) if slow is not None]
    if not pairs:
        raise DataError(f"{prepared.folder}: no label varies over split 'val'", fix="8 bits need clips that differ")
    slow, quick = np.mean(pairs, axis=0).tolist()
    return slow, quick


def _describe(inputs: Mapping[str, tuple[torch.Tensor, tuple[str | None, ...]]]) -> dict[str, Any]:
    """Type and shape of every input, the free dimensions by name."""
    return {
        name: {
            "dtype": str(example.dtype).removeprefix("torch."),
            "shape": [free or size for free, size in zip(frees, example.shape, strict=True)],
        }
        for name, (example, frees) in inputs.items()
    }


def _write_about(folder: Path, about: Mapping[str, Any]) -> None:
    (folder / ABOUT_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
