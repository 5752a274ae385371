"""The averaged weights."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from reactometer.training.optim import update_average


def test_the_average_forgets_its_beginning() -> None:
    """The first update is the model itself; then, with the rising decay, a constant signal is nearly
    reached."""
    layer = torch.nn.BatchNorm1d(2)
    average = AveragedModel(layer, multi_avg_fn=partial(update_average, decay=0.99), use_buffers=True)
    weights, averages = layer.state_dict(), average.module.state_dict()
    weights["weight"].fill_(7.0)
    average.update_parameters(layer)
    assert averages["weight"].tolist() == [7.0, 7.0]
    weights["weight"].fill_(0.0), weights["running_mean"].fill_(1.0), weights["num_batches_tracked"].fill_(5)
    average.update_parameters(layer)
    assert averages["weight"].tolist() == pytest.approx(
        [7.0 * 2 / 11] * 2
    )  # (1 + 1) / (10 + 1) of it is kept
    for _ in range(50):
        average.update_parameters(layer)
    assert averages["weight"].abs().max() < 0.01
    assert averages["running_mean"].min() > 0.99
    assert averages["num_batches_tracked"].item() == 5
    assert int(average.n_averaged) == 52
