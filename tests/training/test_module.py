"""How the epoch is selected, and one training step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lightning.fabric.utilities import move_data_to_device

from reactometer.config import Config
from reactometer.data.cache import PreparedSet
from reactometer.evaluation.metrics import mean_over_varying, measure, varying_labels
from reactometer.training.module import ReactionModule
from reactometer.training.setup import build_training


def test_the_best_epoch_is_chosen_by_the_labels_that_vary() -> None:
    """Labels: one followed, one predicted as a constant (counts 0), one constant itself (has no say)."""
    targets = np.array([[0.1, 0.9, 0.5], [0.2, 0.1, 0.5], [0.3, 0.4, 0.5]])
    predictions = np.array([[0.1, 0.5, 0.1], [0.2, 0.5, 0.2], [0.3, 0.5, 0.3]])
    metrics = measure(targets, predictions, ("a", "b", "c"))
    assert metrics.mean_pearson is None
    assert mean_over_varying(metrics.pearson, targets) == pytest.approx(0.5)
    assert mean_over_varying(metrics.ccc, targets) == pytest.approx(0.5)
    assert varying_labels(targets) == [True, True, False]


@pytest.mark.parametrize("name", ["multimodal", "resnet50", "resnet50-gru", "vit-transformer"])
def test_a_step_of_training_asks_the_device_nothing(
    name: str, small_config: Config, prepared: PreparedSet
) -> None:
    """A GPU that is asked for a number of a clip has to be waited for, in every step; "meta" cannot
    answer."""
    encoder = "random:vit-tiny" if name == "vit-transformer" else "random:resnet-tiny"
    model = small_config.model.model_copy(update={"name": name, "encoder": encoder})
    config = small_config.model_copy(update={"model": model})
    setup = build_training(config, prepared, progress=False)
    task = ReactionModule(setup.trainable, config.training, setup.data)
    task.all_gather = lambda tensor, **_: tensor  # type: ignore[method-assign]  # as where one process trains
    batch = next(iter(setup.data.train_dataloader()))
    assert 0 < len(batch.face_indices) < batch.streams["face"].mask.numel()
    task.to("meta")
    loss = task.training_step(move_data_to_device(batch, "meta"), 0)
    torch.autograd.backward(loss)
    assert all(one.grad is not None for one in task.model.parameters())
