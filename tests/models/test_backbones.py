"""Networks by name, out of a folder and from their description: what is loaded, rebuilt and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel

from reactometer.errors import WeightsError
from reactometer.models.audio_encoders import SpeechEncoder
from reactometer.models.backbones import Backbone, describe_backbone, load_backbone, rebuild_backbone
from reactometer.models.registry import load_network
from reactometer.models.vision_encoders import ClipEncoder, FrameEncoder
from reactometer.paths import STARTER, find_checkpoint
from small_networks import (
    CLIPS,
    LAYERS,
    PICTURES,
    SOUND,
    clip_encoder,
    frame_encoder,
    pictures,
    saved,
    saved_classifier,
    speech_encoder,
    waveforms,
)

Encoder = FrameEncoder | ClipEncoder | SpeechEncoder


def _answer(encoder: Encoder) -> Tensor:
    with torch.inference_mode():
        if isinstance(encoder, FrameEncoder):
            answer: Tensor = encoder.eval()(pictures(2, 3, 48, 48))
        elif isinstance(encoder, ClipEncoder):
            answer = encoder.eval()(pictures(1, encoder.n_frames, 3, 64, 64))
        else:
            answer = encoder.eval()(waveforms(6)[0].view(1, -1))
    return answer


def _encoder(kind: str, net: Backbone) -> Encoder:
    if kind in SOUND:
        return SpeechEncoder(net)
    return FrameEncoder(net, 48) if kind in PICTURES else ClipEncoder(net, 64)


@pytest.mark.parametrize("kind", [*PICTURES, *CLIPS, *SOUND])
def test_an_encoder_is_rebuilt_from_its_description_and_its_weights(kind: str, tmp_path: Path) -> None:
    kinds = {**PICTURES, **CLIPS, **SOUND}
    preparation = {"image_mean": [0.1, 0.2, 0.3], "do_normalize": kind != "wavlm"}
    folder = str(saved(tmp_path / "somewhere private", kind, kinds[kind], preparation))
    net = load_backbone(folder, "images" if kind in PICTURES else "clips" if kind in CLIPS else "audio")
    text = json.dumps(describe_backbone(net))
    assert "private" not in text
    assert "LABEL_0" not in text
    again = rebuild_backbone(json.loads(text))
    again.module.load_state_dict(net.module.state_dict())
    assert again.pretrained
    assert torch.equal(_answer(_encoder(kind, again)), _answer(_encoder(kind, net)))


def test_weights_in_half_precision_are_read_in_single(tmp_path: Path) -> None:
    AutoModel.from_pretrained(saved(tmp_path, "vit", PICTURES["vit"])).half().save_pretrained(tmp_path)
    encoder = frame_encoder(str(tmp_path), 64)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}


def test_an_encoder_that_takes_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"'random:hubert-tiny'.*got audio"):
        frame_encoder("random:hubert-tiny", 48)
    with pytest.raises(WeightsError, match=r"got clips.*expected images"):
        frame_encoder(str(saved(tmp_path / "v", "vjepa2", CLIPS["vjepa2"])), 48)
    with pytest.raises(WeightsError, match=r"random:vit-tin'.*'vit-tiny'"):
        clip_encoder("random:vit-tin", 64)
    with pytest.raises(WeightsError, match=r"got images.*expected clips"):
        clip_encoder("random:vit-tiny", 48)
    with pytest.raises(WeightsError, match=r"got clips.*expected audio"):
        speech_encoder("random:videomae-tiny")
    with pytest.raises(WeightsError, match=r"got text.*expected images"):
        frame_encoder(str(saved(tmp_path / "t", "bert", {**LAYERS, "vocab_size": 9})), 48)
    spectrograms = {**LAYERS, "max_length": 32, "num_mel_bins": 16}
    with pytest.raises(WeightsError, match="HuBERT"):
        speech_encoder(str(saved(tmp_path / "s", "audio-spectrogram-transformer", spectrograms)))


def test_half_a_network_is_refused_not_filled_up_with_random_numbers(tmp_path: Path) -> None:
    folder = saved(tmp_path, "vit", PICTURES["vit"])
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(WeightsError, match=r"16 weights are missing"):
        frame_encoder(str(folder), 64)
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 128}))
    with pytest.raises(WeightsError, match=r" 6 weights are missing"):
        frame_encoder(str(folder), 64)


def test_an_encoder_without_its_normalisation_is_refused(tmp_path: Path) -> None:
    """ImageNet's would fit some networks only."""
    cases = (
        ("vit", PICTURES["vit"], "image_mean and image_std"),
        ("hubert", SOUND["hubert"], "do_normalize"),
    )
    for kind, settings, missing in cases:
        folder = saved(tmp_path / kind, kind, settings)
        (folder / "preprocessor_config.json").unlink()
        with pytest.raises(WeightsError, match=rf"no {missing}.*preprocessor_config\.json.*\{{"):
            load_backbone(str(folder), "audio" if kind == "hubert" else "images")
    (folder / "preprocessor_config.json").write_text('{"do_normalize": false}')
    assert load_backbone(str(folder), "audio").settings == {"do_normalize": False}


def test_a_kind_of_network_that_is_no_encoder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "blip_vision_model"}))
    with pytest.raises(WeightsError, match="blip_vision_model"):
        frame_encoder(str(tmp_path), 64)


def test_damaged_and_unsafe_weights_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, "vit", PICTURES["vit"])
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match=r"cannot be loaded: .*incomplete"):
        frame_encoder(str(folder), 64)
    weights.unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"cannot be loaded: .*safetensors"):
        frame_encoder(str(folder), 64)
    (folder / "config.json").write_text(
        json.dumps({"model_type": "x", "auto_map": {"AutoConfig": "evil.Config"}})
    )
    (folder / "evil.py").write_text("raise SystemExit('code of the repository was run')")
    with pytest.raises(WeightsError, match=r"cannot be loaded: "):
        frame_encoder(str(folder), 64)


def _has_pooler(encoder: FrameEncoder) -> bool:
    return getattr(encoder.net, "pooler", None) is not None


def test_a_pooler_is_used_where_it_was_trained_and_left_out_where_it_would_be_random(tmp_path: Path) -> None:
    with_pooler = frame_encoder(str(saved(tmp_path / "with", "vit", PICTURES["vit"])), 64).eval()
    assert _has_pooler(with_pooler)
    saved_classifier(tmp_path / "without", "vit", PICTURES["vit"])
    without = frame_encoder(str(tmp_path / "without"), 64).eval()
    assert not _has_pooler(without)
    assert not _has_pooler(frame_encoder("random:vit-tiny", 64))
    frames = pictures(2, 3, 64, 64)
    with torch.inference_mode():
        net: Any = without.net
        expected = net(pixel_values=without.pixels(frames)).last_hidden_state[:, 0]
        torch.testing.assert_close(without(frames), expected)
        again = frame_encoder(str(tmp_path / "without"), 64).eval()
        assert torch.equal(again(frames), without(frames))
    assert {"pooler.dense.weight", "pooler.dense.bias"} == set(with_pooler.net.state_dict()) - set(
        without.net.state_dict()
    )


def test_the_starters_backbone_is_loaded_by_name() -> None:
    encoder = frame_encoder("starter", 64)
    assert encoder.pretrained
    within = load_network(find_checkpoint(STARTER))[0].encoders["face"]
    assert isinstance(within, FrameEncoder)
    crops = pictures(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(encoder.eval()(crops), within(crops))


def test_a_home_that_is_there_is_found_and_one_that_is_not_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable out of a file of settings comes with its tilde: no shell has put a home in its place."""
    saved(
        tmp_path / "weights" / "a--net",
        "resnet",
        {"embedding_size": 8, "hidden_sizes": [8], "depths": [1]},
        {},
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("REACTOMETER_WEIGHTS", "~/weights")
    assert load_backbone("a/net", "images").pretrained
    with pytest.raises(WeightsError, match="~nobody_here/net"):
        load_backbone("~nobody_here/net", "images")
