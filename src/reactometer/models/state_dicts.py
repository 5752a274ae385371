"""Load weights of torchvision's and timm's ResNet, EfficientNet and ViT into transformers' networks."""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from reactometer.errors import WeightsError

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
"""Keys under which training scripts save a state dict."""

CLASSIFIERS = ("fc", "classifier", "head", "heads", "last_linear")
"""First part of the names of a classifier's weights, which are not loaded."""

EXPORT_HINT = "Export the network to ONNX, and set model.encoder=FILE.onnx"

COEFFICIENTS = (
    (1.0, 1.0),
    (1.0, 1.1),
    (1.1, 1.2),
    (1.2, 1.4),
    (1.4, 1.8),
    (1.6, 2.2),
    (1.8, 2.6),
    (2.0, 3.1),
)
"""Width and depth of EfficientNet-B0 to B7 (Tan and Le 2019)."""

REPEATS = (1, 2, 2, 3, 3, 4, 1)
"""Number of blocks in the stages of EfficientNet-B0."""

BLOCK_LAYERS = (
    *("expansion.expand_conv", "expansion.expand_bn"),  # not in the first stage
    *("depthwise_conv.depthwise_conv", "depthwise_conv.depthwise_norm"),
    *("squeeze_excite.reduce", "squeeze_excite.expand"),
    *("projection.project_conv", "projection.project_bn"),
)
TIMM_LAYERS = ["conv_pw", "bn1", "conv_dw", "bn2", "se.conv_reduce", "se.conv_expand", "conv_pwl", "bn3"]
TIMM_FIRST_LAYERS = ["conv_dw", "bn1", "se.conv_reduce", "se.conv_expand", "conv_pw", "bn2"]
TORCHVISION_LAYERS = ["0.0", "0.1", "1.0", "1.1", "2.fc1", "2.fc2", "3.0", "3.1"]
TORCHVISION_FIRST_LAYERS = ["0.0", "0.1", "1.fc1", "1.fc2", "2.0", "2.1"]
"""Layers of an EfficientNet's block, in one order: in transformers, timm and torchvision."""

END_LAYERS = ["embeddings.convolution", "embeddings.batchnorm", "encoder.top_conv", "encoder.top_bn"]
TIMM_END_LAYERS = ["conv_stem", "bn1", "conv_head", "bn2"]
TORCHVISION_END_LAYERS = ["features.0.0", "features.0.1", "features.8.0", "features.8.1"]
"""The same for the layers outside of the blocks."""

VIT_NAMES = {
    r"cls_token|class_token": "embeddings.cls_token",
    r"pos_embed|encoder\.pos_embedding": "embeddings.position_embeddings",
    r"(?:patch_embed\.proj|conv_proj)\.(\w+)": r"embeddings.patch_embeddings.projection.\1",
    r"(?:norm|encoder\.ln)\.(\w+)": r"layernorm.\1",
}
VIT_LAYER_NAMES = {
    r"(?:norm1|ln_1)\.(\w+)": r"layernorm_before.\1",
    r"(?:norm2|ln_2)\.(\w+)": r"layernorm_after.\1",
    r"(?:attn\.qkv\.|self_attention\.in_proj_)(\w+)": r"attention.attention.qkv.\1",
    r"(?:attn\.proj|self_attention\.out_proj)\.(\w+)": r"attention.output.dense.\1",
    r"mlp\.(?:fc1|0|linear_1)\.(\w+)": r"intermediate.dense.\1",
    r"mlp\.(?:fc2|3|linear_2)\.(\w+)": r"output.dense.\1",
}
"""Names of a ViT's weights in timm or torchvision, as regular expressions, and in transformers."""

VIT_HEADS = {1280: 16, 1408: 16, 1664: 16}
"""Number of attention heads by width, where a head is not 64 features wide."""

State = Mapping[str, Tensor]
Rename = Callable[[str], str | None]


def read_state_dict(file: Path) -> State:
    """Read weights by name, without running code: safetensors, or PyTorch's format with ``weights_only``.

    Raises:
        WeightsError: the file contains Python objects, or no weights.
    """
    if file.suffix == ".safetensors":
        return load_file(file)
    try:
        state: Any = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{file}: the file contains Python objects, which could run code",
            expected="weights only",
            fix="In the project that wrote it, run torch.save(model.state_dict(), FILE); or export to ONNX",
        ) from error
    while isinstance(state, dict) and (keys := [key for key in WRAPPERS if isinstance(state.get(key), dict)]):
        state = state[keys[0]]
    weights = {key: value for key, value in dict(state).items() if isinstance(value, Tensor)}
    if not weights:
        raise WeightsError(f"{file}: no weights by name", fix=EXPORT_HINT)
    return weights


def translate(state: State, variant: str | None) -> tuple[dict[str, Any], State]:
    """Return the settings of transformers' network, and its weights with the names of its checkpoints.

    A prefix such as ``module.`` is removed; the classifier and all weights without the prefix are left out.

    Args:
        state: weights of a ResNet, an EfficientNet-B0 to B7 or a ViT with the names of torchvision or timm.
        variant: origin of the weights, which decides on strides and padding: "torch" (default), "tf" (an
            EfficientNet from TensorFlow, such as timm's ``tf_efficientnet_b0``) or "caffe" (a ResNet).

    Raises:
        WeightsError: the names are of another network, or ``variant`` does not fit it.
    """
    anchors = [anchor for anchor in FAMILIES if any(f".{key}".endswith(f".{anchor}") for key in state)]
    if not anchors:
        raise WeightsError(
            "the weights are of an unknown network",
            got=", ".join(list(state)[:3]),
            expected="a ResNet, EfficientNet or ViT with the names of torchvision or timm",
            fix=EXPORT_HINT,
        )
    family, describe, variants = FAMILIES[anchors[0]]
    if (variant or variants[0]) not in variants or (family == "timm's EfficientNet" and not variant):
        raise WeightsError(
            f"the variant of {family} is unknown",
            got=f"variant = {variant!r}",
            expected=" or ".join(f'"{name}"' for name in variants),
            fix=f'Set "variant": "{variants[-1]}" in the JSON file beside the weights if they are from '
            f'{"TensorFlow" if variants[-1] == "tf" else "Caffe"}, else "torch"',
        )
    prefix = min((key for key in state if key.endswith(anchors[0])), key=len).removesuffix(anchors[0])
    inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    weights = {key: value for key, value in inside.items() if key.partition(".")[0] not in CLASSIFIERS}
    variant = variant or variants[0]
    settings, rename = describe(weights, variant)
    names = {key: rename(key) for key in weights}
    if unknown := [key for key, name in names.items() if name is None]:
        raise WeightsError(
            f"{len(unknown)} weights are not those of {family}", got=f"e.g. {unknown[0]}", fix=EXPORT_HINT
        )
    renamed = {str(name): weights[key] for key, name in names.items()}
    return {**settings, "variant": variant}, _split_attention(renamed)


def apply_variant(module: Any) -> None:
    """Replace the layers of a translated network whose padding transformers' configurations do not cover."""
    variant = getattr(module.config, "variant", None)
    if variant == "caffe":
        module.embedder.pooler = nn.MaxPool2d(3, stride=2, ceil_mode=True)
    if variant and module.config.model_type == "efficientnet":
        pad = nn.ZeroPad2d if variant == "torch" else None
        module.embeddings.padding = pad(1) if pad else _SamePadding(3)
        for block in module.encoder.blocks:
            layer = block.depthwise_conv
            size = layer.depthwise_conv.kernel_size[0]
            layer.depthwise_conv_pad = pad(size // 2) if pad else _SamePadding(size)
        module.pooler = nn.AdaptiveAvgPool2d(1)  # transformers' pooler cannot be exported


class _SamePadding(nn.Module):
    """TensorFlow's padding "SAME" of a convolution with stride 2."""

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size

    def forward(self, maps: Tensor) -> Tensor:
        pads: list[int] = []
        for size in (maps.shape[3], maps.shape[2]):
            total = self.kernel_size - 2 + size % 2
            pads += (total // 2, total - total // 2)
        return functional.pad(maps, pads)


def _describe_resnet(weights: State, variant: str) -> tuple[dict[str, Any], Rename]:
    blocks: dict[str, set[str]] = {}
    widths: dict[str, list[int]] = {}
    for key, value in weights.items():
        if match := re.fullmatch(r"layer(\d)\.(\d+)\.conv\d\.weight", key):
            blocks.setdefault(match[1], set()).add(match[2])
            widths.setdefault(match[1], []).append(len(value))
    settings = {
        "model_type": "resnet",
        "num_channels": weights["conv1.weight"].shape[1],
        "embedding_size": weights["conv1.weight"].shape[0],
        "hidden_sizes": [max(widths[stage]) for stage in sorted(widths)],
        "depths": [len(blocks[stage]) for stage in sorted(blocks)],
        "layer_type": "bottleneck" if "layer1.0.conv3.weight" in weights else "basic",
        "downsample_in_bottleneck": variant == "caffe",
    }
    types = {"conv": "convolution", "bn": "normalization", "0": "convolution", "1": "normalization"}
    pattern = re.compile(r"layer(\d)\.(\d+)\.(?:(conv|bn)(\d)|downsample\.([01]))\.(\w+)")

    def rename(key: str) -> str | None:
        if match := re.fullmatch(r"(conv|bn)1\.(\w+)", key):
            return f"embedder.embedder.{types[match[1]]}.{match[2]}"
        if not (match := pattern.fullmatch(key)):
            return None
        layer = f"layer.{int(match[4]) - 1}.{types[match[3]]}" if match[3] else f"shortcut.{types[match[5]]}"
        return f"encoder.stages.{int(match[1]) - 1}.layers.{match[2]}.{layer}.{match[6]}"

    return settings, rename


def _describe_efficientnet(weights: State, variant: str) -> tuple[dict[str, Any], Rename]:
    is_timm = "conv_stem.weight" in weights
    if is_timm:
        pattern = re.compile(r"blocks\.(\d+)\.(\d+)\.(.+)\.(\w+)")
        end_names, first_names, names = TIMM_END_LAYERS, TIMM_FIRST_LAYERS, TIMM_LAYERS
    else:
        pattern = re.compile(r"features\.(\d)\.(\d+)\.block\.(.+)\.(\w+)")
        end_names, first_names, names = TORCHVISION_END_LAYERS, TORCHVISION_FIRST_LAYERS, TORCHVISION_LAYERS
    ends = dict(zip(end_names, END_LAYERS, strict=True))
    first_layers = dict(zip(first_names, BLOCK_LAYERS[2:], strict=True))
    layers = dict(zip(names, BLOCK_LAYERS, strict=True))
    matches = [match for key in weights if (match := pattern.fullmatch(key))]
    blocks = sorted({(int(match[1]), int(match[2])) for match in matches})  # (stage, index)
    top = weights.get(f"{end_names[2]}.weight")
    n_features = 0 if top is None else len(top)
    coefficients = {
        (round(160 * width) * 8, sum(math.ceil(depth * n) for n in REPEATS)): (width, depth)
        for width, depth in COEFFICIENTS
    }
    if (n_features, len(blocks)) not in coefficients:
        got = f"{len(blocks)} blocks and {n_features} features"
        raise WeightsError("not an EfficientNet-B0 to B7", got=got, fix=EXPORT_HINT)
    width, depth = coefficients[n_features, len(blocks)]
    settings = {
        "model_type": "efficientnet",
        "width_coefficient": width,
        "depth_coefficient": depth,
        "hidden_dim": n_features,
        "batch_norm_eps": 1e-3 if variant == "tf" or (not is_timm and n_features >= 2048) else 1e-5,
    }

    def rename(key: str) -> str | None:
        layer, _, parameter = key.rpartition(".")
        if layer in ends:
            return f"{ends[layer]}.{parameter}"
        if not (match := pattern.fullmatch(key)):
            return None
        block = int(match[1]), int(match[2])
        name = (first_layers if block[0] == blocks[0][0] else layers).get(match[3])
        return name and f"encoder.blocks.{blocks.index(block)}.{name}.{parameter}"

    return settings, rename


def _describe_vit(weights: State, variant: str) -> tuple[dict[str, Any], Rename]:
    patches = next(weights[key] for key in ("patch_embed.proj.weight", "conv_proj.weight") if key in weights)
    positions = next(
        (value for key, value in weights.items() if key.startswith(("pos_", "encoder.pos_"))), patches
    )
    pattern = re.compile(r"(?:blocks\.|encoder\.layers\.encoder_layer_)(\d+)\.(.+)")
    indices = [int(match[1]) for key in weights if (match := pattern.fullmatch(key))]
    width, n_channels, patch_px, _ = patches.shape
    mlp = [len(value) for key, value in weights.items() if re.search(r"mlp\.(fc1|0|linear_1)\.bias$", key)]
    settings = {
        "model_type": "vit",
        "num_channels": n_channels,
        "hidden_size": width,
        "num_hidden_layers": max(indices, default=-1) + 1,
        "num_attention_heads": VIT_HEADS.get(width, width // 64),
        "intermediate_size": max(mlp, default=4 * width),
        "patch_size": patch_px,
        "image_size": patch_px * math.isqrt(positions.shape[1] - 1),
        "layer_norm_eps": 1e-6,
    }

    def rename(key: str) -> str | None:
        prefix, names = "", VIT_NAMES
        if match := pattern.fullmatch(key):
            prefix, names, key = f"encoder.layer.{match[1]}.", VIT_LAYER_NAMES, match[2]
        expanded = [match.expand(name) for old, name in names.items() if (match := re.fullmatch(old, key))]
        return prefix + expanded[0] if expanded else None

    return settings, rename


def _split_attention(weights: State) -> State:
    """Split the joint weights of query, key and value."""
    split: dict[str, Tensor] = {}
    for key, value in weights.items():
        if ".qkv." not in key:
            split[key] = value
            continue
        for part, chunk in zip(("query", "key", "value"), value.chunk(3), strict=True):
            split[key.replace("qkv", part)] = chunk
    return split


FAMILIES: Mapping[str, tuple[str, Callable[[State, str], tuple[dict[str, Any], Rename]], tuple[str, ...]]] = {
    "conv_stem.weight": ("timm's EfficientNet", _describe_efficientnet, ("torch", "tf")),
    "features.0.0.weight": ("torchvision's EfficientNet", _describe_efficientnet, ("torch",)),
    "patch_embed.proj.weight": ("timm's ViT", _describe_vit, ("torch",)),
    "conv_proj.weight": ("torchvision's ViT", _describe_vit, ("torch",)),
    "conv1.weight": ("ResNet", _describe_resnet, ("torch", "caffe")),
}
"""Networks by the name of their first convolution: name, description and variants, the default first."""
