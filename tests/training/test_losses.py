"""Losses, against torchmetrics and worked examples."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torchmetrics.functional.regression import concordance_corrcoef, pearson_corrcoef

from reactometer.evaluation.metrics import MIN_STD, ccc
from reactometer.training.losses import (
    LOSSES,
    ccc_loss,
    masked_mse,
    pearson_loss,
    reaction_loss,
)

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]

NAMED_LOSSES: list[Loss] = [partial(reaction_loss, name=name) for name in LOSSES]
EVERY: list[Loss] = [masked_mse, pearson_loss, ccc_loss, *NAMED_LOSSES]


def _batch(seed: int, clips: int = 24, labels: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Intensities that follow the targets somewhat, in double precision; about a quarter of the clips
    masked."""
    generator = torch.Generator().manual_seed(seed)
    targets, noise = torch.rand((2, clips, labels), generator=generator, dtype=torch.float64)
    mask = torch.rand(clips, generator=generator) < 0.75
    return 0.3 * targets + 0.6 * noise + 0.05, targets, mask


def _gradient(loss: Loss, intensities: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    leaf = intensities.clone().requires_grad_()
    value = loss(leaf, targets, mask)
    assert value.shape == ()
    assert torch.isfinite(value)
    torch.autograd.backward(value)
    assert leaf.grad is not None
    return leaf.grad


def test_the_squared_error_is_the_mean_over_the_clips_that_count() -> None:
    intensities = torch.tensor([[0.5, 0.1], [0.9, 0.9], [0.0, 0.2]])
    targets = torch.tensor([[0.1, 0.3], [0.0, 0.0], [0.3, 0.2]])
    mask = torch.tensor([True, False, True])
    assert masked_mse(intensities, targets, mask).item() == pytest.approx((0.16 + 0.04 + 0.09 + 0.0) / 4)
    one = masked_mse(intensities[:, :1], targets[:, :1], torch.tensor([True, False, False]))
    assert one.item() == pytest.approx(0.16)


@pytest.mark.parametrize("seed", range(5))
def test_the_pearson_loss_is_one_less_pearson_of_the_clips_that_count(seed: int) -> None:
    intensities, targets, mask = _batch(seed)
    loss = pearson_loss(intensities, targets, mask).item()
    counted = zip(intensities[mask].T.numpy(), targets[mask].T.numpy(), strict=True)
    assert loss == pytest.approx(np.mean([1 - stats.pearsonr(*pair).statistic for pair in counted]), abs=5e-5)
    assert loss == pytest.approx(
        float(1 - pearson_corrcoef(intensities[mask], targets[mask]).mean()), abs=5e-5
    )
    stretched = pearson_loss(0.5 * intensities + 0.25, targets, mask).item()
    assert stretched == pytest.approx(loss, abs=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_the_ccc_loss_is_one_less_concordance_of_the_clips_that_count(seed: int) -> None:
    """torchmetrics divides variances by n − 1 and Lin by n: of the same clips 1,000 times over, that is the
    same."""
    intensities, targets, mask = _batch(seed)
    loss = ccc_loss(intensities, targets, mask).item()
    ours = [value or 0.0 for value in ccc(targets[mask].numpy(), intensities[mask].numpy())]
    assert loss == pytest.approx(1 - np.mean(ours), abs=1e-12)
    often = [column[mask].repeat(1000, 1) for column in (intensities, targets)]
    assert loss == pytest.approx(float(1 - concordance_corrcoef(*often).mean()), abs=1e-4)
    assert (
        ccc_loss(0.5 * intensities + 0.25, targets, mask).item() > loss + 0.01
    )  # unlike Pearson's, it sees the scale


@pytest.mark.parametrize("loss", [pearson_loss, ccc_loss])
def test_perfect_and_reversed_batches(loss: Loss) -> None:
    _, targets, mask = _batch(0)
    assert loss(targets, targets, mask).item() == pytest.approx(0.0, abs=5e-5)
    reversed_ = 2 * targets[mask].mean(0) - targets  # the same mean and spread, the other way round
    assert loss(reversed_, targets, mask).item() == pytest.approx(2.0, abs=5e-5)


@pytest.mark.parametrize("loss", [pearson_loss, ccc_loss])
def test_a_label_that_does_not_vary_adds_nothing(loss: Loss) -> None:
    intensities, targets, mask = _batch(1)
    without = loss(intensities[:, 1:], targets[:, 1:], mask).item()
    targets[mask, 0] = 0.4  # it still varies among the clips that do not count
    assert loss(intensities, targets, mask).item() == pytest.approx(without * 4 / 5)
    gradient = _gradient(loss, intensities, targets, mask)
    assert not gradient[:, 0].any()
    assert gradient[mask][:, 1:].all()


@pytest.mark.parametrize("loss", [pearson_loss, ccc_loss])
def test_two_clips_have_no_correlation(loss: Loss) -> None:
    intensities, targets, _ = _batch(2, clips=6)
    for count in range(3):
        mask = torch.arange(6) < count
        assert loss(intensities, targets, mask).item() == 0.0
        assert not _gradient(loss, intensities, targets, mask).any()
    assert loss(intensities, targets, torch.arange(6) < 3).item() > 0.0


@pytest.mark.parametrize("loss", EVERY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_are_finite_whatever_comes(loss: Loss, dtype: torch.dtype) -> None:
    intensities, targets, mask = _batch(3)
    targets, nobody = targets.float(), torch.zeros_like(mask)
    constant = torch.full_like(targets, 0.5)
    nearly = constant + 1e-7 * intensities.float()
    for guess in (
        constant,
        nearly,
        torch.zeros_like(targets),
        torch.ones_like(targets),
        targets,
        targets.round(),
    ):
        for truth in (
            targets,
            constant,
            nearly,
            torch.zeros_like(targets),
            targets.round(),
            constant + 2e-6 * targets,
        ):
            for counts in (mask, nobody, ~nobody):
                gradient = _gradient(loss, guess.to(dtype), truth, counts)
                assert gradient.isfinite().all()
                assert not gradient[~counts].any()


@pytest.mark.parametrize("loss", [pearson_loss, ccc_loss])
def test_a_clip_that_does_not_count_may_hold_anything(loss: Loss) -> None:
    intensities, targets, mask = _batch(4)
    spoilt = torch.where(mask.unsqueeze(1), intensities, torch.nan)
    assert torch.equal(loss(spoilt, targets, mask), loss(intensities, targets, mask))
    assert torch.equal(_gradient(loss, spoilt, targets, mask), _gradient(loss, intensities, targets, mask))


@pytest.mark.parametrize("loss", [pearson_loss, ccc_loss, *NAMED_LOSSES])
def test_gradients_are_those_of_the_value(loss: Loss) -> None:
    intensities, targets, mask = _batch(5, clips=8, labels=3)
    assert torch.autograd.gradcheck(lambda values: loss(values, targets, mask), intensities.requires_grad_())


@pytest.mark.parametrize("loss", [pearson_loss, ccc_loss])
def test_a_constant_answer_is_led_towards_the_targets(loss: Loss) -> None:
    _, targets, mask = _batch(6)
    constant = torch.full_like(targets, 0.5)
    assert loss(constant, targets, mask).item() == pytest.approx(1.0)
    step = _gradient(loss, constant, targets, mask)
    assert loss(constant - 0.1 * step / step.abs().max(), targets, mask).item() < 0.9


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_leads_to_the_labels_order(name: str) -> None:
    """Free log-odds, one for each clip and label, are moved until they follow the targets."""
    _, targets, mask = _batch(7)
    odds = torch.randn(
        targets.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).requires_grad_()
    optimiser = torch.optim.Adam([odds], lr=0.1)
    for _ in range(200):
        optimiser.zero_grad()
        torch.autograd.backward(reaction_loss(odds.sigmoid(), targets, mask, name=name))
        optimiser.step()
    assert pearson_corrcoef(odds.detach().sigmoid()[mask], targets[mask]).min() > 0.95


def test_a_variance_below_a_millionth_is_no_signal() -> None:
    """Deviations of 0.001 with a perfect order: r is √(v / (v + 1e-6)) with v = 2/3 · 1e-6."""
    targets = torch.tensor([[0.0], [0.5], [1.0]], dtype=torch.float64)
    loss = pearson_loss(0.5 + 0.002 * (targets - 0.5), targets, torch.ones(3, dtype=torch.bool))
    assert loss.item() == pytest.approx(1 - math.sqrt((2 / 3) / (2 / 3 + 1)))


def test_labels_that_vary_by_a_millionth_do_not_count() -> None:
    intensities, mask = (
        torch.tensor([[0.2], [0.4], [0.9]], dtype=torch.float64),
        torch.ones(3, dtype=torch.bool),
    )
    for spread, counts in ((MIN_STD, False), (1.01 * MIN_STD, True)):
        targets = torch.tensor([[0.0], [0.0], [spread]], dtype=torch.float64)
        assert (pearson_loss(intensities, targets, mask).item() > 0.0) is counts


def test_losses_are_sums_of_their_terms() -> None:
    batch = _batch(8)
    mse, r, lin = (loss(*batch).item() for loss in (masked_mse, pearson_loss, ccc_loss))
    for name, expected in {"mse": mse, "mse+pearson": mse + r, "ccc": lin}.items():
        assert reaction_loss(*batch, name=name).item() == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_not_computed_in(dtype: torch.dtype) -> None:
    intensities, targets, mask = _batch(9)
    rounded = intensities.to(dtype)
    for loss in (pearson_loss, ccc_loss):
        value = loss(rounded, targets.float(), mask)
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(loss(rounded.double(), targets, mask).item(), abs=1e-6)


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
