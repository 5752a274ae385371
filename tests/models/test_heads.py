"""Streams: what an encoder makes of each modality keeps the mask and the times, and the layers that read
it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from reactometer.config import Config, ModelConfig
from reactometer.models.architectures import reads_length
from reactometer.models.batches import Batch, Stream
from reactometer.models.heads import (
    GPU_BATCH_MULTIPLE,
    Encoder,
    FeatureScaler,
    PrecomputedFeatures,
    TimeEmbedding,
    build_transformer,
    encode_frames,
    encode_stream,
    pad_to_multiple,
    spread_steps,
)
from reactometer.models.registry import build_model, load_encoders
from reactometer.models.vision_encoders import ClipEncoder, FrameEncoder

SEEN = torch.tensor([[True, False, True], [False, False, False]])
HEARD = torch.tensor([[True] * 40, [True] * 20 + [False] * 20])


def _encoders(name: str, encoder: str, size_px: int = 32) -> dict[str, Encoder]:
    torch.manual_seed(0)
    return load_encoders(ModelConfig.model_validate({"name": name, "encoder": encoder, "size_px": size_px}))


def _batch(frames: Tensor | None = None, voice: Tensor | None = None) -> Batch:
    """Two clips; of the first, two of three frames are seen, of the second none; the second's sound is half
    as long."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 255, (2, 3, 3, 32, 32), generator=generator, dtype=torch.uint8)
    streams = {
        "face": Stream(
            pictures if frames is None else frames,
            SEEN,
            torch.tensor([[0.5, 1.0, 2.5], [0.25, 0.5, 0.75]]),
        ),
        "voice": Stream(
            torch.randn((2, 40, 64), generator=generator) if voice is None else voice,
            HEARD,
            torch.arange(40).expand(2, 40) / 100,
        ),
    }
    return Batch(
        streams,
        targets=torch.zeros(2, 1),
        target_mask=torch.tensor([True, True]),
        clip_index=torch.arange(2),
        face_indices=torch.tensor([0, 2]),
    )


def test_features_that_are_given_are_the_stream() -> None:
    values = torch.randn(2, 3, 5).double()
    stream = _batch(values).streams["face"]
    encoded = encode_stream(PrecomputedFeatures(5), stream, torch.zeros(0))
    assert encoded.values.dtype == torch.float32
    assert torch.equal(encoded.values, values.float())
    assert (encoded.mask is stream.mask, encoded.times_s is stream.times_s) == (True, True)


@torch.inference_mode()
def test_frames_are_encoded_one_by_one_where_they_are_seen() -> None:
    encoder = _encoders("resnet50", "random:resnet-tiny")["face"]
    assert isinstance(encoder, FrameEncoder)
    encoder.eval()
    batch = _batch()
    stream = encode_stream(encoder, batch.streams["face"], batch.face_indices)
    assert (stream.mask is batch.streams["face"].mask, stream.times_s is batch.streams["face"].times_s) == (
        True,
        True,
    )
    torch.testing.assert_close(stream.values[0, [0, 2]], encoder(batch.streams["face"].values[0, [0, 2]]))
    assert stream.values[0, 0].any()
    assert not stream.values[~SEEN].any()
    assert stream.values.shape == (2, 3, encoder.feature_size)
    nothing = encode_frames(encoder, batch.streams["face"].values, torch.zeros(0, dtype=torch.int64))
    assert (nothing.shape, bool(nothing.any())) == ((2, 3, encoder.feature_size), False)


@pytest.mark.parametrize("count", [1, 5, 15, 16, 17, 40])
def test_places_are_filled_up_with_themselves_in_their_order(count: int) -> None:
    places = 3 * torch.arange(count)
    filled = pad_to_multiple(places)
    assert len(filled) in range(count, count + GPU_BATCH_MULTIPLE)
    assert len(filled) % GPU_BATCH_MULTIPLE == 0
    assert filled.tolist() == [3 * (i % count) for i in range(len(filled))]


@torch.inference_mode()
def test_half_precision_features_stay_so() -> None:
    encoder = _encoders("resnet50", "random:resnet-tiny")["face"]
    assert isinstance(encoder, FrameEncoder)
    with torch.autocast("cpu", torch.bfloat16):
        batch = _batch()
        assert (
            encode_frames(encoder.eval(), batch.streams["face"].values, batch.face_indices).dtype
            == encoder(batch.streams["face"].values[SEEN]).dtype
        )


@torch.inference_mode()
def test_a_clip_is_encoded_into_one_step_at_its_first_time() -> None:
    encoder = _encoders("videomae", "random:videomae-tiny", 64)["face"]
    assert isinstance(encoder, ClipEncoder)
    encoder.eval()
    batch = _batch(torch.randint(0, 255, (2, 3, 3, 64, 64), dtype=torch.uint8))
    stream = encode_stream(encoder, batch.streams["face"], batch.face_indices)
    seen = batch.streams["face"].values[:1, [0, 2]].repeat_interleave(8, 1)  # (1, 16, 3, 64, 64)
    torch.testing.assert_close(stream.values[:1, 0], encoder(seen))
    assert stream.values.shape == (2, 1, encoder.feature_size)
    assert stream.mask.tolist() == [[True], [False]]
    assert stream.times_s.tolist() == [[0.5], [0.25]]


def test_features_are_put_on_a_scale_and_stay_zero_outside_the_mask() -> None:
    layer, stream = FeatureScaler(2), Stream(torch.randn(2, 3, 2), SEEN, torch.zeros(2, 3))
    assert {name: tensor.tolist() for name, tensor in layer.state_dict().items()} == {
        "mean": [0.0, 0.0],
        "std": [1.0, 1.0],
    }
    torch.testing.assert_close(layer.scale_stream(stream).values, stream.values * SEEN.unsqueeze(2))
    layer.mean, layer.std = torch.tensor([1.0, -1.0]), torch.tensor([2.0, 0.5])
    scaled = layer.scale_stream(stream)
    expected = (stream.values - torch.tensor([1.0, -1.0])) / torch.tensor([2.0, 0.5])
    torch.testing.assert_close(scaled.values[SEEN], expected[SEEN])
    assert not scaled.values[~SEEN].any()
    assert scaled.mask is SEEN


def test_attention_gets_the_same_number_of_steps_whatever_their_number() -> None:
    """The steps in the mask, in order: half of eight, each of two twice, none of none."""
    mask = torch.tensor([[True] * 8, [False, True, False, True] + [False] * 4, [False] * 8])
    times_s = torch.arange(8.0).expand(3, 8)
    steps = spread_steps(Stream(times_s.unsqueeze(2), mask, times_s), 4)
    assert steps.values[:2, :, 0].tolist() == [[1.0, 3.0, 5.0, 7.0], [1.0, 1.0, 3.0, 3.0]]
    assert steps.times_s[:2].tolist() == steps.values[:2, :, 0].tolist()
    assert steps.mask.tolist() == [[True] * 4, [True] * 4, [False] * 4]


@pytest.mark.parametrize("name", ["resnet50", "resnet50-gru", "vit-transformer", "multimodal"])
def test_a_configuration_says_whether_its_model_can_read_the_clip_length(name: str) -> None:
    """It can if, and only if, other times change its answer."""
    torch.manual_seed(0)
    for times in ("seconds", "none"):
        config = Config.model_validate({"model": {"name": name, "times": times, "hidden": 16}})
        network = build_model(
            config.model, load_encoders(config.model, {"face": 4, "voice": 3}), [0.5]
        ).eval()
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        frames, voice = torch.randn(2, 3, 4), torch.randn(2, 40, 3)
        batch = _batch(frames, voice)
        slower = batch._replace(
            streams={
                name: stream._replace(times_s=3 * stream.times_s) for name, stream in batch.streams.items()
            }
        )
        with torch.inference_mode():
            changes = not torch.equal(network(batch), network(slower))
        assert changes == reads_length(config) == (times == "seconds" and name != "resnet50")


def test_times_are_embedded_as_waves_from_a_quarter_second_to_two_minutes() -> None:
    torch.manual_seed(0)
    layer = TimeEmbedding(6)
    periods_s = [0.25 * (120 / 0.25) ** (number / 15) for number in range(16)]
    assert layer.state_dict()["rates"].tolist() == pytest.approx(
        [2 * math.pi / period_s for period_s in periods_s], rel=1e-4
    )
    times_s = torch.tensor([[0.0, 0.3], [2.0, 100.0]])
    angles = [[[at_s * rate for rate in layer.rates.tolist()] for at_s in row] for row in times_s.tolist()]
    waves = torch.tensor(
        [[[*map(math.sin, row_angles), *map(math.cos, row_angles)] for row_angles in row] for row in angles]
    )
    with torch.inference_mode():
        torch.testing.assert_close(layer(times_s), layer.project(waves), atol=1e-4, rtol=1e-4)
    assert layer(times_s).shape == (2, 2, 6)


def test_a_transformer_is_normalised_first_and_takes_the_batch_first() -> None:
    blocks = build_transformer(ModelConfig(hidden=8, layers=3, dropout=0.25))
    assert len(blocks.layers) == 3
    for layer in blocks.layers:
        assert isinstance(layer, torch.nn.TransformerEncoderLayer)
        assert (layer.norm_first, layer.self_attn.batch_first, layer.self_attn.num_heads) == (True, True, 4)
        assert (layer.linear1.out_features, layer.linear1.in_features) == (32, 8)
        assert (layer.dropout.p, layer.self_attn.dropout, layer.activation) == (
            0.25,
            0.25,
            torch.nn.functional.gelu,
        )
    assert isinstance(blocks.norm, torch.nn.LayerNorm)
    assert blocks.norm.normalized_shape == (8,)
    assert not blocks.enable_nested_tensor  # such a tensor could not be exported
