"""Train: a configuration -> a model folder, with Lightning as the engine."""

from __future__ import annotations

import logging
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, EarlyStopping, LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from reactometer.config import Config, load_config
from reactometer.console import is_first_process, messages
from reactometer.data.cache import MANIFEST_FILE, PreparedSet
from reactometer.data.sources import open_data
from reactometer.errors import OutputError
from reactometer.models.folder import save_model
from reactometer.models.zoo import goes_by
from reactometer.training.setup import as_asked, set_up
from reactometer.training.task import SCORE, ReactionData, ReactionTask, averaged_weights

MODEL, LAST = "model", "last.ckpt"


def train(
    config: Config | Path | str,
    overrides: Sequence[str] = (),
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Fit a model on the train split, choose its epoch on the val split, and write a model folder.

    Args:
        config: a TOML file, or a configuration made in Python.
        overrides: ``section.key=value`` on top of a TOML file.
        resume: go on from the last finished epoch of a run that was stopped.
        overwrite: delete an earlier run in the same folder.
        progress: show bars and a line an epoch on standard error.

    Returns:
        The model folder, ``<training.out>/model``. Beside it: ``config.json``, ``logs/`` (CSV and TensorBoard) and
        ``checkpoints/``.

    Raises:
        ConfigError, DataError, WeightsError: what is given cannot be trained on.
        OutputError: the run's folder holds a run already.
    """
    if not isinstance(config, Config):
        config = load_config(Path(config), overrides)
    goes_by(config.model)  # a name that does not exist is told of before any work
    out = _claim(config.training.out or Path("runs/run"), resume, overwrite)
    prepared = open_data(config.data, config.prepare, progress=progress)
    config = config.model_copy(update={"prepare": as_asked(config, prepared)})
    seed_everything(config.training.seed, workers=True, verbose=False)
    setup = set_up(config, prepared, progress=progress)
    task, data = ReactionTask(setup.trained, config.training, setup.data), setup.data
    if overwrite and is_first_process():  # not before all is ready to go
        _clear(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    with _quiet():
        trainer = _trainer(config, out, progress)
        _fit(trainer, task, data, out / "checkpoints" / LAST if resume else None)
    if trainer.is_global_zero:
        best = _load_best(trainer, task)
        about = {**_about(prepared, data), "person_norm": setup.note}
        save_model(out / MODEL, setup.model, prepared.labels, config, data=about, metrics=best)
    return out / MODEL


def _claim(out: Path, resume: bool, overwrite: bool) -> Path:
    if not is_first_process():  # the first one has seen to it
        return out
    has_run = (out / "checkpoints").is_dir() or (out / MODEL).exists()
    if resume and not (out / "checkpoints" / LAST).is_file():
        raise OutputError(f"{out}: no run to resume", fix="Start it without --resume")
    if resume and (out / MODEL).exists():
        raise OutputError(
            f"{out}: the run is finished; its model is {out / MODEL}", fix="Use it, or start anew with --overwrite"
        )
    if has_run and not (resume or overwrite):
        raise OutputError(
            f"{out}: holds a run already", fix="Go on with --resume, start anew with --overwrite, or set training.out"
        )
    return out


def _clear(out: Path) -> None:
    """Delete an earlier run, and nothing else that lies in its folder."""
    for name in ("checkpoints", "logs", MODEL):
        shutil.rmtree(out / name, ignore_errors=True)


def _trainer(config: Config, out: Path, progress: bool) -> Trainer:
    settings = config.training
    devices = torch.cuda.device_count() or 1 if settings.devices == "auto" else settings.devices
    callbacks: list[Callback] = [
        ModelCheckpoint(
            out / "checkpoints", "best", monitor=SCORE, mode="max", save_last=True, enable_version_counter=False
        ),
        EarlyStopping(SCORE, mode="max", patience=settings.patience),
        LearningRateMonitor("epoch"),
    ]
    if settings.ema_decay > 0:
        callbacks.append(averaged_weights(settings.ema_decay))
    bars = progress and messages.is_terminal  # a log gets the lines alone
    callbacks += [TQDMProgressBar(leave=False)] if bars else []
    callbacks += [_EpochLine()] if progress else []
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


def _fit(trainer: Trainer, task: ReactionTask, data: ReactionData, checkpoint: Path | None) -> None:
    try:
        trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=False)
    except SystemExit as stop:  # how Lightning answers Ctrl-C
        messages.print("stopped in training; go on from the last finished epoch with --resume")
        raise KeyboardInterrupt from stop


class _EpochLine(Callback):
    """One line an epoch, so that a log tells the story too."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        values = trainer.callback_metrics
        messages.print(
            f"epoch {trainer.current_epoch + 1:3d} of {trainer.max_epochs}: "
            f"train loss {values['train_loss']:.4f}, val mean Pearson {values[SCORE]:.4f}"
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


def _load_best(trainer: Trainer, task: ReactionTask) -> dict[str, Any]:
    """Put the best epoch's (averaged) weights into the model; returns what it scored on validation."""
    checkpoint: Any = trainer.checkpoint_callback
    state = torch.load(checkpoint.best_model_path, map_location="cpu", weights_only=False)
    task.load_state_dict(state["state_dict"])
    return {"split": "val", "epoch": state["epoch"] + 1, **state["val_metrics"]}


def _about(prepared: PreparedSet, data: ReactionData) -> dict[str, Any]:
    manifest = (prepared.folder / MANIFEST_FILE).read_bytes()
    return {
        "name": prepared.folder.name,
        "detector": prepared.settings.detector,
        "manifest_sha256": sha256(manifest).hexdigest(),
        "n_train_clips": len(data.train_rows),
        "n_val_clips": len(data.val_rows),
    }
