"""Degradation and reliability -> pictures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reactometer.io import write_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from reactometer.evaluation.degradation import Curve, Degradation
    from reactometer.evaluation.reliability import LabelReliability, Reliability


def draw_degradation(degradation: Degradation, path: Path) -> None:
    """Draw a panel a nuisance: mean Pearson with its interval, and each emotion; a gap where it is undefined."""
    figure, panels = _panels(len(degradation.curves), columns=2, size=(4.6, 3.2))
    for curve, panel in zip(degradation.curves, panels, strict=True):
        _draw_curve(panel, curve)
    figure.supylabel("Pearson", fontsize=10)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    n_clips = degradation.curves[0].points[0].metrics.n_clips
    figure.suptitle(f"{degradation.data}, {degradation.split}: {n_clips} clips; bars: 95 % interval of the mean")
    write_picture(figure, path)


def draw_reliability(reliability: Reliability, path: Path) -> None:
    """Draw a panel an emotion: mean truth of each bin over its mean prediction, with intervals; dashed: calibrated."""
    figure, panels = _panels(len(reliability.by_label), columns=4, size=(2.6, 2.6))
    for own, panel in zip(reliability.by_label, panels, strict=True):
        _draw_bins(panel, own)
    figure.supxlabel("mean prediction", fontsize=9)
    figure.supylabel("mean truth", fontsize=9)
    n_bins = len(reliability.by_label[0].bins)
    figure.suptitle(f"{n_bins} bins of as many clips each; bars: 95 % interval; solid: least squares", fontsize=10)
    write_picture(figure, path)


def _draw_bins(panel: Any, own: LabelReliability) -> None:
    guess = np.array([each.prediction for each in own.bins])
    truth = np.array([(each.truth.value, each.truth.low, each.truth.high) for each in own.bins]).T  # (3, bins)
    panel.axline((0.0, 0.0), slope=1.0, color="0.6", linewidth=1, linestyle=(0, (4, 3)))
    panel.errorbar(guess, truth[0], np.abs(truth[1:] - truth[0]), fmt="o", color="#30638e", markersize=3, linewidth=1)
    title = own.label
    if own.slope is not None and own.intercept is not None:
        ends = guess[[0, -1]]
        panel.plot(ends, own.intercept.value + own.slope.value * ends, color="#d1495b", linewidth=1)
        title += f"\nslope {own.slope.value:.2f} ({own.slope.low:.2f} to {own.slope.high:.2f})"
    panel.set_title(title, fontsize=8)
    panel.tick_params(labelsize=7)
    panel.set_xlim(0.0, 1.0)
    panel.set_ylim(0.0, 1.0)
    panel.set_aspect("equal")


def _draw_curve(panel: Any, curve: Curve) -> None:
    places = range(len(curve.points))
    for label, name in enumerate(curve.points[0].metrics.labels):
        own = [_known(point.metrics.pearson[label]) for point in curve.points]
        panel.plot(places, own, linewidth=1, alpha=0.7, label=name)
    means = np.array([_known(point.metrics.mean_pearson) for point in curve.points])
    ends = [point.intervals.mean["pearson"] for point in curve.points]
    bars = np.array([[np.nan, np.nan] if end is None else [end.low, end.high] for end in ends]).T  # (2, levels)
    panel.errorbar(places, means, np.abs(bars - means), color="black", linewidth=2, marker="o", capsize=3, label="mean")
    panel.axhline(0.0, color="0.6", linewidth=0.8)
    panel.set_xticks(places, [point.level for point in curve.points], fontsize=8)
    panel.set_title(curve.nuisance, fontsize=10)
    panel.set_ylim(top=1.0)


def _known(value: float | None) -> float:
    return np.nan if value is None else value


def _panels(count: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[Any]]:
    """A figure of so many panels, at most ``columns`` side by side, each of a size in inches."""
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
