"""How weights are changed: AdamW, a linear warm-up and a cosine, and the average of the weights that is kept."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache, partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from reactometer.config import TrainingConfig


def on_gpu(settings: TrainingConfig) -> bool:
    """Whether the training is on CUDA devices."""
    return settings.accelerator != "cpu" and torch.cuda.is_available()


class FittedTask(LightningModule):
    """What every task does alike: what is random, how a batch reaches a GPU, and how the weights are changed."""

    def __init__(self, model: nn.Module, config: TrainingConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config

    def on_train_epoch_start(self) -> None:
        """Draw what is random in an epoch from (seed, epoch, device) alone, so that a resumed run draws the same."""
        key = (self.config.seed, self.current_epoch, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Copy a batch to a GPU in a stream of its own, while the GPU is busy with the step before."""
        if device.type != "cuda":
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        copying, computing = _copies_to(device), torch.cuda.current_stream(device)
        with torch.cuda.stream(copying):
            moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        computing.wait_stream(copying)
        for tensor in moved:  # a tuple, of whatever task
            tensor.record_stream(computing)
        return moved

    def configure_optimizers(self) -> Any:
        """AdamW, linear warm-up, cosine; a pre-trained encoder has its own rate, biases and norms no decay.

        On a GPU, one kernel takes a whole step: a GPU is faster than Python can ask it for the ten that it takes else.
        Where gradients are scaled, for float16, Lightning cannot clip before such a kernel.
        """
        settings = self.config
        fused = True if on_gpu(settings) and settings.precision != "16-mixed" else None
        optimiser = torch.optim.AdamW(_parameter_groups(self.model, settings), fused=fused)
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        schedule = LambdaLR(optimiser, partial(warmup_cosine, steps=steps, warmup=int(settings.warmup_share * steps)))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip the norm of all gradients. Lightning does the same, but before no fused kernel, even of bfloat16."""
        if gradient_clip_val:
            parameters = [one for group in optimizer.param_groups for one in group["params"]]
            nn.utils.clip_grad_norm_(parameters, gradient_clip_val)


@cache
def _copies_to(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


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

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out, when all is where it will be, which tensors are averaged."""
        if isinstance(self._average_model, RisingAverage):
            self._average_model.follow(pl_module)


class _Pairs(NamedTuple):
    averages: list[Tensor]
    own: list[Tensor]


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
        self.follow(model)

    def follow(self, model: nn.Module) -> None:
        """Average this model from now on; again, once it has moved to another device or type.

        Its tensors are listed here and not in every update, which takes longer than to average them.
        """
        self._followed = (model,)  # a module of its own it must not become
        self._counters, self._floats = _Pairs([], []), dict[torch.dtype, _Pairs]()
        for average, current in zip(_tensors(self.module), _tensors(model), strict=True):
            floats = average.is_floating_point()
            pairs = self._floats.setdefault(average.dtype, _Pairs([], [])) if floats else self._counters
            pairs.averages.append(average)
            pairs.own.append(current)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the average towards the model; the first time, it becomes the model."""
        if self._followed[0] is not model:
            self.follow(model)
        n = int(self.n_averaged)
        share = 1.0 - min(self.decay, (1.0 + n) / (10.0 + n)) if n else 1.0
        for averages, own in self._floats.values():  # each all at once
            torch._foreach_lerp_(averages, own, share)
        if self._counters.own:
            torch._foreach_copy_(*self._counters)
        self.n_averaged += 1


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return chain(module.parameters(), module.buffers())


def _parameter_groups(model: nn.Module, settings: TrainingConfig) -> list[dict[str, Any]]:
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
