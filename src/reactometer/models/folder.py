"""A model folder: ``weights.safetensors`` and ``model.json``; it explains itself and can run no code."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import file_digest
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from reactometer.config import Config, ModelConfig, PrepareConfig
from reactometer.data.batches import Sampling
from reactometer.errors import ModelError, OutputError
from reactometer.models.backbones import rebuild_frame_encoder
from reactometer.models.zoo import ReactionModel, build_model, sampling_of

FORMAT = 1
WEIGHTS_FILE, DESCRIPTION_FILE = "weights.safetensors", "model.json"


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to score, with what it must be shown and what it says of itself."""

    network: ReactionModel
    labels: tuple[str, ...]
    sampling: Sampling
    prepare: PrepareConfig
    description: Mapping[str, Any] = field(default_factory=dict)


def save_model(
    folder: Path,
    network: ReactionModel,
    labels: Sequence[str],
    config: Config,
    *,
    data: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> Path:
    """Write a model folder; it appears whole or not at all.

    Args:
        folder: must not exist yet.
        network: the trained network.
        labels: L names, in the order of its outputs.
        config: everything it was made with.
        data: what it was trained on, as JSON can hold it.
        metrics: what it scored in training, as JSON can hold it.

    Raises:
        OutputError: the folder exists.
    """
    if folder.exists():
        raise OutputError(f"{folder}: exists already", fix="Name another folder, or delete this one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
        save_file(weights, partial / WEIGHTS_FILE)
        description = {
            "format": FORMAT,
            "reactometer": version("reactometer"),
            "labels": list(labels),
            "config": config.model_dump(mode="json"),
            "encoder": network.encoder.describe(),
            "data": data,
            "metrics": metrics,
            "sha256": {WEIGHTS_FILE: _digest(partial / WEIGHTS_FILE)},
        }
        (partial / DESCRIPTION_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        partial.chmod(0o755)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def load_model(folder: Path | str, device: str = "auto") -> LoadedModel:
    """Read a model folder, check it, and put the network on a device in evaluation mode; needs no network.

    Args:
        folder: written by :func:`save_model`.
        device: "auto" (a GPU if there is one), or a torch device such as "cpu" or "cuda:1".

    Raises:
        ModelError: not a model folder, or a damaged one.
    """
    folder = Path(folder)
    description = _read_description(folder)
    try:
        config = description["config"]
        model_config = ModelConfig.model_validate(config["model"])
        prepare = PrepareConfig.model_validate(config["prepare"])
        labels = tuple(str(label) for label in description["labels"])
        encoder = rebuild_frame_encoder(description["encoder"], model_config.size_px)
        network = build_model(model_config, encoder, [0.5] * len(labels))
        network.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
        raise ModelError(
            f"{folder}: damaged model folder: {str(error).splitlines()[0]}", fix="Copy it again from where it was made"
        ) from error
    network.eval().to(_device(device))
    return LoadedModel(network, labels, sampling_of(model_config, network), prepare, description)


def _read_description(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ModelError(
            f"{folder}: no such model folder", fix="Give the folder that 'reactometer train' named at its end"
        )
    for name in (DESCRIPTION_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            inside = folder / "model" / name
            fix = f"Give {inside.parent}" if inside.is_file() else "Give the folder that 'reactometer train' named"
            raise ModelError(f"{folder}: not a model folder: no {name}", fix=fix)
    try:
        description: dict[str, Any] = json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{folder / DESCRIPTION_FILE}: not JSON: {error}", fix="Copy the model again") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise ModelError(
            f"{folder}: another format of model folder",
            expected=f"format {FORMAT}",
            fix="Use the version of reactometer that wrote it",
        )
    expected, got = description.get("sha256", {}).get(WEIGHTS_FILE), _digest(folder / WEIGHTS_FILE)
    if got != expected:
        raise ModelError(
            f"{folder / WEIGHTS_FILE}: not the weights that {DESCRIPTION_FILE} names",
            got=f"SHA-256 {got[:12]}…",
            expected=f"{str(expected)[:12]}…",
            fix="Copy the model again",
        )
    return description


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"device '{name}' cannot be used: {str(error).splitlines()[0]}", fix="Use 'auto' or 'cpu'"
        ) from error
