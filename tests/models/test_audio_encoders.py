"""Encoders of the voice: against transformers itself, in batches, behind masks, on their own clock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from reactometer.config import ModelConfig
from reactometer.errors import ConfigError
from reactometer.media.audio_features import MEL_BANDS
from reactometer.models.audio_encoders import ContourEncoder, LogMelEncoder, StepConvolution
from reactometer.models.batches import Stream
from reactometer.models.registry import load_encoders
from small_networks import SOUND, encode_speech, reference, saved, speech_encoder, waveforms


def _steps(*lengths: int, size: int = 3, rate_hz: float = 10.0) -> Stream:
    """Features (B, N, M), their mask (B, N), and times (B, N) that begin with the clip."""
    n_steps = max(lengths)
    mask = torch.arange(n_steps) < torch.tensor(lengths).unsqueeze(1)
    voice = torch.randn((*mask.shape, size), generator=torch.Generator().manual_seed(1))
    return Stream(voice, mask, (torch.arange(n_steps) / rate_hz).expand(len(lengths), -1))


@pytest.mark.parametrize("kind", ["log-mel", "convolution"])
@pytest.mark.parametrize("n_steps", [1, 16, 17, 90])
def test_a_convolution_shortens_the_sequence_and_ignores_masked_steps(kind: str, n_steps: int) -> None:
    torch.manual_seed(0)
    encoder = (LogMelEncoder() if kind == "log-mel" else StepConvolution(MEL_BANDS)).eval()
    voice, outside = _steps(n_steps, 100, 0, size=MEL_BANDS), ~_steps(n_steps, 100, 0).mask
    noisy = Stream(voice.values + 99.0 * outside.unsqueeze(2), voice.mask, voice.times_s + 99.0 * outside)
    with torch.inference_mode():
        features, other = encoder(voice), encoder(noisy)
        alone = encoder(Stream(*(part[:1, :n_steps] for part in voice)))
    n_kept = -(-n_steps // encoder.stride)
    assert features.values.shape == (3, -(-100 // encoder.stride), encoder.feature_size)
    assert features.mask.sum(1).tolist() == [n_kept, features.values.shape[1], 0]
    assert not features.values[~features.mask].any()
    assert torch.equal(features.times_s, voice.times_s[:, :: encoder.stride])
    assert torch.equal(other.values, features.values)
    torch.testing.assert_close(features.values[:1, :n_kept], alone.values, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", SOUND)
def test_speech_becomes_what_transformers_makes_of_each_clip_alone(kind: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, kind, SOUND[kind])
    encoder = speech_encoder(str(folder)).eval()
    assert encoder.pretrained
    voice, mask = waveforms(30, 1, 17, 0, 17)
    net: Any = reference(folder)
    with torch.inference_mode():
        features = encode_speech(encoder, voice, mask)
        assert features.shape == (5, 30, encoder.feature_size)
        assert not features[~mask].any()
        for row, length in ((0, 30), (1, 1), (2, 17), (4, 17)):
            sound = voice[row, :length].flatten()
            sound = (sound - sound.mean()) / (sound.var(correction=0) + 1e-7).sqrt()
            expected = net(torch.cat((sound, torch.zeros(80)))[None]).last_hidden_state[0]
            torch.testing.assert_close(features[row, :length], expected, atol=1e-5, rtol=0)


def test_speech_is_made_as_loud_as_the_network_was_trained_on(tmp_path: Path) -> None:
    loud = waveforms(12)[0].view(1, -1)
    for preparation, same in (({"do_normalize": True}, True), ({"do_normalize": False}, False)):
        folder = saved(tmp_path / str(same), "hubert", SOUND["hubert"], preparation)
        encoder = speech_encoder(str(folder)).eval()
        with torch.inference_mode():
            assert torch.allclose(encoder(loud), encoder(loud / 4 + 0.1), atol=1e-3) == same


def test_gaps_in_speech_are_left_out_and_left_empty(tmp_path: Path) -> None:
    encoder = speech_encoder(str(saved(tmp_path, "hubert", SOUND["hubert"]))).eval()
    voice, mask = waveforms(20)
    mask[0, 5:9] = False
    with torch.inference_mode():
        features = encode_speech(encoder, voice, mask)
        without = encode_speech(encoder, voice[:, mask[0]], mask[:, mask[0]])
    torch.testing.assert_close(features[:, mask[0]], without)
    assert not features[0, 5:9].any()


def test_a_speech_encoder_is_trained_without_random_masks_and_layer_drop(tmp_path: Path) -> None:
    still = {
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "feat_proj_dropout": 0.0,
    }
    random = {"mask_time_prob": 0.5, "mask_time_length": 2, "mask_feature_prob": 0.5, "layerdrop": 0.9}
    folder = saved(tmp_path, "hubert", {**SOUND["hubert"], **still, **random})
    encoder = speech_encoder(str(folder)).eval()
    voice = waveforms(25)[0].view(1, -1)
    expected = encoder(voice)
    heard = encoder.train()(voice)
    torch.testing.assert_close(heard, expected, atol=1e-5, rtol=0)
    heard.square().sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_a_convolution_encodes_the_time_of_each_step() -> None:
    """The same features a second later, and at half the pace."""
    torch.manual_seed(0)
    encoder, voice = StepConvolution(3).eval(), _steps(30)
    with torch.inference_mode():
        features = encoder(voice).values
        for other_s in (voice.times_s + 1.0, voice.times_s * 2.0):
            assert (encoder(voice._replace(times_s=other_s)).values - features).abs().amax(2).min() > 1e-4


def test_contours_ask_for_a_frozen_model() -> None:
    config = ModelConfig(name="multimodal", voice_encoder="contours", modalities=("voice",), frozen=True)
    assert isinstance(load_encoders(config)["voice"], ContourEncoder)
    with pytest.raises(ConfigError, match=r"nothing to train.*model\.frozen=true"):
        load_encoders(config.model_copy(update={"frozen": False}))
