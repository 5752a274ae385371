"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DataArgument = Annotated[
    Path, typer.Argument(metavar="DATA", help="A data set (a challenge's folder or a CSV), or one made by 'prepare'.")
]
ModelOption = Annotated[Path, typer.Option("--model", help="A checkpoint, as 'train' writes it.")]
CacheOption = Annotated[Path | None, typer.Option(help="Where prepared clips are kept; default: your cache folder.")]
StarterOption = Annotated[
    Path | None, typer.Option("--model", help="A checkpoint; default: the starter model inside the package.")
]
DeviceOption = Annotated[
    str, typer.Option(help="Execution provider: auto, cpu, cuda, cuda:1, coreml, openvino, directml …")
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
OverridesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="On top of it, e.g. data.path=FOLDER training.epochs=5.")
]
CONFIG_HELP = "A TOML file, e.g. configs/resnet50.toml; or the name of one inside the package, e.g. resnet50."


def split_names(text: str | None) -> list[str]:
    """Split a comma-separated option into names, without blanks; ``None`` gives an empty list."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]
