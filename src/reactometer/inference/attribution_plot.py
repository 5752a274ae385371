"""What moved each emotion -> a picture: under its timeline, what each moment did; beside it, what of the face did."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from reactometer.inference.attribution import Attribution
from reactometer.inference.timeline import draw_strip
from reactometer.io import write_picture
from reactometer.records import ByteArray, FloatArray

COLOURS_OF_CHANGE = "RdBu_r"  # red above 0, white at 0, blue below
NOTHING = "0.8"  # grey
LEAST_SCALE = 0.02
"""Changes much smaller than this stay pale, however small all others are."""

# All sizes in inches.
WIDTH, LEFT, RIGHT, HEAD, FOOT = 12.0, 0.75, 0.6, 1.05, 0.75
LINE, STRIP, TITLE, GAP = 1.15, 0.2, 0.28, 0.42
"""Heights in a block: the line over time, a strip of colours, the title above, and the seconds below."""

Place = Callable[[float, float, float, float], Any]
"""Axes at (left, top, width, height)."""


def draw_attribution(attribution: Attribution, path: Path | str, everything: bool = False) -> Path:
    """Draw the strongest emotions or all, a block each.

    A block has the timeline; below it, a modality each, a strip with a colour for what every moment did to the whole;
    at the right the frame that raised the emotion most, and over the same frame the map of the face.

    Raises:
        OutputError: a place or ending that cannot be written.
    """
    from matplotlib.figure import Figure

    labels, names = attribution.strongest(everything), list(attribution.stretches)
    side = LINE + STRIP * len(names)
    block = TITLE + side + GAP
    height = HEAD + block * len(labels) + FOOT
    figure = Figure(figsize=(WIDTH, height))

    def place(left: float, top: float, width: float, tall: float) -> Any:
        return figure.add_axes((left / WIDTH, 1.0 - (top + tall) / height, width / WIDTH, tall / height))

    over_time = _scale(np.stack([attribution.stretches[name][:, labels] for name in names]))
    over_face = None if attribution.face_map is None else _scale(attribution.face_map[labels])
    for number, label in enumerate(labels):
        top = HEAD + block * number + TITLE
        strip = _draw_moments(place, attribution, label, top, over_time)
        if "face" in names:
            _draw_face(place, attribution, label, top, strip, over_face)
    _draw_scales(place, HEAD + block * len(labels) + 0.12, over_time, over_face)
    for text, down, size in zip(_title(attribution), (0.3, 0.55, 0.75), (12, 8.5, 8.5), strict=True):
        figure.text(LEFT / WIDTH / 2, 1.0 - down / height, text, fontsize=size, color="0.1" if size > 10 else "0.35")
    return write_picture(figure, Path(path))


def _draw_moments(place: Place, attribution: Attribution, label: int, top: float, scale: float) -> Any:
    """The timeline, and under it a strip a modality; gives the timeline's axes."""
    names, prediction = list(attribution.stretches), attribution.prediction
    width = _images_left(attribution) - RIGHT - LEFT
    strip = place(LEFT, top, width, LINE)
    draw_strip(strip, prediction, label)
    strip.set_ylabel("")
    strip.set_xlim(attribution.start_s, attribution.end_s)
    strip.set_xticks([])
    strip.set_yticks([0.5, 1.0])
    value = (prediction.intensities or ())[label]
    strip.set_title(f"{prediction.labels[label]} {value:.2f}", loc="left", fontsize=10.5, weight="bold")
    whole = attribution.modalities.items()
    parts = [f"without the {name} {value - own[label]:.2f} ({name} {own[label]:+.2f})" for name, own in whole]
    strip.set_title("     ".join(parts), loc="right", fontsize=8.5)
    middles_s = [(start_s + end_s) / 2 for start_s, end_s in attribution.spans]  # K
    edges_s = [attribution.start_s, *((one + other) / 2 for one, other in pairwise(middles_s)), attribution.end_s]
    for row, name in enumerate(names):
        axes = place(LEFT, top + LINE + row * STRIP, width, STRIP)
        axes.set_facecolor(NOTHING)
        values = attribution.stretches[name][:, label]  # (K,)
        axes.pcolormesh(edges_s, [0.0, 1.0], values[None], cmap=COLOURS_OF_CHANGE, vmin=-scale, vmax=scale)
        axes.set_yticks([0.5], [name], fontsize=8)
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labelsize=7)
        if row < len(names) - 1:
            axes.set_xticks([])
    axes.set_xlabel("seconds", fontsize=7.5, labelpad=1)
    return strip


def _draw_face(place: Place, attribution: Attribution, label: int, top: float, strip: Any, scale: float | None) -> None:
    """The frame that raised the emotion most, and the map of the face over it."""
    changes = np.nan_to_num(attribution.frames[:, label], nan=-np.inf)  # (T,)
    most = int(changes.argmax())
    time_s, picture = attribution.frame_times_s[most], attribution.pictures[most].transpose(1, 2, 0)  # (H, W, 3)
    strip.plot([time_s], [0.04], marker="^", markersize=7, color="0.15", zorder=5, clip_on=False)
    left, side = _images_left(attribution), LINE + STRIP * len(attribution.stretches)
    frame = place(left, top, side, side)
    frame.imshow(picture, interpolation="bilinear")
    frame.set_title(f"▲ frame at {time_s:.1f} s, {changes[most]:+.3f}", fontsize=8.5)
    frame.set_axis_off()
    if attribution.face_map is None or scale is None:
        return
    axes = place(left + side + 0.15, top, side, side)
    axes.imshow(_grey(picture), interpolation="bilinear")
    axes.imshow(
        attribution.face_map[label],
        cmap=COLOURS_OF_CHANGE,
        vmin=-scale,
        vmax=scale,
        alpha=0.55,
        extent=(-0.5, len(picture) - 0.5, len(picture) - 0.5, -0.5),
        interpolation="bicubic",
    )
    part, change = attribution.peak(label) or ("", 0.0)
    axes.set_title(f"{part} {change:+.2f}", fontsize=8.5)
    axes.set_axis_off()


def _images_left(attribution: Attribution) -> float:
    """Where the pictures at the right begin."""
    side = LINE + STRIP * len(attribution.stretches)
    count = ("face" in attribution.stretches) + (attribution.face_map is not None)
    return WIDTH - 0.1 - count * (side + 0.15)


def _draw_scales(place: Place, top: float, over_time: float, over_face: float | None) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scales = [("strips: change of the intensity by a moment", over_time)]
    scales += [("map: change by a part of the face", over_face)] if over_face else []
    for column, (text, scale) in enumerate(scales):
        axes = place(LEFT + column * 4.5, top + 0.18, 3.6, 0.12)
        bar = ScalarMappable(Normalize(-scale, scale), COLOURS_OF_CHANGE)
        ticks = [-scale, -scale / 2, 0.0, scale / 2, scale]
        axes.figure.colorbar(bar, cax=axes, orientation="horizontal", ticks=ticks)
        axes.set_xticklabels([f"{tick:+.2f}" if tick else "0" for tick in ticks])
        axes.set_title(text, fontsize=8.5, loc="left", pad=3)
        axes.tick_params(labelsize=7)


def _title(attribution: Attribution) -> tuple[str, str, str]:
    """What is shown, and how it is to be read."""
    name = Path(attribution.prediction.path).name
    window = attribution.prediction.windows[0]
    alone_s, hidden_s = window.end_s - window.start_s, attribution.spans[0][1] - attribution.spans[0][0]
    stretch = f"{attribution.start_s:.1f} to {attribution.end_s:.1f} s"
    return (
        f"{name}, {stretch}: what moved each emotion",
        f"line: the intensity of {alone_s:.1f} s by themselves; bold: of the whole. Red: seeing or hearing it raised "
        "the whole's intensity; blue: lowered it; white: no change; grey: nothing there.",
        f"strips: {hidden_s:.1f} s hidden at a time; map: a square hidden in all frames. They show what the model "
        "used, not what the person felt.",
    )


def _grey(picture: ByteArray) -> ByteArray:
    return np.repeat(picture.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)


def _scale(changes: FloatArray) -> float:
    return max(float(np.nan_to_num(np.abs(changes)).max()), LEAST_SCALE)
