"""Arguments and options of several commands, each defined once."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer

from reactometer.cli.render import results
from reactometer.errors import ModelError, WeightsError
from reactometer.paths import STARTER, find_checkpoint
from reactometer.terminal import messages

OVERRIDE = re.compile(r"[a-z_]+(\.\w+)+=")
"""Start of a positional argument that overrides a configuration key."""


def find_model(name: Path | str) -> Path:
    """Return the folder of a checkpoint: of a path, of "starter", or of ``OWNER/NAME[@REVISION]`` on the Hub.

    A path wins. A repository is downloaded into the cache of Hugging Face.

    Raises:
        WeightsError: the starter model is not installed.
        ModelError: the name is no folder, and the download failed.
    """
    repository, _, revision = str(name).partition("@")
    is_path = Path(name).exists() or Path(repository).parent.is_dir()
    if is_path or str(name) == STARTER.name or repository.count("/") != 1:
        return find_checkpoint(name)
    from reactometer.hub.hub import download

    try:
        return download(repository, revision=revision or None)
    except WeightsError as error:
        raise ModelError(f"{name}: no such checkpoint folder, and {error}") from error


DataArgument = Annotated[
    Path, typer.Argument(metavar="DATA", help="Dataset (folder or table) or prepared folder.")
]
DataOption = Annotated[
    Path,
    typer.Option("-d", "--data", metavar="DATA", help="Dataset (folder or table) or prepared folder."),
]
ModelOption = Annotated[
    Path,
    typer.Option(
        "-m",
        "--model",
        parser=find_model,
        metavar="MODEL",
        show_default=False,
        help="Checkpoint folder, starter, or OWNER/NAME\\[@REVISION] on the Hugging Face Hub.",
    ),
]
StarterOption = Annotated[
    Path,
    typer.Option(
        "-m",
        "--model",
        parser=find_model,
        metavar="MODEL",
        show_default="starter",
        help="Checkpoint folder, starter, or OWNER/NAME\\[@REVISION] on the Hugging Face Hub.",
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
FreshOption = Annotated[
    bool, typer.Option("--fresh", help="Delete an earlier run in the folder, instead of resuming it.")
]
WorkersOption = Annotated[int | None, typer.Option(min=1, help="Number of processes; default: one per CPU.")]


SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a configuration key; repeatable."),
]


def out_option(metavar: str, text: str) -> Any:
    """Return the option of a command's result, ``-o``, for a FILE or a FOLDER."""
    return typer.Option("-o", "--out", metavar=metavar, help=text)


def split_names(text: str | None) -> list[str]:
    """Split a comma-separated option into names, without blanks; ``None`` gives an empty list."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def split_overrides(arguments: list[str] | None) -> tuple[list[str], list[str]]:
    """Split positional arguments into configurations and ``section.key=value`` overrides."""
    overrides = [argument for argument in arguments or () if OVERRIDE.match(argument)]
    return [argument for argument in arguments or () if argument not in overrides], overrides


QuietOption = Annotated[
    bool, typer.Option("-q", "--quiet", help="Print no progress and no notes; failures are printed.")
]
VerboseOption = Annotated[
    bool, typer.Option("-v", "--verbose", help="Also print logs of libraries, and tracebacks of errors.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def with_common_options(function: Callable[..., None], *, has_result: bool) -> Callable[..., None]:
    """Return a command with the options of all commands after its own.

    Args:
        function: the command.
        has_result: it prints a result with :func:`~reactometer.cli.render.print_json`; add ``--json``.
    """

    @wraps(function)
    def command(*, quiet: bool, verbose: bool, json: bool = False, **arguments: Any) -> None:
        messages.quiet, results.quiet = quiet, json
        if verbose:
            logging.basicConfig(level=logging.INFO, force=True)
        function(**arguments)

    options = {"json": JsonOption} if has_result else {}
    options |= {"quiet": QuietOption, "verbose": VerboseOption}
    common = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=False, annotation=option)
        for name, option in options.items()
    ]
    parameters = [*signature(function, eval_str=True).parameters.values(), *common]
    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command
