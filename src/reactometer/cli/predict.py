"""The command that predicts: a few files into tables and pictures, or any number of them into a run's folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from threading import get_ident
from typing import TYPE_CHECKING, Annotated

import typer

from reactometer.cli import render, render_evaluation
from reactometer.cli.options import DeviceOption, StarterOption
from reactometer.errors import ConfigError, require
from reactometer.paths import STARTER
from reactometer.terminal import OK, SOME_FAILED
from reactometer.workers.media_worker import thread_worker

if TYPE_CHECKING:
    from reactometer.inference.outputs import Outputs
    from reactometer.inference.predictor import PredictOptions


def predict(
    videos: Annotated[list[str], typer.Argument(metavar="VIDEO", help="Files, folders, patterns, or .txt/.csv lists.")],
    model: StarterOption = STARTER,
    out: Annotated[
        str | None,
        typer.Option(help="Table with one row per file (.csv, .parquet or .json); or a folder, for a resumable run."),
    ] = None,
    timeline: Annotated[Path | None, typer.Option(help="Table with one row per window of the timeline.")] = None,
    frames: Annotated[Path | None, typer.Option(help="Table with one row per sampled frame.")] = None,
    events: Annotated[Path | None, typer.Option(help="Table with one row per event: onset, peak, offset.")] = None,
    threshold: Annotated[float, typer.Option(help="Least intensity of an event.")] = 0.5,
    plot: Annotated[Path | None, typer.Option(help="Picture of the timeline; for several files, a folder.")] = None,
    elan: Annotated[Path | None, typer.Option(help="ELAN document (.eaf); for several files, a folder.")] = None,
    subtitles: Annotated[Path | None, typer.Option(help="WebVTT subtitles (.vtt); or a folder.")] = None,
    overlay: Annotated[
        Path | None, typer.Option(help="The video with box, bars and curves (.mp4); or a folder.")
    ] = None,
    window: Annotated[float, typer.Option(help="Length of the timeline's windows, seconds.")] = 2.0,
    hop: Annotated[float, typer.Option(help="From one window's start to the next one's, seconds.")] = 1.0,
    rate: Annotated[float | None, typer.Option(help="Frames looked at per second; default: as in training.")] = None,
    faces: Annotated[str, typer.Option(help="one: the main person; all: each person, by number.")] = "one",
    people: Annotated[
        Path | None, typer.Option(help="CSV with columns path and person, to normalise per person.")
    ] = None,
    same_person: Annotated[bool, typer.Option("--same-person", help="All files show one person.")] = False,
    smooth: Annotated[float, typer.Option(help="Smooth the timeline over this many seconds.")] = 0.0,
    baseline: Annotated[
        str | None, typer.Option(help="Subtract the person's rest: a span such as 0-3s, or running.")
    ] = None,
    device: DeviceOption = "auto",
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Ray cluster: local, auto or HOST:PORT.")] = None,
    gpus: Annotated[float, typer.Option(min=0, help="Share of a GPU per process, with --ray; default: 0.")] = 0.0,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes of a run; default: one per CPU.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Predict failed files of a run again.")] = False,
) -> None:
    """Predict intensities of videos, and over time.

    For many files, name a folder with --out: each result is kept as soon as it is computed, the same command resumes a
    run that was stopped, and failed.csv lists the files that could not be read.
    """
    folder = out if out and ("://" in out or not Path(out).suffix) else None
    if not folder and os.name == "posix":
        thread_worker(os.getpid(), get_ident()).start()  # it imports what it needs while this process does
    from reactometer.inference.outputs import Outputs
    from reactometer.inference.predictor import PredictOptions

    options = PredictOptions(window, hop, rate, faces, smooth, baseline)
    per_file: dict[str, object] = {"timeline": timeline, "frames": frames, "events": events, "plot": plot, "elan": elan}
    per_file |= {"subtitles": subtitles, "overlay": overlay, "people": people, "same-person": same_person}
    per_run = {"workers": workers, "retry-failed": retry_failed, "ray": ray, "gpus": gpus}
    for name in (name for name, value in (per_file if folder else per_run).items() if value):
        problem, hint = (
            ("cannot be used with", "table: --out clips.csv") if folder else ("needs", "folder: --out results")
        )
        raise ConfigError(f"--{name} {problem} --out FOLDER", fix=f"Name a {hint}")
    if gpus and not ray:
        raise ConfigError("--gpus needs --ray", fix="Name a cluster, such as --ray local")
    if folder:
        from reactometer.batch.run import Workers, predict_folder

        how = Workers(workers, ray, gpus)
        result = predict_folder(videos, folder, model, options, device=device, workers=how, retry_failed=retry_failed)
        render.print_run(result)
        failed = bool(result.failures)
    else:
        table = Path(out) if out else None
        outputs = Outputs(table, timeline, frames, events, plot, elan, subtitles, overlay, threshold, faces)
        failed = _predict_into_files(videos, outputs, model, options, device, people, same_person)
    render.print_starter(model)
    raise typer.Exit(SOME_FAILED if failed else OK)


def _predict_into_files(
    videos: Sequence[str],
    outputs: Outputs,
    model: Path,
    options: PredictOptions,
    device: str,
    people: Path | None,
    same_person: bool,
) -> bool:
    from reactometer.batch.inputs import find_files
    from reactometer.batch.object_store import is_uri
    from reactometer.data.person_norm import read_people
    from reactometer.inference.checkpoint import load_model
    from reactometer.inference.predictor import predict as run

    paths = find_files(videos)
    if any(map(is_uri, paths)):
        raise ConfigError("files in an object store need a results folder", fix="Add --out FOLDER")
    outputs.check(len(paths))
    who = read_people(people) if people else dict.fromkeys(paths, "the same") if same_person else {}
    loaded = load_model(model, device, wait=False)
    timeline = outputs.wants_timeline or options.baseline is not None
    predictions = run(paths, loaded, **asdict(replace(options, timeline=timeline)), people=who)
    render.print_device(loaded)
    render.print_written(outputs.write(predictions))
    render.print_predictions(predictions)
    return any(prediction.failed for prediction in predictions)


def explain(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="A video (or sound) file.")],
    model: StarterOption = STARTER,
    out: Annotated[Path | None, typer.Option(help="A folder for attribution.json and attribution.png.")] = None,
    span: Annotated[str | None, typer.Option(help="Span to explain, such as 10-20s; at most a minute.")] = None,
    face_map: Annotated[bool, typer.Option("--map/--no-map", help="Hide parts of the face too.")] = True,
    device: DeviceOption = "auto",
) -> None:
    """Show which parts of a video moved each emotion. Frames, sound and parts of the face are hidden."""
    from reactometer.explain.occlusion import explain as run
    from reactometer.explain.report import describe, write_attribution
    from reactometer.inference.checkpoint import load_model
    from reactometer.io import make_folder

    if out is not None:
        require("matplotlib", extra="evaluate")
        make_folder(out)
    attribution = run(video, load_model(model, device), span=span, face_map=face_map)
    if out is not None:
        render.print_written(write_attribution(attribution, out))
    render_evaluation.print_attribution(describe(attribution), attribution.prediction.notes)
    render.print_starter(model)
