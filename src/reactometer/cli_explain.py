"""The command that says what moved each emotion: parse, call one function, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reactometer import printing, printing_evaluate
from reactometer.cli_evaluate import DeviceOption, StarterOption
from reactometer.paths import STARTER


def explain(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="A video (or sound) file.")],
    model: StarterOption = None,
    out: Annotated[Path | None, typer.Option(help="A folder for attribution.json and attribution.png.")] = None,
    span: Annotated[
        str | None, typer.Option(help="The stretch to explain, such as 10-20s; needed for more than a minute.")
    ] = None,
    stretch: Annotated[
        float | None, typer.Option(help="Frames or sound hidden at a time, seconds; default: 0.5 to 1, by the length.")
    ] = None,
    face_map: Annotated[bool, typer.Option("--map/--no-map", help="Hide parts of the face too.")] = True,
    everything: Annotated[bool, typer.Option("--all", help="Report every emotion, not only the strongest.")] = False,
    device: DeviceOption = "auto",
) -> None:
    """Hide frames, sound and parts of the face, and say which of them moved each emotion."""
    from reactometer.explain.occlusion import explain as run
    from reactometer.explain.report import describe, write_attribution
    from reactometer.io import make_folder
    from reactometer.models.folder import load_model

    if out is not None:
        make_folder(out)
    attribution = run(video, load_model(model or STARTER, device), span=span, stretch_s=stretch, face_map=face_map)
    if out is not None:
        printing.print_written(write_attribution(attribution, out, everything))
    printing_evaluate.print_attribution(describe(attribution, everything), attribution.prediction.notes)
    if model is None:
        printing.print_starter()
