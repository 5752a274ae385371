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
from reactometer.cli.options import DeviceOption, StarterOption, WorkersOption, out_option
from reactometer.errors import ConfigError, require
from reactometer.paths import STARTER
from reactometer.terminal import OK, SOME_FAILED, messages
from reactometer.workers.media_worker import thread_worker

if TYPE_CHECKING:
    from reactometer.inference.outputs import Outputs
    from reactometer.inference.predictor import PredictOptions


def predict(
    videos: Annotated[
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
        typer.Option(
            metavar="FOLDER", help="Folder of a run over any number of files; a stopped run resumes."
        ),
    ] = None,
    timeline: Annotated[
        Path | None, typer.Option(help="Table with one row per window of the timeline.")
    ] = None,
    frames: Annotated[Path | None, typer.Option(help="Table with one row per sampled frame.")] = None,
    events: Annotated[
        Path | None, typer.Option(help="Table with one row per event: onset, peak, offset.")
    ] = None,
    threshold: Annotated[float, typer.Option(help="Minimum intensity of an event.")] = 0.5,
    plot: Annotated[
        Path | None, typer.Option(help="Plot of the timeline (.png); for several files, a folder.")
    ] = None,
    elan: Annotated[
        Path | None, typer.Option(help="ELAN document (.eaf); for several files, a folder.")
    ] = None,
    subtitles: Annotated[
        Path | None, typer.Option(help="WebVTT subtitles (.vtt); for several files, a folder.")
    ] = None,
    overlay: Annotated[
        Path | None,
        typer.Option(help="Video with face box, bars and curves (.mp4); for several files, a folder."),
    ] = None,
    window: Annotated[float, typer.Option(help="Length of the timeline's windows, seconds.")] = 2.0,
    hop: Annotated[float, typer.Option(help="Step between window starts, seconds.")] = 1.0,
    fps: Annotated[
        float | None, typer.Option(help="Frames sampled per second; default: as in training.")
    ] = None,
    faces: Annotated[str, typer.Option(help="one: the main face; all: every face.")] = "one",
    people: Annotated[
        Path | None, typer.Option(help="CSV with columns path and person, for normalisation per person.")
    ] = None,
    same_person: Annotated[
        bool, typer.Option("--same-person", help="Normalise over all files as one person.")
    ] = False,
    smooth: Annotated[float, typer.Option(help="Smooth the timeline over this time, seconds.")] = 0.0,
    baseline: Annotated[
        str | None, typer.Option(help="Subtract a baseline: a time range such as 0-3s, or running.")
    ] = None,
    summary: Annotated[
        str,
        typer.Option(
            help="Value per file: model (of the whole file, with interval), or of the windows: mean (average "
            "level), max (strongest moment), p90 (strong level)."
        ),
    ] = "model",
    device: DeviceOption = "auto",
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Ray cluster: local, auto or HOST:PORT.")
    ] = None,
    gpus: Annotated[
        float, typer.Option(min=0, help="Share of a GPU per process, with --ray; default: 0.")
    ] = 0.0,
    workers: WorkersOption = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Predict failed files again, with --out-dir.")
    ] = False,
) -> None:
    """Predict the emotion intensities of files, over time, too.

    For many files, use --out-dir: each result is saved at once, the same command resumes a stopped run,
    and failed.csv lists the unreadable files.
    """
    if not out_dir and os.name == "posix":
        thread_worker(os.getpid(), get_ident()).start()  # it imports modules while this process does
    from reactometer.inference.outputs import Outputs
    from reactometer.inference.predictor import PredictOptions

    options = PredictOptions(window, hop, fps, faces, smooth, baseline, summary=summary)
    per_file: dict[str, object] = {
        "timeline": timeline,
        "frames": frames,
        "events": events,
        "plot": plot,
        "elan": elan,
    }
    per_file |= {"subtitles": subtitles, "overlay": overlay, "people": people, "same-person": same_person}
    per_run = {"workers": workers, "retry-failed": retry_failed, "ray": ray, "gpus": gpus}
    for name in (name for name, value in (per_file if out_dir else per_run).items() if value):
        if out_dir:
            raise ConfigError(f"--{name} cannot be used with --out-dir")
        raise ConfigError(f"--{name} needs --out-dir", fix="Add --out-dir results")
    if gpus and not ray:
        raise ConfigError("--gpus needs --ray", fix="Name a cluster, such as --ray local")
    if out_dir:
        from reactometer.batch.run import predict_folder

        result = predict_folder(
            videos,
            out_dir,
            model,
            options,
            device=device,
            workers=workers,
            ray=ray,
            gpus=gpus,
            retry_failed=retry_failed,
        )
        render.print_json(result)
        render.print_run(result)
        failed = bool(result.failures)
    else:
        outputs = Outputs(out, timeline, frames, events, plot, elan, subtitles, overlay, threshold, faces)
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
    from reactometer.data.files import find_files
    from reactometer.data.object_store import is_uri
    from reactometer.data.person_norm import read_people
    from reactometer.inference.checkpoint import load_model
    from reactometer.inference.predictor import predict_files
    from reactometer.inference.tables import clip_rows

    paths = find_files(videos)
    if any(map(is_uri, paths)):
        raise ConfigError("files in an object store need --out-dir", fix="Add --out-dir results")
    outputs.check(len(paths))
    person_by_path = read_people(people) if people else {}
    if same_person and not people:
        person_by_path = dict.fromkeys(paths, "the same")
    loaded = load_model(model, device, wait=False)
    predictions = predict_files(paths, loaded, **asdict(options), people=person_by_path)
    render.print_device(loaded)
    render.print_written(outputs.write(predictions))
    render.print_json(clip_rows(predictions))
    render.print_predictions(predictions)
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
    from reactometer.explain.occlusion import explain as run
    from reactometer.explain.report import as_json, describe, write_attribution
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
