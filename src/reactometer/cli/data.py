"""The commands on datasets: prepare, and audit, split and ratings of the group ``data``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reactometer.cli import render, render_evaluation
from reactometer.cli.options import DataArgument, LabelsOption, WorkersOption, out_option, split_names
from reactometer.errors import require
from reactometer.terminal import OK, SOME_FAILED


def prepare(
    data: DataArgument,
    out: Annotated[Path, out_option("FOLDER", "Folder for the prepared clips.")],
    fps: Annotated[float, typer.Option(help="Frames sampled per second of video.")] = 5.0,
    crop_size: Annotated[int, typer.Option(help="Side of the square face crops, pixels.")] = 112,
    detector: Annotated[str, typer.Option(help="Face detector: auto, yunet or haar.")] = "auto",
    labels: LabelsOption = None,
    votes: Annotated[str, typer.Option(help="CREMA-D only: votes on both, face or voice.")] = "both",
    workers: WorkersOption = None,
) -> None:
    """Decode a dataset once into face crops and sound.

    The same command resumes a stopped run, and decodes only changed clips.
    """
    from reactometer.config import parse_config
    from reactometer.data.prepare import prepare as run

    settings = parse_config(
        {"prepare": {"rate_hz": fps, "size_px": crop_size, "detector": detector}}, "prepare"
    ).prepare
    prepared = run(data, out, settings=settings, labels=labels, votes=votes, workers=workers)
    render.print_prepared(prepared)
    raise typer.Exit(SOME_FAILED if prepared.failed else OK)


def audit(
    data: DataArgument,
    out: Annotated[Path | None, out_option("FILE", "JSON file for all results.")] = None,
    labels: LabelsOption = None,
    features: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=COLUMNS", help="A stream of a feature table, such as face=AU*."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="Also say whether a model of this configuration can read the clip length."),
    ] = None,
) -> None:
    """Check a dataset for leaks between splits and for shortcuts.

    The exit status is 1 if there is a leak.
    """
    from reactometer.config import load_config
    from reactometer.evaluation.audit import audit as run
    from reactometer.models.architectures import reads_length

    settings = load_config(config) if config else None
    streams = dict(text.partition("=")[::2] for text in features or [])
    result = run(data, labels=labels, features=streams, out=out)
    render.print_json(result)
    render_evaluation.print_audit(result)
    if settings and reads_length(settings):
        render.results.print(
            f"{config}: the model can read the clip length; set model.times=none", style="yellow"
        )
    elif settings:
        render.results.print(f"{config}: the model cannot read the clip length")
    raise typer.Exit(SOME_FAILED if result.leaks else OK)


def split(
    data: DataArgument,
    out: Annotated[Path, out_option("FILE", "CSV file for the split dataset.")],
    disjoint: Annotated[
        str | None,
        typer.Option(
            help="Attributes that splits do not share: person, stimulus, labels; default: person,stimulus, "
            "or only the stimulus (or labels) within existing splits if people are unknown."
        ),
    ] = None,
    within_split: Annotated[
        bool, typer.Option("--within-split", help="Keep each clip in its existing split, or drop it.")
    ] = False,
    val: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of clips in val.")] = 0.15,
    test: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of clips in test.")] = 0.15,
    labels: LabelsOption = None,
    seed: Annotated[int, typer.Option(help="Random seed of the split.")] = 0,
) -> None:
    """Split a dataset without shared people and stimuli.

    Labels are similar in all splits.
    """
    from reactometer.data.splits import split as run

    keys = None if disjoint is None else split_names(disjoint)
    result = run(
        data, out, disjoint=keys, within_split=within_split, val=val, test=test, labels=labels, seed=seed
    )
    render.print_json(result)
    render_evaluation.print_split(result)


def ratings(
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", help="CSV with one row per rating: path, rater, labels.")
    ],
    out: Annotated[Path, out_option("FILE", "CSV file with one row per clip.")],
    scale: Annotated[tuple[float, float], typer.Option(metavar="MIN MAX", help="Rating scale, e.g. 1 7.")] = (
        0.0,
        1.0,
    ),
    labels: LabelsOption = None,
) -> None:
    """Average the ratings of several raters into labels.

    The raters' agreement limits any model's score.
    """
    require("pandas", extra="evaluate")
    from reactometer.data.ratings import gather_ratings

    result = gather_ratings(table, out, scale=scale, labels=labels)
    render.print_json(result)
    render_evaluation.print_ratings(result)
