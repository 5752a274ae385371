"""The small parts of training: augmentation, loss, averaged weights."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
import torch

from reactometer.config import Config
from reactometer.data.batches import Batch
from reactometer.data.cache import PreparedSet
from reactometer.evaluation.metrics import measure
from reactometer.training.augmentation import CLIPS, Changes, augment
from reactometer.training.losses import masked_mse
from reactometer.training.module import ReactionTask, selection_score, varying_labels
from reactometer.training.optim import RisingAverage
from reactometer.training.setup import set_up


def test_all_frames_of_a_clip_change_alike_and_clips_differently() -> None:
    torch.manual_seed(0)
    picture = torch.randint(0, 255, (1, 1, 3, 24, 24), dtype=torch.uint8)
    changed = augment(picture.expand(6, 4, 3, 24, 24))
    assert changed.shape == (6, 4, 3, 24, 24)
    assert changed.dtype == torch.uint8
    for clip in changed:
        assert all(torch.equal(frame, clip[0]) for frame in clip)
    assert not torch.equal(changed[0], changed[1])


def test_about_half_of_the_clips_are_mirrored() -> None:
    torch.manual_seed(0)
    left_is_bright = torch.zeros((200, 1, 3, 16, 16), dtype=torch.uint8)
    left_is_bright[..., :8] = 255
    changed = augment(left_is_bright).float().mean(dim=(1, 2, 3))  # (200, 16)
    mirrored = int((changed[:, :8].mean(1) < changed[:, 8:].mean(1)).sum())
    assert 70 < mirrored < 130


def test_mixed_precision_moves_no_pixel_elsewhere() -> None:
    picture = torch.randint(0, 255, (2, 1, 3, 224, 224), dtype=torch.uint8)
    torch.manual_seed(0)
    exact = augment(picture)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augment(picture), exact)


def test_a_clip_without_frames_passes() -> None:
    assert augment(torch.zeros((2, 0, 3, 8, 8), dtype=torch.uint8)).shape == (2, 0, 3, 8, 8)


def test_grey_pictures_are_changed_in_one_channel_and_as_strongly_as_asked_for() -> None:
    torch.manual_seed(0)
    picture = torch.linspace(40, 200, 24).to(torch.uint8).expand(64, 1, 1, 24, 24)
    spread = []
    for strength in (0.0, 0.3, 1.0):
        changed = augment(picture, Changes(*(strength * 4 * limit for limit in astuple(CLIPS))))
        assert changed.shape == picture.shape
        assert changed.dtype == torch.uint8
        rising = torch.where(changed[..., -1:] > changed[..., :1], changed, changed.flip(4)).float()  # unmirrored
        spread.append(float((rising - picture).abs().mean()))
    assert spread[0] < 1.0
    assert spread[0] < spread[1] < spread[2]


def test_only_clips_that_count_reach_the_loss() -> None:
    intensities = torch.tensor([[0.5, 0.5], [1.0, 1.0]], requires_grad=True)
    targets = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    loss = masked_mse(intensities, targets, torch.tensor([True, False]))
    assert loss.item() == pytest.approx(0.25)
    torch.autograd.backward(loss)
    assert intensities.grad is not None
    assert not intensities.grad[1].any()
    nothing = masked_mse(intensities, targets, torch.tensor([False, False]))
    assert nothing.item() == 0.0


def test_the_best_epoch_is_chosen_by_the_labels_that_vary() -> None:
    """Labels: one followed, one predicted as a constant (counts 0), one constant itself (has no say)."""
    targets = np.array([[0.1, 0.9, 0.5], [0.2, 0.1, 0.5], [0.3, 0.4, 0.5]])
    predictions = np.array([[0.1, 0.5, 0.1], [0.2, 0.5, 0.2], [0.3, 0.5, 0.3]])
    metrics = measure(targets, predictions, ("a", "b", "c"))
    assert metrics.mean_pearson is None
    assert selection_score(metrics, targets) == pytest.approx(0.5)
    assert varying_labels(targets) == [True, True, False]


def test_the_average_forgets_its_beginning() -> None:
    """The first update is the model itself; then, with the rising decay, a constant signal is nearly reached."""
    layer = torch.nn.BatchNorm1d(2)
    average = RisingAverage(layer, 0.99)
    own, kept = layer.state_dict(), average.module.state_dict()
    own["weight"].fill_(7.0)
    average.update_parameters(layer)
    assert kept["weight"].tolist() == [7.0, 7.0]
    own["weight"].fill_(0.0), own["running_mean"].fill_(1.0), own["num_batches_tracked"].fill_(5)
    average.update_parameters(layer)
    assert kept["weight"].tolist() == pytest.approx([7.0 * 2 / 11] * 2)  # (1 + 1) / (10 + 1) of it is kept
    for _ in range(50):
        average.update_parameters(layer)
    assert kept["weight"].abs().max() < 0.01
    assert kept["running_mean"].min() > 0.99
    assert kept["num_batches_tracked"].item() == 5
    assert int(average.n_averaged) == 52


def test_the_average_follows_a_model_that_has_moved_or_is_another() -> None:
    """Moving gives a module other buffers; who averages is told so when an epoch begins."""
    layer = torch.nn.BatchNorm1d(2)
    average = RisingAverage(layer, 0.0)
    layer.to("meta").to_empty(device="cpu")  # as a move to a GPU does
    average.follow(layer)
    other = torch.nn.BatchNorm1d(2)
    for model, value in ((layer, 3.0), (other, 5.0)):
        for tensor in model.state_dict().values():
            tensor.fill_(value)
        average.update_parameters(model)
        assert all(tensor.eq(value).all() for tensor in average.module.state_dict().values())


def test_the_average_asks_the_device_nothing() -> None:
    """A tensor without values, on the device "meta", can answer nothing: whoever asks it fails."""
    layer = torch.nn.BatchNorm1d(2, device="meta")
    average = RisingAverage(layer, 0.99, torch.device("meta"))
    for _ in range(3):
        average.update_parameters(layer)
    assert int(average.n_averaged) == 3
    with pytest.raises(RuntimeError, match="meta"):
        layer.weight[0].item()


@pytest.mark.parametrize("name", ["multimodal", "resnet50", "resnet50-gru", "vit-transformer"])
def test_a_step_of_training_asks_the_device_nothing(name: str, small_config: Config, prepared: PreparedSet) -> None:
    """A GPU that is asked for a number of a clip has to be waited for, in every step; "meta" cannot answer."""
    encoder = "random:vit-tiny" if name == "vit-transformer" else "random:resnet-tiny"
    model = small_config.model.model_copy(update={"name": name, "encoder": encoder})
    config = small_config.model_copy(update={"model": model})
    setup = set_up(config, prepared, progress=False)
    task = ReactionTask(setup.trained, config.training, setup.data)
    task.all_gather = lambda own, **_: own  # type: ignore[method-assign]  # as where one process trains
    batch = next(iter(setup.data.train_dataloader()))
    assert 0 < len(batch.seen) < batch.frame_mask.numel()
    task.to("meta")
    loss = task.training_step(Batch(*(tensor.to("meta") for tensor in batch)), 0)
    torch.autograd.backward(loss)
    assert all(one.grad is not None for one in task.model.parameters())
