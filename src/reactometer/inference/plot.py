"""A prediction over time -> a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reactometer.errors import OutputError
from reactometer.io import write_plot
from reactometer.types import Prediction

COLOURS = ("#d1495b", "#edae49", "#00798c", "#5f8a3a", "#8f5aa8", "#30638e", "#c86b3c")
PICTURE_ENDINGS = (".png", ".jpg", ".svg", ".pdf")


def draw_timeline(prediction: Prediction, path: Path | str, labels: Sequence[float] | None = None) -> Path:
    """Draw one row per emotion over time, with the value of the whole file beside it; windows without a face are grey.

    Args:
        prediction: of one file, with windows.
        path: the PNG, JPEG, SVG or PDF file to write.
        labels: (L,) known labels of the clip in [0, 1], drawn as dashed lines.

    Raises:
        OutputError: there is no timeline, or the file cannot be written.
    """
    from matplotlib.figure import Figure

    if prediction.failed or not prediction.windows:
        raise OutputError(
            f"{prediction.path}: no timeline to draw: {prediction.status}", fix="Choose a file that could be read"
        )
    figure = Figure(figsize=(9.0, 1.3 + 0.62 * len(prediction.labels)), layout="constrained")
    strips = figure.subplots(len(prediction.labels), 1, sharex=True, squeeze=False)[:, 0]
    for place, strip in enumerate(strips):
        draw_row(strip, prediction, place)
        if labels is not None:
            strip.axhline(labels[place], color="0.3", linewidth=1, linestyle=(0, (4, 3)))
    strips[-1].set_xlabel("seconds")
    strips[-1].set_xlim(0.0, prediction.duration_s)
    dashed = "" if labels is None else "; dashed: the clip's label"
    figure.suptitle(_title(prediction) + dashed, fontsize=10, x=0.01, ha="left")
    return write_plot(figure, Path(path))


def draw_row(strip: Any, prediction: Prediction, place: int) -> None:
    """Draw one emotion's intensity over the seconds into axes of matplotlib, the whole file's beside it."""
    colour = COLOURS[place % len(COLOURS)]
    middles_s, values = prediction.middles_s, prediction.timeline[:, place]  # (K,) each
    if any(window.intervals for window in prediction.windows):
        pairs = [window.intervals[place] if window.intervals else (np.nan, np.nan) for window in prediction.windows]
        low, high = zip(*pairs, strict=True)  # (K,) each
        strip.fill_between(middles_s, low, high, color=colour, alpha=0.2, linewidth=0)
    else:
        strip.fill_between(middles_s, values, color=colour, alpha=0.3, linewidth=0)
    strip.plot(middles_s, values, color=colour, linewidth=1.8, marker="o", markersize=3)
    for window in prediction.windows:
        if window.face_share == 0.0:
            strip.axvspan(window.start_s, window.end_s, color="0.85", linewidth=0, zorder=0)
    strip.set_ylim(0.0, 1.0)
    strip.set_yticks([0.0, 1.0])
    strip.tick_params(labelsize=7)
    strip.set_ylabel(prediction.labels[place], rotation=0, ha="right", va="center", fontsize=9)
    strip.spines[["top", "right"]].set_visible(False)
    whole = "–" if prediction.intensities is None else f"{prediction.intensities[place]:.2f}"
    strip.text(1.01, 0.55, whole, transform=strip.transAxes, va="center", fontsize=10, color=colour, weight="bold")
    if prediction.intervals:
        ends = "{:.2f}–{:.2f}".format(*prediction.intervals[place])
        strip.text(1.01, 0.12, ends, transform=strip.transAxes, va="center", fontsize=7, color="0.4")


def _title(prediction: Prediction) -> str:
    sound = "sound" if prediction.has_sound else "no sound"
    seen = f"face in {prediction.face_share or 0.0:.0%} of the sampled frames, {sound}"
    grey = "; grey: no face" if any(window.face_share == 0.0 for window in prediction.windows) else ""
    whose = "" if prediction.face is None else f", face {prediction.face}"
    band = f"; band: {prediction.coverage:.0%} interval" if prediction.intervals and prediction.coverage else ""
    return f"{Path(prediction.path).name}{whose}. Right: the whole file\n{seen}{grey}{band}"
