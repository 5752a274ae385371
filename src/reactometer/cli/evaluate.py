"""The commands on scores and on what they rest on: parse, call one function, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reactometer.cli import render_evaluation as printing
from reactometer.terminal import OK, SOME_FAILED

DataArgument = Annotated[
    Path, typer.Argument(metavar="DATA", help="A data set (a challenge's folder or a CSV), or one made by 'prepare'.")
]
ModelOption = Annotated[Path, typer.Option("--model", help="A model folder, as 'train' writes it.")]
CacheOption = Annotated[Path | None, typer.Option(help="Where prepared clips are kept; default: your cache folder.")]
StarterOption = Annotated[
    Path | None, typer.Option("--model", help="A model folder; default: the starter model inside the package.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps …")]
EngineOption = Annotated[
    str, typer.Option(help="Run the encoders with: auto (exported graphs, if there are any), torch, onnx or onnx-int8.")
]
SplitOption = Annotated[
    str | None, typer.Option(help="train, val, test or all; default: test, or val where test has no labels.")
]
ByOption = Annotated[
    str | None, typer.Option(help="What intervals resample: person, stimulus or clip; default: person where known.")
]
LabelsOption = Annotated[str | None, typer.Option(help="A label set's name, or label columns with commas.")]
GroupsOption = Annotated[
    str | None, typer.Option(metavar="COLUMNS", help="Scores by group of these columns too, e.g. age,country.")
]
ResamplesOption = Annotated[int, typer.Option(min=0, help="Resamples of the intervals; 0: no intervals.")]


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
    engine: EngineOption = "auto",
) -> None:
    """Score a model: Pearson, CCC and MAE over all clips of a split at once, with 95 % intervals."""
    from reactometer.evaluation.evaluate import evaluate as run
    from reactometer.models.folder import load_model

    loaded = load_model(model, device, engine)
    printing.print_engine(loaded)
    evaluation = run(
        loaded,
        data,
        split=split,
        without=without,
        by=by,
        n_resamples=resamples,
        groups=_names(groups),
        out=out,
        cache=cache,
    )
    printing.print_evaluation(evaluation)
    printing.print_groups(evaluation.groups)
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
    printing.print_uncertainty(fitted, str(out or model))


def report(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model folder, as 'train' writes it.")],
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

    own = _names(groups)
    page = run(model, data, out, split=split, by=by, groups=own, degradation=degradation, cache=cache, device=device)
    write_card(model, out / "metrics.json", out / "card.md")
    printing.print_report(page)


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
    printing.print_paired(paired, str(first), str(second))


def audit(
    data: DataArgument,
    out: Annotated[Path | None, typer.Option(help="A JSON file with all of it.")] = None,
    cache: CacheOption = None,
    labels: LabelsOption = None,
    face_features: Annotated[str | None, typer.Option(help="Of a data set of features: columns, or a folder.")] = None,
    voice_features: Annotated[str | None, typer.Option(help="The same for the voice.")] = None,
) -> None:
    """Look for leaks between splits and for what gives labels away; the exit status is 1 where there is a leak."""
    from reactometer.evaluation.audit import audit as run

    found = run(data, cache=cache, labels=labels, face_features=face_features, voice_features=voice_features, out=out)
    printing.print_audit(found)
    raise typer.Exit(SOME_FAILED if found.leaks else OK)


def split(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A data set: a challenge's folder or a CSV.")],
    out: Annotated[Path, typer.Option(help="The CSV to write, for 'prepare' and 'train'.")],
    disjoint: Annotated[
        str, typer.Option(help="What no two splits share: person, stimulus, labels (equal label vectors), with commas.")
    ] = "person,stimulus",
    val: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the clips.")] = 0.15,
    test: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the clips.")] = 0.15,
    labels: LabelsOption = None,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
) -> None:
    """Split anew, so that splits share no person and no stimulus and have labels alike."""
    from reactometer.data.splits import split as run

    printing.print_split(run(data, out, disjoint=_names(disjoint), val=val, test=test, labels=labels, seed=seed))


def ratings(
    table: Annotated[
        Path,
        typer.Argument(metavar="TABLE", help="A CSV, a row a rating: columns path, rater if known, and a label each."),
    ],
    out: Annotated[Path, typer.Option(help="The CSV to write, a row a clip, for 'prepare' and 'split'.")],
    scale: Annotated[
        tuple[float, float], typer.Option(metavar="LEAST GREATEST", help="What ratings could be, e.g. 1 7.")
    ] = (0.0, 1.0),
    labels: LabelsOption = None,
) -> None:
    """Average the ratings of each clip, bring them to 0 to 1, and say how far raters agree, which bounds any model."""
    from reactometer.data.ratings import gather_ratings

    printing.print_ratings(gather_ratings(table, out, scale=scale, labels=labels))


def _names(text: str | None) -> list[str]:
    """What is named in it, between commas."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]
