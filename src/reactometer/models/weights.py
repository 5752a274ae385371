"""Save the weights of a checkpoint, and build the network from them to continue training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from reactometer.config import parse_config
from reactometer.errors import ModelError
from reactometer.inference.checkpoint import COPY_AGAIN, DESCRIPTION_FILE, WEIGHTS_FILE, check_digest
from reactometer.io import parse_json_object, wrap_decode_errors
from reactometer.models.model import ReactionModel
from reactometer.models.registry import build_model, load_encoders


def save_weights(network: ReactionModel, file: Path, store: str) -> None:
    """Write the weights of a network, and round the network's weights to the stored precision.

    Args:
        network: on the CPU.
        file: a new file.
        store: "float32", or "float16" for matrices and kernels (nearly all weights) in half precision.
    """
    state = {name: weights.contiguous() for name, weights in network.state_dict().items()}
    for name, weights in network.named_parameters():
        if store == "float16" and weights.ndim > 1:
            state[name] = weights.detach().half().contiguous()
            weights.data.copy_(state[name])
    save_file(state, file)
    file.chmod(0o644)


def load_network(folder: Path) -> tuple[ReactionModel, dict[str, Any]]:
    """Build the network of a checkpoint on the CPU, in evaluation mode.

    Args:
        folder: a checkpoint that is not an ensemble.

    Returns:
        The network and the content of ``model.json``.

    Raises:
        ModelError: the weights are missing or damaged, or the settings refer to code outside the checkpoint.
    """
    file = folder / DESCRIPTION_FILE
    if not file.is_file() or not (folder / WEIGHTS_FILE).is_file():
        raise ModelError(
            f"{folder}: no {DESCRIPTION_FILE} and {WEIGHTS_FILE} to build the network from", fix=COPY_AGAIN
        )
    with wrap_decode_errors(file, ModelError, COPY_AGAIN):
        description = parse_json_object(file.read_bytes())
        digest = description["sha256"][WEIGHTS_FILE]
    check_digest(folder / WEIGHTS_FILE, digest)
    try:
        _check_settings(description["encoders"])
        config = parse_config(description["config"]).model
        inputs = description["inputs"].items()
        feature_dims = {name: stream["feature_size"] for name, stream in inputs if stream["kind"] == "features"}
        encoders = load_encoders(config, feature_dims or None, description["encoders"])
        network = build_model(config, encoders, [0.5] * len(description["labels"]))
        weights = load_file(folder / WEIGHTS_FILE)
        if names := [name for name, values in weights.items() if not torch.isfinite(values).all()]:
            raise ValueError(f"weights are not finite, in {names[0]}")
        network.load_state_dict(weights)
    except Exception as error:  # networks raise any class for invalid settings
        reason = (str(error).splitlines() or [""])[0]
        raise ModelError(f"{folder}: damaged checkpoint: {type(error).__name__}: {reason}", fix=COPY_AGAIN) from error
    return network.eval(), description


def _check_settings(settings: object) -> None:
    """Raise ValueError if an encoder's settings name code on the Hub, which transformers would download and run."""

    def check(table: dict[str, Any]) -> dict[str, Any]:
        for key, value in table.items():
            is_kernel = "implementation" in key and value not in (None, True, False, "eager", "sdpa")
            if is_kernel or (key == "architecture" and ":" in str(value)):
                raise ValueError(f"the encoder refers to code or a network outside the checkpoint: {key} = {value!r}")
        return table

    json.loads(json.dumps(settings), object_hook=check)  # called with each object, at any depth
