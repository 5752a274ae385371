"""The commands on scores: parse, call one function, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reactometer import printing_evaluate as printing
from reactometer.console import OK, SOME_FAILED

DataArgument = Annotated[
    Path, typer.Argument(metavar="DATA", help="A data set (a challenge's folder or a CSV), or one made by 'prepare'.")
]
ModelOption = Annotated[Path, typer.Option("--model", help="A model folder, as 'train' writes it.")]
CacheOption = Annotated[Path | None, typer.Option(help="Where prepared clips are kept; default: your cache folder.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps …")]
SplitOption = Annotated[
    str | None, typer.Option(help="train, val, test or all; default: test, or val where test has no labels.")
]
ByOption = Annotated[
    str | None, typer.Option(help="What intervals resample: person, stimulus or clip; default: person where known.")
]
ResamplesOption = Annotated[int, typer.Option(min=0, help="Resamples of the intervals; 0: no intervals.")]


def evaluate(
    data: DataArgument,
    model: ModelOption,
    split: SplitOption = None,
    without: Annotated[str | None, typer.Option(help="face or voice: take it away from a model of both.")] = None,
    by: ByOption = None,
    resamples: ResamplesOption = 2000,
    out: Annotated[Path | None, typer.Option(help="A folder for predictions.csv and metrics.json.")] = None,
    cache: CacheOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Score a model: Pearson, CCC and MAE over all clips of a split at once, with 95 % intervals."""
    from reactometer.evaluation.evaluate import evaluate as run
    from reactometer.models.folder import load_model

    loaded = load_model(model, device)
    evaluation = run(loaded, data, split=split, without=without, by=by, n_resamples=resamples, out=out, cache=cache)
    printing.print_evaluation(evaluation)
    raise typer.Exit(SOME_FAILED if evaluation.failed else OK)


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
    from reactometer.evaluation.paired import compare_predictions as run

    paired = run(first, second, data, by=by, n_resamples=resamples, seed=seed, out=out)
    printing.print_paired(paired, str(first), str(second))
