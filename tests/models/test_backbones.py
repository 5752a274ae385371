"""Networks by name, out of a folder and from their description: what is loaded, rebuilt and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel

from reactometer.errors import WeightsError
from reactometer.models.audio_encoders import SpeechEncoder, load_speech_encoder
from reactometer.models.backbones import load_net, rebuild_net
from reactometer.models.vision_encoders import (
    ClipEncoder,
    FrameEncoder,
    load_clip_encoder,
    load_frame_encoder,
)
from reactometer.models.weights import load_network
from reactometer.paths import STARTER
from small_networks import CLIPS, LAYERS, PICTURES, SOUND, pictures, saved, waveforms

Encoder = FrameEncoder | ClipEncoder | SpeechEncoder


def _answer(encoder: Encoder) -> Tensor:
    with torch.inference_mode():
        if isinstance(encoder, FrameEncoder):
            answer: Tensor = encoder.eval()(pictures(2, 3, 48, 48))
        elif isinstance(encoder, ClipEncoder):
            answer = encoder.eval()(pictures(1, 5, 3, 48, 48), torch.ones((1, 5), dtype=torch.bool))
        else:
            answer = encoder.eval()(*waveforms(6, 3))[0]
    return answer


def _rebuilt(encoder: Encoder, description: dict[str, Any]) -> Encoder:
    net = rebuild_net(description)
    if isinstance(encoder, SpeechEncoder):
        return SpeechEncoder(net)
    return type(encoder)(net, 48, description["pooling"])


def _load_clips(folder: str, kind: str) -> ClipEncoder:
    return load_clip_encoder(folder, 48, "grid" if kind == "videomae" else "network")


@pytest.mark.parametrize("kind", [*PICTURES, *CLIPS, *SOUND])
def test_an_encoder_is_rebuilt_from_its_description_and_its_weights(kind: str, tmp_path: Path) -> None:
    kinds = {**PICTURES, **CLIPS, **SOUND}
    preparation = {"image_mean": [0.1, 0.2, 0.3], "do_normalize": kind != "wavlm"}
    folder = str(saved(tmp_path / "somewhere private", kind, kinds[kind], preparation))
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
    rebuilt = FrameEncoder(rebuild_net(encoder.describe()), 64)
    assert {parameter.dtype for parameter in rebuilt.parameters()} == {torch.float32}


def test_an_encoder_that_takes_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"'random:hubert-tiny' takes sound"):
        load_frame_encoder("random:hubert-tiny", 48)
    with pytest.raises(WeightsError, match=r"takes clips.*pictures"):
        load_frame_encoder(str(saved(tmp_path / "v", "vjepa2", CLIPS["vjepa2"])), 48)
    with pytest.raises(WeightsError, match=r"random:vit-bas'.*'vit-base'"):
        load_clip_encoder("random:vit-bas", 48)
    with pytest.raises(WeightsError, match=r"takes pictures.*clips"):
        load_clip_encoder("random:vit-tiny", 48)
    with pytest.raises(WeightsError, match=r"takes clips.*sound"):
        load_speech_encoder("random:videomae-tiny")
    with pytest.raises(WeightsError, match=r"takes text.*pictures"):
        load_frame_encoder(str(saved(tmp_path / "t", "bert", {**LAYERS, "vocab_size": 9})), 48)
    spectrograms = {**LAYERS, "max_length": 32, "num_mel_bins": 16}
    with pytest.raises(WeightsError, match="HuBERT"):
        load_speech_encoder(str(saved(tmp_path / "s", "audio-spectrogram-transformer", spectrograms)))


def test_half_a_network_is_refused_not_filled_up_with_random_numbers(tmp_path: Path) -> None:
    folder = saved(tmp_path, "vit", PICTURES["vit"])
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(WeightsError, match=r"16 of its weights"):
        load_frame_encoder(str(folder), 64)
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 128}))
    with pytest.raises(WeightsError, match=r" 6 of its weights"):
        load_frame_encoder(str(folder), 64)


def test_a_kind_of_network_that_is_no_encoder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "blip_vision_model"}))
    with pytest.raises(WeightsError, match="blip_vision_model"):
        load_frame_encoder(str(tmp_path), 64)


def test_damaged_and_unsafe_weights_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, "vit", PICTURES["vit"])
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


def _has_pooler(encoder: FrameEncoder) -> bool:
    return getattr(encoder.net, "pooler", None) is not None


def test_a_pooler_is_used_where_it_was_trained_and_left_out_where_it_would_be_random(tmp_path: Path) -> None:
    from transformers import ViTForImageClassification

    with_pooler = load_frame_encoder(str(saved(tmp_path / "with", "vit", PICTURES["vit"])), 64).eval()
    assert _has_pooler(with_pooler)
    ViTForImageClassification(AutoConfig.for_model("vit", **PICTURES["vit"])).save_pretrained(tmp_path / "without")
    without = load_frame_encoder(str(tmp_path / "without"), 64).eval()
    assert not _has_pooler(without)
    assert not _has_pooler(load_frame_encoder("random:vit-tiny", 64))
    frames = pictures(2, 3, 64, 64)
    with torch.inference_mode():
        net: Any = without.net
        expected = net(pixel_values=without.pixels(frames)).last_hidden_state.mean(1)
        torch.testing.assert_close(without(frames), expected)
        again = load_frame_encoder(str(tmp_path / "without"), 64).eval()
        assert torch.equal(again(frames), without(frames))
    assert {"pooler.dense.weight", "pooler.dense.bias"} == set(with_pooler.net.state_dict()) - set(
        without.net.state_dict()
    )


def test_the_backbone_inside_the_package_is_had_by_name() -> None:
    encoder = load_frame_encoder("starter", 64)
    assert encoder.pretrained
    within = load_network(STARTER)[0].face_encoder
    assert isinstance(within, FrameEncoder)
    crops = pictures(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(encoder.eval()(crops), within(crops))


def test_a_home_that_is_there_is_found_and_one_that_is_not_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable out of a file of settings comes with its tilde: no shell has put a home in its place."""
    saved(tmp_path / "weights" / "a--net", "resnet", {"embedding_size": 8, "hidden_sizes": [8], "depths": [1]}, {})
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("REACTOMETER_WEIGHTS", "~/weights")
    assert load_net("a/net", "pictures").pretrained
    with pytest.raises(WeightsError, match="~nobody_here/net"):
        load_net("~nobody_here/net", "pictures")


PUBLISHED = {  # what it takes, millions of parameters without a head
    "resnet-50": ("pictures", 25.557 - 2.049),  # torchvision's table of weights
    "resnet-18": ("pictures", 11.690 - 0.513),  # the same
    "vit-base": ("pictures", 86.568 - 0.769),  # the same
    "convnext-tiny": ("pictures", 28.589 - 0.769),  # the same
    "videomae-base": ("clips", 87.0),  # arXiv 2203.12602
    "hubert-base": ("sound", 94.7),  # arXiv 2105.01051 (SUPERB)
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_architectures_are_as_large_as_published(name: str) -> None:
    takes, parameters = PUBLISHED[name]
    with torch.device("meta"):
        module = load_net(f"random:{name}", takes).module.eval()
    assert sum(parameter.numel() for parameter in module.parameters()) / 1e6 == pytest.approx(parameters, rel=0.01)
