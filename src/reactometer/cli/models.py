"""The commands ``model …``: architectures, configurations, downloads, conversions, the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reactometer.cli import render
from reactometer.cli.options import ModelOption, out_option
from reactometer.cli.render import results
from reactometer.errors import ModelError, WeightsError
from reactometer.terminal import OK, SOME_FAILED


def list_models() -> None:
    """List the architectures, their encoders and licences."""
    from reactometer.models.architectures import ARCHITECTURES, ENCODER_LICENCES

    rows = [
        (name, item.summary, item.encoder, ENCODER_LICENCES[item.encoder])
        for name, item in ARCHITECTURES.items()
    ]
    header = ("architecture", "network", "encoder", "licence")
    render.print_json([dict(zip(header, row, strict=True)) for row in rows])
    render.print_table(header, rows)
    results.print("You can use any encoder of transformers instead, by name or folder, for example")
    results.print("model.encoder=facebook/dinov2-base or model.voice_encoder=facebook/hubert-base-ls960")
    results.print("next: reactometer train NAME -d DATA; or reactometer model config NAME > mine.toml")


def config(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Packaged configuration, such as resnet50.")],
) -> None:
    """Print a packaged configuration, as a start for your own."""
    from reactometer.config import find_config

    typer.echo(find_config(name).read_text(encoding="utf-8"), nl=False)


def download(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME", help="yunet, or OWNER/NAME\\[@REVISION] on the Hugging Face Hub."),
    ],
    out: Annotated[
        Path | None, out_option("FOLDER", "Folder for the files; default: the caches of the other commands.")
    ] = None,
) -> None:
    """Download the face detector, encoders or checkpoints.

    For a machine without a network, copy the folder there, and set REACTOMETER_WEIGHTS to it.
    """
    from reactometer.hub.hub import download as run

    paths = {}
    for name in names:
        repository, _, revision = name.partition("@")
        try:
            paths[name] = run(repository, out, revision=revision or None)
        except (WeightsError, ModelError) as error:
            render.print_failed([f"{name}: {error}"])
            continue
        results.print(f"{name}: {paths[name]}")
        if (paths[name] / "model.json").is_file():
            results.print(f"next: reactometer predict VIDEO -m {paths[name]}")
    render.print_json(paths)
    raise typer.Exit(SOME_FAILED if len(paths) < len(set(names)) else OK)


def push(
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository on the Hub.")],
    model: ModelOption,
    private: Annotated[bool, typer.Option("--private", help="Make it visible only to you.")] = False,
) -> None:
    """Push a checkpoint to the Hugging Face Hub, with a model card.

    Log in first with 'hf auth login', or set HF_TOKEN. model.json is pushed unchanged, including local paths
    in it.
    """
    from huggingface_hub import constants

    from reactometer.hub.hub import push as run

    revision = run(model, name, private=private)
    url = f"{constants.ENDPOINT}/{name}"
    render.print_json({"url": url, "revision": revision})
    results.print(f"model: {url}")
    results.print(f"model card: {model / 'README.md'}; edit it and push again")
    results.print(f"next: reactometer predict VIDEO -m {name}@{revision}")


def join(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL", help="Checkpoint folders.")],
    out: Annotated[Path, out_option("FOLDER", "Folder of the ensemble.")],
) -> None:
    """Join checkpoints into an ensemble of their mean."""
    from reactometer.inference.checkpoint import join_models

    render.print_trained(join_models(models, out))


def export(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Dataset with the labels of the model.")],
    model: ModelOption,
    out: Annotated[Path, out_option("FOLDER", "Folder of the new checkpoint.")],
) -> None:
    """Write an 8-bit copy of a checkpoint, smaller and faster on a CPU.

    The train split of DATA calibrates it. The command fails if mean Pearson on val falls by more than 0.005.
    For a checkpoint that has weights but no graphs, write a copy with graphs, in single precision.
    """
    from reactometer.inference.checkpoint import WEIGHTS_FILE
    from reactometer.inference.runtime import HEAD_GRAPH
    from reactometer.training.export import export_weights
    from reactometer.training.quantise import export as run

    if (model / WEIGHTS_FILE).is_file() and not (model / HEAD_GRAPH).is_file():
        render.print_trained(export_weights(model, data, out))
        return
    before, after = run(model, data, out)
    render.print_json({"model": out, "mean_pearson_val": after, "mean_pearson_val_single_precision": before})
    results.print(f"model: {out}")
    results.print(f"mean Pearson on val: {after:.4f}, in single precision {before:.4f}")
