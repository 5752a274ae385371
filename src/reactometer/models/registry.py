"""Build a model from its configuration or its checkpoint, and save its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from reactometer.config import ModelConfig, parse_config
from reactometer.data.cache import MEDIA
from reactometer.errors import ConfigError, ModelError
from reactometer.inference.checkpoint import COPY_AGAIN, DESCRIPTION_FILE, WEIGHTS_FILE, check_digest
from reactometer.inference.runtime import StreamInput
from reactometer.io import parse_json_object, wrap_decode_errors
from reactometer.machine import keep_freed_memory
from reactometer.models.architectures import choose_streams, get_architecture
from reactometer.models.audio_encoders import ContourEncoder, LogMelEncoder, SpeechEncoder, StepConvolution
from reactometer.models.backbones import Backbone, describe_backbone, load_backbone, rebuild_backbone
from reactometer.models.encoder_files import check_features, encoder_file
from reactometer.models.heads import Encoder, PrecomputedFeatures, build_head
from reactometer.models.model import Pretrained, ReactionModel, build_output_layer
from reactometer.models.onnx_encoder import OnnxEncoder, load_onnx, rebuild_onnx
from reactometer.models.vision_encoders import ClipEncoder, FrameEncoder


def save_weights(network: ReactionModel, file: Path, store: str) -> None:
    """Write the weights of a network on the CPU; with "float16", first round its matrices and kernels to
    it."""
    state = {name: weights.contiguous() for name, weights in network.state_dict().items()}
    for name, weights in network.named_parameters():
        if store == "float16" and weights.ndim > 1:
            state[name] = weights.detach().half().contiguous()
            weights.data.copy_(state[name])
    save_file(state, file)
    file.chmod(0o644)


def load_network(folder: Path) -> tuple[ReactionModel, dict[str, Any]]:
    """Build the network of a checkpoint that is no ensemble, on the CPU in evaluation mode; return
    ``model.json``, too.

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
        inputs = {name: StreamInput(**stream) for name, stream in description["inputs"].items()}
        sizes = {name: stream.feature_size for name, stream in inputs.items() if stream.kind == "features"}
        media = [name for name, stream in inputs.items() if stream.medium]
        encoders = load_encoders(config, sizes, media, description["encoders"])
        network = build_model(config, encoders, [0.5] * len(description["labels"]))
        weights = load_file(folder / WEIGHTS_FILE)
        if names := [name for name, values in weights.items() if not torch.isfinite(values).all()]:
            raise ValueError(f"weights are not finite, in {names[0]}")
        network.load_state_dict(weights)
        network.powers = {name: stream.powers for name, stream in inputs.items() if stream.powers}
    except Exception as error:  # networks raise any class for invalid settings
        reason = (str(error).splitlines() or [""])[0]
        raise ModelError(
            f"{folder}: damaged checkpoint: {type(error).__name__}: {reason}", fix=COPY_AGAIN
        ) from error
    return network.eval(), description


def _check_settings(settings: object) -> None:
    """Raise ValueError if an encoder's settings name code on the Hub, which transformers would download and
    run."""

    def check(table: dict[str, Any]) -> dict[str, Any]:
        for key, value in table.items():
            is_kernel = "implementation" in key and value not in (None, True, False, "eager", "sdpa")
            if is_kernel or (key == "architecture" and ":" in str(value)):
                raise ValueError(
                    f"the encoder refers to code or a network outside the checkpoint: {key} = {value!r}"
                )
        return table

    json.loads(json.dumps(settings), object_hook=check)  # called with each object, at any depth


def load_encoders(
    config: ModelConfig,
    feature_sizes: Mapping[str, int] = {},
    media: Sequence[str] = MEDIA,
    descriptions: Mapping[str, Any] | None = None,
) -> dict[str, Encoder]:
    """Load the encoders that a configuration names, by stream.

    Args:
        config: names the architecture and its encoders.
        feature_sizes: number of precomputed features per step, by stream; they need no encoder.
        media: the available streams of video and sound, "face" and "voice".
        descriptions: result of :func:`describe_encoders`; the encoders are built from it, without their
            weights.

    Raises:
        ConfigError: the architecture is unknown, or the dataset lacks a stream that it uses.
        WeightsError: an encoder is not available.
    """

    def load(name: str) -> Encoder:
        if name in feature_sizes:
            is_convolution = name == "voice" and config.voice_encoder == "convolution"
            return (StepConvolution if is_convolution else PrecomputedFeatures)(feature_sizes[name])
        description = None if descriptions is None else descriptions.get(name)
        return (_load_face_encoder if name == "face" else _load_voice_encoder)(config, description)

    return {name: load(name) for name in choose_streams(config, {*feature_sizes, *media})}


def _load_voice_encoder(config: ModelConfig, description: Mapping[str, Any] | None) -> Encoder:
    """Load the voice encoder of a configuration, or build it from its description without weights."""
    name = config.voice_encoder
    if name == "convolution":
        fix = 'Set model.voice_encoder="log-mel", or data.features.voice'
        raise ConfigError('model.voice_encoder = "convolution" needs precomputed features', fix=fix)
    if name == "contours" and not config.frozen:
        raise ConfigError(
            'model.voice_encoder = "contours" has nothing to train', fix="Set model.frozen=true"
        )
    if name == "log-mel":
        return LogMelEncoder()
    if name == "contours":
        return ContourEncoder()
    backbone = load_backbone(name, "audio") if description is None else rebuild_backbone(description)
    return SpeechEncoder(backbone)


def _load_face_encoder(config: ModelConfig, description: Mapping[str, Any] | None) -> Encoder:
    """Load the face encoder of a configuration, or build it from its description without weights."""
    architecture = get_architecture(config)
    name = config.encoder or architecture.encoder
    if description and "graph_bytes" in description:
        return rebuild_onnx(description, config.size_px)
    kind = "images" if architecture.input_kind == "frames" else "clips"
    file = encoder_file(name)
    if description is None and file and file.suffix == ".onnx" and kind == "images":
        return load_onnx(file, config)
    backbone = load_backbone(name, kind) if description is None else rebuild_backbone(description)
    if kind == "clips":
        return ClipEncoder(backbone, config.size_px, config.pooling)
    encoder = FrameEncoder(backbone, config.size_px, config.pooling)
    if description is None and file:
        check_features(name, encoder, config.size_px)
    return encoder


def describe_encoders(model: ReactionModel) -> dict[str, Any]:
    """Describe a model's pretrained or random encoders by stream, as JSON, for :func:`load_encoders`."""
    descriptions = {}
    for name, encoder in model.encoders.items():
        if isinstance(encoder, OnnxEncoder):
            descriptions[name] = encoder.describe()
        elif isinstance(encoder, FrameEncoder | ClipEncoder | SpeechEncoder):
            net = Backbone(encoder.net, encoder.settings, encoder.pretrained)
            descriptions[name] = describe_backbone(net)
    return descriptions


def build_model(
    config: ModelConfig, encoders: Mapping[str, Encoder], label_mean: Sequence[float]
) -> ReactionModel:
    """Build a model from its encoders; ``label_mean`` (L,) is its prediction for a clip without input."""
    keep_freed_memory()
    scaled = [
        name
        for name, encoder in encoders.items()
        if isinstance(encoder, PrecomputedFeatures | StepConvolution)
        or (config.frozen and isinstance(encoder, Pretrained))
    ]
    head = build_head(config, {name: encoder.feature_size for name, encoder in encoders.items()}, scaled)
    output = build_output_layer(head.embedding_size, label_mean, config.dropout)
    return ReactionModel(
        encoders,
        head,
        output,
        torch.tensor(label_mean),
        frozen=config.frozen,
        freeze_batch_norm=config.freeze_batch_norm,
        times=config.times,
    )
