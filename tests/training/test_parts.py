"""The small parts of training: augmentation, loss, averaged weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reactometer.evaluation.metrics import measure
from reactometer.training.augment import PICTURES, augment
from reactometer.training.losses import masked_mse
from reactometer.training.optimise import averaged_weights
from reactometer.training.task import selection_score, varying_labels


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


def test_a_clip_without_frames_passes() -> None:
    assert augment(torch.zeros((2, 0, 3, 8, 8), dtype=torch.uint8)).shape == (2, 0, 3, 8, 8)


def test_grey_pictures_are_changed_in_one_channel_and_as_strongly_as_asked_for() -> None:
    torch.manual_seed(0)
    picture = torch.linspace(40, 200, 24).to(torch.uint8).expand(64, 1, 1, 24, 24)
    spread = []
    for strength in (0.0, 0.3, 1.0):
        changed = augment(picture, PICTURES.times(strength))
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
    """After n updates with the rising decay, a constant signal is nearly reached; a counter is copied."""
    average = averaged_weights(0.99)._kwargs["multi_avg_fn"]
    weights = [torch.tensor(0.0), torch.zeros(2)]
    for n in range(1, 51):
        average(weights, [torch.tensor(1.0), torch.ones(2, dtype=torch.float64)], n)
    assert weights[0].item() > 0.99
    assert (weights[1] == weights[0]).all()
    counters = [torch.tensor(3)]
    average(counters, [torch.tensor(5)], 10)
    assert counters[0].item() == 5
