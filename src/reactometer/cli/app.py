"""The program: its commands, and how errors and Ctrl-C end it."""

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
    (train.train, train.compare, train.ensemble),
    (evaluate.evaluate, evaluate.calibrate, evaluate.report, evaluate.compare_predictions, evaluate.submission),
    (models.models, models.export, models.download, models.push),
    (train.demo, doctor.doctor),
):
    for command in group:
        app.command()(command)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"reactometer {version('reactometer')}")
        raise typer.Exit(OK)


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """How strongly did a person react? Emotional reaction intensity from face and voice."""


def main() -> None:
    """Run a command; a problem the user can mend is one line on standard error."""
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
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else what has found no room is tried again at the very end
        _end(write_error(Path(error.filename) if error.filename else "standard output, or a file", error))
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            messages.print("stopped; run it again: prepare, train and predict into a folder resume where they stopped")
        raise


def _end(error: ReactometerError) -> NoReturn:
    messages.print(f"error: {error}", style="red")
    sys.exit(USAGE)


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    if issubclass(category, UserWarning):
        messages.print(f"warning: {message}", style="yellow")
