"""The commands on systems, weights, engines and the Hugging Face Hub: parse, call one function, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reactometer import printing_weights as printing
from reactometer.cli_evaluate import CacheOption
from reactometer.config import find_config
from reactometer.console import OK, SOME_FAILED
from reactometer.errors import ConfigError

app = typer.Typer(
    help="Weights as files: which there are, getting, checking and carrying them to a machine without a network.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
RepositoryArgument = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="A repository of the Hub.")]


@app.command("list", short_help="Which there are, and which are here.")
def list_() -> None:
    """List every file of weights by name: size, SHA-256, licence, source, and where it is on this machine."""
    from reactometer.models.store import list_weights, shipped

    printing.print_weights([shipped(), *list_weights()])


@app.command(short_help="Get them onto this machine.")
def fetch(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="As 'list' has them.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that 'list' has: gigabytes.")] = False,
) -> None:
    """Download weights, single files into the cache folder, encoders into Hugging Face's; what is here stays."""
    from reactometer.models.store import fetch as run
    from reactometer.models.store import known_names

    if not names and not everything:
        fix = f"Known names: {', '.join(known_names())}"
        raise ConfigError("no weights are named", expected="names, or --all", fix=fix)
    fetched, failed = run(known_names() if everything else names or ())
    printing.print_fetched(fetched, failed)
    raise typer.Exit(SOME_FAILED if failed else OK)


@app.command(short_help="Recompute their SHA-256.")
def verify(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="FOLDER", help="A model folder, or a bundle (a zip too); default: all here."),
    ] = None,
) -> None:
    """Check that files are what they should be, those on this machine or in a folder; status 1 if one is not."""
    from reactometer.models.verify import verify as run

    checked = run(folder)
    printing.print_checked(checked)
    raise typer.Exit(SOME_FAILED if any(one.problem for one in checked) else OK)


@app.command(short_help="Pack them for a machine without a network.")
def bundle(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder, or the .zip file, to write.")],
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="Fetched if not here; default: all that is here.")
    ] = None,
) -> None:
    """Write a folder that REACTOMETER_WEIGHTS can point to, with a manifest of SHA-256, sources and licences."""
    from reactometer.models.bundle import bundle as run

    printing.print_bundled(run(out, names or ()), out)


def models(
    config: Annotated[
        str | None, typer.Option(metavar="NAME", help="Print this configuration instead, for a file of your own.")
    ] = None,
) -> None:
    """List the systems that 'train' knows, with what they cost and where their weights come from."""
    from reactometer.models.catalogue import list_systems

    if config:
        typer.echo(find_config(config).read_text(encoding="utf-8"), nl=False)
    else:
        printing.print_systems(list_systems())


def card(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model folder.")],
    scores: Annotated[Path | None, typer.Option(help="What 'evaluate --out' wrote, to stand in it too.")] = None,
) -> None:
    """Write a model's card, README.md, into its folder: what it is, what it was trained on, how it scored."""
    from reactometer.models.card import card as run

    printing.print_card(run(model, scores))


def push(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model folder.")],
    name: RepositoryArgument,
    private: Annotated[bool, typer.Option("--private", help="Only you, or your organisation, may see it.")] = False,
) -> None:
    """Put a model folder on the Hugging Face Hub (or HF_ENDPOINT), with a model card if it has none.

    Log in first with 'hf auth login', or set HF_TOKEN. model.json goes as it is, with its configuration's paths.
    """
    from reactometer.models.hub import push as run

    printing.print_pushed(run(model, name, private=private), name)


def pull(
    name: RepositoryArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    revision: Annotated[
        str | None, typer.Option(help="A commit, a tag or a branch; default: the newest of the main branch.")
    ] = None,
) -> None:
    """Get a model folder from the Hugging Face Hub (or HF_ENDPOINT). It is checked before it appears."""
    from reactometer.models.hub import pull as run

    printing.print_pulled(run(name, out, revision=revision))


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model folder; or starter, with --out.")],
    data: Annotated[list[Path], typer.Argument(metavar="DATA|VIDEO...", help="A data set, or videos, to prove it on.")],
    engine: Annotated[str, typer.Option(help="onnx or openvino; onnx-int8 or openvino-int8, calibrated on DATA.")],
    out: Annotated[Path | None, typer.Option(help="A folder for a copy; default: the model's own.")] = None,
    cache: CacheOption = None,
) -> None:
    """Write an engine into the model's folder and prove on real clips that it says what PyTorch says."""
    from reactometer.exporting import export as run

    printing.print_exported(run(model, data, engine=engine, out=out, cache=cache))
