"""Every command: parse, call one function, print."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.markup import escape

from reactometer.cli import doctor, evaluate, models, predict, render, serve
from reactometer.cli.evaluate import CacheOption, DataArgument, DeviceOption
from reactometer.config import PrepareConfig
from reactometer.errors import ReactometerError
from reactometer.io import NO_WRITING, system_error, unwritable
from reactometer.terminal import INTERRUPTED, OK, SOME_FAILED, USAGE, messages

app = typer.Typer(
    help="How strongly did a person react? Emotional reaction intensity from face and voice.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
OverridesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="On top of it, e.g. data.path=FOLDER training.epochs=5.")
]
CONFIG_HELP = "A TOML file, e.g. configs/resnet50.toml; or the name of one inside the package, e.g. resnet50."
PREPARE = PrepareConfig()
WorkersOption = Annotated[int | None, typer.Option(min=1, help="Processes; default: one a processor.")]


@app.command(short_help="A data set -> face crops and sound, once.")
def prepare(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="Folder of ABAW5, MuSe-2022, EMI or CREMA-D, or a CSV with a column 'path', or its folder.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder to keep the prepared clips in.")],
    rate: Annotated[float, typer.Option(help="Frames looked at per second of video.")] = PREPARE.rate_hz,
    size: Annotated[int, typer.Option(help="Side of the face crops, pixels.")] = PREPARE.size_px,
    detector: Annotated[str, typer.Option(help="Face detector: auto, yunet or haar.")] = PREPARE.detector,
    labels: Annotated[str | None, typer.Option(help="A label set's name, or label columns with commas.")] = None,
    votes: Annotated[str, typer.Option(help="Of CREMA-D: whose votes to learn, of both, face or voice.")] = "both",
    workers: WorkersOption = None,
) -> None:
    """Decode each clip once: follow and crop the face, keep the sound. Run it again to go on after a stop."""
    from reactometer.config import parse_config
    from reactometer.data.prepare import prepare as run

    settings = parse_config({"prepare": {"rate_hz": rate, "size_px": size, "detector": detector}}, "prepare").prepare
    prepared = run(data, out, settings=settings, labels=labels, votes=votes, workers=workers)
    render.print_prepared(prepared)
    raise typer.Exit(SOME_FAILED if prepared.failed else OK)


@app.command(short_help="A configuration -> a model.")
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help=CONFIG_HELP)],
    overrides: OverridesArgument = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete an earlier run in the same folder.")] = False,
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Train although people or stimuli are in more than one split.")
    ] = False,
) -> None:
    """Fit a model on the train split, choose on the val split, and write a model folder."""
    from reactometer.training.train import train as run

    overrides = [*(overrides or ()), *(["data.allow_leak=true"] if allow_leak else ())]
    render.print_trained(run(config, overrides, resume=resume, overwrite=overwrite))


app.command(short_help="List the architectures, their weights and licences.")(models.models)


@app.command(short_help="Several configurations -> one table.")
def compare(
    configs: Annotated[list[Path], typer.Argument(metavar="CONFIG...", help="TOML files, or names.")],
    data: Annotated[Path, typer.Option(help="The data set, the same for all.")],
    out: Annotated[Path, typer.Option(help="A folder for the table, the picture and the runs.")] = Path("comparison"),
    seeds: Annotated[int, typer.Option(min=1, help="Trainings a configuration.")] = 3,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="On top of every configuration; repeatable.")
    ] = None,
    split: Annotated[str, typer.Option(help="What to score on. Choose on val, then score on test once.")] = "test",
) -> None:
    """Train each configuration with several seeds, score all on one split. Run it again to go on after a stop."""
    from reactometer.comparison import compare as run

    render.print_comparison(run(configs, data, out, seeds=seeds, overrides=overrides or (), split=split))


@app.command(short_help="Several trainings -> one model.")
def ensemble(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="CONFIG|MODEL...", help="One configuration to train, or several model folders."),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    folds: Annotated[int, typer.Option(min=0, help="Train on so many folds of train and val, nobody in two.")] = 0,
    seeds: Annotated[int, typer.Option(min=0, help="Train with so many seeds instead.")] = 0,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="On top of the configuration; repeatable.")
    ] = None,
) -> None:
    """Average several models: trained here on folds or with seeds, or joined as they are."""
    if len(sources) == 1 and not sources[0].is_dir():
        from reactometer.training.ensemble import ensemble as run

        render.print_trained(run(sources[0], out, overrides or (), folds=folds, seeds=seeds))
    else:
        from reactometer.models.folder import join_models

        render.print_trained(join_models(sources, out))


@app.command(short_help="A model and a test split -> the challenge's file.")
def submission(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model folder.")],
    data: DataArgument,
    out: Annotated[Path, typer.Option(help="The CSV file to write.")] = Path("submission.csv"),
    check: Annotated[bool, typer.Option("--check", help="Only check OUT, which is there already.")] = False,
    cache: CacheOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Predict every test clip, write the file that ABAW5 or EMI takes, and check it."""
    from reactometer.evaluation.submission import check_submission
    from reactometer.evaluation.submission import submission as run
    from reactometer.models.folder import load_model

    if check:
        check_submission(out, data)
    else:
        run(load_model(model, device), data, out, cache=cache)
    render.print_submission(out)


app.command(short_help="A model and a data set -> its score.")(evaluate.evaluate)
app.command(short_help="A model and held-out clips -> its intervals.")(evaluate.calibrate)
app.command(short_help="A model and a data set -> one page on its scores.")(evaluate.report)
app.command(short_help="Two models' predictions -> which is better.")(evaluate.compare_predictions)
app.command(short_help="A data set -> leaks, and what gives labels away.")(evaluate.audit)
app.command(short_help="A data set -> splits without leaks.")(evaluate.split)
app.command(short_help="Ratings of several raters -> labels.")(evaluate.ratings)


app.command(short_help="A model and videos -> intensities.")(predict.predict)
app.command(short_help="A model and a video -> what moved each emotion.")(predict.explain)
app.command(short_help="A camera or stream -> intensities, now.")(serve.live)
app.command(short_help="A model -> a service and a page.")(serve.serve)


@app.command(short_help="All of it in minutes, on embedded data.")
def demo(
    out: Annotated[Path, typer.Option(help="The folder to work in.")] = Path("demo"),
    clips: Annotated[int, typer.Option(min=120, help="Clips of the embedded data set.")] = 480,
    seed: Annotated[int, typer.Option(help="Seed of the data set and of the training.")] = 0,
) -> None:
    """Show the whole job in minutes: embedded data, training, an honest score, a prediction and its picture."""
    from reactometer.cli.demo import demo as run

    render.print_demo(run(out, n_clips=clips, seed=seed))


app.command(short_help="Export a model to ONNX graphs.")(models.export)
app.command(short_help="Download the face detector, encoders or checkpoints.")(models.download)
app.command(short_help="Push a checkpoint to the Hugging Face Hub.")(models.push)
app.command(short_help="Check this installation.")(doctor.doctor)


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
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # a home that is not to be written is nobody's fault
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
            goes_on = "prepare, train and predict into a folder go on from what they finished"
            messages.print(f"stopped; run it again: {goes_on}")
        raise


def _end(error: ReactometerError) -> NoReturn:
    messages.print(f"error: {escape(str(error))}", style="red")
    sys.exit(USAGE)


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    if issubclass(category, UserWarning):
        messages.print(f"warning: {escape(str(message))}", style="yellow")
