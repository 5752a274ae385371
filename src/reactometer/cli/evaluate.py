"""The commands that score predictions: evaluate, calibrate, report, compare-predictions, submission."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from reactometer.cli import render, render_evaluation
from reactometer.cli.options import (
    ByOption,
    DataArgument,
    DeviceOption,
    GroupsOption,
    ModelOption,
    SplitOption,
    split_names,
)
from reactometer.terminal import OK, SOME_FAILED


def evaluate(
    data: DataArgument,
    model: ModelOption,
    split: SplitOption = None,
    without: Annotated[str | None, typer.Option(help="face or voice: take it away from a model of both.")] = None,
    by: ByOption = None,
    resamples: Annotated[int, typer.Option(min=0, help="Resamples of the intervals; 0: no intervals.")] = 2000,
    groups: GroupsOption = None,
    out: Annotated[Path | None, typer.Option(help="A folder for predictions.csv, metrics.json and pictures.")] = None,
    device: DeviceOption = "auto",
) -> None:
    """Score a model on a dataset. Pearson, CCC and MAE are over all clips at once, with 95% intervals."""
    from reactometer.evaluation.evaluate import evaluate as run
    from reactometer.inference.checkpoint import load_model

    loaded = load_model(model, device)
    render.print_device(loaded)
    columns = split_names(groups)
    evaluation = run(loaded, data, split=split, without=without, by=by, n_resamples=resamples, groups=columns, out=out)
    render_evaluation.print_evaluation(evaluation)
    raise typer.Exit(SOME_FAILED if evaluation.failed else OK)


def calibrate(
    data: DataArgument,
    model: ModelOption,
    split: Annotated[str, typer.Option(help="Clips that the model did not learn from: val, test, or all.")] = "val",
    coverage: Annotated[float, typer.Option(help="Share of new clips whose label the intervals are to hold.")] = 0.9,
    recalibrate: Annotated[bool, typer.Option("--recalibrate", help="Fit predictions to the labels' scale.")] = False,
    out: Annotated[Path | None, typer.Option(help="A folder for a copy; default: the model's own.")] = None,
    device: DeviceOption = "auto",
) -> None:
    """Fit a model's prediction intervals to held-out clips. They are kept in its folder."""
    from reactometer.evaluation.conformal_fit import calibrate as run

    fitted = run(model, data, split=split, coverage=coverage, recalibrate=recalibrate, out=out, device=device)
    render_evaluation.print_uncertainty(fitted, str(out or model))


def report(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A checkpoint, as 'train' writes it.")],
    data: DataArgument,
    out: Annotated[Path, typer.Option(help="The folder for report.html and what it rests on.")] = Path("report"),
    split: SplitOption = None,
    by: ByOption = None,
    groups: GroupsOption = None,
    degradation: Annotated[bool, typer.Option(help="Score degraded clips too, 20 times slower.")] = True,
    device: DeviceOption = "auto",
) -> None:
    """Write one page on a model's scores. report.html opens without a network; card.md is a model card."""
    from reactometer.evaluation.report import report as run
    from reactometer.hub.model_card import model_card
    from reactometer.inference.checkpoint import load_model
    from reactometer.io import write_atomic

    own = split_names(groups)
    page = run(model, data, out, split=split, by=by, groups=own, degradation=degradation, device=device)
    scores = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    card = write_atomic(out / "card.md", model_card(load_model(model, "cpu"), model.resolve().name, scores))
    render.print_written([page, card])


def compare_predictions(
    first: Annotated[Path, typer.Argument(metavar="A.csv", help="predictions.csv, as 'evaluate --out' writes it.")],
    second: Annotated[Path, typer.Argument(metavar="B.csv", help="The other model's, of the same clips.")],
    data: Annotated[Path, typer.Option(help="The dataset with the labels.")],
    by: ByOption = None,
    resamples: Annotated[int, typer.Option(min=100, help="Resamples, and permutations.")] = 2000,
    out: Annotated[Path | None, typer.Option(help="A JSON file with all of it.")] = None,
) -> None:
    """Test which of two models is better. The difference has an interval and a p-value."""
    from reactometer.evaluation.paired_test import compare_predictions as run

    paired = run(first, second, data, by=by, n_resamples=resamples, out=out)
    render_evaluation.print_paired(paired, str(first), str(second))


def submission(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A checkpoint.")],
    data: DataArgument,
    out: Annotated[Path, typer.Option(help="The CSV file to write.")] = Path("submission.csv"),
    device: DeviceOption = "auto",
) -> None:
    """Write a challenge's submission file. ABAW5 and EMI take one row per test clip."""
    from reactometer.evaluation.submission import submission as run
    from reactometer.inference.checkpoint import load_model

    render.print_written([run(load_model(model, device), data, out)])
