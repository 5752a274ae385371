"""The commands that score predictions: evaluate, calibrate, report, compare-predictions, submission."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reactometer.cli import render, render_evaluation
from reactometer.cli.options import (
    ByOption,
    CacheOption,
    DataArgument,
    DeviceOption,
    GroupsOption,
    ModelOption,
    ResamplesOption,
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
    resamples: ResamplesOption = 2000,
    groups: GroupsOption = None,
    out: Annotated[Path | None, typer.Option(help="A folder for predictions.csv, metrics.json and pictures.")] = None,
    cache: CacheOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Score a model: Pearson, CCC and MAE over all clips of a split at once, with 95 % intervals."""
    from reactometer.evaluation.evaluate import evaluate as run
    from reactometer.inference.checkpoint import load_model

    loaded = load_model(model, device)
    render.print_device(loaded)
    evaluation = run(
        loaded,
        data,
        split=split,
        without=without,
        by=by,
        n_resamples=resamples,
        groups=split_names(groups),
        out=out,
        cache=cache,
    )
    render.print_evaluation(evaluation)
    render_evaluation.print_groups(evaluation.groups)
    raise typer.Exit(SOME_FAILED if evaluation.failed else OK)


def calibrate(
    data: DataArgument,
    model: ModelOption,
    split: Annotated[str, typer.Option(help="Clips that the model did not learn from: val, test, or all.")] = "val",
    coverage: Annotated[float, typer.Option(help="Share of new clips whose label the intervals are to hold.")] = 0.9,
    recalibrate: Annotated[
        bool, typer.Option("--recalibrate", help="Bring predictions to the labels' scale by a monotone curve, too.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="A folder for a copy; default: the model's own.")] = None,
    cache: CacheOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Tell how sure a model's predictions are: fit intervals to held-out clips, and keep them in its folder."""
    from reactometer.evaluation.conformal_fit import calibrate as run

    fitted = run(
        model, data, split=split, coverage=coverage, recalibrate=recalibrate, out=out, cache=cache, device=device
    )
    render_evaluation.print_uncertainty(fitted, str(out or model))


def report(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A checkpoint, as 'train' writes it.")],
    data: DataArgument,
    out: Annotated[Path, typer.Option(help="The folder for report.html and what it rests on.")] = Path("report"),
    split: SplitOption = None,
    by: ByOption = None,
    groups: GroupsOption = None,
    degradation: Annotated[
        bool, typer.Option(help="Score clips made harder to read, too; takes twenty times as long as a score.")
    ] = True,
    cache: CacheOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Write report.html, one page with all scores that opens without a network, and card.md, a model card."""
    from reactometer.evaluation.report import report as run
    from reactometer.hub.model_card import write_card

    own = split_names(groups)
    page = run(model, data, out, split=split, by=by, groups=own, degradation=degradation, cache=cache, device=device)
    write_card(model, out / "metrics.json", out / "card.md")
    render.print_written([page, page.with_name("card.md")])


def compare_predictions(
    first: Annotated[Path, typer.Argument(metavar="A.csv", help="predictions.csv, as 'evaluate --out' writes it.")],
    second: Annotated[Path, typer.Argument(metavar="B.csv", help="The other model's, of the same clips.")],
    data: Annotated[Path, typer.Option(help="The data set, or a CSV with the labels: File_ID, one column a label.")],
    by: ByOption = None,
    resamples: Annotated[int, typer.Option(min=100, help="Resamples, and permutations.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of both.")] = 0,
    out: Annotated[Path | None, typer.Option(help="A JSON file with all of it.")] = None,
) -> None:
    """Say which of two models is better, by how much, and whether chance explains it."""
    from reactometer.evaluation.paired_test import compare_predictions as run

    paired = run(first, second, data, by=by, n_resamples=resamples, seed=seed, out=out)
    render_evaluation.print_paired(paired, str(first), str(second))


def submission(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A checkpoint.")],
    data: DataArgument,
    out: Annotated[Path, typer.Option(help="The CSV file to write.")] = Path("submission.csv"),
    cache: CacheOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Predict every test clip and write the file that ABAW5 or EMI takes."""
    from reactometer.evaluation.submission import submission as run
    from reactometer.inference.checkpoint import load_model

    render.print_written([run(load_model(model, device), data, out, cache=cache)])
