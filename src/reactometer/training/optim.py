"""AdamW with linear warm-up and cosine decay, and a moving average of the weights."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from reactometer.config import TrainingConfig


def on_gpu(settings: TrainingConfig) -> bool:
    """Return whether the training runs on CUDA devices."""
    return settings.accelerator != "cpu" and torch.cuda.is_available()


class BaseModule(LightningModule):
    """Base module with seeded epochs and the optimiser, for all tasks."""

    def __init__(self, model: nn.Module, config: TrainingConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config

    def on_train_epoch_start(self) -> None:
        """Seed the epoch from (seed, epoch, device), so that a resumed run repeats its random numbers."""
        key = (self.config.seed, self.current_epoch, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))

    def configure_optimizers(self) -> Any:
        """Set up AdamW, linear warm-up and cosine; pretrained encoders have another rate, biases and norms no
        decay.

        The fused kernel runs only in single precision, because Lightning cannot clip gradients before it in
        mixed.
        """
        settings = self.config
        fused = True if on_gpu(settings) and settings.precision == "32-true" else None
        optimiser = torch.optim.AdamW(_build_parameter_groups(self.model, settings), fused=fused)
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        schedule = LambdaLR(
            optimiser, partial(warmup_cosine, steps=steps, warmup=int(settings.warmup_share * steps))
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def warmup_cosine(step: int, steps: int, warmup: int) -> float:
    """Return the share of the peak rate at a step: linear warm-up, then half a cosine down to 0."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


def update_average(
    averages: list[Tensor], weights: list[Tensor], n_averaged: Tensor, *, decay: float
) -> None:
    """Update an exponential moving average of the weights in place; a ``multi_avg_fn`` of PyTorch.

    The decay rises to ``decay`` as ``(1 + n) / (10 + n)``, as in TensorFlow's ``ExponentialMovingAverage``,
    so that a short run does not average in its random initial weights. Counters are copied.
    """
    if not averages[0].is_floating_point():
        torch._foreach_copy_(averages, weights)
        return
    n = int(n_averaged)
    torch._foreach_lerp_(averages, weights, 1.0 - min(decay, (1.0 + n) / (10.0 + n)))


def _build_parameter_groups(model: nn.Module, settings: TrainingConfig) -> list[dict[str, Any]]:
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            encoder = getattr(model, name.partition(".")[0])
            is_encoder = getattr(encoder, "pretrained", False)
            groups.setdefault((is_encoder, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": settings.encoder_learning_rate if is_encoder else settings.learning_rate,
            "weight_decay": settings.weight_decay if decays else 0.0,
        }
        for (is_encoder, decays), parameters in groups.items()
    ]
