"""How weights are changed: AdamW, a linear warm-up and a cosine, and the average of the weights that is kept."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from reactometer.config import FitConfig


def optimiser_and_schedule(task: LightningModule, model: nn.Module, settings: FitConfig) -> Any:
    """AdamW, linear warm-up, cosine; a pre-trained encoder has its own rate, biases and norms no decay."""
    optimiser = torch.optim.AdamW(_parameter_groups(model, settings))
    steps = max(1, int(task.trainer.estimated_stepping_batches))
    schedule = LambdaLR(optimiser, partial(warmup_cosine, steps=steps, warmup=int(settings.warmup_share * steps)))
    return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def warmup_cosine(step: int, steps: int, warmup: int) -> float:
    """Share of the peak rate at a step: up in a line over the warm-up, then down to 0 as half a cosine."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


def averaged_weights(decay: float) -> WeightAveraging:
    """An exponential moving average of the weights whose decay rises to ``decay`` as ``(1 + n) / (10 + n)``.

    The rise keeps a short run from averaging in its random beginning (as in TensorFlow's ``ExponentialMovingAverage``).
    """

    def average(averaged: list[Tensor], current: list[Tensor], n_averaged: Tensor | int) -> None:
        if not averaged[0].is_floating_point():  # counters among the buffers
            torch._foreach_copy_(averaged, current)
            return
        n = float(n_averaged)
        own = [tensor.to(averaged[0].dtype) for tensor in current]
        torch._foreach_lerp_(averaged, own, 1.0 - min(decay, (1.0 + n) / (10.0 + n)))

    return WeightAveraging(multi_avg_fn=average)


def _parameter_groups(model: nn.Module, settings: FitConfig) -> list[dict[str, Any]]:
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
