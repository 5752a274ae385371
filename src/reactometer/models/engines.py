"""Engines: what runs a model's encoders, PyTorch, or ONNX Runtime or OpenVINO on graphs exported from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reactometer.errors import ModelError, suggestion
from reactometer.io import decoding, sha256_of
from reactometer.models.encoders import Engine
from reactometer.models.graphs import runnable
from reactometer.models.network import ReactionModel

TORCH = ("torch", "torch-bf16", "torch-compiled")
EXPORTED: Mapping[str, str] = {
    "onnx": "onnxruntime",
    "onnx-int8": "onnxruntime",
    "openvino": "openvino",
    "openvino-int8": "openvino",
}
"""Engines that run exported graphs, and the package that each of them needs."""

ENGINES = ("auto", *TORCH, *EXPORTED)
"""All names: the fastest; PyTorch as it is, with matrices and kernels in bfloat16, or compiled; the exported ones."""

ABOUT_FILE = "engine.json"
"""What describes an exported engine, beside its graphs."""

Run = Callable[..., np.ndarray]
"""Arrays in, in the order of the graph's inputs, its one output out."""


def choose_engine(folder: Path, asked: str, device: torch.device) -> str:
    """The engine of a name; of "auto", the fastest that the model folder holds and this machine can run.

    How fast an engine is, next to PyTorch, was measured where it was exported. Where none is faster, and on any device
    but a processor, "auto" is "torch".

    Raises:
        ModelError: no engine of that name, its package is missing, or it does not run on the device.
    """
    if asked not in ENGINES:
        raise ModelError(f"no engine '{asked}'", fix=suggestion(asked, ENGINES))
    if asked == "auto":
        there = [name for name in EXPORTED if (engine_folder(folder, name) / ABOUT_FILE).is_file()]
        usable = [name for name in there if device.type == "cpu" and find_spec(EXPORTED[name])]
        speeds = {"torch": 1.0} | {
            name: float(read_engine(engine_folder(folder, name))["times_torch"]) for name in usable
        }
        return max(speeds, key=lambda name: speeds[name])
    if asked in EXPORTED:
        require_packages(EXPORTED[asked])
        if device.type != "cpu":
            raise ModelError(f"engine '{asked}' runs on the processor alone", got=device, fix="Add --device cpu")
    return asked


def require_packages(*names: str) -> None:
    """Raise ModelError where a package is not installed."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        extra = "openvino" if missing == ["openvino"] else "onnx,openvino" if "openvino" in missing else "onnx"
        raise ModelError(f"{' and '.join(missing)} not installed", fix=f"pip install 'reactometer[{extra}]'")


def engine_folder(model: Path, name: str) -> Path:
    """Where a model folder keeps an exported engine."""
    return model / "engines" / name


def read_engine(folder: Path) -> dict[str, Any]:
    """What an exported engine says of itself. Raises ModelError where there is none, or it is damaged."""
    file = folder / ABOUT_FILE
    if not file.is_file():
        model, name = folder.parent.parent, folder.name
        fix = f"Make it: reactometer export {model} DATA --engine {name}"
        raise ModelError(f"{model} has no engine '{name}'", fix=fix)
    with decoding(file, ModelError, "Delete its folder and export again"):
        about: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        dict(about["graphs"]), float(about["times_torch"]), str(about["weights_sha256"])
    return about


def attach_engine(network: ReactionModel, name: str, folder: Path, weights_sha256: str) -> None:
    """Let an engine run a model's encoders.

    Args:
        network: in evaluation mode.
        name: one of :data:`ENGINES`, but "auto".
        folder: of an exported engine: where its graphs are.
        weights_sha256: of the model's weights, which an exported engine must have been made of.

    Raises:
        ModelError: there is no such engine, or it is damaged, or of other weights.
    """
    encoders = {} if name == "torch" else runnable(network)
    if name in TORCH:
        for encoder in encoders.values():
            run = _bf16(encoder.encode) if name == "torch-bf16" else torch.compile(encoder.encode, dynamic=True)
            encoder.engine = Engine(name, name, run)
        return
    about, again = read_engine(folder), "Delete its folder and export again"
    if about["weights_sha256"] != weights_sha256:
        got = about["weights_sha256"][:12]
        raise ModelError(f"{folder}: made of other weights", got=got, expected=weights_sha256[:12], fix=again)
    for modality, encoder in encoders.items():
        file = folder / f"{modality}.onnx"
        digest = sha256_of(file) if file.is_file() else "no file"
        if digest != about["graphs"].get(file.name):
            raise ModelError(f"{file}: not the graph that {ABOUT_FILE} names", got=digest[:12], fix=again)
        named = sha256(f"{name} {digest}".encode()).hexdigest()
        encoder.engine = Engine(name, named, as_tensors(open_graph(file, name)))


def open_graph(file: Path, engine: str) -> Run:
    """An ONNX graph, ready to run on the processor in single precision (or in whole numbers, where it says so).

    Raises:
        ModelError: the engine's runtime refuses it.
    """
    try:
        return _onnxruntime(file) if EXPORTED[engine] == "onnxruntime" else _openvino(file)
    except Exception as error:  # both raise classes of their own
        got = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ModelError(f"{file.name} cannot be run by {engine}", got=got, fix="Use another engine") from error


def _onnxruntime(file: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    return lambda *arrays: np.asarray(session.run(None, dict(zip(names, arrays, strict=True)))[0])


def _openvino(file: Path) -> Run:
    threads = torch.get_num_threads()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    compiled = _core().compile_model(_core().read_model(str(file)), "CPU", settings)
    return lambda *arrays: np.asarray(compiled(list(arrays), share_inputs=True)[0])  # outputs are copied


@cache
def _core() -> Any:
    """OpenVINO's core, one a process that stays until its end.

    Its processor plugin replaces the stack that signals are handled on, and of several plugins that come and go the
    last one's stack is freed while it is still in place (2026.4): the next SIGCHLD would end the process.
    """
    import openvino

    return openvino.Core()


def as_tensors(run: Run) -> Callable[..., Tensor]:
    """The same with tensors."""
    return lambda *inputs: torch.from_numpy(run(*(tensor.contiguous().numpy() for tensor in inputs)))


def _bf16(encode: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(*inputs: Tensor) -> Tensor:
        with torch.autocast(inputs[0].device.type, torch.bfloat16):
            return encode(*inputs).float()

    return run
