"""Load networks of the transformers library: pretrained, with random weights, or as a checkpoint describes
them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from reactometer.errors import WeightsError, suggestion
from reactometer.models.encoder_files import encoder_file, read_settings
from reactometer.models.state_dicts import EXPORT_HINT, apply_variant, read_state_dict, translate
from reactometer.paths import STARTER, find_checkpoint, offline_encoder
from reactometer.terminal import quiet

RANDOM = "random:"
"""Prefix of the names of encoders with random weights."""

TINY = {
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 384,
    "image_size": 64,
}
SMALL_RESNET = {
    "embedding_size": 64,
    "hidden_sizes": [64, 128, 256],
    "depths": [3, 3, 2],
    "layer_type": "basic",
}
TINY_RESNET = {"embedding_size": 16, "hidden_sizes": [24, 48, 96], "depths": [1, 1, 1], "layer_type": "basic"}
TINY_SPEECH = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
TINY_SPEECH_CONV = {"conv_dim": [32] * 7, "num_conv_pos_embeddings": 32, "num_conv_pos_embedding_groups": 4}

RANDOM_ENCODERS: Mapping[str, Mapping[str, Any]] = {
    "resnet-50": {"model_type": "resnet"},
    "resnet-small": {"model_type": "resnet", **SMALL_RESNET},
    "resnet-tiny": {"model_type": "resnet", **TINY_RESNET},
    "vit-tiny": {"model_type": "vit", "patch_size": 8, **TINY},
    "videomae-tiny": {"model_type": "videomae", **TINY},
    "hubert-tiny": {"model_type": "hubert", **TINY_SPEECH, **TINY_SPEECH_CONV},
}
"""Architectures with random weights, without a download: ResNet50 as published, and small networks."""

INPUT_KINDS = {
    "pixel_values": "images",
    "pixel_values_videos": "clips",
    "input_values": "audio",
    "input_ids": "text",
}
"""Kind of input by the name of a network's main input."""

NO_MASKING = {
    "mask_time_prob": 0.0,
    "mask_feature_prob": 0.0,
    "mask_ratio": 0.0,
    "layerdrop": 0.0,
    "add_adapter": False,
}
"""Settings that turn off random masking of inputs, random skipping of layers, and shortening of the sequence.
"""

LABEL_KEYS = {"id2label", "label2id", "label_names"}
OMITTED_KEYS = {"_name_or_path", "architectures", "dtype", "transformers_version", *LABEL_KEYS}
"""Keys of a configuration that a description omits: local paths, and the labels of the pretraining task."""

PREPROCESSOR_FILES = ("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class Backbone:
    """A network and the settings of its preprocessing, which are empty for random weights."""

    module: nn.Module
    settings: Mapping[str, Any]
    pretrained: bool


def load_backbone(name: str, input_kind: str) -> Backbone:
    """Load a network by name.

    Args:
        name: "starter" (the small expression backbone of the starter model); ``random:NAME`` with a name of
            :data:`RANDOM_ENCODERS`; a folder with ``config.json`` and ``model.safetensors``; or a model on
            the Hugging Face Hub, such as ``microsoft/resnet-50``. A Hub model is searched in
            ``$REACTOMETER_WEIGHTS/<owner>--<name>``, the local Hugging Face cache and the Hub, in this order.
            Or a file of weights with torchvision's or timm's names (``.pth``, ``.safetensors``), with a JSON
            file of settings beside it, see :class:`~reactometer.models.encoder_files.FileSettings`.
            Only the image encoder of a model of images and text is loaded.
        input_kind: the input that the network must accept: "images", "clips" or "audio".

    Raises:
        WeightsError: the encoder is unknown, unavailable or damaged, its input is of another kind, or its
            files do not contain the normalisation of its training. No code from a model's repository is run
            and no pickle is read.
    """
    from transformers import AutoConfig

    try:
        if name == STARTER.name and input_kind == "images":
            return _load_starter()
        if name.startswith(RANDOM):
            preset = name.removeprefix(RANDOM)
            if preset not in RANDOM_ENCODERS:
                raise WeightsError(f"no encoder '{name}'", fix=suggestion(preset, RANDOM_ENCODERS))
            config = AutoConfig.for_model(**RANDOM_ENCODERS[preset])
            _check_input_kind(name, config, input_kind)
            return Backbone(_build_random(config), {}, pretrained=False)
        if file := encoder_file(name):
            return _load_file(file, input_kind)
        folder = Path(name).expanduser()
        source = str(folder if (folder / "config.json").is_file() else offline_encoder(name) or name)
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        config = getattr(config, "vision_config", config)
        _check_input_kind(name, config, input_kind)
        settings = _read_preprocessor(source)
        _check_normalisation(name, settings, input_kind)
        return Backbone(_load_pretrained(source, config), settings, pretrained=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        fix = (
            "Check the name and the network; or set a folder with config.json and model.safetensors, or put "
            "them into "
            f"$REACTOMETER_WEIGHTS/OWNER--NAME; or use random weights with '{RANDOM}resnet-50'"
        )
        if encoder_file(name):
            fix = EXPORT_HINT
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise WeightsError(f"encoder '{name}' cannot be loaded: {reason}", fix=fix) from error


def describe_backbone(net: Backbone) -> dict[str, Any]:
    """Describe a network for :func:`rebuild_backbone`, in types that JSON supports."""
    module: Any = net.module
    return {
        "config": {key: value for key, value in module.config.to_dict().items() if key not in OMITTED_KEYS},
        "has_pooler": _has_pooler(module),
        "has_fc_norm": hasattr(module, "fc_norm"),
        "settings": dict(net.settings),
        "pretrained": net.pretrained,
    }


def rebuild_backbone(description: Mapping[str, Any]) -> Backbone:
    """Build the network that :func:`describe_backbone` described, without its weights and without a
    download."""
    from transformers import AutoConfig, AutoModel

    module = AutoModel.from_config(AutoConfig.for_model(**description["config"]))
    if not description["has_pooler"]:
        module.pooler = None
    if description.get("has_fc_norm"):
        module.fc_norm = nn.LayerNorm(module.config.hidden_size)
    apply_variant(module)
    return Backbone(module, description["settings"], bool(description["pretrained"]))


def _load_starter() -> Backbone:
    """Load the face encoder of the starter model."""
    folder = find_checkpoint(STARTER)
    description = json.loads((folder / "model.json").read_text(encoding="utf-8"))["encoders"]["face"]
    backbone = rebuild_backbone(description)
    prefix = "encoders.face.net."
    weights = load_file(folder / "weights.safetensors")
    state = {key.removeprefix(prefix): tensor for key, tensor in weights.items() if key.startswith(prefix)}
    backbone.module.load_state_dict(state)
    return backbone


def _load_file(file: Path, input_kind: str) -> Backbone:
    """Load a file of weights with the names of torchvision or timm."""
    from transformers import AutoConfig

    if file.suffix == ".onnx":
        fix = "Use it as the face encoder of an architecture that encodes single frames"
        raise WeightsError(f"{file}: an ONNX file encodes images", expected=input_kind, fix=fix)
    settings = read_settings(file)
    config_settings, state = translate(read_state_dict(file), settings.get("variant"))
    config = AutoConfig.for_model(**config_settings)
    _check_input_kind(str(file), config, input_kind)
    module = _load_pretrained(None, config, state)
    apply_variant(module)
    return Backbone(module, settings, pretrained=True)


def _build_random(config: Any) -> Any:
    """Build a network with random weights. If its pooler has weights, the pooler is removed."""
    from transformers import AutoModel

    module: Any = AutoModel.from_config(_disable_masking(config))
    if _has_pooler(module) and any(True for _ in module.pooler.parameters()):
        module.pooler = None
    return module


def _load_pretrained(source: str | None, config: Any, state: Mapping[str, Tensor] | None = None) -> Any:
    """Load a network from a source, or from weights with the names of transformers' checkpoints, in single
    precision. A pooler without pretrained weights is removed."""
    from transformers import MODEL_MAPPING, AutoModelForVideoClassification

    options = {"config": _disable_masking(config), "use_safetensors": True, "trust_remote_code": False}
    with quiet("transformers", sys.stderr):  # its report on the weights is checked below
        module, report = MODEL_MAPPING[type(config)].from_pretrained(
            source, **options, state_dict=state, ignore_mismatched_sizes=True, output_loading_info=True
        )
        if "fc_norm.weight" in report["unexpected_keys"]:  # VideoMAE keeps its final norm in the classifier
            module.fc_norm = AutoModelForVideoClassification.from_pretrained(source, **options).fc_norm
    uninitialised = {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}
    if any(name.startswith("pooler.") for name in uninitialised):
        module.pooler = None
    if names := sorted(name for name in uninitialised if not name.startswith("pooler.")):
        raise ValueError(f"{len(names)} weights are missing or have another shape, e.g. {names[0]}")
    return module.float()


def _disable_masking(config: Any) -> Any:
    for key, value in NO_MASKING.items():
        if hasattr(config, key):
            setattr(config, key, value)
    return config


def _has_pooler(module: Any) -> bool:
    return getattr(module, "pooler", None) is not None


def _check_input_kind(name: str, config: Any, input_kind: str) -> None:
    from transformers import MODEL_MAPPING

    if type(config) not in MODEL_MAPPING:
        raise ValueError(f"transformers has no network of type '{config.model_type}'")
    main_input = MODEL_MAPPING[type(config)].main_input_name
    kind = "clips" if hasattr(config, "num_frames") else INPUT_KINDS.get(main_input, main_input)
    if kind != input_kind:
        raise WeightsError(f"the input of encoder '{name}' is of another kind", got=kind, expected=input_kind)


def _read_preprocessor(source: str) -> dict[str, Any]:
    """Read the settings of a network's preprocessing from its files; empty if there are none."""
    from transformers.utils.hub import cached_file

    for name in PREPROCESSOR_FILES:
        file = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
        if file:
            settings: dict[str, Any] = json.loads(Path(file).read_text(encoding="utf-8"))
            return settings.get("image_processor") or settings.get("feature_extractor") or settings
    return {}


def _check_normalisation(name: str, settings: Mapping[str, Any], input_kind: str) -> None:
    """Raise WeightsError if the settings lack the training's normalisation: no default fits all networks."""
    required = ("do_normalize",) if input_kind == "audio" else ("image_mean", "image_std")
    missing = [key for key in required if settings.get(key) is None]
    if missing and settings.get("do_normalize") is not False:
        example = {"do_normalize": True} if input_kind == "audio" else {key: [0.5] * 3 for key in required}
        raise WeightsError(
            f"the input normalisation of encoder '{name}' is unknown: no {' and '.join(missing)}",
            fix=f"Copy {PREPROCESSOR_FILES[0]} from the encoder's source, or write it with the values of the "
            f"training, such as {json.dumps(example)}",
        )
