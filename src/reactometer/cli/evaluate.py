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
    DataOption,
    DeviceOption,
    GroupsOption,
    InSampleOption,
    ModelOption,
    SplitOption,
    out_option,
    split_names,
)
from reactometer.terminal import OK, SOME_FAILED


def evaluate(
    data: DataArgument,
    model: ModelOption,
    split: SplitOption = None,
    without: Annotated[str | None, typer.Option(help="Mask face or voice of a model that uses both.")] = None,
    by: ByOption = None,
    resamples: Annotated[
        int, typer.Option(min=0, help="Number of resamples for intervals; 0: no intervals.")
    ] = 2000,
    groups: GroupsOption = None,
    in_sample: InSampleOption = False,
    out: Annotated[
        Path | None, out_option("FOLDER", "Folder for predictions.csv, metrics.json and plots.")
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Score a model on a dataset.

    Pearson, CCC and MAE are over all clips at once, with 95% intervals.
    """
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
        in_sample=in_sample,
        out=out,
    )
    render.print_json(evaluation.as_json())
    render_evaluation.print_evaluation(evaluation)
    raise typer.Exit(SOME_FAILED if evaluation.failed else OK)


def calibrate(
    data: DataArgument,
    model: ModelOption,
    split: Annotated[
        str, typer.Option(help="Split of held-out clips: val, test, all or out-of-fold.")
    ] = "val",
    coverage: Annotated[float, typer.Option(help="Share of labels inside the intervals.")] = 0.9,
    recalibrate: Annotated[
        bool, typer.Option("--recalibrate", help="Recalibrate predictions to the labels, too.")
    ] = False,
    out: Annotated[
        Path | None, out_option("FOLDER", "Folder for a calibrated copy; default: change MODEL.")
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Fit a model's prediction intervals to held-out clips.

    The checkpoint stores them.
    """
    from reactometer.evaluation.conformal_fit import calibrate as run

    fitted = run(model, data, split=split, coverage=coverage, recalibrate=recalibrate, out=out, device=device)
    render.print_json(fitted)
    render_evaluation.print_uncertainty(fitted, str(out or model))


def report(
    data: DataArgument,
    model: ModelOption,
    out: Annotated[Path, out_option("FOLDER", "Folder for report.html and its files.")] = Path("report"),
    split: SplitOption = None,
    by: ByOption = None,
    groups: GroupsOption = None,
    in_sample: InSampleOption = False,
    robustness: Annotated[
        bool, typer.Option(help="Also score clips with noise or a hidden face; 20 times slower.")
    ] = True,
    device: DeviceOption = "auto",
) -> None:
    """Write a page with all scores of a model, and a model card.

    The page report.html opens offline; model-card.md has the same figures.
    """
    from reactometer.evaluation.report import report as run
    from reactometer.hub.model_card import model_card
    from reactometer.inference.checkpoint import load_model
    from reactometer.io import write_atomic

    page = run(
        model,
        data,
        out,
        split=split,
        by=by,
        groups=split_names(groups),
        in_sample=in_sample,
        robustness=robustness,
        device=device,
    )
    scores = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    card = write_atomic(
        out / "model-card.md", model_card(load_model(model, "cpu"), model.resolve().name, scores)
    )
    render.print_json({"report": page, "model_card": card})
    render.print_written([page, card])


def compare_predictions(
    first: Annotated[Path, typer.Argument(metavar="A.csv", help="predictions.csv of 'evaluate --out'.")],
    second: Annotated[
        Path, typer.Argument(metavar="B.csv", help="predictions.csv of another model on the same clips.")
    ],
    data: DataOption,
    by: ByOption = None,
    resamples: Annotated[int, typer.Option(min=100, help="Number of resamples and permutations.")] = 2000,
    out: Annotated[Path | None, out_option("FILE", "JSON file for all results.")] = None,
) -> None:
    """Test which of two models is better on the same clips.

    It prints the differences with intervals and p-values.
    """
    from reactometer.evaluation.paired_test import compare_predictions as run

    paired = run(first, second, data, by=by, n_resamples=resamples, out=out)
    render.print_json(paired)
    render_evaluation.print_paired(paired, str(first), str(second))


def submission(
    data: DataArgument,
    model: ModelOption,
    out: Annotated[Path, out_option("FILE", "CSV file for the predictions.")] = Path("submission.csv"),
    device: DeviceOption = "auto",
) -> None:
    """Write the submission file of a challenge (ABAW5, EMI)."""
    from reactometer.evaluation.evaluate import submission as run
    from reactometer.inference.checkpoint import load_model

    path = run(load_model(model, device), data, out)
    render.print_json({"submission": path})
    render.print_written([path])
