"""Terminal output of the commands on architectures, weights, engines and the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from reactometer.console import messages
from reactometer.printing import results

if TYPE_CHECKING:
    from reactometer.hub.hub import Pushed
    from reactometer.training.export import Exported


def print_downloaded(name: str, path: Path) -> None:
    """Print where the files are, and for a checkpoint the next command."""
    results.print(f"{escape(name)}: {escape(str(path))}")
    if (path / "model.json").is_file():
        results.print(f"next: reactometer predict --model {escape(str(path))} VIDEO")


def print_failed(name: str, error: Exception) -> None:
    """Print a failed download to standard error."""
    messages.print(f"failed: {escape(name)}: {escape(str(error))}", style="red")


def print_pushed(pushed: Pushed, name: str) -> None:
    """Print where the checkpoint is, and how others get the same commit."""
    if pushed.wrote_card:
        results.print("wrote README.md, the model card, into the checkpoint folder; edit it and push again")
    results.print(f"model: {escape(pushed.url)}")
    results.print(f"next: reactometer download {escape(name)} --revision {pushed.revision} --to FOLDER")


def print_exported(exported: Sequence[Exported]) -> None:
    """Print the folder of each exported engine, and its differences from PyTorch."""
    for one in exported:
        results.print(f"wrote {escape(str(one.folder))}")
        for shown, difference in one.differences.items():
            results.print(f"  largest difference from PyTorch, {shown}: {difference:.1e}")
        if one.pearson is not None:
            before, after = one.pearson
            results.print(f"  mean Pearson on val: {after:.4f}, of PyTorch {before:.4f}")


def print_systems() -> None:
    """Print the architectures and the weights they start from."""
    from reactometer.models.registry import PRETRAINED, SYSTEMS

    for name, system in SYSTEMS.items():
        weights = PRETRAINED[system.encoder]
        results.print(f"[bold]{name}[/bold]  {escape(system.summary)}")
        results.print(f"    {system.encoder}: {weights.pretrained_on}; licence: {weights.licence}")
    results.print("You can use any encoder of transformers instead, by name or folder, for example")
    results.print("model.encoder=facebook/dinov2-base or model.voice_encoder=facebook/hubert-base-ls960")
    results.print("next: reactometer train NAME data.path=DATA; or reactometer models --config NAME > mine.toml")
