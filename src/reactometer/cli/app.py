"""Define the command line: register commands, print errors, handle Ctrl-C."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from reactometer.cli import data, doctor, evaluate, models, predict, serve, train
from reactometer.errors import ReactometerError
from reactometer.io import WRITE_ERRNOS, find_errno, write_error
from reactometer.terminal import INTERRUPTED, OK, USAGE, messages

app = typer.Typer(
    help="How strongly did a person react? Emotional reaction intensity from face and voice.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


for group in (  # in the order of the help text
    (predict.predict, predict.explain, serve.live, serve.serve),
    (data.prepare, data.audit, data.split, data.ratings),
    (train.train, train.crossval, train.compare, train.ensemble),
    (
        evaluate.evaluate,
        evaluate.calibrate,
        evaluate.report,
        evaluate.compare_predictions,
        evaluate.submission,
    ),
    (models.models, models.export, models.download, models.push),
    (train.demo, doctor.doctor),
):
    for command in group:
        app.command()(command)


def _version(is_set: bool) -> None:
    if is_set:
        from importlib.metadata import version

        typer.echo(f"reactometer {version('reactometer')}")
        raise typer.Exit(OK)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """How strongly did a person react? Emotional reaction intensity from face and voice."""


def main() -> None:
    """Run a command; print an expected error as one line on standard error."""
    warnings.showwarning = _show_warning
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns if the home folder is read-only
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except ReactometerError as error:
        _end(error)
    except OSError as error:
        if find_errno(error) not in WRITE_ERRNOS:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python tries to flush again at exit
        _end(write_error(Path(error.filename) if error.filename else "standard output", error))
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            messages.print(
                "stopped. hint: run it again; prepare, crossval, compare, train --resume and "
                "predict --out FOLDER resume"
            )
        raise


def _end(error: ReactometerError) -> NoReturn:
    messages.print(f"error: {error}", style="red")
    sys.exit(USAGE)


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    if issubclass(category, UserWarning):
        messages.print(f"warning: {message}", style="yellow")
