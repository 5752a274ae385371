"""Fit a model with Lightning on one or several processes, with checkpoints, logs, and resuming."""

from __future__ import annotations

import csv
import gc
import os
import shutil
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    TQDMProgressBar,
    WeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from reactometer.config import TrainingConfig
from reactometer.errors import ConfigError, OutputError
from reactometer.io import PART, atomic_file, wrap_decode_errors, wrap_write_errors
from reactometer.machine import default_workers, keep_freed_memory
from reactometer.terminal import is_first_process, messages, quiet
from reactometer.training.optim import on_gpu, update_average

CHECKPOINTS, BEST, LAST = "checkpoints", "best.ckpt", "last.ckpt"
MAX_WORKERS = 8  # loader processes per GPU for training.workers = "auto"
DDP_STRATEGY = "ddp_find_unused_parameters_true"
"""Lightning's strategy for several processes; a batch without any face leaves parameters unused."""


def fit(
    module: LightningModule,
    data: LightningDataModule,
    settings: TrainingConfig,
    out: Path,
    *,
    resume: bool,
    progress: bool,
) -> Trainer:
    """Fit ``module`` and save, in ``out``, the epoch with the largest ``module.score`` on validation, and the
    last.

    With ``resume``, training resumes from the last finished epoch.
    """
    keep_freed_memory()
    # Deterministic mode would fill each new buffer, a twelfth of a step, to find reads of uninitialised
    # memory.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    with quiet("lightning.pytorch", sys.stderr, "lightning"):  # Lightning's bars belong to standard error
        checkpoint = out / CHECKPOINTS / LAST if resume else None
        trainer = Trainer(
            **device_arguments(settings),
            plugins=[_AtomicCheckpointIO()],
            precision=settings.precision,
            max_epochs=settings.epochs,
            accumulate_grad_batches=settings.accumulate,
            gradient_clip_val=settings.gradient_clip or None,
            reload_dataloaders_every_n_epochs=1,
            log_every_n_steps=20 if on_gpu(settings) else 1,  # a GPU waits until a loss is written
            num_sanity_val_steps=0,
            enable_model_summary=False,
            deterministic="warn",
            callbacks=_callbacks(settings, out, str(module.score), progress),
            logger=_loggers(out, checkpoint),
            enable_progress_bar=progress and messages.is_terminal,
        )
        try:
            with wrap_write_errors(out):  # logs, too
                trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=False)
        except SystemExit as stop:  # raised by Lightning on Ctrl-C
            if progress:
                messages.print("training resumes from its last finished epoch")
            raise KeyboardInterrupt from stop
    return trainer


def check_devices(settings: TrainingConfig) -> None:
    """Check that this machine has the configured devices.

    Raises:
        ConfigError: ``training.accelerator`` is unknown or not available here, or there are fewer devices.
    """
    try:
        with quiet("lightning.pytorch", sys.stderr, "lightning"):  # Lightning's bars belong to standard error
            Trainer(
                **device_arguments(settings),
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
            )
    except (MisconfigurationException, ValueError) as error:
        raise ConfigError(
            f"cannot train on training.accelerator = {settings.accelerator!r}, training.devices = "
            f"{settings.devices!r}",
            got=str(error).splitlines()[0],
            fix="Set training.accelerator=auto or training.accelerator=cpu",
        ) from error


def load_best(module: LightningModule, out: Path) -> dict[str, Any]:
    """Load the (averaged) weights of the best epoch into the module; return its scores on validation."""
    state = read_checkpoint(out / CHECKPOINTS / BEST)
    module.load_state_dict(state["state_dict"])
    return {"split": "val", "epoch": state["epoch"] + 1, **state["val_metrics"]}


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Read a checkpoint of Lightning.

    Raises:
        OutputError: the file is damaged, which torch itself does not detect.
    """
    with wrap_decode_errors(file, OutputError, "Train again with --fresh"):
        with ZipFile(file) as archive:
            if (damaged := archive.testzip()) is not None:
                raise BadZipFile(f"wrong checksum of {damaged}")
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=False)
    return state


def loader_workers(settings: TrainingConfig) -> int:
    """Return the number of processes of a training's loader; call this right before they are forked."""
    if settings.workers != "auto":
        workers = settings.workers
    else:
        workers = min(MAX_WORKERS, default_workers() // torch.cuda.device_count()) if on_gpu(settings) else 0
    if workers:
        gc.collect()  # in a forked process, destructors of garbage decoders would wait forever for threads
    return workers


def prepare_run_dir(out: Path, *, fresh: bool) -> bool:
    """Remove partial files of killed processes; return True if a stopped training resumes here."""
    if is_first_process():
        for path in (*out.glob(f".*{PART}"), *(out / CHECKPOINTS).glob(f".*{PART}")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return not fresh and (out / CHECKPOINTS / LAST).is_file()


def delete_run(out: Path, result: str) -> None:
    """Delete an earlier run, but no other files in its folder."""
    for name in (CHECKPOINTS, "logs", result):
        shutil.rmtree(out / name, ignore_errors=True)


def device_arguments(settings: TrainingConfig) -> dict[str, Any]:
    """Return the arguments of Lightning's ``Trainer`` for processes and devices; torchrun overrides the
    settings."""
    nodes = 1
    if torch.distributed.is_torchelastic_launched():
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    elif settings.devices == "auto":
        devices = torch.cuda.device_count() if on_gpu(settings) else 1
    else:
        devices = settings.devices
    return {
        "accelerator": settings.accelerator,
        "devices": devices,
        "num_nodes": nodes,
        "strategy": DDP_STRATEGY if devices * nodes > 1 else "auto",
        # Statistics over the batches of all processes, as for the loss; PyTorch has this for GPUs only.
        "sync_batchnorm": on_gpu(settings),
    }


def _callbacks(settings: TrainingConfig, out: Path, score: str, progress: bool) -> list[Callback]:
    callbacks: list[Callback] = [
        ModelCheckpoint(
            out / CHECKPOINTS,
            Path(BEST).stem,
            monitor=score,
            mode="max",
            save_last=True,
            enable_version_counter=False,
        ),
        EarlyStopping(score, mode="max", patience=settings.patience),
        LearningRateMonitor("epoch"),
    ]
    if settings.ema_decay > 0:
        callbacks.append(WeightAveraging(multi_avg_fn=partial(update_average, decay=settings.ema_decay)))
    if progress and messages.is_terminal:  # a log file gets lines only
        callbacks.append(TQDMProgressBar(leave=False))
    return [*callbacks, *([_EpochLogger(score)] if progress else [])]


def _loggers(out: Path, checkpoint: Path | None) -> list[Logger]:
    """Return CSV and TensorBoard loggers; a resumed run drops entries after its checkpoint, which will be
    repeated."""
    logged: list[dict[str, Any]] = []
    step = 0
    file = out / "logs" / "metrics.csv"
    if checkpoint is not None:
        step = read_checkpoint(checkpoint)["global_step"]
        with file.open(newline="", encoding="utf-8") if file.is_file() else nullcontext(()) as lines:
            rows = [
                row for row in csv.DictReader(lines) if None not in row.values()
            ]  # the last can be truncated
            logged = [
                {key: value for key, value in row.items() if value} for row in rows if int(row["step"]) < step
            ]
    table = CSVLogger(out, "logs", version="")
    if logged and is_first_process():
        table.experiment.metrics = logged
        table.save()
    return [table, TensorBoardLogger(out, "logs", version="", purge_step=step)]


class _AtomicCheckpointIO(TorchCheckpointIO):
    """Atomic replacement of a checkpoint, so that a killed process leaves the previous one.

    Lightning moves it from the folder for temporary files, which copies if that is on another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with atomic_file(Path(path)) as partial, partial.open("wb") as stream:
            torch.save(checkpoint, stream)

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        return read_checkpoint(Path(path))


class _EpochLogger(Callback):
    """One line per epoch, for terminals and log files."""

    def __init__(self, score: str) -> None:
        self.score = score

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        values = trainer.callback_metrics
        messages.print(
            f"epoch {trainer.current_epoch + 1:3d} of {trainer.max_epochs}: "
            f"train loss {values['train_loss']:.4f}, {self.score.replace('_', ' ')} {values[self.score]:.4f}"
        )
