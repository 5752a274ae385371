"""The commands for architectures, weights, exports and the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reactometer.cli.render import results
from reactometer.errors import ModelError, WeightsError
from reactometer.terminal import OK, SOME_FAILED, messages


def models(
    config: Annotated[
        str | None, typer.Option(metavar="NAME", help="Print a packaged configuration.")
    ] = None,
) -> None:
    """List the architectures, their weights and licences."""
    if config:
        from reactometer.config import find_config

        typer.echo(find_config(config).read_text(encoding="utf-8"), nl=False)
        return
    from reactometer.models.architectures import ARCHITECTURES, ENCODER_LICENCES

    for name, system in ARCHITECTURES.items():
        results.print(f"{name}  {system.summary}")
        results.print(f"    {system.encoder}, licence: {ENCODER_LICENCES[system.encoder]}")
    results.print("You can use any encoder of transformers instead, by name or folder, for example")
    results.print("model.encoder=facebook/dinov2-base or model.voice_encoder=facebook/hubert-base-ls960")
    results.print(
        "next: reactometer train NAME data.path=DATA; or reactometer models --config NAME > mine.toml"
    )


def download(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="yunet, or OWNER/NAME on the Hugging Face Hub.")
    ],
    to: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder for the files, for REACTOMETER_WEIGHTS.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Commit, tag or branch; default: the newest commit.")
    ] = None,
) -> None:
    """Download the face detector, encoders or checkpoints.

    Without --to, files go to the cache that 'train' and 'predict' use. The exit status is 1 if a download
    failed.
    """
    from reactometer.hub.hub import download as run

    failed = False
    for name in names:
        try:
            path = run(name, to, revision=revision)
        except (WeightsError, ModelError) as error:
            failed = True
            messages.print(f"failed: {name}: {error}", style="red")
            continue
        results.print(f"{name}: {path}")
        if (path / "model.json").is_file():
            results.print(f"next: reactometer predict --model {path} VIDEO")
    raise typer.Exit(SOME_FAILED if failed else OK)


def push(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Checkpoint folder.")],
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository on the Hub.")],
    private: Annotated[bool, typer.Option("--private", help="Make it visible only to you.")] = False,
) -> None:
    """Push a checkpoint to the Hugging Face Hub, with a model card.

    Log in first with 'hf auth login', or set HF_TOKEN. model.json is pushed unchanged, including local paths
    in it.
    """
    from huggingface_hub import constants

    from reactometer.hub.hub import push as run

    revision = run(model, name, private=private)
    results.print(f"model: {constants.ENDPOINT}/{name}")
    results.print(f"model card: {model / 'README.md'}; edit it and push again")
    results.print(f"next: reactometer download {name} --revision {revision} --to FOLDER")


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Checkpoint folder, or starter.")],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Dataset with the labels of the model.")],
    out: Annotated[Path, typer.Option(help="Folder of the new checkpoint.")],
) -> None:
    """Write an 8-bit copy of a checkpoint. Encoders are smaller, and faster on a CPU.

    The train split of DATA calibrates it. The command fails if mean Pearson on val falls by more than 0.005.
    For a checkpoint that has weights but no graphs, write a copy with graphs, in single precision.
    """
    from reactometer.inference.checkpoint import WEIGHTS_FILE
    from reactometer.inference.runtime import HEAD_GRAPH
    from reactometer.paths import find_checkpoint
    from reactometer.training.export import export_weights
    from reactometer.training.quantise import export as run

    folder = find_checkpoint(model)
    if (folder / WEIGHTS_FILE).is_file() and not (folder / HEAD_GRAPH).is_file():
        results.print(f"wrote {export_weights(model, data, out)}")
        return

    before, after = run(model, data, out)
    results.print(f"wrote {out}")
    results.print(f"mean Pearson on val: {after:.4f}, in single precision {before:.4f}")
