"""The commands train, compare, crossval, ensemble and demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reactometer.cli import render, render_evaluation
from reactometer.cli.options import ByOption, GroupsOption, SetOption, split_names
from reactometer.cli.render import results
from reactometer.errors import require
from reactometer.terminal import OK, SOME_FAILED

ConfigArgument = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="TOML file, or a packaged configuration: resnet50.")
]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Override a configuration key: data.path=FOLDER."),
]


def train(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume a stopped run.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete an earlier run in the output folder.")
    ] = False,
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Train even if splits share people or stimuli.")
    ] = False,
) -> None:
    """Train a model from a configuration, on split train. Split val selects the best epoch."""
    from reactometer.training.train import train as run

    overrides = [*(overrides or ()), *(["data.allow_leak=true"] if allow_leak else ())]
    render.print_trained(run(config, overrides, resume=resume, overwrite=overwrite))


def compare(
    configs: Annotated[
        list[Path], typer.Argument(metavar="CONFIG...", help="TOML files, or packaged configurations.")
    ],
    data: Annotated[Path, typer.Option(help="Dataset for all configurations.")],
    out: Annotated[Path, typer.Option(help="Folder for the table and the runs.")] = Path("comparison"),
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds per configuration.")] = 3,
    overrides: SetOption = None,
    split: Annotated[
        str, typer.Option(help="Split to score. Select on val, then score on test once.")
    ] = "test",
) -> None:
    """Train several configurations and compare them. The same command resumes a stopped run."""
    from reactometer.training.compare import compare as run

    render.print_comparison(run(configs, data, out, seeds=seeds, overrides=overrides or (), split=split))


def crossval(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    out: Annotated[
        Path, typer.Option(help="Folder for predictions.csv, metrics.json, plots and models.")
    ] = Path("crossval"),
    folds: Annotated[int, typer.Option(min=3, help="Number of folds.")] = 5,
    leave_one_person_out: Annotated[
        bool, typer.Option("--leave-one-person-out", help="Make one fold per person instead.")
    ] = False,
    by: ByOption = None,
    groups: GroupsOption = None,
) -> None:
    """Train one model per fold. Score each clip by the model that held it out. The same command resumes."""
    from reactometer.inference.conformal import load_uncertainty
    from reactometer.training.crossval import crossval as run

    evaluation = run(
        config,
        out,
        overrides or (),
        folds=folds,
        leave_one_person_out=leave_one_person_out,
        by=by,
        groups=split_names(groups),
    )
    render_evaluation.print_evaluation(evaluation)
    if fitted := load_uncertainty(out / "model"):
        render_evaluation.print_uncertainty(fitted, f"{out / 'model'}, the ensemble of all folds")
    else:
        results.print(f"model: {out / 'model'}, the ensemble of all folds, without intervals")
    raise typer.Exit(SOME_FAILED if evaluation.failed else OK)


def ensemble(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="CONFIG|MODEL...", help="One TOML file to train, or checkpoints to join."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the ensemble.")],
    folds: Annotated[
        int, typer.Option(min=0, help="Number of person-disjoint folds of train and val to train on.")
    ] = 0,
    seeds: Annotated[int, typer.Option(min=0, help="Number of seeds to train with, instead of folds.")] = 0,
    overrides: SetOption = None,
) -> None:
    """Average several models into an ensemble. Train on folds or with seeds, or join checkpoints."""
    if len(sources) == 1 and not sources[0].is_dir():
        from reactometer.training.train import ensemble as run

        render.print_trained(run(sources[0], out, overrides or (), folds=folds, seeds=seeds))
    else:
        from reactometer.inference.checkpoint import join_models

        render.print_trained(join_models(sources, out))


def demo(
    out: Annotated[Path, typer.Option(help="Folder for all files of the demo.")] = Path("demo"),
    clips: Annotated[int, typer.Option(min=120, help="Number of synthetic clips.")] = 480,
    seed: Annotated[int, typer.Option(help="Random seed of the dataset and the training.")] = 0,
) -> None:
    """Run all steps in minutes on the synthetic demo dataset. Print scores and write a plot."""
    require("torch", "lightning", "matplotlib", extra="train")
    from reactometer.cli.demo import demo as run

    render_evaluation.print_demo(run(out, n_clips=clips, seed=seed))
