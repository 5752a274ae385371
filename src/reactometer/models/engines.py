"""Run a model's encoders with ONNX Runtime, on graphs that ``export`` wrote into the model's folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reactometer.errors import ModelError, suggestion
from reactometer.io import decoding, sha256_of
from reactometer.models.audio_encoders import SpeechEncoder, StepConvolution, VoiceEncoder
from reactometer.models.model import ReactionModel
from reactometer.models.vision_encoders import ClipEncoder, Engine, FrameEncoder

EXPORTED = ("onnx", "onnx-int8")
"""Engines that run exported graphs, in single precision or with weights and activations of 8 bits."""

ENGINES = ("auto", "torch", *EXPORTED)

ABOUT_FILE = "engine.json"
"""The file beside the graphs with their SHA-256, that of the model's weights, and the proof."""

EXPORT_AGAIN = "Delete its folder and export again"

Run = Callable[..., np.ndarray]
"""Takes arrays in the order of the graph's inputs, and returns the graph's only output."""

Runnable = FrameEncoder | ClipEncoder | VoiceEncoder | StepConvolution | SpeechEncoder
"""Encoders that can be exported. Contours are computed in NumPy, and given features have no encoder."""


def runnable(network: ReactionModel) -> dict[str, Runnable]:
    """Return the encoders that can be exported, by modality."""
    pairs = (("face", network.face_encoder), ("voice", network.voice_encoder))
    return {name: encoder for name, encoder in pairs if isinstance(encoder, Runnable)}


def choose_engine(folder: Path, asked: str, device: torch.device) -> str:
    """Resolve the name of an engine.

    "auto" is the engine that was exported into the model's folder, 8 bits first. It is "torch" if there is none, if
    ONNX Runtime is not installed, or if the device is not the CPU.

    Raises:
        ModelError: the engine is unknown, is not installed, or does not support the device.
    """
    if asked not in ENGINES:
        raise ModelError(f"no engine '{asked}'", fix=suggestion(asked, ENGINES))
    if asked == "auto":
        usable = device.type == "cpu" and find_spec("onnxruntime") is not None
        there = [name for name in EXPORTED if (engine_folder(folder, name) / ABOUT_FILE).is_file()]
        return there[-1] if there and usable else "torch"
    if asked in EXPORTED:
        require_onnx("onnxruntime")
        if device.type != "cpu":
            raise ModelError(f"engine '{asked}' supports the CPU only", got=device, fix="Add --device cpu")
    return asked


def require_onnx(*names: str) -> None:
    """Raise ModelError if a package of the extra ``onnx`` is not installed."""
    if missing := [name for name in names if find_spec(name) is None]:
        raise ModelError(f"{' and '.join(missing)} not installed", fix="pip install 'reactometer[onnx]'")


def engine_folder(model: Path, name: str) -> Path:
    """Return the folder of an exported engine inside a model's folder."""
    return model / "engines" / name


def attach_engine(network: ReactionModel, name: str, folder: Path, weights_sha256: str) -> None:
    """Let an engine, one of :data:`ENGINES` except "auto", run the encoders of a network in evaluation mode.

    Raises:
        ModelError: the engine is missing or damaged, or was exported from other weights.
    """
    if name == "torch":
        return
    about = _read_about(folder)
    if about["weights_sha256"] != weights_sha256:
        got = about["weights_sha256"][:12]
        raise ModelError(f"{folder}: made of other weights", got=got, expected=weights_sha256[:12], fix=EXPORT_AGAIN)
    for modality, encoder in runnable(network).items():
        file = folder / f"{modality}.onnx"
        digest = sha256_of(file) if file.is_file() else "no file"
        if digest != about["graphs"].get(file.name):
            raise ModelError(f"{file}: not the graph that {ABOUT_FILE} names", got=digest[:12], fix=EXPORT_AGAIN)
        encoder.engine = Engine(sha256(f"{name} {digest}".encode()).hexdigest(), as_tensors(open_graph(file)))


def _read_about(folder: Path) -> dict[str, Any]:
    file = folder / ABOUT_FILE
    if not file.is_file():
        model, name = folder.parent.parent, folder.name
        fix = f"Make it: reactometer export {model} DATA --engine {name}"
        raise ModelError(f"{model} has no engine '{name}'", fix=fix)
    with decoding(file, ModelError, EXPORT_AGAIN):
        about: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        dict(about["graphs"]), str(about["weights_sha256"])
    return about


def open_graph(file: Path) -> Run:
    """Open an ONNX graph with ONNX Runtime, on the CPU.

    Raises:
        ModelError: ONNX Runtime cannot run the graph.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own
        got = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ModelError(f"{file.name} cannot be run by ONNX Runtime", got=got, fix="Add --engine torch") from error
    names = [given.name for given in session.get_inputs()]
    return lambda *arrays: np.asarray(session.run(None, dict(zip(names, arrays, strict=True)))[0])


def as_tensors(run: Run) -> Callable[..., Tensor]:
    """Return the same function of tensors."""
    return lambda *inputs: torch.from_numpy(run(*(tensor.contiguous().numpy() for tensor in inputs)))
