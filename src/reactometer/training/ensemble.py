"""Several trainings of one configuration -> one model folder whose scores are their mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reactometer.config import Config, load_config
from reactometer.errors import ConfigError
from reactometer.models.folder import join_models
from reactometer.training.train import MODEL, train_once


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

    A second call takes up where the first one stopped: members that are there are not trained again.

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
        name = f"fold{number}of{folds}" if folds else f"seed{number}"
        data = config.data.model_copy(update={"folds": folds, "fold": number} if folds else {})
        seed = config.training.seed if folds else number
        training = config.training.model_copy(update={"out": out / name, "seed": seed})
        own = config.model_copy(update={"data": data, "training": training})
        members.append(train_once(own, name, progress=progress))
    return join_models(members, out / MODEL)
