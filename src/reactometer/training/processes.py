"""Count the processes that train one model, started by Lightning or torchrun."""

from __future__ import annotations

import os
from typing import Any

import torch

from reactometer.config import TrainingConfig
from reactometer.errors import ConfigError

SEVERAL = "ddp_find_unused_parameters_true"
"""The strategy of several processes where none is asked for: a batch may show no face at all."""


def on_gpu(settings: TrainingConfig) -> bool:
    """Whether the training is on CUDA devices."""
    return settings.accelerator != "cpu" and torch.cuda.is_available()


def count_processes(settings: TrainingConfig) -> tuple[int, int]:
    """How many processes train on each machine, and on how many machines.

    Raises:
        ConfigError: torchrun has started another number than the settings ask for.
    """
    if not torch.distributed.is_torchelastic_launched():
        devices = (torch.cuda.device_count() if on_gpu(settings) else 1) if settings.devices == "auto" else None
        return devices or int(settings.devices), 1 if settings.num_nodes == "auto" else settings.num_nodes
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    nodes = int(os.environ["WORLD_SIZE"]) // here
    for key, asked, given, option in (
        ("devices", settings.devices, here, "--nproc-per-node"),
        ("num_nodes", settings.num_nodes, nodes, "--nnodes"),
    ):
        if asked not in ("auto", given):
            raise ConfigError(
                f"torchrun started another number of processes than training.{key} says",
                got=f"{option} {given}",
                expected=f"{asked}",
                fix=f"Leave training.{key} out, or start it with torchrun {option} {asked}",
            )
    return here, nodes


def placement(settings: TrainingConfig) -> dict[str, Any]:
    """Return the arguments of Lightning's ``Trainer`` about processes and devices."""
    devices, nodes = count_processes(settings)
    several = SEVERAL if settings.strategy == "auto" else settings.strategy
    return {
        "accelerator": settings.accelerator,
        "devices": devices,
        "num_nodes": nodes,
        "strategy": several if devices * nodes > 1 else "auto",
        # Statistics over the batches of all processes, as for the loss; PyTorch has this for GPUs only.
        "sync_batchnorm": on_gpu(settings),
    }
