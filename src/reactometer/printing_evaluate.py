"""Comparisons, audits and clean splits -> what a person reads on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from reactometer.printing import print_evaluation, results

if TYPE_CHECKING:
    from reactometer.data.disjoint import CleanSplit
    from reactometer.evaluation.audit import Audit
    from reactometer.evaluation.paired import Difference, Paired
    from reactometer.models.uncertainty import Uncertainty

__all__ = ["print_audit", "print_evaluation", "print_paired", "print_report", "print_split", "print_uncertainty"]

NAMES = {"mean_pearson": "mean Pearson", "mean_ccc": "mean CCC", "mean_mae": "mean MAE"}


def print_uncertainty(fitted: Uncertainty, folder: str) -> None:
    """Print how wide the intervals are by what the model goes by, and where they are kept."""
    own = fitted.fitted_on
    table = Table("by", "clips", "half width of the intervals, from the narrowest label to the widest")
    for name, basis in fitted.bases.items():
        nothing = ": too few clips to say anything" if min(basis.half_widths) == 1.0 else ""
        table.add_row(
            name, str(basis.n_clips), f"{min(basis.half_widths):.3f} to {max(basis.half_widths):.3f}{nothing}"
        )
    results.print(table)
    results.print(
        f"{fitted.coverage:.0%} intervals, fitted on {own['n_clips']} clips of {escape(own['name'])}, {own['split']}"
    )
    if fitted.recalibration:
        results.print("recalibrated: predictions go through a monotone curve a label")
    if not fitted.references:
        results.print("how far a clip is from the training data is not known: these data have no split 'train'")
    results.print(f"model: {escape(folder)}")


def print_report(page: Path) -> None:
    """Say where the page is, and what lies beside it."""
    results.print(f"report: {escape(str(page))}")
    results.print(f"model card from the same figures: {escape(str(page.with_name('card.md')))}")


def print_paired(paired: Paired, first: str, second: str) -> None:
    """Print every score of both, the difference with its interval and p, and which is better."""
    results.print(f"A: {escape(first)}\nB: {escape(second)}")
    level = paired.differences[0].interval.level
    table = Table("score", "A", "B", "A - B", f"{level:.0%} interval", "p")
    for difference in paired.differences:
        own = difference.interval
        table.add_row(
            NAMES.get(difference.name, difference.name.capitalize()),
            f"{difference.first:.4f}",
            f"{difference.second:.4f}",
            f"{own.value:+.4f}",
            f"{own.low:+.4f} to {own.high:+.4f}",
            f"{difference.p:.4f}",
            end_section=difference.name == "mean_mae",
        )
    results.print(table)
    what = "all" if paired.is_exact else f"{paired.n_resamples}"
    results.print(
        f"{paired.n_clips} clips; {paired.n_resamples} resamples and {what} permutations by {paired.unit} "
        f"({paired.n_units} of them); p of single emotions are not corrected for their number"
    )
    if paired.n_left_out:
        results.print(f"{paired.n_left_out} clips with labels of the same splits are in neither file: no full score")
    results.print(_verdict(paired.differences[0]))


def print_audit(audit: Audit) -> None:
    """Print what the splits hold, what gives labels away, what could not be seen, and the leaks."""
    _print_splits(audit)
    _print_labels(audit)
    vectors = audit.vectors
    results.print(f"label vectors: {vectors.n_distinct} different ones over {vectors.n_clips} clips with labels")
    for split, share in vectors.shared.items():
        telling = f"{vectors.telling[split]:.1%} a vector that tells its stimulus"
        results.print(f"  {share:.1%} of {split} have one that a train clip has, {telling}")
    for kind, n_pairs in audit.alike_within.items():
        results.print(f"pairs of clips of one split, {kind}: {n_pairs}")
    for name, own in audit.cues.items():
        tells = "; it gives something away" if own.low > 0 else ""
        ends = f"95 % interval {own.low:.4f} to {own.high:.4f}"
        results.print(f"{name} alone scores mean Pearson {own.value:.4f} on {audit.cue_split} ({ends}){tells}")
    for text in audit.unseen:
        results.print(f"not seen: {escape(text)}")
    for leak in audit.leaks:
        results.print(f"leak: {escape(str(leak))}", style="red")
    if not audit.leaks:
        results.print("no leak found between splits")


def _print_splits(audit: Audit) -> None:
    table = Table("split", "clips", "with labels", "unreadable", "without face", "without sound", "frames with face")
    for split, own in audit.splits.items():
        counts = (own.n_clips, own.n_labelled, own.n_failed, own.n_without_face, own.n_without_sound)
        table.add_row(split, *map(str, counts), f"{own.face_share:.1%}")
    results.print(table)


def _print_labels(audit: Audit) -> None:
    """Range and mean of each label by split, how far it drifts from train, and which labels go together."""
    table = Table("label", *(f"{split}: range, mean" for split in audit.splits), "drift from train")
    for place, label in enumerate(audit.labels):
        cells, drifts = [], []
        for split, own in audit.splits.items():
            known = bool(own.mean)
            cells.append(f"{own.low[place]:.2f}-{own.high[place]:.2f}, {own.mean[place]:.3f}" if known else "withheld")
            drifts += [f"{split} {own.drift[place]:+.2f}"] if own.drift and split != "train" else []
        table.add_row(escape(label), *cells, ", ".join(drifts))
    results.print(table)
    results.print("drift: mean less train's, in train's standard deviations")
    pairs = ", ".join(f"{one} and {other} {r:+.2f}" for one, other, r in audit.correlations[:3])
    if pairs:
        results.print(f"labels that go together most: {escape(pairs)}")


def print_split(made: CleanSplit) -> None:
    """Say where the manifest is, how large the splits are and how far their labels are apart."""
    table = Table("split", "clips", *map(escape, made.labels))
    for name, own in made.means.items():
        table.add_row(name, str(made.n_clips[name]), *(f"{mean:.3f}" for mean in own))
    results.print(table)
    results.print(f"mean labels; {made.n_components} groups of clips that stay together")
    if made.n_left_out:
        results.print(f"{made.n_left_out} clips left out: without labels, or unusable")
    results.print(f"manifest: {escape(str(made.path))}")
    results.print(f"next: reactometer prepare {escape(str(made.path))} --out CACHE")


def _verdict(difference: Difference) -> str:
    own, names = difference.interval, {"first": "A", "second": "B"}
    if difference.better is None:
        told = f"{own.value:+.4f} ({own.low:+.4f} to {own.high:+.4f}, p = {difference.p:.4f})"
        return f"no difference shown in mean Pearson: A - B is {told}"
    ends = sorted((abs(own.low), abs(own.high)))
    return (
        f"{names[difference.better]} is better: mean Pearson higher by {abs(own.value):.4f} "
        f"({ends[0]:.4f} to {ends[1]:.4f}, p = {difference.p:.4f})"
    )
