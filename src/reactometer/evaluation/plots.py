"""Plots of scores and calibration, for PNG files and for the report's page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from reactometer.evaluation.bootstrap import Intervals
    from reactometer.evaluation.calibration import Coverage, LabelReliability
    from reactometer.evaluation.metrics import Metrics

MODEL, GREY, FIT = "#30638e", "#8a949c", "#d1495b"


def plot_scores(metrics: Metrics, intervals: Intervals | None, baselines: Mapping[str, Metrics]) -> Figure:
    """Plot each emotion's Pearson with its 95% interval, beside the baselines' Pearson."""
    figure, (panel,) = make_panels(1, columns=1, size=(8.0, 0.32 * len(metrics.labels)))
    rows = range(len(metrics.labels))
    for row, interval in enumerate(intervals.by_label["pearson"] if intervals else ()):
        if interval:
            panel.plot([interval.low, interval.high], [row, row], color="0.3", linewidth=1.2)
    panel.scatter(np.array(metrics.pearson, dtype=float), rows, color=MODEL, zorder=3, label="this model")
    for name, baseline in baselines.items():
        panel.scatter(np.array(baseline.pearson, dtype=float), rows, marker="|", color=GREY, s=80, label=name)
    panel.axvline(0.0, color="0.6", linewidth=0.8)
    panel.set_yticks(rows, metrics.labels, fontsize=8)
    panel.set_ylim(len(metrics.labels) - 0.5, -0.5)
    panel.set_xlabel("Pearson's r", fontsize=9)
    panel.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=4)
    return figure


def plot_calibration(reliability: Sequence[LabelReliability]) -> Figure:
    """Plot one panel per emotion: mean target over mean prediction of each bin, with intervals; dashed:
    calibrated."""
    figure, panels = make_panels(len(reliability), columns=4, size=(2.6, 2.6))
    for label, panel in zip(reliability, panels, strict=True):
        predictions = np.array([group.prediction for group in label.bins])
        intervals = [group.target for group in label.bins]
        targets = np.array([(target.value, target.low, target.high) for target in intervals]).T  # (3, bins)
        panel.axline((0.0, 0.0), slope=1.0, color="0.6", linewidth=1, linestyle=(0, (4, 3)))
        panel.errorbar(
            predictions,
            targets[0],
            np.abs(targets[1:] - targets[0]),
            fmt="o",
            color=MODEL,
            markersize=3,
            linewidth=1,
        )
        title = label.label
        if label.slope is not None and label.intercept is not None:
            line_x = predictions[[0, -1]]
            panel.plot(line_x, label.intercept.value + label.slope.value * line_x, color=FIT, linewidth=1)
            title += f"\nslope {label.slope.value:.2f} ({label.slope.low:.2f} to {label.slope.high:.2f})"
        panel.set_title(title, fontsize=8)
        panel.tick_params(labelsize=7)
        panel.set(xlim=(0.0, 1.0), ylim=(0.0, 1.0), aspect="equal")
    figure.supxlabel("mean prediction", fontsize=9)
    figure.supylabel("mean target", fontsize=9)
    n_bins = len(reliability[0].bins)
    figure.suptitle(
        f"{n_bins} bins of as many clips each; bars: 95% interval; solid: least squares", fontsize=10
    )
    return figure


def plot_coverage(coverage: Coverage) -> Figure:
    """Plot coverage by size of prediction with 95% intervals, and the width of the intervals; dashed:
    nominal."""
    figure, (panel,) = make_panels(1, columns=1, size=(6.5, 1.9))
    names = [f"{name}\nwidth {item.width:.2f}" for name, item in coverage.by_size.items()]
    for column, item in enumerate(coverage.by_size.values()):
        panel.plot([column, column], [item.share.low, item.share.high], color="0.3", linewidth=1.2)
    panel.scatter(names, [item.share.value for item in coverage.by_size.values()], color=MODEL, zorder=3)
    panel.axhline(coverage.nominal, color="0.6", linewidth=1, linestyle=(0, (4, 3)))
    panel.set_ylim(min(0.5, *(item.share.low for item in coverage.by_size.values())), 1.02)
    panel.tick_params(labelsize=8)
    panel.set_xlabel("prediction", fontsize=9)
    panel.set_ylabel("labels inside", fontsize=9)
    return figure


def mark(figure: Figure, label: str) -> Figure:
    """Write a label of the clips, such as "in-sample", into the lower right corner; return the figure."""
    if label:
        figure.text(0.99, 0.01, label, ha="right", va="bottom", color=FIT, fontsize=10)
    return figure


def as_svg(figure: Figure, description: str) -> str:
    """Render a figure as SVG markup to put into a page; the description is for screen readers."""
    from html import escape

    stream = StringIO()
    figure.savefig(
        stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    svg = stream.getvalue()
    return svg[svg.index("<svg ") :].replace(
        "<svg ", f'<svg role="img" aria-label="{escape(description)}" ', 1
    )


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
