"""A comparison -> its files: a Markdown table to paste, a CSV to compute with, a picture to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from reactometer.evaluation.bootstrap import Interval
from reactometer.evaluation.metrics import Metrics
from reactometer.io import write_picture, write_whole

COLORS = {"face and voice": "#3b4cc0", "face": "#2a9d5c", "voice": "#d1701f"}


@dataclass(frozen=True)
class Row:
    """One system (or one way to show it clips): its scores by seed, and what it costs."""

    name: str
    reads: str  # "face and voice", "face" or "voice"
    val: tuple[float | None, ...]  # mean Pearson on val of the kept epoch, by seed; empty: not scored there
    metrics: tuple[Metrics, ...]  # on the split, by seed
    averaged: float | None  # mean Pearson of the seeds' mean prediction
    interval: Interval  # of the median seed's mean Pearson
    over_length: Interval  # of the same less that of the clip-length baseline
    parameters: int
    seconds_per_clip: float | None  # one clip at a time, decoding of its crops included; None: not timed

    @property
    def median(self) -> float | None:
        """Median over the seeds of the mean Pearson; undefined where a seed's is."""
        return median([metrics.mean_pearson for metrics in self.metrics])

    @property
    def val_median(self) -> float | None:
        """The same on val."""
        return median(self.val)


@dataclass(frozen=True)
class Comparison:
    """All rows, what they are to be compared with, and where the table was written."""

    split: str
    labels: tuple[str, ...]
    rows: tuple[Row, ...]
    length_baseline: Metrics
    n_seeds: int
    folder: Path


def write_comparison(comparison: Comparison) -> None:
    """Write ``comparison.md``, ``comparison.csv`` and ``comparison.png`` into the comparison's folder."""
    write_whole(comparison.folder / "comparison.md", markdown(comparison))
    write_whole(comparison.folder / "comparison.csv", as_table(comparison).to_csv(index=False))
    _draw(comparison, comparison.folder / "comparison.png")


def as_table(comparison: Comparison) -> pd.DataFrame:
    """A row a system and seed, with every emotion: what ``comparison.csv`` holds."""
    table = pd.DataFrame(
        {
            "system": row.name,
            "reads": row.reads,
            "seed": seed,
            "split": comparison.split,
            "clips": metrics.n_clips,
            "mean_pearson": metrics.mean_pearson,
            **{f"pearson {label}": r for label, r in zip(metrics.labels, metrics.pearson, strict=True)},
            "mean_ccc": metrics.mean_ccc,
            "mean_mae": metrics.mean_mae,
            "val_mean_pearson": row.val[seed] if row.val else None,
            "parameters": row.parameters,
            "seconds_per_clip": row.seconds_per_clip,
        }
        for row in comparison.rows
        for seed, metrics in enumerate(row.metrics)
    )
    scores = [name for name in table.columns if name not in ("system", "reads", "split")]
    return table.astype(dict.fromkeys(scores, float))  # undefined: not a number


def median(values: Sequence[float | None]) -> float | None:
    """The median; undefined where a value is, or there is none."""
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known and len(known) == len(values) else None


def markdown(comparison: Comparison) -> str:
    """The table as Markdown: a line a system; r is the mean Pearson over the labels."""
    n_clips, level = comparison.rows[0].metrics[0].n_clips, comparison.rows[0].interval.level
    head = ["system", "reads", "val", f"{comparison.split}: r", "over seeds", f"{level:.0%} interval"]
    head += ["over clip length", "seeds averaged", *comparison.labels, "parameters", "ms a clip"]
    lines = [_line(head), _line(["---"] * len(head))]
    lines += [_line(_cells(row)) for row in comparison.rows]
    baseline = comparison.length_baseline
    own = [_short(r) for r in baseline.pearson]
    lines.append(_line(["clip length", "", "", _short(baseline.mean_pearson), *[""] * 4, *own, "", ""]))
    lines.append(_line(["constant", "", "", "undefined", *[""] * 4, *["undefined"] * len(own), "", ""]))
    notes = (
        f"{comparison.split}: {n_clips} clips; r is the median over {comparison.n_seeds} seeds of the mean Pearson, "
        "emotions are medians too. Intervals: bootstrap over clips (over people where they are known) of the median "
        "seed; a constant or undefined score counts as 0 in the differences. val chose the epoch."
    )
    return "\n".join([*lines, "", notes, ""])


def _cells(row: Row) -> list[str]:
    scores = [metrics.mean_pearson for metrics in row.metrics]
    known = [score for score in scores if score is not None]
    spread = f"{_short(min(known))} to {_short(max(known))}" if len(known) > 1 else ""
    by_label = [
        median([metrics.pearson[place] for metrics in row.metrics]) for place in range(len(row.metrics[0].labels))
    ]
    milliseconds = "" if row.seconds_per_clip is None else f"{row.seconds_per_clip * 1000:.0f}"
    return [
        row.name,
        row.reads,
        _short(row.val_median) if row.val else "",
        f"**{_short(row.median)}**",
        spread,
        _interval(row.interval),
        _interval(row.over_length),
        _short(row.averaged),
        *[_short(r) for r in by_label],
        _count(row.parameters) if row.val else "",
        milliseconds,
    ]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _short(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}".replace("0.", ".", 1)


def _interval(interval: Interval) -> str:
    return f"{_short(interval.low)} to {_short(interval.high)}"


def _count(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number / 1e3:.0f} k"


def _draw(comparison: Comparison, path: Path) -> None:
    from matplotlib.figure import Figure

    rows = comparison.rows[::-1]
    figure = Figure(figsize=(8.0, 1.2 + 0.42 * len(rows)), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        color = COLORS[row.reads]
        axes.plot([row.interval.low, row.interval.high], [place, place], color=color, linewidth=5, alpha=0.25)
        scores = [metrics.mean_pearson for metrics in row.metrics if metrics.mean_pearson is not None]
        axes.plot(scores, [place] * len(scores), "o", color=color, markersize=5, alpha=0.7)
        if row.median is not None:
            axes.plot([row.median], [place], "|", color=color, markersize=16, markeredgewidth=2)
            axes.annotate(
                _short(row.median), (row.median, place), (0, 9), textcoords="offset points", ha="center", size=8
            )
    axes.axvline(0.0, color="#666666", linewidth=0.8)
    if comparison.length_baseline.mean_pearson is not None:
        axes.axvline(comparison.length_baseline.mean_pearson, color="#999999", linewidth=0.8, linestyle="--")
        axes.text(comparison.length_baseline.mean_pearson, len(rows) - 0.45, " clip length", size=7, color="#777777")
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.2)
    axes.set_xlabel(f"mean Pearson on {comparison.split}: a dot a seed, | their median, band the interval of its clips")
    axes.spines[["top", "right"]].set_visible(False)
    write_picture(figure, path)
