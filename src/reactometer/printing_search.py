"""What a search came to -> what a person reads on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from reactometer.printing import results

if TYPE_CHECKING:
    from reactometer.training.search_report import SearchResult

MOST_SHOWN = 5


def print_search(result: SearchResult) -> None:
    """Print the best few trials, where all of it lies, and what to do next."""
    scored = sorted((one for one in result.trials if one.score is not None), key=lambda one: -(one.score or 0.0))
    table = Table("trial", "score", *(escape(key.partition(".")[2]) for key in result.best.values))
    for one in scored[:MOST_SHOWN]:
        table.add_row(str(one.number), f"{one.score:.4f}", *(escape(value) for value in one.values.values()))
    results.print(table)
    failed = [one for one in result.trials if one.reason and not one.reason.startswith("broken off")]
    broken_off = len(result.trials) - len(scored) - len(failed)
    results.print(f"{len(result.trials)} trials: {len(scored)} scored, {broken_off} broken off, {len(failed)} failed")
    results.print(f"score: {escape(result.validation)}; the best of many, so a little too good")
    folder = escape(str(result.folder))
    results.print(f"{folder}: trials.csv, best.toml, search.png")
    results.print(f"next: reactometer train {folder}/best.toml, and score that model on the test split, once")
