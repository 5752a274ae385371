"""What moved each emotion -> words, and a folder with all numbers and a picture."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reactometer.inference.attribution import LEAST_SAID, Attribution
from reactometer.inference.attribution_plot import draw_attribution
from reactometer.io import write_whole
from reactometer.records import FloatArray

HOW = "+ raised the intensity by so much, - lowered it"


def describe(attribution: Attribution, everything: bool = False) -> list[str]:
    """What moved the strongest emotions, or all: after a line on the file, one each, and what moved it under it."""
    seen = f"face in {attribution.prediction.face_share or 0.0:.0%} of {len(attribution.prediction.samples)} frames"
    stretch = f"{attribution.start_s:.2f} to {attribution.end_s:.2f} s"
    lines = [f"{Path(attribution.prediction.path).name}, {stretch}, {seen}; {HOW}"]
    for label in attribution.strongest(everything):
        value = (attribution.prediction.intensities or ())[label]
        lines.append(f"{attribution.prediction.labels[label]} {value:.2f}")
        if attribution.modalities:
            lines.append(f"  {_modalities(attribution, label, value)}")
        lines.append(f"  {_moments(attribution, label)}")
        if peak := attribution.peak(label):
            lines.append(f"  part of the face: {peak[0]} {peak[1]:+.2f}")
    return lines


def write_attribution(attribution: Attribution, folder: Path, everything: bool = False) -> Iterator[Path]:
    """Write ``attribution.json`` and ``attribution.png``; yields each when it is there.

    Raises:
        OutputError: a place that cannot be written.
    """
    text = json.dumps(as_json(attribution), indent=1, allow_nan=False) + "\n"
    yield write_whole(folder / "attribution.json", text)
    yield draw_attribution(attribution, folder / "attribution.png", everything)


def as_json(attribution: Attribution) -> dict[str, Any]:
    """All of its numbers, as JSON can hold them; ``null`` where there was nothing to hide."""
    prediction, labels = attribution.prediction, attribution.prediction.labels

    def named(values: Sequence[float] | FloatArray) -> dict[str, float | None]:
        return {label: _number(value) for label, value in zip(labels, values, strict=True)}

    shares, maps = attribution.logit_shares, attribution.face_map
    return {
        "path": prediction.path,
        "start_s": round(attribution.start_s, 3),
        "end_s": round(attribution.end_s, 3),
        "intensities": named(prediction.intensities or ()),
        "changes": "the intensity with it, less the one without it",
        "modalities": {name: named(values) for name, values in attribution.modalities.items()},
        "stretches": [
            {"modality": name, "start_s": round(start_s, 3), "end_s": round(end_s, 3), **named(values)}
            for name, changes in attribution.stretches.items()
            for (start_s, end_s), values in zip(attribution.spans, changes, strict=True)
        ],
        "frames": [
            {"time_s": round(time_s, 3), **named(values)}
            for time_s, values in zip(attribution.frame_times_s, attribution.frames, strict=True)
        ],
        "logit_shares": None if shares is None else [named(values) for values in shares],
        "face_map": None
        if maps is None
        else {
            label: {"peak": (attribution.peak(place) or ("",))[0], "rows": np.round(maps[place], 6).tolist()}
            for place, label in enumerate(labels)
        },
        "notes": list(attribution.notes),
    }


def _modalities(attribution: Attribution, label: int, value: float) -> str:
    """ "face +0.33 (78 %), voice -0.09 (22 %); without the face 0.05, without the voice 0.47"."""
    changes = {name: float(values[label]) for name, values in attribution.modalities.items()}
    total = sum(map(abs, changes.values())) or 1.0
    shares = [f"{name} {change:+.2f} ({abs(change) / total:.0%})" for name, change in changes.items()]
    left = [f"without the {name} {value - change:.2f}" for name, change in changes.items()]
    return f"{', '.join(shares)}; {', '.join(left)}"


def _moments(attribution: Attribution, label: int) -> str:
    """ "raised most by the face at 1.0 to 2.0 s (+0.13), lowered most by the voice at 0.5 to 1.5 s (-0.02)"."""
    changes = [
        (float(value), f"by the {name} at {start_s:.1f} to {end_s:.1f} s ({value:+.2f})")
        for name, values in attribution.stretches.items()
        for (start_s, end_s), value in zip(attribution.spans, values[:, label], strict=True)
        if not np.isnan(value)
    ]
    (highest, raised), (lowest, lowered) = max(changes), min(changes)
    said = [f"raised most {raised}"] if highest > LEAST_SAID else []
    said += [f"lowered most {lowered}"] if lowest < -LEAST_SAID else []
    return ", ".join(said) or "no moment moves it by itself"


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)
