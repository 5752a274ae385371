"""A comparison -> its files: a Markdown table to paste, a CSV to compute with, a picture to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reactometer.evaluation.resample import Interval

if TYPE_CHECKING:
    from reactometer.comparison import Comparison, Row

COLORS = {"face and voice": "#3b4cc0", "face": "#2a9d5c", "voice": "#d1701f"}


def write_comparison(comparison: Comparison) -> None:
    """Write ``comparison.md``, ``comparison.csv`` and ``comparison.png`` into the comparison's folder."""
    from reactometer.comparison import as_table

    comparison.folder.mkdir(parents=True, exist_ok=True)
    (comparison.folder / "comparison.md").write_text(markdown(comparison), encoding="utf-8")
    as_table(comparison).to_csv(comparison.folder / "comparison.csv", index=False)
    _draw(comparison, comparison.folder / "comparison.png")


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
    from reactometer.comparison import median

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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = comparison.rows[::-1]
    figure = Figure(figsize=(8.0, 1.2 + 0.42 * len(rows)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
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
    figure.savefig(path)
