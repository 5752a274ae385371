"""Encoders of the voice: what reaches a step, and what must not."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from reactometer.config import ModelConfig
from reactometer.data.batches import Batch
from reactometer.models.streams import voice_stream
from reactometer.models.voice_encoders import StepConvolution
from reactometer.models.zoo import Encoders, rebuild_encoders


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
    batch = Batch(nothing, nothing, nothing, voice, mask, times_s, nothing, nothing, nothing)
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
