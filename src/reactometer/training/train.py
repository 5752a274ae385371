"""Train a configuration into a checkpoint, with Lightning; average several trainings into an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch import seed_everything

from reactometer.config import Config, change_settings, load_config, parse_config
from reactometer.data.cache import PreparedSet
from reactometer.data.prepare import open_data
from reactometer.data.splits import SPLITS
from reactometer.errors import ConfigError, DataError, OutputError
from reactometer.evaluation.conformal_fit import fit_uncertainty
from reactometer.evaluation.overlap import describe_clips
from reactometer.evaluation.screening_fit import fit_screening
from reactometer.inference.checkpoint import join_models, load_model
from reactometer.inference.conformal import save_uncertainty
from reactometer.inference.screening import save_screening
from reactometer.io import atomic_folder, parse_json_object, wrap_decode_errors, write_atomic
from reactometer.models.architectures import get_architecture
from reactometer.paths import STARTER, find_checkpoint
from reactometer.terminal import is_first_process, messages
from reactometer.training.export import prove, write_checkpoint
from reactometer.training.module import ReactionModule
from reactometer.training.setup import build_training
from reactometer.training.trainer import (
    CHECKPOINTS,
    LAST,
    check_devices,
    delete_run,
    fit,
    load_best,
    prepare_run_dir,
)

MODEL_DIR = "model"


def train(
    data: Path | str | None = None,
    config: Config | Path | str = "your-own",
    overrides: Sequence[str] = (),
    *,
    fresh: bool = False,
    progress: bool = True,
    **settings: object,
) -> Path:
    """Fit a model on the train split, choose its epoch on the val split, and write a checkpoint.

    A second call resumes a stopped run from its last finished epoch, and returns the model of a finished run.

    Args:
        data: dataset (folder or table) or prepared folder; default: ``data.path`` of the configuration.
        config: a packaged configuration, a TOML file, or a configuration object. The default is for few
            videos, on a laptop.
        overrides: ``section.key=value`` on top of a TOML file.
        fresh: delete an earlier run in the same folder.
        progress: show bars and one line per epoch on standard error.
        settings: any key of the configuration, such as ``epochs=20`` or ``out="runs/mine"``.

    Returns:
        The checkpoint, ``<training.out>/model``. Beside it: ``config.json``, ``logs/`` (CSV and TensorBoard)
        and ``checkpoints/``.

    Raises:
        ConfigError, DataError, WeightsError: the configuration or the dataset cannot be used.
        OutputError: the folder contains a run of another configuration.
    """
    if not isinstance(config, Config):
        config = load_config(Path(config), overrides)
    if data is not None:
        settings["path"] = data
    config = change_settings(config, settings)
    check_config(config)
    progress = progress and is_first_process()
    out = config.training.out or Path("runs/run")
    if not fresh and _is_finished(config, out):
        if progress:
            messages.print(f"{out}: finished earlier; --fresh trains again")
        return out / MODEL_DIR
    resume = prepare_run_dir(out, fresh=fresh)
    prepared = open_data(config.data, config.prepare, progress=progress)
    detector = config.prepare.detector  # "auto" is resolved on each machine that uses the model
    config = config.model_copy(
        update={"prepare": prepared.settings.model_copy(update={"detector": detector})}
    )
    seed_everything(config.training.seed, workers=True, verbose=False)
    setup = build_training(config, prepared, progress=progress)
    clips = setup.data
    if progress:
        counts = ", ".join(f"{len(setup.prepared.split(name))} {name}" for name in SPLITS)
        has_people = any(row.clip.person for row in setup.prepared.rows)
        unknown = "" if has_people else "; people are unknown, so several splits may have one"
        messages.print(f"clips: {counts}{unknown}")
        if resume:
            messages.print(f"{out}: resuming a stopped run")
    module = ReactionModule(setup.trainable, config.training, clips)
    if fresh and is_first_process():  # only when the new run is ready to start
        delete_run(out, MODEL_DIR)
    if is_first_process():
        write_atomic(out / "config.json", config.model_dump_json(indent=2) + "\n")
    trainer = fit(module, clips, config.training, out, resume=resume, progress=progress)
    if trainer.is_global_zero:
        if progress:
            messages.print("writing and checking the model")
        best = load_best(module, out)
        description = {
            "name": prepared.folder.name,
            "detector": prepared.settings.detector,
            "manifest_sha256": prepared.manifest_sha256,
            "n_train_clips": len(clips.train.rows),
            "n_val_clips": len(clips.val.rows),
            "clips": describe_clips(train=clips.train.rows, val=clips.val.rows),
        }
        network = setup.model.to("cpu").eval()
        labels = prepared.labels
        with atomic_folder(out / MODEL_DIR) as folder:
            statistics = {"data": description, "metrics": best, "training_stats": setup.training_stats}
            features = setup.prepared.features
            write_checkpoint(folder, network, labels, config, **statistics, features=features)
            prove(folder, network, setup.prepared)
            _calibrate(folder, setup.prepared, intervals=not config.data.nested, progress=progress)
    return out / MODEL_DIR


def check_config(config: Config) -> None:
    """Raise ConfigError or WeightsError, before any work, for what no dataset is needed to find wrong."""
    get_architecture(config.model)
    if config.model.encoder == STARTER.name:
        find_checkpoint(STARTER)
    check_devices(config.training)


def train_in(config: Config, out: Path, *, seed: int, fresh: bool, progress: bool) -> Path:
    """Train one of several models in ``out``, as :func:`train` does; return the checkpoint."""
    training = config.training.model_copy(update={"out": out, "seed": seed})
    if progress:
        messages.print(f"training {out.name}", style="bold")
    return train(config=config.model_copy(update={"training": training}), fresh=fresh, progress=progress)


def _is_finished(config: Config, out: Path) -> bool:
    """Return True if the folder has the model of a finished run.

    Raises:
        OutputError: it contains a run of another configuration.
    """
    finished = (out / MODEL_DIR).exists()
    if finished or (out / CHECKPOINTS / LAST).is_file():
        fix = "Choose another folder with --out, or delete this run with --fresh"
        file = out / "config.json"
        with wrap_decode_errors(file, OutputError, fix):
            previous = parse_config(parse_json_object(file.read_bytes()), str(file))
        if changed := _changed_settings(previous, config):
            raise OutputError(
                f"{out}: the folder contains a run of another configuration", got=changed, fix=fix
            )
    return finished


def _changed_settings(previous: Config, config: Config) -> str:
    """Describe the settings that differ, among those that must be equal to resume a run."""
    exclude: Any = {"prepare": True, "data": {"cache"}, "training": {"out"}}
    before, now = (item.model_dump(mode="json", exclude=exclude) for item in (previous, config))
    return ", ".join(
        f"{section}.{key}={value} instead of {before[section][key]}"
        for section, values in now.items()
        for key, value in values.items()
        if value != before[section][key]
    )


def _calibrate(folder: Path, prepared: PreparedSet, *, intervals: bool, progress: bool) -> None:
    """Fit the screening and, if wanted, intervals on val if it has enough clips.

    Val selected the epoch, too, so the intervals are a little narrow.
    """
    loaded = load_model(folder)
    screening = fit_screening(loaded, prepared)
    save_screening(folder, screening)
    if not intervals:
        return
    try:
        fitted = fit_uncertainty(replace(loaded, screening=screening), prepared, progress=progress)
        save_uncertainty(folder, fitted)
    except DataError as error:
        messages.print(f"no intervals: {error}", style="yellow")


def ensemble(
    config: Config | Path | str,
    out: Path | str,
    overrides: Sequence[str] = (),
    *,
    folds: int = 0,
    seeds: int = 0,
    fresh: bool = False,
    progress: bool = True,
) -> Path:
    """Train one member per fold, or per seed, and join them into an ensemble.

    A second call resumes the first and skips finished members.

    Args:
        config: a TOML file, or a configuration object.
        out: the run's folder: one folder per member, and the ensemble in ``model``.
        overrides: ``section.key=value`` on top of a TOML file.
        folds: number of folds of train and val together. Each person is in exactly one fold; each fold is val
            once.
        seeds: number of seeds (0, 1, 2 …) on the splits of the dataset, instead of folds.
        fresh: delete earlier members and their ensemble.
        progress: show bars and lines on standard error.

    Raises:
        ConfigError: neither folds nor seeds, or both, or fewer than two; other errors as in :func:`train`.
        OutputError: ``out`` contains an ensemble already, or runs of another configuration.
    """
    if not isinstance(config, Config):
        config = load_config(Path(config), overrides)
    if bool(folds) == bool(seeds) or max(folds, seeds) < 2:
        raise ConfigError(
            "an ensemble needs either folds or seeds",
            got=f"folds={folds}, seeds={seeds}",
            expected="one of them, at least 2",
        )
    out, members = Path(out), []
    for number in range(folds or seeds):
        if folds:
            data = config.data.model_copy(update={"folds": folds, "fold": number})
            config = config.model_copy(update={"data": data})
        name, seed = (f"fold{number}of{folds}", config.training.seed) if folds else (f"seed{number}", number)
        members.append(train_in(config, out / name, seed=seed, fresh=fresh, progress=progress))
    if fresh:
        delete_run(out, MODEL_DIR)
    return join_models(members, out / MODEL_DIR)
