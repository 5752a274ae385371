"""The networks: masks, batches, missing modalities, frozen encoders, features in the place of encoders."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor

from item_of import item_of
from reactometer.config import ModelConfig
from reactometer.data.cache import MEDIA
from reactometer.data.inputs import Item, all_steps
from reactometer.errors import ConfigError, WeightsError
from reactometer.inference.screening import hide
from reactometer.media.audio_features import MEL_BANDS
from reactometer.models.architectures import ARCHITECTURES
from reactometer.models.audio_encoders import StepConvolution
from reactometer.models.batches import Stream, collate
from reactometer.models.heads import (
    CrossModalHead,
    GruHead,
    TransformerHead,
    masked_moments,
    move_valid_first,
)
from reactometer.models.model import ReactionModel
from reactometer.models.registry import build_model, load_encoders
from reactometer.models.vision_encoders import FrameEncoder
from reactometer.training.features import encode_inputs

MEAN, SIZE_PX = [0.2, 0.5, 0.8], 64
TINY = {
    "resnet50": "random:resnet-tiny",
    "resnet50-gru": "random:resnet-tiny",
    "vit-transformer": "random:vit-tiny",
    "videomae": "random:videomae-tiny",
    "multimodal": "random:resnet-tiny",
}


def _model(name: str, feature_dims: dict[str, int] | None = None, **settings: object) -> ReactionModel:
    torch.manual_seed(0)
    about = {"name": name, "encoder": TINY.get(name), "size_px": SIZE_PX, "hidden": 8}
    config = ModelConfig.model_validate({**about, **settings})
    model = build_model(
        config, load_encoders(config, feature_dims or {}, () if feature_dims else MEDIA), MEAN
    )
    if isinstance(model.head, CrossModalHead) and model.head.attends:
        torch.nn.init.ones_(model.head.gate)  # as after training: the transformer contributes
    return model.eval()


def _item(seed: int, frames: int, steps: int, unseen: tuple[int, ...] = ()) -> Item:
    generator = np.random.default_rng(seed)
    seen = np.array([i not in unseen for i in range(frames)], dtype=bool)
    return item_of(
        frames=generator.integers(0, 255, (frames, 3, SIZE_PX, SIZE_PX), dtype=np.uint8)
        * seen[:, None, None, None],
        face_mask=seen,
        times_s=np.arange(frames, dtype=np.float32),
        voice=generator.normal(-8, 3, (steps, MEL_BANDS)).astype(np.float32),
        voice_times_s=np.arange(steps, dtype=np.float32) * np.float32(0.01),
        targets=(0.1, 0.2, 0.3),
    )


def _score(model: ReactionModel, *items: Item) -> Tensor:
    with torch.inference_mode():
        answer: Tensor = model(collate(items, 3))
    return answer


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_item_scores_the_same_alone_and_in_any_batch(name: str) -> None:
    model = _model(name)
    item = _item(1, frames=5, steps=333, unseen=(2,))
    others = [_item(2, frames=9, steps=700), _item(3, frames=1, steps=1), _item(4, frames=0, steps=0)]
    alone = _score(model, item)[0]
    for i in range(4):
        batch = [*others[:i], item, *others[i:]]
        torch.testing.assert_close(_score(model, *batch)[i], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_unseen_frames_have_no_influence(name: str) -> None:
    model = _model(name)
    item = _item(1, frames=6, steps=100, unseen=(0, 4))
    face = item.streams["face"]
    without = item.with_steps({"face": face.select(face.mask)})
    torch.testing.assert_close(_score(model, item), _score(model, without), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["resnet50-gru", "vit-transformer", "multimodal"])
def test_order_and_time_of_the_frames_reach_the_score(name: str) -> None:
    model = _model(name, times="seconds")
    item = _item(1, frames=6, steps=100)
    face = item.streams["face"]
    for changed in (face._replace(values=face.values[::-1].copy()), face._replace(times_s=face.times_s * 3)):
        other = item.with_steps({"face": changed})
        assert (_score(model, item) - _score(model, other)).abs().max() > 1e-6


def test_the_headline_model_answers_with_the_mean_of_the_seen_frames() -> None:
    model = _model("resnet50")
    item = _item(1, frames=4, steps=0)
    with torch.inference_mode():
        features = model.encoders["face"](torch.from_numpy(item.streams["face"].values)).mean(0)
        expected = torch.sigmoid(model.output(features))
    torch.testing.assert_close(_score(model, item)[0], expected, atol=1e-6, rtol=0)


def test_without_evidence_the_answer_is_the_training_mean() -> None:
    silent_and_unseen, only_voice = (
        _item(0, frames=3, steps=0, unseen=(0, 1, 2)),
        _item(0, frames=0, steps=50),
    )
    for name in ARCHITECTURES:
        model = _model(name)
        assert not model.has_input(collate([silent_and_unseen], 3)).item()
        torch.testing.assert_close(_score(model, silent_and_unseen)[0], torch.tensor(MEAN))
        hears = _score(model, only_voice)[0]
        assert torch.allclose(hears, torch.tensor(MEAN), atol=1e-6) != (name == "multimodal")


@pytest.mark.parametrize("names", [("face", "voice"), ("au", "face", "text", "voice")])
def test_modality_dropout_takes_one_of_several_and_never_the_last(names: tuple[str, ...]) -> None:
    model = _model("multimodal", modality_dropout=1.0).train()
    assert isinstance(model.head, CrossModalHead)
    present = torch.rand((400, len(names)), generator=torch.Generator().manual_seed(0)) < 0.6
    streams = {
        name: Stream(torch.zeros(400, 1, 4), mask.unsqueeze(1), torch.zeros(400, 1))
        for name, mask in zip(names, present.T, strict=True)
    }
    remaining = model.head.drop_modality(streams)
    kept = torch.cat([remaining[name].mask for name in names], dim=1)
    assert not (kept & ~present).any()
    expected = torch.where(present.sum(1) > 1, present.sum(1) - 1, present.sum(1))
    assert kept.sum(1).tolist() == expected.tolist()
    dropped = (present & ~kept).sum(0) / (present & (present.sum(1, keepdim=True) > 1)).sum(0)
    assert dropped.min() > 0.5 * dropped.max()  # each stream about as often


def test_a_model_of_one_modality_does_not_notice_the_other() -> None:
    item = _item(1, frames=4, steps=80)
    face, voice = (_model("multimodal", modalities=(name,)) for name in ("face", "voice"))
    assert torch.equal(_score(face, item), _score(face, hide(item, "voice")))
    assert torch.equal(_score(voice, item), _score(voice, hide(item, "face")))
    with pytest.raises(ConfigError, match=r"'resnet50'.*face"):
        _model("resnet50", modalities=("voice",))


def test_a_frozen_encoder_does_not_move() -> None:
    model = _model("resnet50", frozen=True).train()
    before = {name: tensor.clone() for name, tensor in model.encoders["face"].state_dict().items()}
    optimiser = torch.optim.SGD(
        [parameter for parameter in model.parameters() if parameter.requires_grad], lr=1.0
    )
    model(collate([_item(1, 4, 0), _item(2, 4, 0)], 3)).square().sum().backward()
    optimiser.step()
    for name, tensor in model.encoders["face"].state_dict().items():
        assert torch.equal(tensor, before[name])
    assert sum(parameter.requires_grad for parameter in model.parameters()) == 2  # the output layer


def test_frozen_batch_norms_keep_the_statistics_of_their_training() -> None:
    """Of a pretrained encoder only; its other weights are trained."""
    frames = torch.randint(0, 255, (4, 3, SIZE_PX, SIZE_PX), dtype=torch.uint8)
    moved = []
    for encoder, freezes in (("starter", True), ("starter", False), ("random:resnet-tiny", True)):
        model = _model("resnet50", encoder=encoder, freeze_batch_norm=freezes).train()
        assert isinstance(model.encoders["face"], FrameEncoder)
        before = {name: value.clone() for name, value in model.encoders["face"].named_buffers()}
        torch.autograd.backward(model.encoders["face"](frames).sum())
        assert all(parameter.grad is not None for parameter in model.encoders["face"].parameters())
        moved.append(
            any(
                not torch.equal(value, before[name]) for name, value in model.encoders["face"].named_buffers()
            )
        )
    assert moved == [False, True, True]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_features_of_frozen_encoders_give_the_same_score_as_the_media(name: str) -> None:
    model = _model(name, frozen=True)
    item = _item(1, frames=5, steps=120, unseen=(3,))
    features = encode_inputs(model, item)
    assert features.streams["face"].values.ndim == 2
    torch.testing.assert_close(_score(model.head_only(), features), _score(model, item), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_same_heads_take_features_of_files(name: str) -> None:
    model = _model(name, feature_dims={"face": 7, "voice": 5})
    frames, voice = np.random.default_rng(0).normal(size=(2, 9, 7)).astype(np.float32)
    times_s = np.arange(9, dtype=np.float32)
    item = item_of(frames, np.ones(9, bool), times_s, voice[:, :5], times_s)
    sizes = [(stream.kind, stream.feature_size) for stream in model.describe_inputs().values()]
    assert sizes == [("features", 7), ("features", 5)][: 2 if name == "multimodal" else 1]
    assert _score(model, item).shape == (1, 3)


def test_features_of_a_modality_that_the_model_does_not_go_by_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'resnet50'.*got voice; expected face"):
        _model("resnet50", feature_dims={"voice": 5})


def test_an_untrained_model_answers_about_the_training_mean() -> None:
    for name in ARCHITECTURES:
        answers = _score(_model(name), *[_item(seed, 3, 20) for seed in range(5)])
        torch.testing.assert_close(answers, torch.tensor(MEAN).expand(5, 3), atol=0.2, rtol=0)


def test_attention_and_gru_see_no_padding() -> None:
    """Steps after the last seen one may hold anything."""
    torch.manual_seed(0)
    head = GruHead(4, ModelConfig(hidden=6)).eval()
    values, mask = torch.randn(2, 5, 4), torch.tensor([[True, False, True, True, False], [True] * 5])
    noisy = torch.where(mask.unsqueeze(2), values, torch.tensor(99.0))
    times_s = torch.arange(5.0).expand(2, 5)

    def run(stream: Stream) -> Tensor:
        embedding: Tensor = head({"face": stream})
        return embedding

    with torch.inference_mode():
        torch.testing.assert_close(run(Stream(values, mask, times_s)), run(Stream(noisy, mask, times_s)))
        short = run(move_valid_first(Stream(values[:1], mask[:1], times_s[:1])))
        torch.testing.assert_close(short[0], run(Stream(values, mask, times_s))[0])


def test_the_score_of_a_convolution_over_steps_follows_their_time() -> None:
    """Without a transformer, and its embedding of time, nothing else could tell."""
    settings = {"voice_encoder": "convolution", "layers": 0, "times": "seconds"}
    model = _model("multimodal", feature_dims={"voice": 5}, **settings)
    voice = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    times_s = np.arange(40, dtype=np.float32) * np.float32(0.1)
    item = Item({"voice": all_steps(voice, times_s)})
    assert isinstance(model.encoders["voice"], StepConvolution)
    for parameter in model.output.parameters():
        torch.nn.init.normal_(parameter)  # as after training: the answers vary
    for other_s in (times_s + np.float32(1), times_s * np.float32(2)):
        assert (
            _score(model, item) - _score(model, Item({"voice": all_steps(voice, other_s)}))
        ).abs().max() > 1e-4


def _transformer_head() -> TransformerHead:
    torch.manual_seed(0)
    return TransformerHead(4, ModelConfig(hidden=8, layers=2)).eval()


def _stream() -> Stream:
    """Three clips: all of it seen, two steps of five, nothing."""
    mask = torch.tensor([[True] * 5, [False, True, False, True, False], [False] * 5])
    values = torch.randn((3, 5, 4), generator=torch.Generator().manual_seed(1))
    return Stream(values, mask, torch.tensor([0.0, 0.5, 1.0, 3.0, 4.0]).expand(3, 5))


def test_the_regression_token_begins_as_the_mean_of_the_seen_steps() -> None:
    """With attention and feed-forward layers silenced, the head says what its token began as."""
    head, stream = _transformer_head(), _stream()
    for layer in head.blocks.layers:
        assert isinstance(layer, torch.nn.TransformerEncoderLayer)
        for linear in (layer.self_attn.out_proj, layer.linear2):
            torch.nn.init.zeros_(linear.weight)
            torch.nn.init.zeros_(linear.bias)
    assert head.blocks.norm is not None
    with torch.inference_mode():
        steps = head.project(stream.values) + head.time(stream.times_s)
        begun = torch.stack(
            [head.token + steps[0].mean(0), head.token + steps[1, [1, 3]].mean(0), head.token]
        )
        torch.testing.assert_close(head({"face": stream}), head.blocks.norm(begun))


def test_a_transformer_over_frames_sees_no_padding() -> None:
    head, stream = _transformer_head(), _stream()
    noisy = stream._replace(values=torch.where(stream.mask.unsqueeze(2), stream.values, torch.tensor(99.0)))
    with torch.inference_mode():
        torch.testing.assert_close(head({"face": noisy}), head({"face": stream}))
        short = head({"face": Stream(*(part[1:2, [1, 3]] for part in stream))})
        torch.testing.assert_close(short[0], head({"face": stream})[1])


@pytest.mark.parametrize(
    "feature_dims", [{"face": 7, "voice": 5}, {"face": 7}, {"voice": 5}, {"au": 3, "pose": 2, "text": 4}]
)
def test_one_modality_alone_is_joined_with_nothing(feature_dims: dict[str, int]) -> None:
    head = _model("multimodal", feature_dims=feature_dims).head
    assert isinstance(head, CrossModalHead)
    assert isinstance(head.join, torch.nn.Identity) == (len(feature_dims) == 1)
    assert set(head.pooled_projections) == set(feature_dims)


def test_without_layers_one_modality_is_its_whole_and_no_more() -> None:
    head = _model("multimodal", feature_dims={"face": 4}, layers=0).head
    assert isinstance(head, CrossModalHead)
    stream = _stream()
    with torch.inference_mode():
        whole = head.pooled_projections["face"](
            torch.cat(masked_moments(stream.values, stream.mask), dim=1)
        )  # (B, hidden)
        expected = torch.where(stream.mask.any(1, keepdim=True), whole, head.missing_embeddings["face"])
        assert torch.equal(head({"face": stream}), expected)


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"'resnet5'.*'resnet50'"):
        _model("resnet5")
    with pytest.raises(WeightsError, match=r"random:resnet-5'.*'resnet-50'"):
        _model("resnet50", encoder="random:resnet-5")
    with pytest.raises(ConfigError, match=r"hidden.*got 6.*multiple of 4"):
        _model("multimodal", hidden=6)


def test_batches_are_what_lightning_can_move() -> None:
    moved = move_data_to_device(collate([_item(0, 2, 2)], 3), "meta")
    assert all(tensor.device.type == "meta" for stream in moved.streams.values() for tensor in stream)


def test_masked_moments_equal_numpy() -> None:
    sequence = torch.randn(3, 5, 3)
    mask = torch.tensor([[True, False, True, True, False], [False] * 5, [False, True, False, False, False]])
    mean, spread = masked_moments(sequence, mask)
    remaining = sequence[0, mask[0]].numpy()
    np.testing.assert_allclose(mean[0].numpy(), remaining.mean(0), atol=1e-6)
    np.testing.assert_allclose(spread[0].numpy(), np.sqrt(remaining.var(0) + 1e-6), atol=1e-5)
    assert not mean[1].any()
    assert torch.equal(mean[2], sequence[2, 1])
