"""The commands that train: train, compare, ensemble, and the demo of the whole path."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reactometer.cli import render, render_evaluation
from reactometer.cli.options import SetOption
from reactometer.errors import require


def train(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="TOML file, or the name of a packaged one: resnet50.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Override a key: data.path=FOLDER.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume a run that was stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete an earlier run in the same folder.")] = False,
    allow_leak: Annotated[bool, typer.Option("--allow-leak", help="Let splits share people or stimuli.")] = False,
) -> None:
    """Train a model from a configuration. It is fitted on train and chosen on val."""
    from reactometer.training.train import train as run

    overrides = [*(overrides or ()), *(["data.allow_leak=true"] if allow_leak else ())]
    render.print_trained(run(config, overrides, resume=resume, overwrite=overwrite))


def compare(
    configs: Annotated[list[Path], typer.Argument(metavar="CONFIG...", help="TOML files, or names.")],
    data: Annotated[Path, typer.Option(help="The data set, the same for all.")],
    out: Annotated[Path, typer.Option(help="A folder for the table and the runs.")] = Path("comparison"),
    seeds: Annotated[int, typer.Option(min=1, help="Trainings a configuration.")] = 3,
    overrides: SetOption = None,
    split: Annotated[str, typer.Option(help="What to score on. Choose on val, then score on test once.")] = "test",
) -> None:
    """Train several configurations and compare them. Run it again to resume after a stop."""
    from reactometer.training.compare import compare as run

    render.print_comparison(run(configs, data, out, seeds=seeds, overrides=overrides or (), split=split))


def ensemble(
    sources: Annotated[list[Path], typer.Argument(metavar="CONFIG|MODEL...", help="One TOML file, or checkpoints.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    folds: Annotated[int, typer.Option(min=0, help="Train on this many person-disjoint folds of train and val.")] = 0,
    seeds: Annotated[int, typer.Option(min=0, help="Train with this many seeds instead.")] = 0,
    overrides: SetOption = None,
) -> None:
    """Average several trainings into one model. Train on folds or with seeds, or join checkpoints."""
    if len(sources) == 1 and not sources[0].is_dir():
        from reactometer.training.train import ensemble as run

        render.print_trained(run(sources[0], out, overrides or (), folds=folds, seeds=seeds))
    else:
        from reactometer.inference.checkpoint import join_models

        render.print_trained(join_models(sources, out))


def demo(
    out: Annotated[Path, typer.Option(help="The folder to work in.")] = Path("demo"),
    clips: Annotated[int, typer.Option(min=120, help="Number of clips.")] = 480,
    seed: Annotated[int, typer.Option(help="Random seed of the dataset and the training.")] = 0,
) -> None:
    """Run the whole path in minutes, on synthetic data. It ends with scores and a plot."""
    require("torch", "lightning", "matplotlib", extra="train")
    from reactometer.cli.demo import demo as run

    render_evaluation.print_demo(run(out, n_clips=clips, seed=seed))
