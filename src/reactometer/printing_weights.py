"""Systems, and what was done with weights -> what a person reads on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.filesize import decimal
from rich.markup import escape

from reactometer.console import messages
from reactometer.printing import results

if TYPE_CHECKING:
    from reactometer.exporting import Exported
    from reactometer.models.catalogue import Entry
    from reactometer.models.hub import Pushed
    from reactometer.models.store import Held
    from reactometer.models.verify import Checked


def print_weights(weights: Sequence[Held]) -> None:
    """Print all weights: what is known of each, and where it is."""
    for held in weights:
        facts = [decimal(held.size_bytes)] if held.size_bytes else []
        facts += [f"SHA-256 {held.sha256[:12]}"] if held.sha256 else []
        results.print(f"[bold]{escape(held.name)}[/bold]  {', '.join([*facts, f'licence: {held.licence}'])}")
        results.print(f"    {escape(held.source)}")
        results.print(f"    {escape(_where(held))}")
    missing = sum(not held.files for held in weights)
    if missing:
        results.print(f"{missing} of {len(weights)} are not here; 'reactometer weights fetch NAME' gets one")


def print_fetched(fetched: Sequence[Held], failed: Sequence[str]) -> None:
    """Print where the weights are; what cannot be had goes to standard error."""
    for held in fetched:
        results.print(f"{escape(held.name)}  {escape(_where(held))}")
    for message in failed:
        messages.print(f"failed: {escape(message)}", style="red")


def print_checked(checked: Sequence[Checked]) -> None:
    """Print a line a file; wrong ones go to standard error."""
    for one in checked:
        if one.problem:
            messages.print(f"wrong: {escape(one.path)}: {escape(one.problem)}", style="red")
        else:
            note = "" if one.compared else "  (it opens; nothing here says what its SHA-256 should be)"
            results.print(f"ok: {escape(one.path)}{note}")
    wrong = sum(bool(one.problem) for one in checked)
    results.print(f"{len(checked) - wrong} of {len(checked)} are right")
    if wrong:
        messages.print("'reactometer weights fetch NAME' replaces what a cache holds; copy other files again")


def print_bundled(bundled: Sequence[Held], out: Path) -> None:
    """Say what is in a bundle, under which licences, and how to use it."""
    for held in bundled:
        results.print(f"{escape(held.name)}  {decimal(held.size_bytes or 0)}, licence: {escape(held.licence)}")
    results.print(f"bundle: {escape(str(out))}")
    where = "the folder it is unpacked in" if out.suffix == ".zip" else escape(str(out.absolute()))
    results.print(f"there: set REACTOMETER_WEIGHTS to {where}")


def print_card(file: Path) -> None:
    """Say where the card is, and what it cannot know."""
    results.print(f"card: {escape(str(file))}")
    messages.print("add what only you know: who was filmed, under which consent, what it must not be used for")


def print_pushed(pushed: Pushed, name: str) -> None:
    """Say where the model is, and how others get exactly this one."""
    if pushed.wrote_card:
        results.print("wrote README.md, the model card, into the model folder; edit it and push again")
    results.print(f"model: {escape(pushed.url)}")
    results.print(f"next: reactometer pull {escape(name)} OUT --revision {pushed.revision}")


def print_pulled(folder: Path) -> None:
    """Say where the model is and what to do with it."""
    results.print(f"model: {escape(str(folder))}")
    results.print(f"next: reactometer predict --model {escape(str(folder))} VIDEO")


def _where(held: Held) -> str:
    if not held.files:
        return held.place
    return f"{held.place}: {held.files[0].parent if held.folder else held.files[0]}"


def print_exported(exported: Sequence[Exported]) -> None:
    """Print where an engine is, how far it is from PyTorch, and how much faster its encoders are."""
    for one in exported:
        results.print(f"wrote {escape(str(one.folder))}")
        for shown, difference in one.differences.items():
            results.print(f"  largest difference from PyTorch, {shown}: {difference:.1e}")
        if one.pearson is not None:
            before, after = one.pearson
            results.print(f"  mean Pearson on val: {after:.4f}, of PyTorch {before:.4f}")
        results.print(f"  its encoders take {1 / one.times_torch:.2f} of PyTorch's time on {one.n_clips} clips")
        if one.times_torch <= 1:
            messages.print("note: that is no faster here, so that --engine auto stays with PyTorch")


def print_systems(entries: Sequence[Entry]) -> None:
    """Print the systems, what they cost and whose weights they start from."""
    for entry in entries:
        cost = f"{entry.parameters / 1e6:.1f} M parameters, {entry.multiply_adds / 1e9:.0f} GMACs a clip of 11 s"
        results.print(f"[bold]{entry.name}[/bold]  {escape(entry.summary)}")
        results.print(f"    {cost}")
        results.print(f"    {entry.encoder}: {entry.weights.pretrained_on}; licence: {entry.weights.licence}")
    results.print("Any encoder of transformers can take the place of the one named, by name or folder, for example")
    results.print("model.encoder=facebook/dinov2-base or model.voice_encoder=facebook/hubert-base-ls960")
    results.print("next: reactometer train NAME data.path=DATA; or reactometer models --config NAME > mine.toml")
