"""Predictions -> JSON in the shape of Hume's Expression Measurement API v0 (batch), switched off in June 2026.

The shape is that of its predictions: a list of sources, each with files, each with models, each with groups of
predictions. Scores are this package's: intensities of one model that goes by face and voice at once. Under ``face``
each sampled frame that shows the face has the values of the window whose middle is nearest, under ``prosody`` each
window of a clip with sound has its own; Hume's two models were scored apart. Texts, FACS and descriptions are null.
"""

from __future__ import annotations

import json
import mimetypes
from bisect import bisect
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from reactometer.records import FrameState, Prediction, Window

HUME_NAMES = {"Happiness": "Joy", "Empathic-Pain": "Empathic Pain"}
"""What Hume called an emotion that this package's label sets call otherwise; all other names stay. "Surprise" stays,
too: Hume told a positive and a negative one apart, which no label here does."""


def hume_json(predictions: Sequence[Prediction]) -> str:
    """The JSON text of one file's predictions, one or one a person."""
    name = predictions[0].path
    kind = mimetypes.guess_type(name)[0] or "video/mp4"
    models: dict[str, Any] = {}
    if faces := [_face(own) for own in predictions if any(sample.box for sample in own.samples)]:
        models["face"] = {"metadata": None, "grouped_predictions": faces}
    if predictions[0].has_sound and len(predictions) == 1:
        models["prosody"] = {"metadata": None, "grouped_predictions": [_prosody(predictions[0])]}
    file = {"file": name, "file_type": kind.split("/")[0], "models": models}
    source = {"type": "file", "filename": name, "content_type": kind, "md5sum": None}
    return json.dumps([{"source": source, "results": {"predictions": [file], "errors": []}}], indent=1)


def _face(own: Prediction) -> dict[str, Any]:
    seen = [(place, sample) for place, sample in enumerate(own.samples) if sample.state is FrameState.FACE]
    cuts_s = [(one.start_s + one.end_s + two.start_s + two.end_s) / 4 for one, two in pairwise(own.windows)]
    predictions = [
        {
            "frame": place,
            "time": round(sample.time_s, 6),
            "prob": round(sample.score, 6),
            "box": dict(zip("xywh", (round(side, 3) for side in sample.box or ()), strict=False)),
            "emotions": _emotions(own.labels, own.windows[bisect(cuts_s, sample.time_s)]),
            "facs": None,
            "descriptions": None,
        }
        for place, sample in seen
    ]
    return {"id": f"face_{(own.face or 1) - 1}", "predictions": predictions}


def _prosody(own: Prediction) -> dict[str, Any]:
    predictions = [
        {
            "text": None,
            "time": {"begin": round(window.start_s, 3), "end": round(window.end_s, 3)},
            "confidence": None,
            "speaker_confidence": None,
            "emotions": _emotions(own.labels, window),
        }
        for window in own.windows
        if window.intensities
    ]
    return {"id": "unknown", "predictions": predictions}


def _emotions(labels: Sequence[str], window: Window) -> list[dict[str, Any]]:
    pairs = zip(labels, window.intensities or (), strict=False)
    return [{"name": HUME_NAMES.get(label, label), "score": round(value, 6)} for label, value in pairs]
