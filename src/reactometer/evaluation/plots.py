"""Plots of scores, calibration, coverage and subgroups, for PNG files and for the report's page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from reactometer.evaluation.bootstrap import Interval, Intervals
    from reactometer.evaluation.calibration import LabelReliability, Reliability
    from reactometer.evaluation.coverage import Coverage
    from reactometer.evaluation.metrics import Metrics
    from reactometer.evaluation.subgroups import Grouping

MODEL, GREY, WARNING = "#30638e", "#8a949c", "#d1495b"


def plot_scores(metrics: Metrics, intervals: Intervals | None, baselines: Mapping[str, Metrics]) -> Figure:
    """Plot each emotion's Pearson with its 95% interval, beside the baselines' Pearson."""
    figure, (panel,) = make_panels(1, columns=1, size=(8.0, 0.32 * len(metrics.labels)))
    bounds = intervals.by_label["pearson"] if intervals else (None,) * len(metrics.labels)
    _plot_rows(panel, metrics.labels, metrics.pearson, bounds, label="this model")
    rows = range(len(metrics.labels))
    for name, baseline in baselines.items():
        panel.scatter([as_float(value) for value in baseline.pearson], rows, marker="|", color=GREY, s=80, label=name)
    panel.set_xlabel("Pearson's r", fontsize=9)
    panel.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=4)
    return figure


def plot_calibration(reliability: Reliability) -> Figure:
    """Plot one panel per emotion: mean target over mean prediction of each bin, with intervals; dashed: calibrated."""
    figure, panels = make_panels(len(reliability.by_label), columns=4, size=(2.6, 2.6))
    for own, panel in zip(reliability.by_label, panels, strict=True):
        _plot_bins(panel, own)
    figure.supxlabel("mean prediction", fontsize=9)
    figure.supylabel("mean truth", fontsize=9)
    n_bins = len(reliability.by_label[0].bins)
    figure.suptitle(f"{n_bins} bins of as many clips each; bars: 95 % interval; solid: least squares", fontsize=10)
    return figure


def plot_coverage(coverage: Coverage) -> Figure:
    """Plot the share of each emotion's targets inside the intervals; dashed: the share that was asked for."""
    figure, (panel,) = make_panels(1, columns=1, size=(8.0, 1.8))
    bars = panel.bar(list(coverage.by_label), list(coverage.by_label.values()), color=MODEL, width=0.7)
    widths = [f"mean width\n{width:.2f}" for width in coverage.widths.values()]
    panel.bar_label(bars, widths, label_type="center", color="white", fontsize=7)
    panel.axhline(coverage.asked, color=WARNING, linestyle="--", linewidth=1)
    panel.annotate(
        f"asked: {coverage.asked:.0%}", (1.0, coverage.asked), (4, 0), "axes fraction", "offset points", fontsize=8
    )
    panel.set_ylim(0.0, 1.0)
    panel.yaxis.set_major_formatter("{x:.0%}")
    panel.tick_params(labelsize=8)
    return figure


def plot_subgroups(grouping: Grouping) -> Figure:
    """Plot mean Pearson and bias of each subgroup with their 95% intervals; small subgroups are grey."""
    groups = grouping.groups
    figure, panels = make_panels(2, columns=2, size=(4.0, max(0.32 * len(groups), 0.8)))
    names = [f"{group.name} ({group.n_clips} clips)" for group in groups]
    colours = [GREY if group.is_small else MODEL for group in groups]
    titles = {"pearson": "mean Pearson", "bias": "bias (prediction less target)"}
    for panel, (measure, title) in zip(panels, titles.items(), strict=True):
        bounds = [group.number(measure).value for group in groups]
        _plot_rows(panel, names, [own.value if own else None for own in bounds], bounds, colours)
        panel.set_title(title, fontsize=9)
    panels[1].set_yticklabels([])
    return figure


def as_svg(figure: Figure, description: str) -> str:
    """Render a figure as SVG markup to put into a page; the description is for screen readers."""
    from html import escape

    stream = StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = stream.getvalue()
    return svg[svg.index("<svg ") :].replace("<svg ", f'<svg role="img" aria-label="{escape(description)}" ', 1)


def make_panels(count: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[Any]]:
    """Make a figure of ``count`` panels, at most ``columns`` side by side, each of a size in inches."""
    from matplotlib.figure import Figure

    rows = math.ceil(count / columns)
    columns = math.ceil(count / rows)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows + 0.8), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
    for spare in panels[count:]:
        spare.set_axis_off()
    return figure, panels[:count]


def as_float(value: float | None) -> float:
    """Turn an undefined score into NaN, which leaves a gap in a plot."""
    return np.nan if value is None else value


def _plot_rows(
    panel: Any,
    names: Sequence[str],
    values: Sequence[float | None],
    bounds: Sequence[Interval | None],
    colours: Sequence[str] = (),
    label: str | None = None,
) -> None:
    """Plot one row per name from top to bottom: its value, and its interval if there is one."""
    for row, (value, interval) in enumerate(zip(values, bounds, strict=True)):
        if interval and value is not None:
            panel.plot([interval.low, interval.high], [row, row], color="0.3", linewidth=1.2)
    rows, numbers = range(len(names)), [as_float(value) for value in values]
    panel.scatter(numbers, rows, color=colours or MODEL, zorder=3, label=label)
    panel.axvline(0.0, color="0.6", linewidth=0.8)
    panel.set_yticks(rows, names, fontsize=8)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.tick_params(axis="x", labelsize=8)
    panel.locator_params(axis="x", nbins=6)


def _plot_bins(panel: Any, own: LabelReliability) -> None:
    guess = np.array([each.prediction for each in own.bins])
    truth = np.array([(each.truth.value, each.truth.low, each.truth.high) for each in own.bins]).T  # (3, bins)
    panel.axline((0.0, 0.0), slope=1.0, color="0.6", linewidth=1, linestyle=(0, (4, 3)))
    panel.errorbar(guess, truth[0], np.abs(truth[1:] - truth[0]), fmt="o", color=MODEL, markersize=3, linewidth=1)
    title = own.label
    if own.slope is not None and own.intercept is not None:
        ends = guess[[0, -1]]
        panel.plot(ends, own.intercept.value + own.slope.value * ends, color=WARNING, linewidth=1)
        title += f"\nslope {own.slope.value:.2f} ({own.slope.low:.2f} to {own.slope.high:.2f})"
    panel.set_title(title, fontsize=8)
    panel.tick_params(labelsize=7)
    panel.set_xlim(0.0, 1.0)
    panel.set_ylim(0.0, 1.0)
    panel.set_aspect("equal")
