"""Report an attribution as text, JSON and a plot."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from reactometer.attribution.occlusion import MIN_CHANGE, Attribution
from reactometer.inference.plot import draw_row
from reactometer.io import write_atomic, write_plot
from reactometer.types import FloatArray

COLOURS = "RdBu_r"  # red above 0, white at 0, blue below
MIN_SCALE = 0.02
"""End of the colour scale if all changes are smaller."""

Axes = Any
"""Axes of matplotlib, which is imported only to draw."""


def describe(attribution: Attribution) -> list[str]:
    """Describe the changes of the strongest emotions: one line on the file, then a few lines per emotion."""
    prediction = attribution.prediction
    visible = f"face in {prediction.face_share or 0.0:.0%} of {len(prediction.samples)} frames"
    span = f"{attribution.start_s:.2f} to {attribution.end_s:.2f} s"
    legend = "+ raised the intensity, - lowered it"
    lines = [f"{Path(prediction.path).name}, {span}, {visible}; {legend}"]
    for label in attribution.strongest():
        value = (prediction.intensities or ())[label]
        lines.append(f"{prediction.labels[label]} {value:.2f}")
        if attribution.modalities:
            lines.append(f"  {_describe_modalities(attribution, label, value)}")
        lines.append(f"  {_describe_windows(attribution, label)}")
        if peak := attribution.peak(label):
            lines.append(f"  part of the face: {peak[0]} {peak[1]:+.2f}")
    return lines


def _describe_modalities(attribution: Attribution, label: int, value: float) -> str:
    """Return text such as "face +0.33 (78%), voice -0.09 (22%); without the face 0.05, without the voice
    0.47"."""
    changes = {name: float(values[label]) for name, values in attribution.modalities.items()}
    total = sum(map(abs, changes.values())) or 1.0
    shares = [f"{name} {change:+.2f} ({abs(change) / total:.0%})" for name, change in changes.items()]
    rest = [f"without the {name} {value - change:.2f}" for name, change in changes.items()]
    return f"{', '.join(shares)}; {', '.join(rest)}"


def _describe_windows(attribution: Attribution, label: int) -> str:
    """Return text such as "raised most by the face at 1.0 to 2.0 s (+0.13)"."""
    changes = [
        (float(value), f"by the {name} at {start_s:.1f} to {end_s:.1f} s ({value:+.2f})")
        for name, values in attribution.windows.items()
        for (start_s, end_s), value in zip(attribution.spans, values[:, label], strict=True)
        if not np.isnan(value)
    ]
    highest, raised = max(changes)
    lowest, lowered = min(changes)
    largest = [f"raised most {raised}"] if highest > MIN_CHANGE else []
    largest += [f"lowered most {lowered}"] if lowest < -MIN_CHANGE else []
    return ", ".join(largest) or "no single moment changes it"


def write_attribution(attribution: Attribution, folder: Path) -> Iterator[Path]:
    """Write ``attribution.json`` and ``attribution.png``; yield each path after writing.

    Raises:
        OutputError: the folder cannot be written.
    """
    text = json.dumps(as_json(attribution), indent=1, allow_nan=False) + "\n"
    yield write_atomic(folder / "attribution.json", text)
    yield draw_attribution(attribution, folder / "attribution.png")


def as_json(attribution: Attribution) -> dict[str, Any]:
    """Return all changes by label for JSON; None if there is nothing to hide."""
    prediction = attribution.prediction
    labels = attribution.prediction.labels

    def by_label(values: Sequence[float] | FloatArray) -> dict[str, float | None]:
        rounded = [None if np.isnan(value) else round(float(value), 6) for value in values]
        return dict(zip(labels, rounded, strict=True))

    maps = attribution.face_map
    return {
        "path": prediction.path,
        "start_s": round(attribution.start_s, 3),
        "end_s": round(attribution.end_s, 3),
        "intensities": by_label(prediction.intensities or ()),
        "changes": "intensity of the whole clip minus intensity without the part",
        "modalities": {name: by_label(values) for name, values in attribution.modalities.items()},
        "windows": [
            {"modality": name, "start_s": round(start_s, 3), "end_s": round(end_s, 3), **by_label(values)}
            for name, changes in attribution.windows.items()
            for (start_s, end_s), values in zip(attribution.spans, changes, strict=True)
        ],
        "face_map": None
        if maps is None
        else {
            label: {
                "peak": (attribution.peak(number) or ("",))[0],
                "rows": np.round(maps[number], 6).tolist(),
            }
            for number, label in enumerate(labels)
        },
        "notes": list(prediction.notes),
    }


def draw_attribution(attribution: Attribution, path: Path) -> Path:
    """Draw one block for each of the strongest emotions.

    A block has the timeline; below it, one row per modality with a colour for each hidden window; on the
    right, the map over the frame of the window that raised the emotion most.

    Raises:
        OutputError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    labels, names = attribution.strongest(), list(attribution.windows)
    over_time = _scale(np.stack([attribution.windows[name][:, labels] for name in names]))
    figure = Figure(figsize=(12.0, 1.6 + 2.2 * len(labels)), layout="constrained")
    figure.suptitle(_title(attribution), fontsize=9, x=0.01, ha="left")
    grid = figure.add_gridspec(
        1 + len(labels), 2, width_ratios=[6, 1], height_ratios=[*[16] * len(labels), 1]
    )
    for index, label in enumerate(labels):
        heights = [6, *[1] * len(names)]
        block: Any = grid[index, 0].subgridspec(len(heights), 1, height_ratios=heights, hspace=0.0)
        timeline, *rows = block.subplots(sharex=True)
        changes = _draw_windows(timeline, rows, attribution, label, over_time)
        if "face" in names:
            face_map = _draw_face(figure.add_subplot(grid[index, 1]), timeline, attribution, label)
    scale: dict[str, Any] = {"orientation": "horizontal"}
    figure.colorbar(
        changes, cax=figure.add_subplot(grid[-1, 0]), label="change of the intensity by a window", **scale
    )
    if attribution.face_map is not None:
        figure.colorbar(face_map, cax=figure.add_subplot(grid[-1, 1]), label="by a part of the face", **scale)
    return write_plot(figure, path)


def _draw_windows(
    timeline: Axes, rows: Sequence[Axes], attribution: Attribution, label: int, scale: float
) -> Any:
    """Draw the timeline, and the changes by each modality into the rows; return the artist for the colour
    scale."""
    prediction = attribution.prediction
    draw_row(timeline, prediction, label)
    timeline.set_ylabel("")
    value = (prediction.intensities or ())[label]
    timeline.set_title(f"{prediction.labels[label]} {value:.2f}", loc="left", fontsize=10.5, weight="bold")
    totals = attribution.modalities.items()
    texts = [
        f"without the {name} {value - total[label]:.2f} ({name} {total[label]:+.2f})"
        for name, total in totals
    ]
    timeline.set_title("     ".join(texts), loc="right", fontsize=8.5)
    middles_s = [(start_s + end_s) / 2 for start_s, end_s in attribution.spans]  # K
    edges_s = [
        attribution.start_s,
        *((left + right) / 2 for left, right in pairwise(middles_s)),
        attribution.end_s,
    ]
    for row, (name, changes) in zip(rows, attribution.windows.items(), strict=True):
        row.set_facecolor("0.8")  # nothing to hide
        values = changes[None, :, label]  # (1, K)
        mesh = row.pcolormesh(edges_s, [0.0, 1.0], values, cmap=COLOURS, vmin=-scale, vmax=scale)
        row.set_yticks([0.5], [name], fontsize=8)
        row.tick_params(labelsize=7)
    rows[-1].set_xlim(attribution.start_s, attribution.end_s)
    rows[-1].set_xlabel("seconds", fontsize=7.5)
    return mesh


def _draw_face(axes: Axes, timeline: Axes, attribution: Attribution, label: int) -> Any:
    """Draw the map over the frame of the window that raised the emotion most; return its artist."""
    changes = np.nan_to_num(attribution.windows["face"][:, label], nan=-np.inf)  # (K,)
    start_s, end_s = attribution.spans[int(changes.argmax())]
    nearest = int(np.abs(attribution.frame_times_s - (start_s + end_s) / 2).argmin())
    time_s = attribution.frame_times_s[nearest]
    face = attribution.faces[nearest].transpose(1, 2, 0)  # (H, W, 3)
    timeline.plot([time_s], [0.04], marker="^", markersize=7, color="0.15", zorder=5, clip_on=False)
    part, change = attribution.peak(label) or ("", 0.0)
    axes.set_title(f"▲ frame at {time_s:.1f} s" + (f"\n{part} {change:+.2f}" if part else ""), fontsize=8.5)
    axes.set_axis_off()
    if attribution.face_map is None:
        return axes.imshow(face)
    axes.imshow(face.mean(axis=2), cmap="gray", vmin=0, vmax=255)
    scale = _scale(attribution.face_map[attribution.strongest()])
    extent = (-0.5, len(face) - 0.5, len(face) - 0.5, -0.5)
    colours = {"cmap": COLOURS, "vmin": -scale, "vmax": scale, "alpha": 0.55}
    return axes.imshow(attribution.face_map[label], extent=extent, interpolation="bicubic", **colours)


def _title(attribution: Attribution) -> str:
    window = attribution.prediction.windows[0]
    window_s = window.end_s - window.start_s
    hidden_s = attribution.spans[0][1] - attribution.spans[0][0]
    return (
        f"{Path(attribution.prediction.path).name}, {attribution.start_s:.1f} to {attribution.end_s:.1f} s: "
        "changes of each emotion\n"
        f"Line: intensity of each {window_s:.1f} s; bold: of the whole clip. Red raised the clip's "
        "intensity, blue "
        "lowered it, white changed nothing; grey: nothing to hide.\n"
        f"Rows: {hidden_s:.1f} s hidden at a time; map: a square hidden in all frames. They show what the "
        "model used, "
        "not what the person felt."
    )


def _scale(changes: FloatArray) -> float:
    return max(float(np.nan_to_num(np.abs(changes)).max()), MIN_SCALE)
