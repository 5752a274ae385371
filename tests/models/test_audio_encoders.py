"""Encoders of the voice: against transformers itself, in batches, behind masks, on their own clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reactometer.config import ModelConfig
from reactometer.errors import ConfigError
from reactometer.media.audio_features import MEL_BANDS, contours
from reactometer.models.audio_encoders import ContourEncoder, StepConvolution, VoiceEncoder, load_speech_encoder
from reactometer.models.batches import Batch
from reactometer.models.heads import voice_stream
from reactometer.models.registry import Encoders, load_encoders, rebuild_encoders
from small_networks import SOUND, reference, saved, waveforms


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
    folder = saved(tmp_path, kind, SOUND[kind])
    encoder = load_speech_encoder(str(folder)).eval()
    assert encoder.pretrained
    voice, mask = waveforms(30, 1, 17, 0, 17)
    net: Any = reference(folder)
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
    loud, mask = waveforms(12)
    for preparation, same in (({"do_normalize": True}, True), ({"do_normalize": False}, False)):
        folder = saved(tmp_path / str(same), "hubert", SOUND["hubert"], preparation)
        encoder = load_speech_encoder(str(folder)).eval()
        with torch.inference_mode():
            assert torch.allclose(encoder(loud, mask)[0], encoder(loud / 4 + 0.1, mask)[0], atol=1e-3) == same


def test_gaps_in_speech_are_left_out_and_left_empty(tmp_path: Path) -> None:
    encoder = load_speech_encoder(str(saved(tmp_path, "hubert", SOUND["hubert"]))).eval()
    voice, mask = waveforms(20)
    mask[0, 5:9] = False
    with torch.inference_mode():
        features, _ = encoder(voice, mask)
        without, _ = encoder(voice[:, mask[0]], mask[:, mask[0]])
    torch.testing.assert_close(features[:, mask[0]], without)
    assert not features[0, 5:9].any()


def test_nothing_is_masked_or_left_out_at_random_when_an_encoder_of_speech_is_trained(tmp_path: Path) -> None:
    still = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "feat_proj_dropout": 0.0}
    random = {"mask_time_prob": 0.5, "mask_time_length": 2, "mask_feature_prob": 0.5, "layerdrop": 0.9}
    folder = saved(tmp_path, "hubert", {**SOUND["hubert"], **still, **random})
    encoder = load_speech_encoder(str(folder)).eval()
    voice, mask = waveforms(25)
    expected = encoder(voice, mask)[0]
    heard = encoder.train()(voice, mask)[0]
    torch.testing.assert_close(heard, expected, atol=1e-5, rtol=0)
    heard.square().sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def _convolution(input_size: int = 3) -> StepConvolution:
    torch.manual_seed(0)
    encoder = StepConvolution(input_size).eval()
    encoder.mean.copy_(torch.arange(float(input_size)))
    encoder.std.fill_(2.0)
    return encoder


def _steps(*lengths: int, size: int = 3, rate_hz: float = 10.0) -> tuple[Tensor, Tensor, Tensor]:
    """Features (B, N, M), their mask (B, N), and times (B, N) that begin with the clip."""
    n_steps = max(lengths)
    mask = torch.arange(n_steps) < torch.tensor(lengths).unsqueeze(1)
    voice = torch.randn((*mask.shape, size), generator=torch.Generator().manual_seed(1))
    return voice, mask, (torch.arange(n_steps) / rate_hz).expand(len(lengths), -1)


@pytest.mark.parametrize("n_steps", [1, 8, 9, 50])
def test_a_convolution_gives_a_step_for_eight_and_hears_nothing_behind_the_mask(n_steps: int) -> None:
    encoder = _convolution()
    voice, mask, times_s = _steps(n_steps, 60, 0)
    outside = ~mask.unsqueeze(2)
    with torch.inference_mode():
        features, kept = encoder(voice, mask, times_s)
        noisy, _ = encoder(voice + 99.0 * outside, mask, times_s + 99.0 * ~mask)
        alone, _ = encoder(voice[:1, :n_steps], mask[:1, :n_steps], times_s[:1, :n_steps])
    n_kept = -(-n_steps // encoder.stride)
    assert features.shape == (3, 8, encoder.feature_size)
    assert kept.sum(1).tolist() == [n_kept, 8, 0]
    assert not features[~kept].any()
    assert torch.equal(noisy, features)
    torch.testing.assert_close(features[:1, :n_kept], alone, atol=1e-5, rtol=0)


def test_a_gap_in_the_voice_has_no_effect_whatever_is_in_it() -> None:
    voice, mask, times_s = _steps(40)
    mask[0, 10:25] = False
    encoder = _convolution()
    with torch.inference_mode():
        features, kept = encoder(voice, mask, times_s)
        other, _ = encoder(torch.where(mask.unsqueeze(2), voice, 7.0), mask, torch.where(mask, times_s, -3.0))
    assert torch.equal(kept, mask[:, ::8])
    assert torch.equal(other, features)


def test_a_convolution_tells_when_a_step_is_and_not_only_what_it_says() -> None:
    """The same features a second later, and at half the pace."""
    voice, mask, times_s = _steps(30)
    encoder = _convolution()
    with torch.inference_mode():
        features, _ = encoder(voice, mask, times_s)
        for other_s in (times_s + 1.0, times_s * 2.0):
            assert (encoder(voice, mask, other_s)[0] - features).abs().amax(2).min() > 1e-4


def test_time_reaches_a_convolution_through_the_batch() -> None:
    encoder, (voice, mask, times_s) = _convolution(), _steps(30, 17)
    nothing = torch.zeros((2, 0))
    batch = Batch(nothing, nothing, nothing, voice, mask, times_s, nothing, nothing, nothing, nothing)
    with torch.inference_mode():
        stream = voice_stream(encoder, batch)
        assert torch.equal(stream.values, encoder(voice, mask, times_s)[0])
        later = voice_stream(encoder, batch._replace(voice_times_s=times_s + 5.0))
    assert torch.equal(stream.times_s, times_s[:, ::8])
    assert (later.values - stream.values)[stream.mask].abs().amax(1).min() > 1e-4


def test_a_convolution_is_rebuilt_from_its_description_and_its_weights() -> None:
    encoder = _convolution(5)
    description = json.loads(json.dumps(Encoders(None, encoder).describe()))
    again = rebuild_encoders(ModelConfig(name="multimodal"), description).voice
    assert isinstance(again, StepConvolution)
    again.load_state_dict(encoder.state_dict())
    steps = _steps(20, size=5)
    with torch.inference_mode():
        assert torch.equal(again.eval()(*steps)[0], encoder(*steps)[0])


def test_contours_of_a_clip_are_the_same_alone_and_in_any_batch() -> None:
    encoder = ContourEncoder().eval()
    voice, mask = waveforms(30, 1, 17, 0)
    features, speech = encoder(voice, mask)
    assert features.shape == (4, 30, encoder.feature_size)
    assert not (speech & ~mask).any()
    assert not features[~speech].any()
    assert speech.any(1).tolist() == [True, True, True, False]
    for row, length in ((0, 30), (1, 1), (2, 17)):
        values, speaks = contours(voice[row, :length].flatten().numpy())
        assert torch.equal(speech[row, :length], torch.from_numpy(speaks))
        assert torch.equal(features[row, :length][speaks], torch.from_numpy(values)[speaks])


def test_contours_come_back_and_ask_for_a_frozen_model() -> None:
    config = ModelConfig(name="multimodal", voice_encoder="contours", modalities="voice", frozen=True)
    encoders = load_encoders(config)
    again = rebuild_encoders(config, encoders.describe())
    assert isinstance(encoders.voice, ContourEncoder)
    assert isinstance(again.voice, ContourEncoder)
    with pytest.raises(ConfigError, match=r"nothing to train.*model\.frozen=true"):
        load_encoders(config.model_copy(update={"frozen": False}))
