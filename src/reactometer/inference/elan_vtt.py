"""Write predictions for annotation tools and players: ELAN documents (.eaf) and WebVTT subtitles."""

from __future__ import annotations

import mimetypes
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from reactometer.inference.postprocess import find_events
from reactometer.inference.prediction import Prediction, Window
from reactometer.io import write_atomic

SCHEMA = "http://www.mpi.nl/tools/elan/EAFv3.0.xsd"
MIN_VISIBLE = 0.1
"""Minimum intensity of an emotion in a subtitle."""


def write_elan(
    predictions: Sequence[Prediction], threshold: float, path: Path, *, local: bool = True
) -> Path:
    """Write an ELAN document (EAF 3.0): per emotion a tier of events and a tier of intensities; one tier
    without face.

    An event is annotated by its peak. Intensities have one annotation per hop, because annotations of a tier
    must not overlap.

    Args:
        predictions: of one file, or of each face in it; each face has separate tiers.
        threshold: intensity from which on an emotion is an event.
        path: the document to write.
        local: link the media file by its absolute path, not only by its name.

    Raises:
        OutputError: the document cannot be written.
    """
    about = {
        "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance",
        "xsi:noNamespaceSchemaLocation": SCHEMA,
    }
    now = datetime.now(UTC).isoformat(timespec="seconds")
    root = Element("ANNOTATION_DOCUMENT", about, AUTHOR="reactometer", DATE=now, FORMAT="3.0", VERSION="3.0")
    media = Path(predictions[0].path)
    descriptor = {"MEDIA_URL": media.name, "MIME_TYPE": mimetypes.guess_type(media.name)[0] or "video/mp4"}
    if local:
        descriptor["MEDIA_URL"] = media.resolve().as_uri()
        if media.resolve().is_relative_to(path.resolve().parent):
            descriptor["RELATIVE_MEDIA_URL"] = (
                f"./{media.resolve().relative_to(path.resolve().parent).as_posix()}"
            )
    header = SubElement(root, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
    SubElement(header, "MEDIA_DESCRIPTOR", descriptor)
    order = SubElement(root, "TIME_ORDER")
    for prediction in predictions:
        face = prediction.face
        for name, spans in _tiers(prediction, threshold).items():
            participant = {} if face is None else {"PARTICIPANT": f"face {face}"}
            tier_id = name if face is None else f"face {face}: {name}"
            tier = SubElement(root, "TIER", participant, LINGUISTIC_TYPE_REF="intensity", TIER_ID=tier_id)
            for span in spans:
                _add_annotation(tier, order, *span)
    tier_type = {"GRAPHIC_REFERENCES": "false", "LINGUISTIC_TYPE_ID": "intensity", "TIME_ALIGNABLE": "true"}
    SubElement(root, "LINGUISTIC_TYPE", tier_type)
    ElementTree.indent(root)
    return write_atomic(path, ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n")


def write_subtitles(prediction: Prediction, path: Path) -> Path:
    """Write WebVTT subtitles: one cue per hop with the emotions of at least 0.1, the strongest first.

    Raises:
        OutputError: the file cannot be written.
    """
    face = () if prediction.face is None else (f"face {prediction.face}",)
    notes = [f"NOTE {note}\n" for note in (*face, *prediction.notes)]
    cues = [
        f"{_clock(start_s)} --> {_clock(end_s)}\n{_cue(prediction.labels, window)}\n"
        for (start_s, end_s), window in zip(_cue_spans(prediction), prediction.windows, strict=True)
    ]
    return write_atomic(path, "\n".join(["WEBVTT\n", *notes, *cues]))


def _cue_spans(prediction: Prediction) -> list[tuple[float, float]]:
    """Return the span around the middle of each window, without gaps or overlaps."""
    cuts_s = [(one + other) / 2 for one, other in pairwise(prediction.timeline.times_s.tolist())]
    starts_s = [window.start_s for window in prediction.windows[:1]] + cuts_s
    return list(zip(starts_s, cuts_s + [window.end_s for window in prediction.windows[-1:]], strict=True))


def _tiers(prediction: Prediction, threshold: float) -> dict[str, list[tuple[float, float, str]]]:
    """Return the annotations of each tier: start and end, seconds, and text."""
    events = find_events(prediction, threshold)
    spans = list(zip(_cue_spans(prediction), prediction.windows, strict=True))
    tiers = {
        label: [
            (event.onset_s, event.offset_s, f"{event.peak:.2f}") for event in events if event.label == label
        ]
        for label in prediction.labels
    }
    for index, label in enumerate(prediction.labels):
        tiers[f"{label} (intensity)"] = [
            (*span, f"{window.intensities[index]:.2f}") for span, window in spans if window.intensities
        ]
    tiers["no face"] = [(*span, "no face") for span, window in spans if window.face_share == 0.0]
    if prediction.notes:
        tiers["notes"] = [(0.0, prediction.duration_s or 0.0, "; ".join(prediction.notes))]
    return tiers


def _add_annotation(tier: Element, order: Element, start_s: float, end_s: float, text: str) -> None:
    number = len(order)  # two time slots per annotation
    slots = f"ts{number + 1}", f"ts{number + 2}"
    for slot, time_s in zip(slots, (start_s, end_s), strict=True):
        SubElement(order, "TIME_SLOT", TIME_SLOT_ID=slot, TIME_VALUE=str(round(time_s * 1000)))
    about = {"ANNOTATION_ID": f"a{number // 2 + 1}", "TIME_SLOT_REF1": slots[0], "TIME_SLOT_REF2": slots[1]}
    annotation = SubElement(SubElement(tier, "ANNOTATION"), "ALIGNABLE_ANNOTATION", about)
    SubElement(annotation, "ANNOTATION_VALUE").text = text


def _cue(labels: Sequence[str], window: Window) -> str:
    if window.intensities is None:
        return "no face"
    prefix = "no face; " if window.face_share == 0.0 else ""
    strongest = sorted(zip(window.intensities, labels, strict=True), reverse=True)
    named = [
        f"{label.replace('-->', '->')} {value:.2f}" for value, label in strongest if value >= MIN_VISIBLE
    ]
    return prefix + (", ".join(named) or "–")


def _clock(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}.{rest % 1000:03d}"
