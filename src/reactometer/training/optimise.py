"""How weights are changed: AdamW, a linear warm-up and a cosine, and the average of the weights that is kept."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

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


class AveragedWeights(WeightAveraging):
    """Keeps an exponential moving average of the weights, validates with it and leaves it as the model."""

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin an average when fitting begins, on the device to which the model will be moved."""
        if stage == "fit":
            self._average_model = RisingAverage(pl_module, self.decay, pl_module.device)


class RisingAverage(AveragedModel):
    """An exponential moving average of parameters and buffers whose decay rises to ``decay`` as ``(1 + n) / (10 + n)``.

    The rise keeps a short run from averaging in its random beginning (as in TensorFlow's ``ExponentialMovingAverage``).
    Unlike PyTorch's own update, this one asks the device nothing: the count n stays on the processor, so that a GPU
    never waits to tell it. Buffers that are counters are copied.
    """

    def __init__(self, model: nn.Module, decay: float, device: torch.device | None = None) -> None:
        super().__init__(model, device, use_buffers=True)
        self.n_averaged = torch.tensor(0)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the average towards the model; the first time, it becomes the model."""
        n = int(self.n_averaged)
        share = 1.0 - min(self.decay, (1.0 + n) / (10.0 + n)) if n else 1.0
        floating: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        for average, current in zip(_tensors(self.module), _tensors(model), strict=True):
            if average.is_floating_point():
                averages, own = floating.setdefault(average.dtype, ([], []))
                averages.append(average)
                own.append(current.to(average.dtype))
            else:
                average.copy_(current)
        for averages, own in floating.values():  # each all at once
            torch._foreach_lerp_(averages, own, share)
        self.n_averaged += 1


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return chain(module.parameters(), module.buffers())


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
