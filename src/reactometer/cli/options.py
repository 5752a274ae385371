"""Arguments and options of several commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reactometer.paths import find_checkpoint

DataArgument = Annotated[
    Path, typer.Argument(metavar="DATA", help="Dataset (folder or CSV) or prepared folder.")
]
ModelOption = Annotated[Path, typer.Option("--model", help="Checkpoint folder, or starter.")]
StarterOption = Annotated[
    Path,
    typer.Option(
        "--model",
        parser=find_checkpoint,
        metavar="PATH",
        show_default="the starter model, if it is installed",
        help="Checkpoint folder.",
    ),
]
DeviceOption = Annotated[str, typer.Option(help="Device: auto, cpu, cuda, cuda:1, coreml, openvino …")]
SplitOption = Annotated[
    str | None,
    typer.Option(
        help="Split to score: train, val, test, all or out-of-fold (fold ensembles); default: test, else val."
    ),
]
ByOption = Annotated[
    str | None, typer.Option(help="Resampling unit: person, stimulus or clip; default: person if known.")
]
LabelsOption = Annotated[str | None, typer.Option(help="Label set, or label columns separated by commas.")]
GroupsOption = Annotated[
    str | None,
    typer.Option(metavar="COLUMNS", help="Also score groups by these columns, such as age,country."),
]
InSampleOption = Annotated[
    bool,
    typer.Option("--in-sample", help="Score clips that the model was trained on, too; all outputs say so."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a configuration key; repeatable."),
]


def split_names(text: str | None) -> list[str]:
    """Split a comma-separated option into names, without blanks; ``None`` gives an empty list."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]
