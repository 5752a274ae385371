"""Plot a prediction over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reactometer.errors import OutputError, require
from reactometer.inference.prediction import Prediction, index_of
from reactometer.io import write_plot
from reactometer.labels import colours_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE_ENDINGS = (".png", ".jpg", ".svg", ".pdf")


def draw_timeline(prediction: Prediction, path: Path | str, labels: Sequence[float] | None = None) -> Path:
    """Draw one row per emotion over time, the whole file's value on the right; windows without a face are
    grey.

    Args:
        prediction: of one file, with windows.
        path: the PNG, JPEG, SVG or PDF file to write.
        labels: (L,) known labels of the clip in [0, 1], drawn as dashed lines.

    Raises:
        OutputError: the prediction has no timeline, or the file cannot be written.
    """
    from matplotlib.figure import Figure

    _check_timeline(prediction)
    figure = Figure(figsize=(9.0, 1.3 + 0.62 * len(prediction.labels)), layout="constrained")
    rows = figure.subplots(len(prediction.labels), 1, sharex=True, squeeze=False)[:, 0]
    for index, row in enumerate(rows):
        draw_row(row, prediction, index)
        if labels is not None:
            row.axhline(labels[index], color="0.3", linewidth=1, linestyle=(0, (4, 3)))
    rows[-1].set_xlabel("seconds")
    rows[-1].set_xlim(0.0, prediction.duration_s)
    dashed = "" if labels is None else "; dashed: the clip's label"
    figure.suptitle(_title(prediction) + dashed, fontsize=10, x=0.01, ha="left")
    return write_plot(figure, Path(path))


NAME_HEIGHT = 0.055
"""Minimum distance between the names of two curves, in intensity."""


def draw_curves(prediction: Prediction, labels: Sequence[str], axes: Axes | None = None) -> Axes:
    """Draw the curves of several emotions into one diagram; see :meth:`.prediction.Prediction.plot`."""
    require("matplotlib", extra="evaluate")
    indices = [index_of(label, prediction.labels) for label in labels or prediction.labels]
    _check_timeline(prediction)
    if axes is None:
        from matplotlib import pyplot as plt

        _, axes = plt.subplots(figsize=(9.0, 3.2), layout="constrained")
    colours, timeline = colours_of(prediction.labels), prediction.timeline
    for index in indices:
        axes.plot(timeline.times_s, timeline.values[:, index], color=colours[index], linewidth=2)
    valid = np.flatnonzero(~np.isnan(timeline.values).any(axis=1))
    if len(valid):  # names beside the last values, moved apart
        last = timeline.values[valid[-1]]
        height = -1.0
        for index in sorted(indices, key=lambda index: float(last[index])):
            height = max(float(last[index]), height + NAME_HEIGHT)
            axes.text(
                *(1.015, height, prediction.labels[index]),
                transform=axes.get_yaxis_transform(),
                va="center",
                color="0.2",
            )
            axes.plot(
                1.004,
                height,
                "s",
                transform=axes.get_yaxis_transform(),
                color=colours[index],
                ms=5,
                clip_on=False,
            )
    _shade_without_face(axes, prediction)
    axes.set_ylim(0.0, 1.0)
    axes.set_xlim(0.0, prediction.duration_s)
    axes.set_xlabel("seconds")
    axes.set_ylabel("intensity")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(Path(prediction.path).name, loc="left", fontsize=10)
    return axes


def _check_timeline(prediction: Prediction) -> None:
    """Raise OutputError if there is no timeline."""
    if prediction.failed or not prediction.windows:
        raise OutputError(
            f"{prediction.path}: no timeline to plot: {prediction.status}", fix="Choose a readable file"
        )


def _shade_without_face(axes: Axes, prediction: Prediction) -> None:
    for window in prediction.windows:
        if window.face_share == 0.0:
            axes.axvspan(window.start_s, window.end_s, color="0.85", linewidth=0, zorder=0)


def draw_row(row: Any, prediction: Prediction, index: int) -> None:
    """Draw one emotion's intensity over time into axes of matplotlib, with the whole file's value on the
    right."""
    colour = colours_of(prediction.labels)[index]
    middles_s, values = prediction.timeline.times_s, prediction.timeline.values[:, index]  # (K,) each
    row.fill_between(middles_s, values, color=colour, alpha=0.3, linewidth=0)
    row.plot(middles_s, values, color=colour, linewidth=1.8, marker="o", markersize=3)
    _shade_without_face(row, prediction)
    row.set_ylim(0.0, 1.0)
    row.set_yticks([0.0, 1.0])
    row.tick_params(labelsize=7)
    row.set_ylabel(prediction.labels[index], rotation=0, ha="right", va="center", fontsize=9)
    row.spines[["top", "right"]].set_visible(False)
    whole = "–" if prediction.intensities is None else f"{prediction.intensities[index]:.2f}"
    row.text(1.01, 0.55, whole, transform=row.transAxes, va="center", fontsize=10, color="0.2", weight="bold")
    if prediction.intervals:
        bounds = "{:.2f}–{:.2f}".format(*prediction.intervals[index])
        row.text(1.01, 0.12, bounds, transform=row.transAxes, va="center", fontsize=7, color="0.4")


def _title(prediction: Prediction) -> str:
    sound = "sound" if prediction.has_sound else "no sound"
    visible = f"face in {prediction.face_share or 0.0:.0%} of the sampled frames, {sound}"
    grey = "; grey: no face" if any(window.face_share == 0.0 for window in prediction.windows) else ""
    face = "" if prediction.face is None else f", face {prediction.face}"
    interval = (
        f" and its {prediction.coverage:.0%} interval" if prediction.intervals and prediction.coverage else ""
    )
    return f"{Path(prediction.path).name}{face}. Right: the whole file{interval}\n{visible}{grey}"
