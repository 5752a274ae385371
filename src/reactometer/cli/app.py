"""Define the command line: register commands, print errors, handle Ctrl-C."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.markup import escape
from typer.core import TyperGroup

from reactometer.cli import data, doctor, evaluate, models, predict, serve, train
from reactometer.cli.options import with_common_options
from reactometer.errors import ReactometerError
from reactometer.io import WRITE_ERRNOS, find_errno, write_error
from reactometer.terminal import INTERRUPTED, OK, USAGE, messages

SUMMARY = "How strongly did a person react? Emotional reaction intensity from face and voice."
EPILOG = (
    "Exit status: 0 success; 1 some clips failed, or a check found a problem; 2 wrong use; 130 stopped.\n"
    "Documentation: README.md and docs/ of the source. 'reactometer COMMAND -h' explains a command."
)
ANALYZE, PREPARE, TRAIN, EVALUATE, MANAGE, HELP = PANELS = (
    "Analyze videos",
    "Prepare data",
    "Train",
    "Evaluate",
    "Manage models",
    "Help",
)
"""Panels of the help text, in order."""

NO_JSON = (serve.serve, serve.live, models.config, train.demo)
"""Commands without a result as JSON."""


NO_ARGUMENTS = (serve.serve, train.demo, doctor.doctor, models.list_models)
"""Commands that run without arguments; the others print their help."""


class OrderedGroup(TyperGroup):
    """A group that lists its commands by panel; in a panel, nested groups come last."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands, in the order of the help text."""

        def order(name: str) -> tuple[int, bool]:
            command: Any = self.commands[name]
            panel = command.rich_help_panel
            return PANELS.index(panel) if panel in PANELS else 0, hasattr(command, "commands")

        return sorted(self.commands, key=order)


def _examples(lines: tuple[str, ...]) -> str:
    return "\n".join(["[bold]Examples[/bold]", *(f"$ reactometer {escape(line)}" for line in lines)])


def _group(text: str | None = None, *examples: str, **options: Any) -> typer.Typer:
    return typer.Typer(
        cls=OrderedGroup,
        help=text,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog=f"{_examples(examples)}\n\n{EPILOG}",
        **options,
    )


app = _group(
    SUMMARY,
    "predict video.mp4",
    "train -d videos.csv",
    "predict videos -m runs/your-own/model -o table.csv",
)
data_app = _group("Check, split and label datasets.", "data audit videos.csv")
model_app = _group("List, download, convert and share models.", "model list", "model download yunet")
app.add_typer(data_app, name="data", rich_help_panel=PREPARE)
app.add_typer(model_app, name="model", rich_help_panel=MANAGE)


def _add(group: typer.Typer, panel: str | None, command: Callable[..., None], *examples: str) -> None:
    group.command(
        command.__name__.removesuffix("_models").replace("_", "-"),
        rich_help_panel=panel,
        epilog=_examples(examples),
        no_args_is_help=command not in NO_ARGUMENTS,
    )(with_common_options(command, has_result=command not in NO_JSON))


_add(
    app,
    ANALYZE,
    predict.predict,
    "predict video.mp4",
    "predict videos -o table.csv",
    "predict videos --out-dir results --save plot,elan",
    "predict video.mp4 -m runs/your-own/model --json",
)
_add(
    app,
    ANALYZE,
    predict.explain,
    "explain video.mp4",
    "explain video.mp4 --span 10-20s -o why",
)
_add(app, ANALYZE, serve.live, "live 0", "live 0 --sound default -o live.csv")
_add(app, ANALYZE, serve.serve, "serve", "serve -m runs/your-own/model --keys keys.txt")
_add(
    app,
    PREPARE,
    data.prepare,
    "prepare videos.csv -o prepared",
    "prepare videos.csv -o prepared --fps 5 --crop-size 112",
)
_add(data_app, None, data.audit, "data audit videos.csv", "data audit prepared -o audit.json")
_add(data_app, None, data.split, "data split videos.csv -o clean.csv --disjoint person,stimulus")
_add(data_app, None, data.ratings, "data ratings ratings.csv --scale 1 7 -o rated.csv")
_add(
    app,
    TRAIN,
    train.train,
    "train -d videos.csv",
    "train resnet50 training.epochs=5 -d prepared",
    "train mine.toml -d prepared --seeds 5",
)
_add(app, TRAIN, train.crossval, "crossval -d videos.csv", "crossval resnet50 -d prepared --folds 10")
_add(app, TRAIN, train.compare, "compare resnet50 multimodal -d prepared --split val")
_add(
    app,
    EVALUATE,
    evaluate.evaluate,
    "evaluate prepared -m runs/your-own/model",
    "evaluate prepared -m runs/your-own/model --groups age,country -o scores",
)
_add(app, EVALUATE, evaluate.calibrate, "calibrate more.csv -m runs/your-own/model --split all")
_add(app, EVALUATE, evaluate.report, "report prepared -m runs/your-own/model -o report")
_add(
    app,
    EVALUATE,
    evaluate.compare_predictions,
    "compare-predictions scores-a/predictions.csv scores-b/predictions.csv -d prepared",
)
_add(app, EVALUATE, evaluate.submission, "submission hume -m runs/resnet50/model")
_add(model_app, None, models.list_models, "model list")
_add(model_app, None, models.config, "model config your-own > mine.toml")
_add(model_app, None, models.download, "model download yunet", "model download OWNER/NAME@REVISION -o models")
_add(model_app, None, models.join, "model join runs/a/model runs/b/model -o joined")
_add(model_app, None, models.export, "model export prepared -m runs/resnet50/model -o small")
_add(model_app, None, models.push, "model push OWNER/NAME -m runs/your-own/model --private")
_add(app, HELP, train.demo, "demo")
_add(app, HELP, doctor.doctor, "doctor")


def _version(is_set: bool) -> None:
    if is_set:
        from importlib.metadata import version

        typer.echo(f"reactometer {version('reactometer')}")
        raise typer.Exit(OK)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("-V", "--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Apply the options of the program itself."""


def main() -> None:
    """Run a command; print an expected error as one line on standard error."""
    warnings.showwarning = _show_warning
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns if the home folder is read-only
    try:
        try:
            app(prog_name="reactometer")
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
            messages.print("stopped. hint: run the same command again")
        raise


def _end(error: ReactometerError) -> NoReturn:
    logging.getLogger(__name__).info("error:", exc_info=error)
    messages.quiet = False
    messages.print(f"error: {error}", style="red")
    sys.exit(USAGE)


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    if issubclass(category, UserWarning):
        messages.print(f"warning: {message}", style="yellow")
