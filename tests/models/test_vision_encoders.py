"""Encoders of pictures and of clips: against transformers itself, in batches, behind masks, at other
sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reactometer.errors import ConfigError, WeightsError
from reactometer.models.backbones import describe_backbone, load_backbone, rebuild_backbone
from reactometer.models.vision_encoders import ClipEncoder, FrameEncoder, ImageNormalizer
from small_networks import (
    CLIPS,
    LAYERS,
    PATCHES,
    PICTURES,
    clip_encoder,
    encode,
    encode_clips,
    frame_encoder,
    pictures,
    reference,
    saved,
    saved_classifier,
)


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures_become_what_transformers_makes_of_them(kind: str, tmp_path: Path) -> None:
    preparation = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    folder = saved(tmp_path / kind, kind, PICTURES[kind], preparation)
    encoder = frame_encoder(str(folder), 64).eval()
    assert encoder.pretrained
    assert encoder.feature_size == 32
    net: Any = reference(folder)
    frames = pictures(3, 3, 64, 64)
    mean, std = (torch.tensor(preparation[key]).view(3, 1, 1) for key in ("image_mean", "image_std"))
    with torch.inference_mode():
        expected = getattr(net, "vision_model", net)(pixel_values=(frames / 255 - mean) / std).pooler_output
        torch.testing.assert_close(encoder(frames), expected.flatten(1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size_px", [48, 96])
@pytest.mark.parametrize("kind", PICTURES)
def test_pictures_of_another_size_are_taken_as_they_are(kind: str, size_px: int, tmp_path: Path) -> None:
    encoder = frame_encoder(str(saved(tmp_path, kind, PICTURES[kind])), size_px).eval()
    frames = pictures(2, 3, size_px, size_px)
    with torch.inference_mode():
        features = encoder(frames)
        assert features.shape == (2, 32)
        assert features.isfinite().all()
        torch.testing.assert_close(encoder(frames[1:]), features[1:], atol=1e-5, rtol=1e-4)


def test_pictures_of_a_size_that_a_network_refuses_are_an_error(tmp_path: Path) -> None:
    settings = {
        "image_size": 64,
        "hidden_sizes": [16, 24, 32],
        "num_attention_heads": [2, 2, 2],
        "depths": [1, 1, 1],
    }
    folder = str(saved(tmp_path, "levit", {**settings, "key_dim": [8, 8, 8]}))
    assert frame_encoder(folder, 64).feature_size == 32
    for load, name in ((frame_encoder, folder), (clip_encoder, "random:videomae-tiny")):
        with pytest.raises(
            ConfigError, match=r"only the image size of its training.*size_px = 32.*Set model\.size_px=64"
        ):
            load(name, 32)


def test_grid_pooling_puts_the_patches_of_a_transformer_back_in_their_places(tmp_path: Path) -> None:
    encoder = frame_encoder("random:vit-tiny", 64, "grid").eval()
    assert encoder.feature_size == 96 * 16
    frames = pictures(2, 3, 64, 64)
    with torch.inference_mode():
        net: Any = encoder.net
        tokens = net(pixel_values=encoder.pixels(frames)).last_hidden_state[:, 1:]  # without [CLS]
        places = tokens.view(2, 4, 2, 4, 2, 96).mean((2, 4))  # (2, rows, columns, D)
        torch.testing.assert_close(
            encoder(frames), places.permute(0, 3, 1, 2).flatten(1), atol=1e-5, rtol=1e-4
        )


def test_a_masked_autoencoder_sees_whole_pictures(tmp_path: Path) -> None:
    settings = {
        **LAYERS,
        **PATCHES,
        "mask_ratio": 0.75,
        "decoder_hidden_size": 32,
        "decoder_num_attention_heads": 2,
    }
    encoder = frame_encoder(str(saved(tmp_path, "vit_mae", settings)), 64).eval()
    frames = pictures(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(encoder(frames), encoder(frames), atol=1e-5, rtol=0)


def test_pictures_are_normalised_as_a_network_was_trained() -> None:
    frames = pictures(2, 3, 8, 8)
    torch.testing.assert_close(ImageNormalizer({"do_normalize": False})(frames), frames / 255)
    unsaid = {"image_mean": None, "image_std": None, "rescale_factor": None, "do_normalize": None}
    assert torch.equal(ImageNormalizer(unsaid)(frames), ImageNormalizer({})(frames))


@pytest.mark.parametrize("kind", CLIPS)
def test_a_clip_is_the_same_alone_in_a_batch_and_whatever_its_masked_frames_show(
    kind: str, tmp_path: Path
) -> None:
    encoder = clip_encoder(str(saved(tmp_path, kind, CLIPS[kind])), 64).eval()
    assert encoder.pretrained
    assert encoder.n_frames == 8
    frames = pictures(3, 11, 3, 64, 64)
    mask = torch.ones((3, 11), dtype=torch.bool)
    mask[0, [2, 5, 9]] = False
    mask[1] = False
    mask[2, 3:] = False  # fewer than the network takes
    other = torch.where(mask[:, :, None, None, None], frames, 255 - frames)
    with torch.inference_mode():
        features = encode_clips(encoder, frames, mask)
        assert features.shape == (3, encoder.feature_size)
        assert not features[1].any()
        assert (features[0] - features[2]).abs().max() > 1e-3
        torch.testing.assert_close(encode_clips(encoder, other, mask), features, atol=1e-5, rtol=0)
        for row in range(3):
            alone = encode_clips(encoder, frames[[row]], mask[[row]])[0]
            torch.testing.assert_close(alone, features[row], atol=1e-5, rtol=0)
        seen = encode_clips(encoder, frames[:1, mask[0]], mask[:1, mask[0]])[0]
        torch.testing.assert_close(seen, features[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", CLIPS)
def test_a_clip_becomes_the_mean_of_what_transformers_makes_of_it(kind: str, tmp_path: Path) -> None:
    preparation = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}
    folder = saved(tmp_path, kind, CLIPS[kind], preparation)
    encoder = clip_encoder(str(folder), 64).eval()
    frames = pictures(1, encoder.n_frames, 3, 64, 64)
    net: Any = reference(folder)
    with torch.inference_mode():
        hidden = net((frames.float() / 255 - 0.5) / 0.25).last_hidden_state
        features = encoder(frames)
    torch.testing.assert_close(features, hidden.mean(1), atol=1e-5, rtol=1e-4)


def test_grid_pooling_of_a_clip_puts_its_patches_back_in_their_places() -> None:
    encoder, plain = (
        clip_encoder("random:videomae-tiny", 64, pooling).eval() for pooling in ("grid", "network")
    )
    plain.load_state_dict(encoder.state_dict())
    assert (encoder.feature_size, plain.feature_size) == (96 * 16, 96)
    frames = pictures(3, 16, 3, 64, 64)
    with torch.inference_mode():
        features, mean = encoder(frames), plain(frames)
        net: Any = encoder.net
        tokens = net(
            pixel_values=encoder.pixels(frames.flatten(0, 1)).unflatten(0, (3, 16))
        ).last_hidden_state
    assert features.shape == (3, 96 * 16)
    places = tokens.view(3, 8, 4, 4, 96).mean(1)  # (3, rows, columns, D)
    expected = places.permute(0, 3, 1, 2).flatten(1)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(features.view(3, 96, 16).mean(2), mean, atol=1e-5, rtol=1e-4)
    assert features[0].view(96, 16).std(dim=1).min() > 1e-3  # places differ: a mean says less


@pytest.mark.parametrize("kind", CLIPS)
def test_what_shows_in_a_corner_reaches_its_place_of_a_clip_s_grid_alone(kind: str, tmp_path: Path) -> None:
    """Of a network without layers, so that nothing is mixed, with two patches a place and side."""
    settings = {**CLIPS[kind], "num_hidden_layers": 0, "patch_size": 8}
    encoder = clip_encoder(str(saved(tmp_path, kind, settings)), 64, "grid").eval()
    frames = pictures(1, 8, 3, 64, 64)
    for index, rows, columns in ((0, slice(0, 16), slice(0, 16)), (3, slice(0, 16), slice(48, 64))):
        other = frames.clone()
        other[:, 2, :, rows, columns] = 255  # one frame of eight
        with torch.inference_mode():
            moved = (encoder(other) - encoder(frames)).view(-1, 16).abs().amax(0)  # (places,)
        assert moved.argmax() == index
        assert moved[index] > 1e-4
        assert moved.sum() == moved[index]


@pytest.mark.parametrize("kind", ["vit", "resnet", "videomae"])
def test_features_are_what_the_classifier_of_a_network_was_trained_on(kind: str, tmp_path: Path) -> None:
    """Its class token, its pooled map, or the normalised mean: the classifier's layer turns them into its
    answer."""
    resnet = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    classifier = saved_classifier(tmp_path, kind, {"resnet": resnet, **PICTURES, **CLIPS}[kind])
    frames = pictures(2, 8, 3, 64, 64) if kind == "videomae" else pictures(2, 3, 64, 64)
    load, load_folder = (ClipEncoder, "clips") if kind == "videomae" else (FrameEncoder, "images")
    net = load_backbone(str(tmp_path), load_folder)
    rebuilt = rebuild_backbone(json.loads(json.dumps(describe_backbone(net))))
    rebuilt.module.load_state_dict(net.module.state_dict())
    with torch.inference_mode():
        expected = classifier(pixel_values=(frames / 255 - 0.5) / 0.5).logits
        for backbone in (net, rebuilt):
            torch.testing.assert_close(classifier.classifier(load(backbone, 64).eval()(frames)), expected)


@pytest.mark.parametrize("kind", ["frames", "clips"])
def test_recomputed_activations_give_the_same_gradients_and_keep_less(kind: str) -> None:
    torch.manual_seed(0)
    encoder = (
        clip_encoder("random:videomae-tiny", 64) if kind == "clips" else frame_encoder("random:vit-tiny", 64)
    )
    images, mask = pictures(3, 16, 3, 64, 64), torch.ones((3, 16), dtype=torch.bool)
    gradients, kept = [], [0, 0]

    def keep(tensor: Tensor) -> Tensor:
        kept[encoder.checkpointing] += tensor.nbytes
        return tensor

    for encoder.checkpointing in (False, True):
        encoder.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = encode(encoder, images, mask).square().sum()
        torch.autograd.backward(loss)
        grads = [parameter.grad for parameter in encoder.parameters()]
        gradients.append(torch.cat([grad.flatten() for grad in grads if grad is not None]))
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-4, rtol=1e-3)
    assert kept[1] < kept[0] / 10


def test_another_kind_of_clip_encoder_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, "timesformer", {**LAYERS, **PATCHES, "num_frames": 4})
    with pytest.raises(WeightsError, match=r"no clip encoder: 'timesformer' \(expected videomae or vjepa2\)"):
        clip_encoder(str(folder), 64)


def test_an_encoder_of_clips_can_be_trained() -> None:
    encoder = clip_encoder("random:videomae-tiny", 64).train()
    mask = torch.tensor([[True, True, False], [False] * 3])
    torch.autograd.backward(encode_clips(encoder, pictures(2, 3, 3, 64, 64), mask).square().sum())
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in encoder.parameters())
