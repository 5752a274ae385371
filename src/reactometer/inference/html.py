"""Show predictions in a notebook: small tables of HTML, with the course over time as a curve."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
import numpy.typing as npt

from reactometer.inference.prediction import Batch, Prediction, Timeline
from reactometer.labels import colours_of

CURVE_WIDTH, CURVE_HEIGHT = 160, 18
"""Size of the curve of an emotion, pixels."""

MAX_ROWS = 20
"""Maximum number of files that are shown."""


def prediction_table(prediction: Prediction) -> str:
    """Return one row per emotion, the strongest first: value, interval, curve, and peak with its time."""
    title = f"<b>{escape(Path(prediction.path).name)}</b>"
    title += "" if prediction.face is None else f", face {prediction.face}"
    if prediction.intensities is None:
        return f"<p>{title}: {escape(prediction.status)}</p>"
    rows, colours = [], colours_of(prediction.labels)
    for index in prediction.strongest:
        intensity = prediction[prediction.labels[index]]
        rows.append(
            [
                escape(prediction.labels[index]),
                f"{intensity.value:.2f}",
                f"{intensity.low:.2f}–{intensity.high:.2f}" if prediction.intervals else "",
                _curve(prediction.timeline.values[:, index], colours[index]),
                f"{intensity.peak:.2f} at {intensity.peak_s:.1f} s" if prediction.peaks else "",
            ]
        )
    interval = f"{prediction.coverage:.0%} interval" if prediction.coverage else ""
    seen = f"{prediction.duration_s or 0.0:.1f} s, face in {prediction.face_share or 0.0:.0%} of the frames, "
    seen += "sound" if prediction.has_sound else "no sound"
    notes = [f"<p>{escape(note)}</p>" for note in (*prediction.warnings, *prediction.notes)]
    table = _table(("", "intensity", interval, "over time", "peak"), rows)
    return f"<p>{title}: {seen}</p>{table}{''.join(notes)}"


def timeline_table(timeline: Timeline) -> str:
    """Return one row per emotion: the curve, the mean and the largest value."""
    mean, largest, colours = timeline.mean(), timeline.max(), colours_of(timeline.labels)
    rows = [
        [
            escape(label),
            _curve(timeline.values[:, index], colours[index]),
            f"{mean[label]:.2f}",
            f"{largest[label]:.2f}",
        ]
        for index, label in enumerate(timeline.labels)
    ]
    return f"<p>{escape(repr(timeline))}</p>{_table(('', 'over time', 'mean', 'max'), rows)}"


def batch_table(batch: Batch) -> str:
    """Return one row per file with its intensities; at most :data:`MAX_ROWS`."""
    labels = batch[0].labels if batch else ()
    rows = [
        [
            escape(Path(prediction.path).name),
            *[f"{prediction[label].value:.2f}" if prediction.intensities else "" for label in labels],
            escape("; ".join((prediction.status,) * (prediction.status != "ok") + prediction.warnings)),
        ]
        for prediction in batch[:MAX_ROWS]
    ]
    rest = f"<p>and {len(batch) - MAX_ROWS} more</p>" if len(batch) > MAX_ROWS else ""
    return f"<p>{escape(repr(batch))}</p>{_table(('', *map(escape, labels), ''), rows)}{rest}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of cells that are HTML."""
    lines = [
        "".join(f"<{tag}>{cell}</{tag}>" for cell in cells)
        for tag, cells in (("th", header), *(("td", row) for row in rows))
    ]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _curve(values: npt.NDArray[np.float64], colour: str) -> str:
    """Return values (K,) in [0, 1] as a curve of SVG, with gaps for NaN."""
    steps, points, is_down = CURVE_WIDTH / max(len(values) - 1, 1), [], False
    for index, value in enumerate(values.tolist()):
        if not np.isnan(value):
            points.append(f"{'L' if is_down else 'M'}{index * steps:.1f},{CURVE_HEIGHT * (1.0 - value):.1f}")
        is_down = not np.isnan(value)
    return (
        f'<svg width="{CURVE_WIDTH}" height="{CURVE_HEIGHT}" role="img" aria-label="curve over time">'
        f'<path d="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="1.5"/></svg>'
    )
