"""Train a configuration into a checkpoint, with Lightning; average several trainings into an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import seed_everything

from reactometer.config import Config, load_config, parse_config
from reactometer.data.cache import PreparedSet
from reactometer.data.prepare import open_data
from reactometer.errors import ConfigError, DataError, OutputError
from reactometer.evaluation.conformal_fit import fit_uncertainty
from reactometer.inference.checkpoint import join_models, load_model
from reactometer.inference.conformal import save_uncertainty
from reactometer.io import atomic_folder, parse_json_object, wrap_decode_errors, write_atomic
from reactometer.models.architectures import get_modalities
from reactometer.terminal import is_first_process, messages
from reactometer.training.export import prove, write_checkpoint
from reactometer.training.module import ReactionModule
from reactometer.training.setup import build_training
from reactometer.training.trainer import CHECKPOINTS, LAST, check_devices, delete_run, load_best, prepare_run_dir, run

MODEL_DIR = "model"


def train(
    config: Config | Path | str,
    overrides: Sequence[str] = (),
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Fit a model on the train split, choose its epoch on the val split, and write a checkpoint.

    Args:
        config: a TOML file, or a configuration made in Python.
        overrides: ``section.key=value`` on top of a TOML file.
        resume: go on from the last finished epoch of a run that was stopped.
        overwrite: delete an earlier run in the same folder.
        progress: show bars and a line an epoch on standard error.

    Returns:
        The checkpoint, ``<training.out>/model``. Beside it: ``config.json``, ``logs/`` (CSV and TensorBoard) and
        ``checkpoints/``.

    Raises:
        ConfigError, DataError, WeightsError: what is given cannot be trained on.
        OutputError: the run's folder holds a run already.
    """
    if not isinstance(config, Config):
        config = load_config(Path(config), overrides)
    get_modalities(config.model)  # a name that does not exist, and a device, are reported before any work
    check_devices(config.training)
    progress = progress and is_first_process()
    out = prepare_run_dir(config.training.out or Path("runs/run"), MODEL_DIR, resume=resume, overwrite=overwrite)
    prepared = open_data(config.data, config.prepare, progress=progress)
    detector = config.prepare.detector  # "auto" is settled on each machine that uses the model
    config = config.model_copy(update={"prepare": prepared.settings.model_copy(update={"detector": detector})})
    seed_everything(config.training.seed, workers=True, verbose=False)
    setup = build_training(config, prepared, progress=progress)
    task, data = ReactionModule(setup.trainable, config.training, setup.data), setup.data
    if overwrite and is_first_process():  # not before all is ready to go
        delete_run(out, MODEL_DIR)
    if is_first_process():
        write_atomic(out / "config.json", config.model_dump_json(indent=2) + "\n")
    trainer = run(task, data, config.training, out, resume=resume, progress=progress)
    if trainer.is_global_zero:
        best = load_best(task, out)
        about = {
            "name": prepared.folder.name,
            "detector": prepared.settings.detector,
            "manifest_sha256": prepared.manifest_sha256,
            "n_train_clips": len(data.train_rows),
            "n_val_clips": len(data.val_rows),
        }
        network, labels = setup.model.to("cpu").eval(), prepared.labels
        with atomic_folder(out / MODEL_DIR) as folder:
            write_checkpoint(folder, network, labels, config, data=about, metrics=best)
            prove(folder, network, setup.prepared)
            _calibrate(folder, setup.prepared, progress)
    return out / MODEL_DIR


def train_once(config: Config, out: Path, *, seed: int, progress: bool) -> Path:
    """Return the model of a run in ``out``: train it, or resume its training, unless it is finished.

    Raises:
        OutputError: the folder holds a run of another configuration.
    """
    training = config.training.model_copy(update={"out": out, "seed": seed})
    config = config.model_copy(update={"training": training})
    if (about := out / "config.json").is_file():
        fix = "Name another folder with --out, or delete this one"
        with wrap_decode_errors(about, OutputError, fix):
            known = parse_config(parse_json_object(about.read_bytes()), str(about))
        if _essence(known) != _essence(config):
            raise OutputError(f"{out}: a run of another configuration", fix=fix)
    if not (out / MODEL_DIR).exists():
        if progress:
            messages.print(f"training {out.name}", style="bold", markup=False)
        train(config, resume=(out / CHECKPOINTS / LAST).is_file(), progress=progress)
    return out / MODEL_DIR


def _essence(config: Config) -> dict[str, object]:
    """What makes a run what it is, less its folder and what the data set settles."""
    return config.model_dump(mode="json", exclude={"prepare": True, "data": {"cache"}, "training": {"out"}})


def _calibrate(folder: Path, prepared: PreparedSet, progress: bool) -> None:
    """Fit intervals on val, where it has clips enough; val chose the epoch, too, so they are a little narrow."""
    try:
        save_uncertainty(folder, fit_uncertainty(load_model(folder), prepared, progress=progress))
    except DataError as error:
        messages.print(f"no intervals: {error}", style="yellow")


def ensemble(
    config: Config | Path | str,
    out: Path | str,
    overrides: Sequence[str] = (),
    *,
    folds: int = 0,
    seeds: int = 0,
    progress: bool = True,
) -> Path:
    """Train one member a fold, or one a seed, and join them.

    A second call resumes the first, and trains no finished member again.

    Args:
        config: a TOML file, or a configuration made in Python.
        out: the run's folder: a folder a member, and the ensemble itself in ``model``.
        overrides: ``section.key=value`` on top of a TOML file.
        folds: train and val together are cut into so many folds, nobody in two of them; each is val once.
        seeds: instead, train on the splits as they are with seeds 0, 1, 2 …
        progress: show bars and lines on standard error.

    Raises:
        ConfigError: neither folds nor seeds, or both, or fewer than two; all else as :func:`train`.
        OutputError: ``out`` holds an ensemble already, or runs of another configuration.
    """
    if not isinstance(config, Config):
        config = load_config(Path(config), overrides)
    if bool(folds) == bool(seeds) or max(folds, seeds) < 2:
        raise ConfigError(
            "an ensemble has folds or seeds", got=f"folds={folds}, seeds={seeds}", expected="one of them, at least 2"
        )
    out, members = Path(out), []
    for number in range(folds or seeds):
        if folds:
            data = config.data.model_copy(update={"folds": folds, "fold": number})
            config = config.model_copy(update={"data": data})
        name, seed = (f"fold{number}of{folds}", config.training.seed) if folds else (f"seed{number}", number)
        members.append(train_once(config, out / name, seed=seed, progress=progress))
    return join_models(members, out / MODEL_DIR)
