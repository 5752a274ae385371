"""The program: its commands, and how errors and Ctrl-C end it."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from reactometer.cli import data, doctor, evaluate, models, predict, serve, train
from reactometer.errors import ReactometerError
from reactometer.io import NO_WRITING, system_error, unwritable
from reactometer.terminal import INTERRUPTED, OK, USAGE, messages

app = typer.Typer(
    help="How strongly did a person react? Emotional reaction intensity from face and voice.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


# In the help text's order: analyze videos, prepare data, train, evaluate, manage models, help.
COMMANDS: dict[Callable[..., None], str] = {
    predict.predict: "Predict intensities of videos, per clip and over time.",
    predict.explain: "Show which parts of a video moved each emotion.",
    serve.live: "Score a camera or stream as it plays.",
    serve.serve: "Serve predictions over HTTP, with a page.",
    data.prepare: "Decode a dataset once: face crops and sound.",
    data.audit: "Check a dataset for leaks and shortcuts.",
    data.split: "Split a dataset without leaks.",
    data.ratings: "Turn ratings of several raters into labels.",
    train.train: "Train a model from a configuration.",
    train.compare: "Train several configurations and compare them.",
    train.ensemble: "Average several trainings into one model.",
    evaluate.evaluate: "Score a model on a dataset.",
    evaluate.calibrate: "Fit a model's prediction intervals to held-out clips.",
    evaluate.report: "Write one page on a model's scores.",
    evaluate.compare_predictions: "Test which of two models is better.",
    evaluate.submission: "Write a challenge's submission file.",
    models.models: "List the architectures, their weights and licences.",
    models.export: "Export a model to ONNX graphs.",
    models.download: "Download the face detector, encoders or checkpoints.",
    models.push: "Push a checkpoint to the Hugging Face Hub.",
    train.demo: "Run the whole path in minutes, on synthetic data.",
    doctor.doctor: "Check this installation.",
}
for command, short_help in COMMANDS.items():
    app.command(short_help=short_help)(command)


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
        if system_error(error) not in NO_WRITING:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else what has found no room is tried again at the very end
        _end(unwritable(Path(error.filename) if error.filename else "standard output, or a file", error))
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
