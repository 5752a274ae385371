"""Comparisons of predictions -> what a person reads on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from reactometer.printing import print_evaluation, results

if TYPE_CHECKING:
    from reactometer.evaluation.paired import Difference, Paired

__all__ = ["print_evaluation", "print_paired"]

NAMES = {"mean_pearson": "mean Pearson", "mean_ccc": "mean CCC", "mean_mae": "mean MAE"}


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
