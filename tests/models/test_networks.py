"""The networks: masks, batches, missing modalities, frozen encoders."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from reactometer.config import ModelConfig
from reactometer.data.batches import Batch, Item, collate
from reactometer.errors import ConfigError, WeightsError
from reactometer.media.voice import MEL_BANDS
from reactometer.models.backbones import VoiceEncoder, load_frame_encoder, masked_moments
from reactometer.models.multimodal import FaceAndVoice
from reactometer.models.visual import MeanFrames
from reactometer.models.zoo import ReactionModel, build_model

MEAN = [0.2, 0.5, 0.8]


def _model(name: str, **settings: object) -> ReactionModel:
    torch.manual_seed(0)
    config = ModelConfig.model_validate({"name": name, "size_px": 32, "hidden": 8, **settings})
    return build_model(config, load_frame_encoder("random:resnet-tiny", 32), MEAN).eval()


def _item(seed: int, frames: int, steps: int, unseen: tuple[int, ...] = ()) -> Item:
    generator = np.random.default_rng(seed)
    seen = np.array([place not in unseen for place in range(frames)], dtype=bool)
    return Item(
        frames=generator.integers(0, 255, (frames, 3, 32, 32), dtype=np.uint8) * seen[:, None, None, None],
        seen=seen,
        times_s=np.arange(frames, dtype=np.float32),
        voice=generator.normal(-8, 3, (steps, MEL_BANDS)).astype(np.float32),
        targets=(0.1, 0.2, 0.3),
    )


def _score(model: ReactionModel, *items: Item) -> Tensor:
    with torch.inference_mode():
        answer: Tensor = model(collate(items, 3))
    return answer


@pytest.mark.parametrize("name", ["resnet50", "multimodal"])
def test_an_item_scores_the_same_alone_and_in_any_batch(name: str) -> None:
    model = _model(name)
    item = _item(1, frames=5, steps=333, unseen=(2,))
    others = [_item(2, frames=9, steps=700), _item(3, frames=1, steps=1), _item(4, frames=0, steps=0)]
    alone = _score(model, item)[0]
    for place in range(4):
        batch = [*others[:place], item, *others[place:]]
        torch.testing.assert_close(_score(model, *batch)[place], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["resnet50", "multimodal"])
def test_unseen_frames_have_no_influence(name: str) -> None:
    model = _model(name)
    item = _item(1, frames=6, steps=100, unseen=(0, 4))
    without = Item(item.frames[item.seen], item.seen[item.seen], item.times_s[item.seen], item.voice)
    torch.testing.assert_close(_score(model, item), _score(model, without), atol=1e-6, rtol=0)


def test_the_face_model_answers_with_the_mean_of_the_seen_frames() -> None:
    model = _model("resnet50")
    assert isinstance(model, MeanFrames)
    item = _item(1, frames=4, steps=0)
    with torch.inference_mode():
        features = model.encoder(torch.from_numpy(item.frames)).mean(0)
        expected = torch.sigmoid(model.head(features))
    torch.testing.assert_close(_score(model, item)[0], expected, atol=1e-6, rtol=0)


def test_without_evidence_the_answer_is_the_training_mean() -> None:
    silent_and_unseen, only_voice = _item(0, frames=3, steps=0, unseen=(0, 1, 2)), _item(0, frames=0, steps=50)
    for name, item in (("resnet50", silent_and_unseen), ("resnet50", only_voice), ("multimodal", silent_and_unseen)):
        model = _model(name)
        assert not model.has_evidence(collate([item], 3)).item()
        torch.testing.assert_close(_score(model, item)[0], torch.tensor(MEAN))
    both = _model("multimodal")
    assert both.has_evidence(collate([only_voice], 3)).item()
    assert not torch.allclose(_score(both, only_voice)[0], torch.tensor(MEAN), atol=1e-6)


def test_modality_dropout_takes_one_of_two_and_never_the_last() -> None:
    model = _model("multimodal", modality_dropout=1.0).train()
    assert isinstance(model, FaceAndVoice)
    has_face, has_voice = torch.tensor([True, True, False] * 100), torch.tensor([True, False, True] * 100)
    face, voice = model._keep(has_face, has_voice)
    assert (face ^ voice)[0::3].all()  # who had both has one
    assert 20 < int(face[0::3].sum()) < 80
    assert face[1::3].all()
    assert voice[2::3].all()


def test_a_frozen_encoder_does_not_move() -> None:
    model = _model("resnet50", frozen=True).train()
    before = {name: tensor.clone() for name, tensor in model.encoder.state_dict().items()}
    optimiser = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1.0)
    model(collate([_item(1, 4, 0), _item(2, 4, 0)], 3)).square().sum().backward()
    optimiser.step()
    for name, tensor in model.encoder.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert sum(parameter.requires_grad for parameter in model.parameters()) == 2  # the head


def test_an_untrained_head_answers_about_the_training_mean() -> None:
    answers = _score(_model("resnet50"), *[_item(seed, 3, 0) for seed in range(5)])
    torch.testing.assert_close(answers, torch.tensor(MEAN).expand(5, 3), atol=0.2, rtol=0)


def test_masked_moments_equal_numpy() -> None:
    sequence = torch.randn(2, 5, 3)
    mask = torch.tensor([[True, False, True, True, False], [False] * 5])
    mean, spread = masked_moments(sequence, mask)
    kept = sequence[0, mask[0]].numpy()
    np.testing.assert_allclose(mean[0].numpy(), kept.mean(0), atol=1e-6)
    np.testing.assert_allclose(spread[0].numpy(), np.sqrt(kept.var(0) + 1e-6), atol=1e-5)
    assert not mean[1].any()


def test_the_voice_encoder_hears_nothing_outside_its_mask() -> None:
    encoder = VoiceEncoder().eval()
    voice, mask = torch.randn(1, 90, MEL_BANDS), torch.arange(90)[None] < 61
    noisy = torch.where(mask.unsqueeze(2), voice, torch.tensor(100.0))
    with torch.inference_mode():
        torch.testing.assert_close(encoder(noisy, mask), encoder(voice[:, :61], mask[:, :61]), atol=1e-5, rtol=0)


def test_grid_pooling_keeps_places_apart() -> None:
    torch.manual_seed(0)
    encoder = load_frame_encoder("random:resnet-tiny", 64, "grid").eval()
    assert encoder.feature_size == 96 * 16
    picture = torch.zeros((1, 3, 64, 64), dtype=torch.uint8)
    picture[:, :, :16, :16] = 255
    with torch.inference_mode():
        change = (encoder(picture) - encoder(torch.zeros_like(picture))).view(96, 4, 4).abs().sum(0)
    assert change[0, 0] > 10 * change[3, 3]


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"no model 'resnet5'.*Did you mean 'resnet50'\?"):
        _model("resnet5")
    with pytest.raises(WeightsError, match=r"no encoder 'random:resnet-5'.*Did you mean 'resnet-50'\?"):
        load_frame_encoder("random:resnet-5", 32)


def test_batches_are_what_lightning_can_move() -> None:
    moved = Batch(*(tensor.to("cpu") for tensor in collate([_item(0, 2, 2)], 3)))
    assert isinstance(moved, tuple)
