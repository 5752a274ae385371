"""Encoders of pictures, clips and sound: against transformers itself, in batches, behind masks, at other sizes."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from reactometer.errors import WeightsError
from reactometer.media.voice import MEL_BANDS
from reactometer.models.encoders import (
    MAPS_OF_CLIPS,
    ClipEncoder,
    FrameEncoder,
    Pixels,
    load_clip_encoder,
    load_frame_encoder,
    rebuild_clip_encoder,
    rebuild_frame_encoder,
    spread_frames,
)
from reactometer.models.pooling import masked_moments
from reactometer.models.voice_encoders import (
    SpeechEncoder,
    VoiceEncoder,
    load_speech_encoder,
    rebuild_speech_encoder,
)

LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
PATCHES = {"image_size": 64, "patch_size": 16}
CONVOLUTIONS = {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
TEXT = {**LAYERS, "vocab_size": 50, "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 1}

PICTURES: dict[str, dict[str, Any]] = {
    "vit": {**LAYERS, **PATCHES},
    "dinov2": {**LAYERS, **PATCHES},
    "convnext": {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
    "siglip": {"vision_config": {**LAYERS, **PATCHES}, "text_config": TEXT},
    "clip": {"vision_config": {**LAYERS, **PATCHES}, "text_config": TEXT},
}
CLIPS: dict[str, dict[str, Any]] = {
    "videomae": {**LAYERS, **PATCHES, "num_frames": 8},
    "timesformer": {**LAYERS, **PATCHES, "num_frames": 4},
    "vivit": {**LAYERS, "image_size": 64, "num_frames": 8, "tubelet_size": [2, 16, 16]},
    "vjepa2": {
        "crop_size": 64,
        "patch_size": 16,
        "frames_per_clip": 8,
        "hidden_size": 48,  # heads of 16: its rotary embedding needs them to be wide
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "pred_hidden_size": 48,
        "pred_num_attention_heads": 2,
        "pred_num_hidden_layers": 1,
    },
}
SOUND: dict[str, dict[str, Any]] = {kind: {**LAYERS, **CONVOLUTIONS} for kind in ("hubert", "wav2vec2", "wavlm")}


def _saved(folder: Path, kind: str, settings: dict[str, Any], preparation: dict[str, Any] | None = None) -> Path:
    """A folder as the hub holds it: a network of that kind with weights that are nobody's default."""
    torch.manual_seed(3)
    AutoModel.from_config(AutoConfig.for_model(kind, **settings)).save_pretrained(folder)
    if preparation:
        (folder / "preprocessor_config.json").write_text(json.dumps(preparation))
    return folder


def _pictures(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8))


def _waveforms(*lengths: int) -> tuple[Tensor, Tensor]:
    """Blocks of noise (B, N, 320), each row louder than the last, with rubbish behind its end; and the mask."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    generator = torch.Generator().manual_seed(1)
    loudness = 0.05 * torch.arange(1, len(lengths) + 1)[:, None, None]
    noise = torch.randn((*mask.shape, 320), generator=generator) * loudness
    return torch.where(mask.unsqueeze(2), noise, torch.tensor(7.0)), mask


def _reference(folder: Path) -> nn.Module:
    net: nn.Module = AutoModel.from_pretrained(folder).eval()
    return net


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures_become_what_transformers_makes_of_them(kind: str, tmp_path: Path) -> None:
    preparation = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    folder = _saved(tmp_path / kind, kind, PICTURES[kind], preparation)
    encoder = load_frame_encoder(str(folder), 64).eval()
    assert encoder.pretrained
    assert encoder.feature_size == 32
    net: Any = _reference(folder)
    frames = _pictures(3, 3, 64, 64)
    mean, std = (torch.tensor(preparation[key]).view(3, 1, 1) for key in ("image_mean", "image_std"))
    with torch.inference_mode():
        expected = getattr(net, "vision_model", net)(pixel_values=(frames / 255 - mean) / std).pooler_output
        torch.testing.assert_close(encoder(frames), expected.flatten(1), atol=1e-5, rtol=1e-4)


def _has_pooler(encoder: FrameEncoder) -> bool:
    return getattr(encoder.net, "pooler", None) is not None


def test_a_pooler_is_used_where_it_was_trained_and_left_out_where_it_would_be_random(tmp_path: Path) -> None:
    from transformers import ViTForImageClassification

    with_pooler = load_frame_encoder(str(_saved(tmp_path / "with", "vit", PICTURES["vit"])), 64).eval()
    assert _has_pooler(with_pooler)
    ViTForImageClassification(AutoConfig.for_model("vit", **PICTURES["vit"])).save_pretrained(tmp_path / "without")
    without = load_frame_encoder(str(tmp_path / "without"), 64).eval()
    assert not _has_pooler(without)
    assert not _has_pooler(load_frame_encoder("random:vit-tiny", 64))
    frames = _pictures(2, 3, 64, 64)
    with torch.inference_mode():
        net: Any = without.net
        expected = net(pixel_values=without.pixels(frames)).last_hidden_state.mean(1)
        torch.testing.assert_close(without(frames), expected)
        again = load_frame_encoder(str(tmp_path / "without"), 64).eval()
        assert torch.equal(again(frames), without(frames))
    assert {"pooler.dense.weight", "pooler.dense.bias"} == set(with_pooler.net.state_dict()) - set(
        without.net.state_dict()
    )


@pytest.mark.parametrize("size_px", [32, 48, 96])
@pytest.mark.parametrize("kind", PICTURES)
def test_pictures_of_another_size_are_taken_as_they_are(kind: str, size_px: int, tmp_path: Path) -> None:
    encoder = load_frame_encoder(str(_saved(tmp_path, kind, PICTURES[kind])), size_px).eval()
    assert encoder.pixels.side_px is None
    frames = _pictures(2, 3, size_px, size_px)
    with torch.inference_mode():
        features = encoder(frames)
        assert features.shape == (2, 32)
        assert features.isfinite().all()
        torch.testing.assert_close(encoder(frames[1:]), features[1:], atol=1e-5, rtol=1e-4)


def test_pictures_of_a_size_that_a_network_refuses_are_resized(tmp_path: Path) -> None:
    settings = {"image_size": 64, "hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 2, 2], "depths": [1, 1, 1]}
    folder = _saved(tmp_path, "levit", {**settings, "key_dim": [8, 8, 8]})
    small, right = (load_frame_encoder(str(folder), size_px).eval() for size_px in (32, 64))
    assert (small.pixels.side_px, right.pixels.side_px) == (64, None)
    grey = torch.full((1, 3, 32, 32), 90, dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(small(grey), right(torch.full((1, 3, 64, 64), 90, dtype=torch.uint8)))


def test_grid_pooling_puts_the_patches_of_a_transformer_back_in_their_places(tmp_path: Path) -> None:
    encoder = load_frame_encoder("random:vit-tiny", 64, "grid").eval()
    assert encoder.feature_size == 96 * 16
    frames = _pictures(2, 3, 64, 64)
    with torch.inference_mode():
        net: Any = encoder.net
        tokens = net(pixel_values=encoder.pixels(frames)).last_hidden_state[:, 1:]  # without [CLS]
        places = tokens.view(2, 4, 2, 4, 2, 96).mean((2, 4))  # (2, rows, columns, D)
        torch.testing.assert_close(encoder(frames), places.permute(0, 3, 1, 2).flatten(1), atol=1e-5, rtol=1e-4)


def test_a_masked_autoencoder_sees_whole_pictures(tmp_path: Path) -> None:
    settings = {**LAYERS, **PATCHES, "mask_ratio": 0.75, "decoder_hidden_size": 32, "decoder_num_attention_heads": 2}
    encoder = load_frame_encoder(str(_saved(tmp_path, "vit_mae", settings)), 64).eval()
    frames = _pictures(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(encoder(frames), encoder(frames), atol=1e-5, rtol=0)


def test_vivit_s_own_scaling_is_kept() -> None:
    from transformers import VivitImageProcessor

    settings = VivitImageProcessor(do_resize=False, do_center_crop=False).to_dict()
    frames = _pictures(2, 3, 8, 8)
    processor = VivitImageProcessor.from_dict(settings)
    expected = processor(list(frames.numpy()), return_tensors="pt").pixel_values[0]
    torch.testing.assert_close(Pixels(settings)(frames), expected, atol=1e-5, rtol=1e-5)
    unscaled = Pixels({"do_normalize": False})(frames)
    torch.testing.assert_close(unscaled, frames / 255)
    unsaid = {"image_mean": None, "image_std": None, "rescale_factor": None, "do_normalize": None}
    assert torch.equal(Pixels(unsaid)(frames), Pixels({})(frames))


@pytest.mark.parametrize("size_px", [64, 48])
@pytest.mark.parametrize("kind", CLIPS)
def test_a_clip_is_the_same_alone_in_a_batch_and_whatever_its_masked_frames_show(
    kind: str, size_px: int, tmp_path: Path
) -> None:
    encoder = load_clip_encoder(str(_saved(tmp_path, kind, CLIPS[kind])), size_px).eval()
    assert encoder.pretrained
    assert encoder.n_frames == (4 if kind == "timesformer" else 8)
    frames = _pictures(3, 11, 3, size_px, size_px)
    mask = torch.ones((3, 11), dtype=torch.bool)
    mask[0, [2, 5, 9]] = False
    mask[1] = False
    mask[2, 3:] = False  # fewer than the network takes
    other = torch.where(mask[:, :, None, None, None], frames, 255 - frames)
    with torch.inference_mode():
        features = encoder(frames, mask)
        assert features.shape == (3, encoder.feature_size)
        assert not features[1].any()
        assert (features[0] - features[2]).abs().max() > 1e-3
        torch.testing.assert_close(encoder(other, mask), features, atol=1e-5, rtol=0)
        for row in range(3):
            torch.testing.assert_close(encoder(frames[[row]], mask[[row]])[0], features[row], atol=1e-5, rtol=0)
        seen = mask[0]
        torch.testing.assert_close(encoder(frames[:1, seen], mask[:1, seen])[0], features[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", CLIPS)
def test_a_clip_becomes_the_mean_of_what_transformers_makes_of_it(kind: str, tmp_path: Path) -> None:
    preparation = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}
    folder = _saved(tmp_path, kind, CLIPS[kind], preparation)
    encoder = load_clip_encoder(str(folder), 64).eval()
    frames = _pictures(1, encoder.n_frames, 3, 64, 64)
    net: Any = _reference(folder)
    with torch.inference_mode():
        hidden = net((frames.float() / 255 - 0.5) / 0.25).last_hidden_state
        features = encoder(frames, torch.ones(frames.shape[:2], dtype=torch.bool))
    torch.testing.assert_close(features, hidden.mean(1), atol=1e-5, rtol=1e-4)


def test_grid_pooling_of_a_clip_puts_its_patches_back_in_their_places() -> None:
    encoder, plain = (load_clip_encoder("random:videomae-tiny", 64, pooling).eval() for pooling in ("grid", "network"))
    plain.load_state_dict(encoder.state_dict())
    assert (encoder.feature_size, plain.feature_size) == (96 * 16, 96)
    frames, mask = _pictures(3, 16, 3, 64, 64), torch.ones((3, 16), dtype=torch.bool)
    mask[1] = False
    with torch.inference_mode():
        features, mean = encoder(frames, mask), plain(frames, mask)
        net: Any = encoder.net
        tokens = net(pixel_values=encoder.pixels(frames.flatten(0, 1)).unflatten(0, (3, 16))).last_hidden_state
    assert features.shape == (3, 96 * 16)
    assert not features[1].any()
    places = tokens.view(3, 8, 4, 4, 96).mean(1)  # (3, rows, columns, D)
    expected = places.permute(0, 3, 1, 2).flatten(1)
    torch.testing.assert_close(features[[0, 2]], expected[[0, 2]], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(features.view(3, 96, 16).mean(2), mean, atol=1e-5, rtol=1e-4)
    assert features[0].view(96, 16).std(dim=1).min() > 1e-3  # places differ: a mean says less


def test_a_clip_encoder_of_a_model_that_says_nothing_of_pooling_is_the_network_s_own() -> None:
    description = load_clip_encoder("random:videomae-tiny", 64, "grid").describe()
    assert description.pop("pooling") == "grid"
    assert rebuild_clip_encoder(description, 64).feature_size == 96


@pytest.mark.parametrize("kind", MAPS_OF_CLIPS)
def test_what_shows_in_a_corner_reaches_its_place_of_a_clip_s_grid_alone(kind: str, tmp_path: Path) -> None:
    """Of a network without layers, so that nothing is mixed, with two patches a place and side."""
    settings = {**CLIPS[kind], "num_hidden_layers": 0, "patch_size": 8}
    encoder = load_clip_encoder(str(_saved(tmp_path, kind, settings)), 64, "grid").eval()
    frames, mask = _pictures(1, 8, 3, 64, 64), torch.ones((1, 8), dtype=torch.bool)
    for place, rows, columns in ((0, slice(0, 16), slice(0, 16)), (3, slice(0, 16), slice(48, 64))):
        other = frames.clone()
        other[:, 2, :, rows, columns] = 255  # one frame of eight
        with torch.inference_mode():
            moved = (encoder(other, mask) - encoder(frames, mask)).view(-1, 16).abs().amax(0)  # (places,)
        assert moved.argmax() == place
        assert moved[place] > 1e-4
        assert moved.sum() == moved[place]


@pytest.mark.parametrize("kind", sorted(set(CLIPS) - set(MAPS_OF_CLIPS)))
def test_a_clip_encoder_without_a_map_of_places_has_no_grid(kind: str, tmp_path: Path) -> None:
    message = rf"a clip encoder of the kind '{kind}' has no pooling \"grid\" \(expected .*videomae or vjepa2\)"
    with pytest.raises(WeightsError, match=message + r'\. Use model\.pooling = "network"\.'):
        load_clip_encoder(str(_saved(tmp_path, kind, CLIPS[kind])), 64, "grid")


def test_frames_are_spread_evenly_over_those_that_are_seen() -> None:
    frames = torch.arange(10).view(1, 10, 1, 1, 1).expand(3, -1, 3, 2, 2)
    mask = torch.ones((3, 10), dtype=torch.bool)
    mask[1, 1::2] = False
    mask[2, 1:] = False
    picked = spread_frames(frames, mask, 4)[:, :, 0, 0, 0]
    assert picked.tolist() == [[1, 3, 6, 8], [0, 2, 6, 8], [0, 0, 0, 0]]
    assert spread_frames(frames[1:2], mask[1:2], 10)[0, :, 0, 0, 0].tolist() == [0, 0, 2, 2, 4, 4, 6, 6, 8, 8]
    assert spread_frames(frames[:1], mask[:1], 10)[0, :, 0, 0, 0].tolist() == list(range(10))


def test_an_encoder_of_clips_can_be_trained() -> None:
    encoder = load_clip_encoder("random:videomae-tiny", 48).train()
    mask = torch.tensor([[True, True, False], [False] * 3])
    encoder(_pictures(2, 3, 3, 48, 48), mask).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in encoder.parameters())


@pytest.mark.parametrize("steps", [1, 16, 17, 90])
def test_the_log_mel_encoder_gives_a_step_for_sixteen(steps: int) -> None:
    encoder = VoiceEncoder().eval()
    generator = torch.Generator().manual_seed(0)
    voice, mask = torch.randn(2, 100, MEL_BANDS, generator=generator), torch.arange(100)[None].expand(2, -1) < steps
    mask = mask & torch.tensor([[True], [False]])
    with torch.inference_mode():
        features, kept = encoder(torch.where(mask.unsqueeze(2), voice, torch.tensor(100.0)), mask)
        alone, _ = encoder(voice[:1, :steps], mask[:1, :steps])
    n_steps = -(-steps // encoder.stride)
    assert features.shape == (2, 7, encoder.feature_size)
    assert kept.sum(1).tolist() == [n_steps, 0]
    assert not features[~kept].any()
    torch.testing.assert_close(features[:1, :n_steps], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", SOUND)
def test_speech_becomes_what_transformers_makes_of_each_clip_alone(kind: str, tmp_path: Path) -> None:
    folder = _saved(tmp_path, kind, SOUND[kind])
    encoder = load_speech_encoder(str(folder)).eval()
    assert encoder.pretrained
    voice, mask = _waveforms(30, 1, 17, 0, 17)
    net: Any = _reference(folder)
    with torch.inference_mode():
        features, kept = encoder(voice, mask)
        assert features.shape == (5, 30, encoder.feature_size)
        assert torch.equal(kept, mask)
        assert not features[~mask].any()
        for row, length in ((0, 30), (1, 1), (2, 17), (4, 17)):
            sound = voice[row, :length].flatten()
            sound = (sound - sound.mean()) / (sound.var(correction=0) + 1e-7).sqrt()
            expected = net(torch.cat((sound, torch.zeros(80)))[None]).last_hidden_state[0]
            torch.testing.assert_close(features[row, :length], expected, atol=1e-5, rtol=0)
            alone, _ = encoder(voice[[row], :length], mask[[row], :length])
            torch.testing.assert_close(features[row, :length], alone[0], atol=1e-5, rtol=0)


def test_speech_is_made_as_loud_as_the_network_was_trained_on(tmp_path: Path) -> None:
    loud, mask = _waveforms(12)
    for preparation, same in (({"do_normalize": True}, True), ({"do_normalize": False}, False)):
        folder = _saved(tmp_path / str(same), "hubert", SOUND["hubert"], preparation)
        encoder = load_speech_encoder(str(folder)).eval()
        with torch.inference_mode():
            assert torch.allclose(encoder(loud, mask)[0], encoder(loud / 4 + 0.1, mask)[0], atol=1e-3) == same


def test_gaps_in_speech_are_left_out_and_left_empty(tmp_path: Path) -> None:
    encoder = load_speech_encoder(str(_saved(tmp_path, "hubert", SOUND["hubert"]))).eval()
    voice, mask = _waveforms(20)
    mask[0, 5:9] = False
    with torch.inference_mode():
        features, _ = encoder(voice, mask)
        without, _ = encoder(voice[:, mask[0]], mask[:, mask[0]])
    torch.testing.assert_close(features[:, mask[0]], without)
    assert not features[0, 5:9].any()


def test_nothing_is_masked_or_left_out_at_random_when_an_encoder_of_speech_is_trained(tmp_path: Path) -> None:
    still = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "feat_proj_dropout": 0.0}
    random = {"mask_time_prob": 0.5, "mask_time_length": 2, "mask_feature_prob": 0.5, "layerdrop": 0.9}
    folder = _saved(tmp_path, "hubert", {**SOUND["hubert"], **still, **random})
    encoder = load_speech_encoder(str(folder)).eval()
    voice, mask = _waveforms(25)
    expected = encoder(voice, mask)[0]
    heard = encoder.train()(voice, mask)[0]
    torch.testing.assert_close(heard, expected, atol=1e-5, rtol=0)
    heard.square().sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


Encoder = FrameEncoder | ClipEncoder | SpeechEncoder


def _answer(encoder: Encoder) -> Tensor:
    with torch.inference_mode():
        if isinstance(encoder, FrameEncoder):
            answer: Tensor = encoder.eval()(_pictures(2, 3, 48, 48))
        elif isinstance(encoder, ClipEncoder):
            answer = encoder.eval()(_pictures(1, 5, 3, 48, 48), torch.ones((1, 5), dtype=torch.bool))
        else:
            answer = encoder.eval()(*_waveforms(6, 3))[0]
    return answer


def _rebuilt(encoder: Encoder, description: dict[str, Any]) -> Encoder:
    if isinstance(encoder, FrameEncoder):
        return rebuild_frame_encoder(description, 48)
    return (
        rebuild_clip_encoder(description, 48)
        if isinstance(encoder, ClipEncoder)
        else rebuild_speech_encoder(description)
    )


def _load_clips(folder: str, kind: str) -> ClipEncoder:
    return load_clip_encoder(folder, 48, "grid" if kind == "videomae" else "network")


@pytest.mark.parametrize("kind", [*PICTURES, *CLIPS, *SOUND])
def test_an_encoder_is_rebuilt_from_its_description_and_its_weights(kind: str, tmp_path: Path) -> None:
    kinds = {**PICTURES, **CLIPS, **SOUND}
    preparation = {"image_mean": [0.1, 0.2, 0.3], "do_normalize": kind != "wavlm"}
    folder = str(_saved(tmp_path / "somewhere private", kind, kinds[kind], preparation))
    encoder: Encoder
    if kind in PICTURES:
        encoder = load_frame_encoder(folder, 48, "grid" if kind == "dinov2" else "network")
    else:
        encoder = _load_clips(folder, kind) if kind in CLIPS else load_speech_encoder(folder)
    text = json.dumps(encoder.describe())
    assert "private" not in text
    assert "LABEL_0" not in text
    again = _rebuilt(encoder, json.loads(text))
    again.load_state_dict(encoder.state_dict())
    assert again.pretrained
    assert torch.equal(_answer(again), _answer(encoder))


def test_weights_in_half_precision_are_read_in_single(tmp_path: Path) -> None:
    torch.manual_seed(3)
    AutoModel.from_config(AutoConfig.for_model("vit", **PICTURES["vit"])).half().save_pretrained(tmp_path)
    encoder = load_frame_encoder(str(tmp_path), 64)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    rebuilt = rebuild_frame_encoder(encoder.describe(), 64)
    assert {parameter.dtype for parameter in rebuilt.parameters()} == {torch.float32}


def test_an_encoder_that_takes_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"'random:hubert-tiny' takes sound \(expected a network that takes pictu"):
        load_frame_encoder("random:hubert-tiny", 48)
    with pytest.raises(WeightsError, match=r"takes clips \(expected a network that takes pictures\)"):
        load_frame_encoder(str(_saved(tmp_path / "v", "vjepa2", CLIPS["vjepa2"])), 48)
    with pytest.raises(WeightsError, match=r"no encoder 'random:vit-bas'.*Did you mean 'vit-base'\?"):
        load_clip_encoder("random:vit-bas", 48)
    with pytest.raises(WeightsError, match=r"takes pictures \(expected a network that takes clips\)"):
        load_clip_encoder("random:vit-tiny", 48)
    with pytest.raises(WeightsError, match=r"takes clips \(expected a network that takes sound\)"):
        load_speech_encoder("random:videomae-tiny")
    with pytest.raises(WeightsError, match=r"takes text \(expected a network that takes pictures\)"):
        load_frame_encoder(str(_saved(tmp_path / "t", "bert", {**LAYERS, "vocab_size": 9})), 48)
    spectrograms = {**LAYERS, "max_length": 32, "num_mel_bins": 16}
    with pytest.raises(WeightsError, match=r"does not hear as HuBERT does \(got no waveform; expected convolutions"):
        load_speech_encoder(str(_saved(tmp_path / "s", "audio-spectrogram-transformer", spectrograms)))


def test_half_a_network_is_refused_not_filled_up_with_random_numbers(tmp_path: Path) -> None:
    folder = _saved(tmp_path, "vit", PICTURES["vit"])
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(WeightsError, match=r"cannot be loaded: 16 of its weights are missing or of another shape, lay"):
        load_frame_encoder(str(folder), 64)
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 128}))
    with pytest.raises(WeightsError, match=r"cannot be loaded: 6 of its weights are missing or of another shape, lay"):
        load_frame_encoder(str(folder), 64)


def test_a_kind_of_network_that_is_no_encoder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "blip_vision_model"}))
    with pytest.raises(WeightsError, match=r"no network of the kind 'blip_vision_model'.*Give a folder with config"):
        load_frame_encoder(str(tmp_path), 64)


def test_damaged_and_unsafe_weights_are_refused(tmp_path: Path) -> None:
    folder = _saved(tmp_path, "vit", PICTURES["vit"])
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match=r"cannot be loaded: .*incomplete"):
        load_frame_encoder(str(folder), 64)
    weights.unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"cannot be loaded: .*safetensors"):
        load_frame_encoder(str(folder), 64)
    (folder / "config.json").write_text(json.dumps({"model_type": "x", "auto_map": {"AutoConfig": "evil.Config"}}))
    (folder / "evil.py").write_text("raise SystemExit('code of the repository was run')")
    with pytest.raises(WeightsError, match=r"cannot be loaded: "):
        load_frame_encoder(str(folder), 64)


@pytest.mark.skipif(find_spec("timm") is not None, reason="timm is installed")
def test_a_network_of_timm_asks_for_the_extra(tmp_path: Path) -> None:
    config = {"architecture": "resnet18", "num_classes": 1000, "pretrained_cfg": {"input_size": [3, 224, 224]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"requires the timm library.*pip install 'reactometer\[timm\]'"):
        load_frame_encoder(str(tmp_path), 64)
    description = {
        **load_frame_encoder("random:resnet-tiny", 64).describe(),
        "config": {"model_type": "timm_wrapper", "architecture": "resnet18"},
    }
    with pytest.raises(WeightsError, match=r"requires the timm library.*pip install 'reactometer\[timm\]'"):
        rebuild_frame_encoder(description, 64)


def test_masked_moments_equal_numpy() -> None:
    sequence = torch.randn(2, 5, 3)
    mask = torch.tensor([[True, False, True, True, False], [False] * 5])
    mean, spread = masked_moments(sequence, mask)
    kept = sequence[0, mask[0]].numpy()
    np.testing.assert_allclose(mean[0].numpy(), kept.mean(0), atol=1e-6)
    np.testing.assert_allclose(spread[0].numpy(), np.sqrt(kept.var(0) + 1e-6), atol=1e-5)
    assert not mean[1].any()
