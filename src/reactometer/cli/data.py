"""The commands on datasets: prepare, audit, split, ratings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reactometer.cli import render, render_evaluation
from reactometer.cli.options import DataArgument, LabelsOption, split_names
from reactometer.errors import require
from reactometer.terminal import OK, SOME_FAILED

WorkersOption = Annotated[int | None, typer.Option(min=1, help="Processes; default: one a processor.")]


def prepare(
    data: DataArgument,
    out: Annotated[Path, typer.Option(help="The folder to keep the prepared clips in.")],
    rate: Annotated[float, typer.Option(help="Frames looked at per second of video.")] = 5.0,
    size: Annotated[int, typer.Option(help="Side of the face crops, pixels.")] = 112,
    detector: Annotated[str, typer.Option(help="Face detector: auto, yunet or haar.")] = "auto",
    labels: LabelsOption = None,
    votes: Annotated[str, typer.Option(help="Of CREMA-D: whose votes to learn, of both, face or voice.")] = "both",
    workers: WorkersOption = None,
) -> None:
    """Decode a dataset once: face crops and sound. Run it again to resume after a stop."""
    from reactometer.config import parse_config
    from reactometer.data.prepare import prepare as run

    settings = parse_config({"prepare": {"rate_hz": rate, "size_px": size, "detector": detector}}, "prepare").prepare
    prepared = run(data, out, settings=settings, labels=labels, votes=votes, workers=workers)
    render.print_prepared(prepared)
    raise typer.Exit(SOME_FAILED if prepared.failed else OK)


def audit(
    data: DataArgument,
    out: Annotated[Path | None, typer.Option(help="A JSON file with all of it.")] = None,
    labels: LabelsOption = None,
    face_features: Annotated[str | None, typer.Option(help="Of a data set of features: its columns.")] = None,
    voice_features: Annotated[str | None, typer.Option(help="The same for the voice.")] = None,
) -> None:
    """Check a dataset for leaks and shortcuts. The status is 1 if there is a leak."""
    from reactometer.evaluation.audit import audit as run

    found = run(data, labels=labels, face_features=face_features, voice_features=voice_features, out=out)
    render_evaluation.print_audit(found)
    raise typer.Exit(SOME_FAILED if found.leaks else OK)


def split(
    data: DataArgument,
    out: Annotated[Path, typer.Option(help="The CSV to write, for 'prepare' and 'train'.")],
    disjoint: Annotated[str, typer.Option(help="What no splits share: person, stimulus, labels.")] = "person,stimulus",
    val: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the clips.")] = 0.15,
    test: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the clips.")] = 0.15,
    labels: LabelsOption = None,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
) -> None:
    """Split a dataset without leaks. Splits share no person and no stimulus, and have similar labels."""
    from reactometer.data.splits import split as run

    made = run(data, out, disjoint=split_names(disjoint), val=val, test=test, labels=labels, seed=seed)
    render_evaluation.print_split(made)


def ratings(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="CSV with one row per rating: path, rater, labels.")],
    out: Annotated[Path, typer.Option(help="The CSV to write, one row per clip, for 'prepare' and 'split'.")],
    scale: Annotated[tuple[float, float], typer.Option(metavar="MIN MAX", help="Rating scale, e.g. 1 7.")] = (0.0, 1.0),
    labels: LabelsOption = None,
) -> None:
    """Turn ratings of several raters into labels. How far raters agree bounds any model."""
    require("pandas", extra="evaluate")
    from reactometer.data.ratings import gather_ratings

    render_evaluation.print_ratings(gather_ratings(table, out, scale=scale, labels=labels))
