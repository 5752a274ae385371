"""The weights of a checkpoint, as PyTorch trains them on: write them, and build the network from them again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from reactometer.config import Config
from reactometer.errors import ModelError
from reactometer.inference.checkpoint import AGAIN, DESCRIPTION_FILE, WEIGHTS_FILE, check_digest
from reactometer.io import decoding, parse_json_object
from reactometer.models.model import ReactionModel
from reactometer.models.registry import build_model, rebuild_encoders


def save_weights(network: ReactionModel, file: Path, store: str) -> None:
    """Write the weights of a network, and round the network's own to the numbers written.

    Args:
        network: on the CPU.
        file: a new file.
        store: "float32", or "float16" for matrices and kernels, nearly all of a model, in half precision.
    """
    with torch.no_grad():
        for weights in network.parameters():
            if store == "float16" and weights.ndim > 1:
                weights.copy_(weights.half())
    halved = {name for name, weights in network.named_parameters() if store == "float16" and weights.ndim > 1}
    state = network.state_dict()
    save_file({name: (one.half() if name in halved else one).contiguous() for name, one in state.items()}, file)
    file.chmod(0o644)


def load_network(folder: Path) -> tuple[ReactionModel, dict[str, Any]]:
    """Build the network of a checkpoint on the CPU, in evaluation mode.

    Args:
        folder: a checkpoint, or one of the older kind, without graphs; no ensemble.

    Returns:
        The network, and what ``model.json`` says.

    Raises:
        ModelError: there are no weights, they are damaged, or the settings ask for code from elsewhere.
    """
    file = folder / DESCRIPTION_FILE
    if not file.is_file() or not (folder / WEIGHTS_FILE).is_file():
        raise ModelError(f"{folder}: no {DESCRIPTION_FILE} and {WEIGHTS_FILE} to build the network from", fix=AGAIN)
    with decoding(file, ModelError, AGAIN):
        description = parse_json_object(file.read_bytes())
        digest = description["sha256"][WEIGHTS_FILE]
    check_digest(folder / WEIGHTS_FILE, digest)
    try:
        _check_settings(description["encoders"])
        config = Config.model_validate(description["config"]).model
        encoders = rebuild_encoders(config, description["encoders"])
        network = build_model(config, encoders, [0.5] * len(description["labels"]))
        weights = load_file(folder / WEIGHTS_FILE)
        if wrong := [name for name, own in weights.items() if not torch.isfinite(own).all()]:
            raise ValueError(f"weights that are no numbers, in {wrong[0]}")
        network.load_state_dict(weights)
    except Exception as error:  # of settings that make no sense, networks raise any class
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        reason = f"{first['loc']}: {first['msg']}" if first else (str(error).splitlines() or [""])[0]
        raise ModelError(f"{folder}: damaged checkpoint: {type(error).__name__}: {reason}", fix=AGAIN) from error
    return network.eval(), description


def _check_settings(settings: object) -> None:
    """Raise ValueError if an encoder's settings name code of the Hub, which transformers would fetch and run."""
    for table in _tables_in(settings):
        for key, value in table.items():
            is_kernel = "implementation" in key and value not in (None, True, False, "eager", "sdpa")
            if is_kernel or (key == "architecture" and ":" in str(value)):
                raise ValueError(f"its encoder asks for code or a network from elsewhere: {key} = {value!r}")


def _tables_in(settings: object) -> Iterator[Mapping[str, Any]]:
    """Yield every object of parsed JSON, at any depth."""
    if isinstance(settings, dict):
        yield settings
    inner = settings.values() if isinstance(settings, dict) else settings if isinstance(settings, list) else ()
    for value in inner:
        yield from _tables_in(value)
