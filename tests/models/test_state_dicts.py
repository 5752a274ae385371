"""Weights with the names of torchvision and timm: each network against its layers as published, written out
here."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from reactometer.config import ModelConfig
from reactometer.errors import WeightsError
from reactometer.models.backbones import describe_backbone, load_backbone, rebuild_backbone
from reactometer.models.registry import load_encoders
from reactometer.models.vision_encoders import FrameEncoder
from small_networks import frame_encoder, pictures

SETTINGS = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "licence": "MIT"}

B0 = (  # width factor, channels, blocks, stride and kernel of each stage (EfficientNet's paper, table 1)
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


class Layers(dict[str, Tensor]):
    """Weights by name, each drawn when a layer first uses it."""

    def draw(self, name: str, *shape: int, spread: float = 0.2, middle: float = 0.0) -> Tensor:
        if name not in self:
            self[name] = middle + spread * (2 * torch.rand(shape) - 1)
        return self[name]

    def conv(
        self,
        name: str,
        maps: Tensor,
        n_out: int,
        size: int,
        stride: int = 1,
        groups: int = 1,
        same: bool = False,
    ) -> Tensor:
        """Convolve with half the kernel as padding, or with as much as TensorFlow's "SAME" needs."""
        n_in, side = maps.shape[1] // groups, maps.shape[2]
        total = max((math.ceil(side / stride) - 1) * stride + size - side, 0) if same else size // 2 * 2
        kernel = self.draw(
            f"{name}.weight", n_out, n_in, size, size, spread=2 / math.sqrt(n_in * size * size)
        )
        padded = functional.pad(maps, (total // 2, total - total // 2) * 2)
        return functional.conv2d(padded, kernel, stride=stride, groups=groups)

    def norm(self, name: str, maps: Tensor, eps: float = 1e-5) -> Tensor:
        n = maps.shape[1]
        mean = self.draw(f"{name}.running_mean", n)
        variance = self.draw(f"{name}.running_var", n, spread=0.009, middle=0.01)  # so that eps matters
        weight, bias = self.draw(f"{name}.weight", n, spread=0.05, middle=0.1), self.draw(f"{name}.bias", n)
        self[f"{name}.num_batches_tracked"] = torch.tensor(1)
        return functional.batch_norm(maps, mean, variance, weight, bias, eps=eps)

    def layer_norm(self, name: str, tokens: Tensor) -> Tensor:
        n = tokens.shape[-1]
        weight, bias = self.draw(f"{name}.weight", n, middle=1.0), self.draw(f"{name}.bias", n)
        return functional.layer_norm(tokens, (n,), weight, bias, eps=1e-6)

    def linear(self, name: str, values: Tensor, n_out: int, joint: str = ".") -> Tensor:
        weight = self.draw(f"{name}{joint}weight", n_out, values.shape[-1])
        return functional.linear(values, weight, self.draw(f"{name}{joint}bias", n_out))


def resnet(layers: Layers, pixels: Tensor, layer_type: str, origin: str) -> Tensor:
    """A small ResNet; Caffe's has its stride in the first convolution and pools without padding."""
    maps = layers.norm("bn1", layers.conv("conv1", pixels, 8, 7, 2)).relu()
    is_caffe = origin == "caffe"
    maps = functional.max_pool2d(maps, 3, 2, padding=0 if is_caffe else 1, ceil_mode=is_caffe)
    for stage, depth in enumerate((1, 2, 2, 1), start=1):
        width = 4 * 2**stage
        for i in range(depth):
            name, stride = f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1
            steps = [(width, 3, stride), (width, 3, 1)]
            if layer_type == "bottleneck":
                first, second = (stride, 1) if is_caffe else (1, stride)
                steps = [(width, 1, first), (width, 3, second), (4 * width, 1, 1)]
            inner = maps
            for number, (n_out, size, step) in enumerate(steps, start=1):
                inner = layers.norm(
                    f"{name}.bn{number}", layers.conv(f"{name}.conv{number}", inner, n_out, size, step)
                )
                inner = inner if number == len(steps) else inner.relu()
            if i == 0 and (stage > 1 or layer_type == "bottleneck" or maps.shape[1] != inner.shape[1]):
                short = layers.conv(f"{name}.downsample.0", maps, inner.shape[1], 1, stride)
                maps = layers.norm(f"{name}.downsample.1", short)
            maps = (maps + inner).relu()
    layers.linear("fc", maps.mean((2, 3)), 8)
    return maps.mean((2, 3))


def efficientnet(layers: Layers, pixels: Tensor, library: str, origin: str) -> Tensor:
    eps, same = (1e-3, True) if origin == "tf" else (1e-5, False)
    is_timm = library == "timm"
    stem, stem_norm, head, head_norm, classifier = (
        ("conv_stem", "bn1", "conv_head", "bn2", "classifier")
        if is_timm
        else ("features.0.0", "features.0.1", "features.8.0", "features.8.1", "classifier.1")
    )
    maps = functional.silu(layers.norm(stem_norm, layers.conv(stem, pixels, 32, 3, 2, same=same), eps))
    for stage, (factor, n_out, depth, stride, size) in enumerate(B0):
        for i in range(depth):
            block = f"blocks.{stage}.{i}" if is_timm else f"features.{stage + 1}.{i}.block"
            convs = ["conv_pw", "conv_dw", "conv_pwl"] if factor > 1 else ["conv_dw", "conv_pw"]
            numbers = [0, 1, 2, 3] if factor > 1 else [0, 1, 2]
            names = (
                [(f"{block}.{conv}", f"{block}.bn{n}") for n, conv in enumerate(convs, start=1)]
                if is_timm
                else [(f"{block}.{n}.0", f"{block}.{n}.1") for n in (*numbers[:-2], numbers[-1])]
            )
            squeeze = (
                (f"{block}.se.conv_reduce", f"{block}.se.conv_expand")
                if is_timm
                else (f"{block}.{numbers[-2]}.fc1", f"{block}.{numbers[-2]}.fc2")
            )
            inner = maps
            if factor > 1:
                conv, norm = names.pop(0)
                inner = functional.silu(
                    layers.norm(norm, layers.conv(conv, inner, factor * maps.shape[1], 1), eps)
                )
            width, step = inner.shape[1], stride if i == 0 else 1
            conv, norm = names.pop(0)
            inner = functional.silu(
                layers.norm(norm, layers.conv(conv, inner, width, size, step, width, same), eps)
            )
            gate = inner.mean((2, 3), keepdim=True)
            for name, channels in zip(squeeze, (maps.shape[1] // 4, width), strict=True):
                gate = layers.conv(name, gate, channels, 1) + layers.draw(f"{name}.bias", channels).view(
                    1, -1, 1, 1
                )
                gate = functional.silu(gate) if name == squeeze[0] else gate.sigmoid()
            conv, norm = names.pop(0)
            inner = layers.norm(norm, layers.conv(conv, inner * gate, n_out, 1), eps)
            maps = inner if i == 0 else maps + inner
    maps = functional.silu(layers.norm(head_norm, layers.conv(head, maps, 1280, 1), eps))
    layers.linear(classifier, maps.mean((2, 3)), 8)
    return maps.mean((2, 3))


def vit(layers: Layers, pixels: Tensor, library: str, _: str) -> Tensor:
    is_timm = library == "timm"
    stem, token, positions, norm, classifier = (
        ("patch_embed.proj", "cls_token", "pos_embed", "norm", "head")
        if is_timm
        else ("conv_proj", "class_token", "encoder.pos_embedding", "encoder.ln", "heads.head")
    )
    kernel, bias = (
        layers.draw(f"{stem}.weight", 128, 3, 16, 16, spread=0.05),
        layers.draw(f"{stem}.bias", 128),
    )
    patches = functional.conv2d(pixels, kernel, bias, stride=16).flatten(2).mT  # (B, 16, 128)
    tokens = torch.cat((layers.draw(token, 1, 1, 128).expand(len(patches), 1, 128), patches), 1)
    tokens = tokens + layers.draw(positions, 1, 17, 128)
    for i in range(2):
        block = f"blocks.{i}" if is_timm else f"encoder.layers.encoder_layer_{i}"
        norm1, norm2, qkv, joint, out, fc1, fc2 = (
            ("norm1", "norm2", "attn.qkv", ".", "attn.proj", "mlp.fc1", "mlp.fc2")
            if is_timm
            else ("ln_1", "ln_2", "self_attention.in_proj", "_", "self_attention.out_proj", "mlp.0", "mlp.3")
        )
        joined = layers.linear(f"{block}.{qkv}", layers.layer_norm(f"{block}.{norm1}", tokens), 384, joint)
        query, key, value = joined.view(*joined.shape[:2], 3, 2, 64).permute(
            2, 0, 3, 1, 4
        )  # (B, 2 heads, 17, 64) each
        mixed = ((query @ key.mT / 8).softmax(-1) @ value).transpose(1, 2).flatten(2)
        tokens = tokens + layers.linear(f"{block}.{out}", mixed, 128)
        inner = functional.gelu(
            layers.linear(f"{block}.{fc1}", layers.layer_norm(f"{block}.{norm2}", tokens), 256)
        )
        tokens = tokens + layers.linear(f"{block}.{fc2}", inner, 128)
    features = layers.layer_norm(norm, tokens)[:, 0]
    layers.linear(classifier, features, 8)
    return features


NETWORKS = {
    "resnet, basic": (resnet, "basic", "torch"),
    "resnet, bottleneck": (resnet, "bottleneck", "torch"),
    "resnet, caffe": (resnet, "bottleneck", "caffe"),
    "efficientnet, timm": (efficientnet, "timm", "torch"),
    "efficientnet, timm from TensorFlow": (efficientnet, "timm", "tf"),
    "efficientnet, torchvision": (efficientnet, "torchvision", "torch"),
    "vit, timm": (vit, "timm", "torch"),
    "vit, torchvision": (vit, "torchvision", "torch"),
}


def _write(folder: Path, state: dict[str, Any], suffix: str = ".pth", **settings: object) -> str:
    file = folder / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state, file)
    else:
        torch.save(state, file)
    file.with_suffix(".json").write_text(json.dumps({**SETTINGS, **settings}))
    return str(file)


def _features(encoder: FrameEncoder, images: Tensor) -> Tensor:
    with torch.inference_mode():
        features: Tensor = encoder.eval()(images)
    return features


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_computes_what_its_published_layers_compute(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, kind, variant = NETWORKS[name]
    size_px = 64 if network is vit else 72  # odd sizes on the way, where paddings differ
    images, layers = pictures(2, 3, size_px, size_px), Layers()
    mean, std = (torch.tensor(SETTINGS[key]).view(3, 1, 1) for key in ("image_mean", "image_std"))
    with torch.inference_mode():
        expected = network(layers, (images / 255 - mean) / std, kind, variant)
    plain = {key: value.clone() for key, value in layers.items()}
    wrapped = {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in plain.items()}}
    for state, suffix in ((plain, ".safetensors"), (wrapped, ".pth")):
        net = load_backbone(_write(tmp_path, state, suffix, variant=variant), "images")
        got = _features(FrameEncoder(net, size_px), images)
        torch.testing.assert_close(got, expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-4)
    again = rebuild_backbone(json.loads(json.dumps(describe_backbone(net))))
    again.module.load_state_dict(net.module.state_dict())
    assert torch.equal(_features(FrameEncoder(again, size_px), images), got)
    assert again.settings["licence"] == "MIT"
    assert len(again.settings["sha256"]) == 64


def test_other_networks_and_unknown_variants_are_named(tmp_path: Path) -> None:
    layers = Layers()
    resnet(layers, torch.rand(1, 3, 64, 64), "basic", "torch")
    squeezed = {**layers, "layer1.0.se.fc1.weight": torch.zeros(2)}
    halved = {key: value for key, value in layers.items() if "layer1.0.bn2" not in key}
    stem = {"conv_stem.weight": torch.zeros(8, 3, 3, 3)}
    cases: tuple[tuple[dict[str, Any], dict[str, str], str], ...] = (
        ({"conv9.weight": torch.zeros(2)}, {}, r"unknown network.*conv9\.weight.*ONNX"),
        (squeezed, {}, r"1 weights are not those of ResNet.*se\.fc1"),
        (halved, {}, r"weights are missing"),
        (dict(layers), {"variant": "tf"}, r'variant of ResNet.*"torch" or "caffe"'),
        (stem, {}, r"variant of timm's EfficientNet is unknown.*None"),
        (stem, {"variant": "tf"}, r"not an EfficientNet-B0 to B7 \(got 0 blocks"),
        ({"epoch": 1}, {}, r"no weights by name"),
    )
    for state, settings, message in cases:
        with pytest.raises(WeightsError, match=message):
            load_backbone(_write(tmp_path, state, **settings), "images")


def test_a_file_that_could_run_code_and_one_without_settings_are_refused(tmp_path: Path) -> None:
    file = Path(_write(tmp_path, {"state_dict": frame_encoder("random:resnet-tiny", 48)}))
    with pytest.raises(WeightsError, match=r"Python objects.*torch\.save\(model\.state_dict\(\), FILE\)"):
        load_backbone(str(file), "images")
    file.with_suffix(".json").write_text('{"mean": [0, 0, 0]}')
    with pytest.raises(WeightsError, match=r"weights\.json: mean: .*image_mean"):
        load_backbone(str(file), "images")
    file.with_suffix(".json").write_text("{}")
    with pytest.raises(WeightsError, match=r"no image_mean and image_std.*0\.485"):
        load_backbone(str(file), "images")
    file.with_suffix(".json").unlink()
    with pytest.raises(WeightsError, match=r"no weights\.json beside the file.*0\.485"):
        load_backbone(str(file), "images")
    with pytest.raises(WeightsError, match=r"no such file"):
        load_backbone(str(tmp_path / "absent.pth"), "images")


def test_pixels_of_a_wrong_scale_are_noticed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = Layers()
    with torch.inference_mode():
        resnet(layers, torch.rand(1, 3, 64, 64), "basic", "torch")
    config = ModelConfig(encoder=_write(tmp_path, dict(layers)), size_px=64)
    assert load_encoders(config)["face"]
    _write(tmp_path, dict(layers), rescale_factor=1 / 255**2)
    with pytest.raises(WeightsError, match=r"does not describe faces.*rescale_factor"):
        load_encoders(config)
