"""Name -> network of transformers: pre-trained, of the Hugging Face Hub or a folder; random; or rebuilt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from reactometer.errors import WeightsError, suggestion
from reactometer.models.architectures import STARTER_NAME
from reactometer.paths import STARTER, offline_encoder

RANDOM = "random:"
"""Prefix that asks, by name, for random weights."""

TINY = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 384, "image_size": 64}
SMALL_RESNET = {"embedding_size": 64, "hidden_sizes": [64, 128, 256], "depths": [3, 3, 2], "layer_type": "basic"}
TINY_RESNET = {"embedding_size": 16, "hidden_sizes": [24, 48, 96], "depths": [1, 1, 1], "layer_type": "basic"}
TINY_SPEECH = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
TINY_SPEECH_INPUT = {"conv_dim": [32] * 7, "num_conv_pos_embeddings": 32, "num_conv_pos_embedding_groups": 4}

RANDOM_ENCODERS: Mapping[str, Mapping[str, Any]] = {
    "resnet-50": {"model_type": "resnet"},
    "resnet-small": {"model_type": "resnet", **SMALL_RESNET},
    "resnet-tiny": {"model_type": "resnet", **TINY_RESNET},
    "vit-tiny": {"model_type": "vit", "patch_size": 8, **TINY},
    "videomae-tiny": {"model_type": "videomae", **TINY},
    "hubert-tiny": {"model_type": "hubert", **TINY_SPEECH, **TINY_SPEECH_INPUT},
}
"""Architectures with random weights, without a download: ResNet50 as published, and small ones of ours."""

INPUT_KINDS = {"pixel_values": "pictures", "pixel_values_videos": "clips", "input_values": "sound", "input_ids": "text"}
"""Name of a network's main input -> what it takes."""

NO_MASKING = {
    "mask_time_prob": 0.0,
    "mask_feature_prob": 0.0,
    "mask_ratio": 0.0,
    "layerdrop": 0.0,
    "add_adapter": False,
}
"""Settings, of the networks that have them, by which no input and no layer is left out at random, nor steps joined."""

OMITTED_KEYS = (
    "_name_or_path",
    "architectures",
    "dtype",
    "id2label",
    "label2id",
    "label_names",
    "transformers_version",
)
"""What a description leaves out of a configuration: a path of this machine, the labels of another task."""

PREPROCESSOR_FILES = ("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class Backbone:
    """A network and how its input was prepared when it was trained (empty: not known)."""

    module: nn.Module
    settings: Mapping[str, Any]
    pretrained: bool


def load_backbone(name: str, takes: str) -> Backbone:
    """Get a network by name.

    Args:
        name: "starter", the small expression backbone inside the package; a model on the Hugging Face Hub
            (``microsoft/resnet-50``), looked for in the offline folder ``$REACTOMETER_WEIGHTS/<owner>--<name>`` first,
            then in the local Hugging Face cache and on the network; a folder with ``config.json`` and
            ``model.safetensors``; or ``random:NAME`` with a name of :data:`RANDOM_ENCODERS` for random weights. Of a
            model of pictures and text: its half for pictures.
        takes: what it is to take, "pictures", "clips" or "sound".

    Raises:
        WeightsError: no such encoder, it cannot be fetched, it is damaged, or it takes something else. No code of a
            model's repository is run and no pickle is read.
    """
    from transformers import AutoConfig

    try:
        if name == STARTER_NAME and takes == "pictures":
            return _load_starter()
        if name.startswith(RANDOM):
            preset = name.removeprefix(RANDOM)
            if preset not in RANDOM_ENCODERS:
                raise WeightsError(f"no encoder '{name}'", fix=suggestion(preset, RANDOM_ENCODERS))
            config = AutoConfig.for_model(**RANDOM_ENCODERS[preset])
            _check_input_kind(name, config, takes)
            return Backbone(_build_random(config), {}, pretrained=False)
        folder = Path(name).expanduser()
        source = str(folder if (folder / "config.json").is_file() else offline_encoder(name) or name)
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        config = getattr(config, "vision_config", config)
        _check_input_kind(name, config, takes)
        return Backbone(_load_pretrained(source, config), _read_preprocessor(source), pretrained=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        fix = (
            "Check the name and the network; or give a folder with config.json and model.safetensors, or put them into "
            f"$REACTOMETER_WEIGHTS/OWNER--NAME; or ask for random weights with '{RANDOM}resnet-50'"
        )
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise WeightsError(f"encoder '{name}' cannot be loaded: {reason}", fix=fix) from error


def describe_backbone(net: Backbone) -> dict[str, Any]:
    """Return what :func:`rebuild_backbone` needs, as JSON can hold it."""
    module: Any = net.module
    return {
        "config": {key: value for key, value in module.config.to_dict().items() if key not in OMITTED_KEYS},
        "has_pooler": _has_pooler(module),
        "settings": dict(net.settings),
        "pretrained": net.pretrained,
    }


def rebuild_backbone(description: Mapping[str, Any]) -> Backbone:
    """Build the network that :func:`describe_backbone` described, without its weights; needs no network connection."""
    from transformers import AutoConfig, AutoModel

    module = AutoModel.from_config(AutoConfig.for_model(**description["config"]))
    if not description["has_pooler"]:
        module.pooler = None
    return Backbone(module, description["settings"], bool(description["pretrained"]))


def _load_starter() -> Backbone:
    """The face encoder of the model inside the package."""
    about = json.loads((STARTER / "model.json").read_text(encoding="utf-8"))["encoders"]["face"]
    net, prefix = rebuild_backbone(about), "face_encoder.net."
    weights = load_file(STARTER / "weights.safetensors")
    own = {key.removeprefix(prefix): tensor for key, tensor in weights.items() if key.startswith(prefix)}
    net.module.load_state_dict(own)
    return net


def _build_random(config: Any) -> nn.Module:
    """Build a network with random weights; without its pooler, if that has weights."""
    from transformers import AutoModel

    module: Any = AutoModel.from_config(_disable_masking(config))
    if _has_pooler(module) and any(True for _ in module.pooler.parameters()):
        module.pooler = None
    untrained: nn.Module = module
    return untrained


def _load_pretrained(source: str, config: Any) -> nn.Module:
    """Load a network in single precision; a pooler that its weights do not fill is left out, not random."""
    from transformers import AutoModel
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()  # what matters of its report on the weights is checked below
    try:
        module, report = AutoModel.from_pretrained(
            source,
            config=_disable_masking(config),
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    finally:
        logging.set_verbosity(level)
    unfilled = {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}
    if any(name.startswith("pooler.") for name in unfilled):
        module.pooler = None
    if wrong := sorted(name for name in unfilled if not name.startswith("pooler.")):
        raise ValueError(f"{len(wrong)} of its weights are missing or of another shape, {wrong[0]} for one")
    trained: nn.Module = module.float()
    return trained


def _disable_masking(config: Any) -> Any:
    for key, value in NO_MASKING.items():
        if hasattr(config, key):
            setattr(config, key, value)
    return config


def _has_pooler(module: Any) -> bool:
    return getattr(module, "pooler", None) is not None


def _check_input_kind(name: str, config: Any, takes: str) -> None:
    from transformers import MODEL_MAPPING

    if type(config) not in MODEL_MAPPING:
        raise ValueError(f"transformers has no network of the kind '{config.model_type}' to be had by name")
    main_input = MODEL_MAPPING[type(config)].main_input_name
    kind = "clips" if hasattr(config, "num_frames") else INPUT_KINDS.get(main_input, main_input)
    if kind != takes:
        raise WeightsError(f"encoder '{name}' takes {kind}", expected=f"a network that takes {takes}")


def _read_preprocessor(source: str) -> dict[str, Any]:
    """How the input of a network was prepared when it was trained, from its own files; empty where it brings none."""
    from transformers.utils.hub import cached_file

    for name in PREPROCESSOR_FILES:
        file = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
        if file:
            settings: dict[str, Any] = json.loads(Path(file).read_text(encoding="utf-8"))
            return settings.get("image_processor") or settings.get("feature_extractor") or settings
    return {}
