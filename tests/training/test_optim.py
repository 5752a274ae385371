"""The averaged weights."""

from __future__ import annotations

import pytest
import torch

from reactometer.training.optim import RisingAverage


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
