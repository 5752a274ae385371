"""The commands predict and explain."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from threading import get_ident
from typing import TYPE_CHECKING, Annotated

import typer

from reactometer.cli import render
from reactometer.cli.options import DeviceOption, StarterOption, out_option, split_names
from reactometer.errors import ConfigError, require
from reactometer.paths import STARTER
from reactometer.terminal import OK, SOME_FAILED, messages
from reactometer.workers.media_worker import thread_worker

if TYPE_CHECKING:
    from reactometer.inference.predictor import PredictOptions

RUN, ANALYSIS = "With --out-dir", "Analysis"
"""Panels of the options of predict."""

DEFAULT_THRESHOLD = 0.5


def predict(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE", help="Video or sound files, folders, glob patterns, or .txt/.csv lists."
        ),
    ],
    model: StarterOption = STARTER,
    out: Annotated[
        Path | None, out_option("FILE", "Table with one row per file (.csv, .parquet or .json).")
    ] = None,
    out_dir: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Folder for all outputs of any number of files."),
    ] = None,
    save: Annotated[
        str,
        typer.Option(
            metavar="KINDS",
            help="Outputs in --out-dir, with commas: timeline, events, frames (tables); plot, elan, vtt, "
            "overlay (one file per video).",
            rich_help_panel=RUN,
        ),
    ] = "timeline",
    table_format: Annotated[
        str, typer.Option("--format", help="Format of tables: csv or parquet.", rich_help_panel=RUN)
    ] = "csv",
    threshold: Annotated[
        float, typer.Option(help="Minimum intensity of an event.", rich_help_panel=RUN)
    ] = DEFAULT_THRESHOLD,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Number of processes; default: one per CPU.", rich_help_panel=RUN),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Predict failed files again.", rich_help_panel=RUN)
    ] = False,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh",
            help="Delete an earlier run in the folder, instead of resuming it.",
            rich_help_panel=RUN,
        ),
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Ray cluster: local, auto or HOST:PORT.", rich_help_panel=RUN),
    ] = None,
    gpus: Annotated[
        float, typer.Option(min=0, help="Share of a GPU per process, with --ray.", rich_help_panel=RUN)
    ] = 0.0,
    faces: Annotated[
        str, typer.Option(help="one: the main face; all: every face.", rich_help_panel=ANALYSIS)
    ] = "one",
    fps: Annotated[
        float | None,
        typer.Option(help="Frames sampled per second; default: as in training.", rich_help_panel=ANALYSIS),
    ] = None,
    window: Annotated[
        float, typer.Option(help="Length of the timeline's windows, seconds.", rich_help_panel=ANALYSIS)
    ] = 2.0,
    hop: Annotated[
        float, typer.Option(help="Step between window starts, seconds.", rich_help_panel=ANALYSIS)
    ] = 1.0,
    smooth: Annotated[
        float, typer.Option(help="Smooth the timeline over this time, seconds.", rich_help_panel=ANALYSIS)
    ] = 0.0,
    baseline: Annotated[
        str | None,
        typer.Option(
            help="Subtract a baseline: a time range such as 0-3s, or running.", rich_help_panel=ANALYSIS
        ),
    ] = None,
    summary: Annotated[
        str,
        typer.Option(
            help="Value per file: model (of the whole file, with interval), or of the windows: mean (average "
            "level), max (strongest moment), p90 (strong level).",
            rich_help_panel=ANALYSIS,
        ),
    ] = "model",
    people: Annotated[
        Path | None,
        typer.Option(
            help="CSV with columns path and person, for normalisation per person.", rich_help_panel=ANALYSIS
        ),
    ] = None,
    same_person: Annotated[
        bool,
        typer.Option(
            "--same-person", help="Normalise over all files as one person.", rich_help_panel=ANALYSIS
        ),
    ] = False,
    features: Annotated[
        list[Path] | None,
        typer.Option(
            help="Table of the files' features, for a model that uses some; can be repeated.",
            rich_help_panel=ANALYSIS,
        ),
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Predict emotion intensities, per file and over time.

    For plots, timelines or many files, use --out-dir: each result is saved at once, and the same command
    resumes.
    """
    if not out_dir and os.name == "posix":
        thread_worker(os.getpid(), get_ident()).start()  # it imports modules while this process does
    from reactometer.inference.predictor import PredictOptions

    options = PredictOptions(window, hop, fps, faces, smooth, baseline, summary=summary)
    kinds = split_names(save)
    of_folder: dict[str, object] = {
        "save": kinds != ["timeline"],
        "workers": workers,
        "retry-failed": retry_failed,
    }
    of_folder |= {"fresh": fresh, "ray": ray, "format": table_format != "csv"}
    of_table: dict[str, object] = {"out": out, "people": people, "same-person": same_person}
    of_table["features"] = features
    for name in (name for name, value in (of_table if out_dir else of_folder).items() if value):
        if not out_dir:
            raise ConfigError(f"--{name} needs --out-dir", fix="Add --out-dir results")
        hint = "files.csv in the folder has one row per file" if name == "out" else "Use -o table.csv instead"
        raise ConfigError(f"--{name} cannot be used with --out-dir", fix=hint)
    if gpus and not ray:
        raise ConfigError("--gpus needs --ray", fix="Name a cluster, such as --ray local")
    if out_dir:
        from reactometer.batch.run import predict_folder

        result = predict_folder(
            files,
            out_dir,
            model,
            options,
            device=device,
            workers=workers,
            ray=ray,
            gpus=gpus,
            save=kinds,
            threshold=threshold,
            ending=table_format,
            retry_failed=retry_failed,
            fresh=fresh,
        )
        render.print_run(result)
        failed = bool(result.failures)
    else:
        failed = _predict_table(files, out, model, options, device, people, same_person, features or ())
    render.print_starter(model)
    raise typer.Exit(SOME_FAILED if failed else OK)


def _predict_table(
    files: Sequence[str],
    out: Path | None,
    model: Path,
    options: PredictOptions,
    device: str,
    people: Path | None,
    same_person: bool,
    features: Sequence[Path],
) -> bool:
    from reactometer.data.files import find_files
    from reactometer.data.object_store import is_uri
    from reactometer.data.person_norm import read_people
    from reactometer.inference.checkpoint import load_model
    from reactometer.inference.predictor import predict_files
    from reactometer.inference.tables import check_ending, clip_columns, clip_rows, with_face, write_table
    from reactometer.io import check_writable

    paths = find_files(files)
    if any(map(is_uri, paths)):
        raise ConfigError("files in an object store need --out-dir", fix="Add --out-dir results")
    if out:
        check_ending(out)
        check_writable(out)
    person_by_path = read_people(people) if people else {}
    if same_person and not people:
        person_by_path = dict.fromkeys(paths, "the same")
    loaded = load_model(model, device, wait=False)
    predictions = predict_files(paths, loaded, **asdict(options), people=person_by_path, features=features)
    render.print_device(loaded)
    rows = clip_rows(predictions)
    if out:
        columns = clip_columns(predictions[0])
        write_table(rows, with_face(columns) if options.faces == "all" else columns, out)
        render.print_written([out])
    render.print_json(rows)
    render.print_predictions(predictions, out)
    return any(prediction.failed for prediction in predictions)


def explain(
    video: Annotated[Path, typer.Argument(metavar="FILE", help="Video or sound file.")],
    model: StarterOption = STARTER,
    out: Annotated[
        Path | None, out_option("FOLDER", "Folder for attribution.json and attribution.png.")
    ] = None,
    span: Annotated[
        str | None, typer.Option(help="Time range to explain, such as 10-20s; maximum: 60 s.")
    ] = None,
    face_map: Annotated[
        bool, typer.Option("--face-map/--no-face-map", help="Also mask regions of the face.")
    ] = True,
    device: DeviceOption = "auto",
) -> None:
    """Explain a prediction by masking parts of the input.

    It masks the face or the voice, moments of each, and regions of the face.
    """
    from reactometer.attribution.occlusion import explain as run
    from reactometer.attribution.report import as_json, describe, write_attribution
    from reactometer.inference.checkpoint import load_model
    from reactometer.io import make_folder

    if out is not None:
        require("matplotlib", extra="evaluate")
        make_folder(out)
    attribution = run(video, load_model(model, device), span=span, face_map=face_map)
    if out is not None:
        render.print_written(write_attribution(attribution, out))
    render.print_json(as_json(attribution))
    render.results.print("\n".join(describe(attribution)))
    for note in attribution.prediction.notes:
        messages.print(f"note: {note}", style="yellow")
    render.print_starter(model)
