"""The commands train, crossval, compare and demo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reactometer.cli import render, render_evaluation
from reactometer.cli.options import (
    ByOption,
    DataOption,
    FreshOption,
    GroupsOption,
    SetOption,
    out_option,
    split_names,
    split_overrides,
)
from reactometer.cli.render import results
from reactometer.errors import ConfigError, require
from reactometer.terminal import OK, SOME_FAILED

if TYPE_CHECKING:
    from reactometer.config import Config

DEFAULT_CONFIG = "your-own"
"""Packaged configuration of a training without another: for few videos, on a laptop."""

TABLE_ENDINGS = (".csv", ".tsv", ".parquet", ".pq")

ConfigArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CONFIG|KEY=VALUE",
        help="TOML file, or packaged configuration (model list); default: your-own. KEY=VALUE overrides a "
        "key, such as training.epochs=5.",
    ),
]
OptionalDataOption = Annotated[
    Path | None,
    typer.Option(
        "-d", "--data", metavar="DATA", help="Dataset (folder or table) or prepared folder: data.path."
    ),
]


def train(
    config: ConfigArgument = None,
    data: OptionalDataOption = None,
    out: Annotated[Path | None, out_option("FOLDER", "Folder of the run; default: runs/CONFIG.")] = None,
    overrides: SetOption = None,
    seeds: Annotated[int, typer.Option(help="Train this number of seeds, and join them.")] = 0,
    folds: Annotated[
        int,
        typer.Option(help="Train on this number of person-disjoint folds of train and val, and join them."),
    ] = 0,
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Train even if splits share people or stimuli.")
    ] = False,
    fresh: FreshOption = False,
) -> None:
    """Train a model on the train split.

    The val split selects the best epoch. The same command resumes a stopped training.
    """
    settings = _load_config(
        config, data, [*(overrides or ()), *(["data.allow_leak=true"] if allow_leak else ())], out
    )
    from reactometer.training.train import ensemble
    from reactometer.training.train import train as run

    if seeds or folds:
        folder = settings.training.out or Path("runs")
        render.print_trained(ensemble(settings, folder, folds=folds, seeds=seeds, fresh=fresh), data)
    else:
        render.print_trained(run(config=settings, fresh=fresh), data)


def crossval(
    config: ConfigArgument = None,
    data: OptionalDataOption = None,
    out: Annotated[
        Path, out_option("FOLDER", "Folder for predictions.csv, metrics.json, plots and models.")
    ] = Path("crossval"),
    overrides: SetOption = None,
    folds: Annotated[int, typer.Option(min=3, help="Number of folds.")] = 5,
    leave_one_person_out: Annotated[
        bool, typer.Option("--leave-one-person-out", help="Make one fold per person instead.")
    ] = False,
    by: ByOption = None,
    groups: GroupsOption = None,
    fresh: FreshOption = False,
) -> None:
    """Train one model per fold, and score held-out clips.

    Each clip is scored by the model that held it out. The same command resumes a stopped cross-validation.
    """
    settings = _load_config(config, data, overrides)
    from reactometer.inference.conformal import load_uncertainty
    from reactometer.training.crossval import crossval as run

    evaluation = run(
        settings,
        out,
        folds=folds,
        leave_one_person_out=leave_one_person_out,
        by=by,
        groups=split_names(groups),
        fresh=fresh,
    )
    render.print_json(evaluation.as_json())
    render_evaluation.print_evaluation(evaluation)
    results.print(f"ensemble of all folds: {out / 'model'}")
    if fitted := load_uncertainty(out / "model"):
        render_evaluation.print_uncertainty(fitted, str(out / "model"))
    raise typer.Exit(SOME_FAILED if evaluation.failed else OK)


def compare(
    configs: Annotated[
        list[str],
        typer.Argument(
            metavar="CONFIG|KEY=VALUE",
            help="TOML files, or packaged configurations; overrides of all.",
        ),
    ],
    data: DataOption,
    out: Annotated[Path, out_option("FOLDER", "Folder for the table and the runs.")] = Path("comparison"),
    overrides: SetOption = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds per configuration.")] = 3,
    split: Annotated[
        str, typer.Option(help="Split to score. Select on val, then score on test once.")
    ] = "test",
    fresh: FreshOption = False,
) -> None:
    """Train several configurations, and compare them.

    The same command resumes a stopped comparison.
    """
    from reactometer.training.compare import as_table
    from reactometer.training.compare import compare as run

    names, changes = split_overrides(configs)
    changes += overrides or ()
    comparison = run(names, data, out, seeds=seeds, overrides=changes, split=split, fresh=fresh)
    render.print_json(as_table(comparison).to_dict("records"))
    render.print_comparison(comparison)


def demo(
    out: Annotated[Path, out_option("FOLDER", "Folder for all files of the demo.")] = Path("demo"),
    clips: Annotated[int, typer.Option(min=120, help="Number of synthetic clips.")] = 480,
    seed: Annotated[int, typer.Option(help="Random seed of the dataset and the training.")] = 0,
) -> None:
    """Run all steps in minutes on synthetic data.

    The demo renders faces and voices, trains a model, prints its scores and writes a plot.
    """
    require("torch", "lightning", "matplotlib", extra="train")
    from reactometer.cli.demo import demo as run

    render_evaluation.print_demo(run(out, n_clips=clips, seed=seed))


def _load_config(
    arguments: list[str] | None, data: Path | None, overrides: list[str] | None, out: Path | None = None
) -> Config:
    """Read the configuration that the positional arguments name, with ``-d``, ``-o`` and all overrides."""
    from reactometer.config import load_config

    names, changes = split_overrides(arguments)
    for name in names[1:] or names:
        if len(names) > 1 or Path(name).is_dir() or Path(name).suffix.lower() in TABLE_ENDINGS:
            raise ConfigError(f"{name}: not a configuration", fix=f"Name the dataset with -d {name}")
    config = load_config(names[0] if names else DEFAULT_CONFIG, [*changes, *(overrides or ())])
    path, folder = data or config.data.path, out or config.training.out
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={"path": path}),
            "training": config.training.model_copy(update={"out": folder}),
        }
    )
