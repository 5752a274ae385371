"""Lightning as the engine: a run's folder, its checkpoints, bars and lines, and going on after a stop."""

from __future__ import annotations

import logging
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from reactometer.config import FitConfig
from reactometer.console import is_first_process, messages
from reactometer.data.batches import safe_workers
from reactometer.data.pool import default_workers
from reactometer.errors import OutputError
from reactometer.memory import keep_freed_memory
from reactometer.training.optimise import averaged_weights

CHECKPOINTS, BEST, LAST = "checkpoints", "best.ckpt", "last.ckpt"
MOST_WORKERS = 8  # of a GPU, where none are asked for


def run(
    task: LightningModule, data: LightningDataModule, settings: FitConfig, out: Path, *, resume: bool, progress: bool
) -> Trainer:
    """Fit ``task`` and keep, in ``out``, the epoch with the largest ``task.score`` on validation, and the last.

    Args:
        task: has a ``score``, the name of what it logs for each validation, and a ``config`` with a seed.
        data: batches of the train and val splits.
        settings: epochs, rates, devices.
        out: the run's folder.
        resume: go on from the last finished epoch.
        progress: show bars and a line an epoch on standard error.
    """
    keep_freed_memory()
    # Deterministic mode would fill each new buffer, a twelfth of a step, to find reads of uninitialised memory.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    with _quiet():
        trainer = _trainer(settings, out, str(task.score), progress)
        checkpoint = out / CHECKPOINTS / LAST if resume else None
        try:
            trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=False)
        except SystemExit as stop:  # how Lightning answers Ctrl-C
            messages.print("stopped in training; go on from the last finished epoch with --resume")
            raise KeyboardInterrupt from stop
    return trainer


def load_best(task: LightningModule, out: Path) -> dict[str, Any]:
    """Put the best epoch's (averaged) weights into the task; returns what it scored on validation."""
    state = torch.load(out / CHECKPOINTS / BEST, map_location="cpu", weights_only=False)
    task.load_state_dict(state["state_dict"])
    return {"split": "val", "epoch": state["epoch"] + 1, **state["val_metrics"]}


def seed_epoch(task: LightningModule) -> None:
    """Draw what is random in an epoch from (seed, epoch, device) alone, so that a resumed run draws the same."""
    settings: Any = task.config
    key = (settings.seed, task.current_epoch, task.global_rank)
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))


def loader_workers(settings: FitConfig) -> int:
    """How many processes a loader of a training has; call it right before they are forked."""
    if settings.workers != "auto":
        return safe_workers(settings.workers)
    on_gpu = settings.accelerator != "cpu" and torch.cuda.is_available()
    return safe_workers(min(MOST_WORKERS, default_workers() // torch.cuda.device_count()) if on_gpu else 0)


def claim(out: Path, made: str, *, resume: bool, overwrite: bool) -> Path:
    """Refuse a run's folder that holds a run already, unless it is to be resumed or deleted.

    Args:
        out: the run's folder.
        made: name of what a finished run leaves in it.
        resume: go on with the run that is there.
        overwrite: delete it, once all is ready.
    """
    if not is_first_process():  # the first one has seen to it
        return out
    has_run = (out / CHECKPOINTS).is_dir() or (out / made).exists()
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
    return out


def clear(out: Path, made: str) -> None:
    """Delete an earlier run, and nothing else that lies in its folder."""
    for name in (CHECKPOINTS, "logs", made):
        shutil.rmtree(out / name, ignore_errors=True)


def _trainer(settings: FitConfig, out: Path, score: str, progress: bool) -> Trainer:
    devices = torch.cuda.device_count() or 1 if settings.devices == "auto" else settings.devices
    callbacks: list[Callback] = [
        ModelCheckpoint(
            out / CHECKPOINTS, Path(BEST).stem, monitor=score, mode="max", save_last=True, enable_version_counter=False
        ),
        EarlyStopping(score, mode="max", patience=settings.patience),
        LearningRateMonitor("epoch"),
    ]
    if settings.ema_decay > 0:
        callbacks.append(averaged_weights(settings.ema_decay))
    bars = progress and messages.is_terminal  # a log gets the lines alone
    callbacks += [TQDMProgressBar(leave=False)] if bars else []
    callbacks += [_EpochLine(score)] if progress else []
    return Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        strategy="auto" if devices == 1 else "ddp_find_unused_parameters_true",  # a batch may show no face at all
        precision=settings.precision,
        max_epochs=settings.epochs,
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=settings.gradient_clip or None,
        reload_dataloaders_every_n_epochs=1,
        callbacks=callbacks,
        logger=[CSVLogger(out, "logs", version=""), TensorBoardLogger(out, "logs", version="")],
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_progress_bar=bars,
        enable_model_summary=False,
        deterministic="warn",
    )


class _EpochLine(Callback):
    """One line an epoch, so that a log tells the story too."""

    def __init__(self, score: str) -> None:
        self.score = score

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        values = trainer.callback_metrics
        messages.print(
            f"epoch {trainer.current_epoch + 1:3d} of {trainer.max_epochs}: "
            f"train loss {values['train_loss']:.4f}, {self.score.replace('_', ' ')} {values[self.score]:.4f}"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's hints to itself; errors still pass."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            with redirect_stdout(sys.stderr):  # where Lightning's bars belong
                yield
    finally:
        logger.setLevel(level)
