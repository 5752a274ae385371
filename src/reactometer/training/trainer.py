"""Fit a model with Lightning, on one or several processes: a run's folder, its checkpoints and logs, and resuming."""

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
from reactometer.training.optim import move_average, on_gpu

CHECKPOINTS, BEST, LAST = "checkpoints", "best.ckpt", "last.ckpt"
MAX_WORKERS = 8  # of a GPU, where none are asked for
DDP_STRATEGY = "ddp_find_unused_parameters_true"
"""The strategy of several processes; a batch may contain no face at all, and leave parameters unused."""


def run(
    task: LightningModule,
    data: LightningDataModule,
    settings: TrainingConfig,
    out: Path,
    *,
    resume: bool,
    progress: bool,
) -> Trainer:
    """Fit ``task`` and keep, in ``out``, the epoch with the largest ``task.score`` on validation, and the last.

    With ``resume``, training resumes from the last finished epoch.
    """
    keep_freed_memory()
    # Deterministic mode would fill each new buffer, a twelfth of a step, to find reads of uninitialised memory.
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
            callbacks=_callbacks(settings, out, str(task.score), progress),
            logger=_loggers(out, checkpoint),
            enable_progress_bar=progress and messages.is_terminal,
        )
        try:
            with wrap_write_errors(out):  # logs, too
                trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=False)
        except SystemExit as stop:  # how Lightning answers Ctrl-C
            if progress:
                messages.print("stopped in training; go on from the last finished epoch with --resume")
            raise KeyboardInterrupt from stop
    return trainer


def check_devices(settings: TrainingConfig) -> None:
    """Check, before any work, that this machine has the devices that a training asks for.

    Raises:
        ConfigError: ``training.accelerator`` is unknown or not available here, or there are fewer devices.
    """
    try:
        with quiet("lightning.pytorch", sys.stderr, "lightning"):  # Lightning's bars belong to standard error
            Trainer(**device_arguments(settings), logger=False, enable_checkpointing=False, enable_progress_bar=False)
    except (MisconfigurationException, ValueError) as error:
        raise ConfigError(
            f"cannot train on training.accelerator = {settings.accelerator!r}, training.devices = {settings.devices!r}",
            got=str(error).splitlines()[0],
            fix="Set training.accelerator=auto, or cpu",
        ) from error


def load_best(task: LightningModule, out: Path) -> dict[str, Any]:
    """Put the best epoch's (averaged) weights into the task; returns what it scored on validation."""
    state = read_checkpoint(out / CHECKPOINTS / BEST)
    task.load_state_dict(state["state_dict"])
    return {"split": "val", "epoch": state["epoch"] + 1, **state["val_metrics"]}


def read_checkpoint(file: Path) -> dict[str, Any]:
    """What Lightning kept of a run.

    Raises:
        OutputError: the file is damaged; torch itself would take other numbers for those that were written.
    """
    with wrap_decode_errors(file, OutputError, "Start anew with --overwrite"):
        with ZipFile(file) as archive:
            if (damaged := archive.testzip()) is not None:
                raise BadZipFile(f"other content than was written in {damaged}")
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=False)
    return state


def loader_workers(settings: TrainingConfig) -> int:
    """How many processes a loader of a training has; call it right before they are forked."""
    if settings.workers != "auto":
        workers = settings.workers
    else:
        workers = min(MAX_WORKERS, default_workers() // torch.cuda.device_count()) if on_gpu(settings) else 0
    if workers:
        gc.collect()  # in a forked process, destructors of garbage decoders would wait forever for threads
    return workers


def prepare_run_dir(out: Path, made: str, *, resume: bool, overwrite: bool) -> Path:
    """Return the run's folder, without the leftovers of a killed process; ``made`` is the result of a finished run.

    Raises:
        OutputError: the folder holds a run and you neither resume nor overwrite it, or there is nothing to resume.
    """
    if not is_first_process():  # the first one has seen to it
        return out
    has_run = (out / CHECKPOINTS / LAST).is_file() or (out / made).exists()  # else killed in its first epoch
    if resume and not (out / CHECKPOINTS / LAST).is_file():
        raise OutputError(f"{out}: no run to resume", fix="Start it without --resume")
    if resume and (out / made).exists():
        raise OutputError(
            f"{out}: the run is finished; its result is {out / made}", fix="Use it, or start anew with --overwrite"
        )
    if has_run and not (resume or overwrite):
        raise OutputError(
            f"{out}: holds a run already", fix="Go on with --resume, start anew with --overwrite, or set training.out"
        )
    for leftover in (*out.glob(f".*{PART}"), *(out / CHECKPOINTS).glob(f".*{PART}")):  # of a process that was killed
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    return out


def delete_run(out: Path, made: str) -> None:
    """Delete an earlier run, and nothing else that lies in its folder."""
    for name in (CHECKPOINTS, "logs", made):
        shutil.rmtree(out / name, ignore_errors=True)


def device_arguments(settings: TrainingConfig) -> dict[str, Any]:
    """Return the arguments of Lightning's ``Trainer`` about processes and devices; torchrun's numbers win."""
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
            out / CHECKPOINTS, Path(BEST).stem, monitor=score, mode="max", save_last=True, enable_version_counter=False
        ),
        EarlyStopping(score, mode="max", patience=settings.patience),
        LearningRateMonitor("epoch"),
    ]
    if settings.ema_decay > 0:
        callbacks.append(WeightAveraging(multi_avg_fn=partial(move_average, decay=settings.ema_decay)))
    if progress and messages.is_terminal:  # a log gets the lines alone
        callbacks.append(TQDMProgressBar(leave=False))
    return [*callbacks, *([_EpochLogger(score)] if progress else [])]


def _loggers(out: Path, checkpoint: Path | None) -> list[Logger]:
    """CSV and TensorBoard. Of a run that goes on, what was logged after its checkpoint is forgotten, to come again."""
    kept: list[dict[str, Any]] = []
    step, file = 0, out / "logs" / "metrics.csv"
    if checkpoint is not None:
        step = read_checkpoint(checkpoint)["global_step"]
        with file.open(newline="", encoding="utf-8") if file.is_file() else nullcontext(()) as lines:
            whole = [row for row in csv.DictReader(lines) if None not in row.values()]  # the last one can be cut
            kept = [{key: value for key, value in row.items() if value} for row in whole if int(row["step"]) < step]
    table = CSVLogger(out, "logs", version="")
    if kept and is_first_process():
        table.experiment.metrics = kept
        table.save()
    return [table, TensorBoardLogger(out, "logs", version="", purge_step=step)]


class _AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside the one it replaces, so that a process that is killed meanwhile leaves that one.

    Lightning's own way writes it among the temporary files; moving it from there can be copying, which can be cut.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with atomic_file(Path(path)) as partial, partial.open("wb") as stream:
            torch.save(checkpoint, stream)

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        return read_checkpoint(Path(path))


class _EpochLogger(Callback):
    """One line an epoch, so that a log tells the story too."""

    def __init__(self, score: str) -> None:
        self.score = score

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        values = trainer.callback_metrics
        messages.print(
            f"epoch {trainer.current_epoch + 1:3d} of {trainer.max_epochs}: "
            f"train loss {values['train_loss']:.4f}, {self.score.replace('_', ' ')} {values[self.score]:.4f}"
        )
