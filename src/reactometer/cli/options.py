"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reactometer.paths import find_checkpoint

DataArgument = Annotated[Path, typer.Argument(metavar="DATA", help="Dataset: folder or CSV; or a prepared folder.")]
ModelOption = Annotated[Path, typer.Option("--model", help="A checkpoint, as 'train' writes it, or starter.")]
StarterOption = Annotated[
    Path,
    typer.Option(
        "--model",
        parser=find_checkpoint,
        metavar="PATH",
        show_default="starter, inside the package",
        help="A checkpoint.",
    ),
]
DeviceOption = Annotated[str, typer.Option(help="Execution provider: auto, cpu, cuda, cuda:1, coreml, openvino …")]
SplitOption = Annotated[str | None, typer.Option(help="train, val, test or all; default: test, or val.")]
ByOption = Annotated[str | None, typer.Option(help="Resample by person (default if known), stimulus or clip.")]
LabelsOption = Annotated[str | None, typer.Option(help="A label set's name, or label columns with commas.")]
GroupsOption = Annotated[str | None, typer.Option(metavar="COLUMNS", help="Score groups, e.g. age,country.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the configuration; repeatable."),
]


def split_names(text: str | None) -> list[str]:
    """Split a comma-separated option into names, without blanks; ``None`` gives an empty list."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]
