"""Schema of the JSON document of a job."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from reactometer.inference.prediction import Prediction
from reactometer.inference.tables import clip_rows, event_rows, intensities_as_json, timeline_rows


class Intensity(BaseModel):
    """The intensity of one emotion."""

    value: float = Field(description="In [0, 1].", examples=[0.412])


class ClipIntensity(Intensity):
    """The intensity of one emotion in the whole clip, with its interval (if calibrated) and its peak."""

    low: float | None = Field(None, description="Low end of the interval, in [0, 1].", examples=[0.18])
    high: float | None = Field(None, description="High end of the interval, in [0, 1].", examples=[0.64])
    peak: float | None = Field(None, description="Largest intensity of the timeline.", examples=[0.71])
    peak_s: float | None = Field(None, description="Time of the peak, seconds.", examples=[3.0])


class TimelineWindow(BaseModel):
    """A window, scored as if it were a clip; intensities are null without a usable face or voice."""

    start_s: float = Field(examples=[0.0])
    end_s: float = Field(examples=[2.0])
    state: str = Field(description="face, or no_face (only the voice is used).", examples=["face"])
    face_share: float = Field(description="Share of the sampled frames that show the face.", examples=[1.0])
    warnings: str | None = Field(description="Reasons not to use the intensities of this window.")
    intensities: dict[str, Intensity] | None


class ClipEvent(BaseModel):
    """An interval in which an emotion is at or above the threshold."""

    label: str = Field(examples=["Happiness"])
    onset_s: float
    peak_s: float
    offset_s: float
    peak: float
    mean: float


class SampledFrame(BaseModel):
    """A sampled frame."""

    time_s: float
    state: str = Field(description="face, no_face or unreadable.", examples=["face"])
    box: list[float] | None = Field(
        description="x, y, width, height; pixels.", examples=[[212.0, 80.5, 131.0, 170.0]]
    )


class ClipPrediction(BaseModel):
    """The prediction for the clip, or for one person in it."""

    face: int | None = Field(description="Number of the face, from 1, with faces=all.")
    status: str = Field(
        description="ok, no face, no sound, no face or sound, or no usable face or voice.", examples=["ok"]
    )
    duration_s: float | None = Field(examples=[9.96])
    face_share: float | None = Field(examples=[0.98])
    sound: bool | None = Field(description="The clip has audible sound.")
    warnings: str | None = Field(description="Reasons not to use the intensities.")
    notes: list[str] = Field(description="Unscored parts of the clip, and changes of values.")
    intensities: dict[str, ClipIntensity] | None
    timeline: list[TimelineWindow]
    events: list[ClipEvent]
    frames: list[SampledFrame] | None = Field(None, description="Only with frames=true.")


class VoiceLevel(BaseModel):
    """Sound level per step, dBFS; null: digital silence."""

    step_s: float = Field(examples=[0.1])
    db: list[float | None] = Field(examples=[[-31.2, -28.0, None]])


class Document(BaseModel):
    """A clip with progress and predictions."""

    model_config = ConfigDict(protected_namespaces=())

    id: str
    status: str = Field(description="queued, running, done or failed.", examples=["done"])
    progress: float = Field(description="In [0, 1].")
    name: str = Field(examples=["video.mp4"])
    created: str
    finished: str | None = None
    error: str | None = Field(None, description="Reason of the failure.")
    options: dict[str, Any] = Field(description="Options of the request.", examples=[{"window_s": 2.0}])
    labels: list[str] = Field(examples=[["Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise"]])
    coverage: float | None = Field(None, description="Nominal coverage of the intervals.", examples=[0.9])
    model_sha256: str
    width_px: int | None = None
    height_px: int | None = None
    duration_s: float | None = None
    voice_level: VoiceLevel | None = None
    predictions: list[ClipPrediction] | None = None


def build_prediction(prediction: Prediction, threshold: float, *, frames: bool) -> ClipPrediction:
    """Convert a prediction, with events and optionally frames; values are rounded as in the tables."""
    (clip,) = clip_rows([prediction])
    clip |= {
        "notes": prediction.notes,
        "intensities": intensities_as_json(
            prediction.labels, prediction.intensities, prediction.intervals, prediction.peaks
        ),
        "timeline": [
            row | {"intensities": intensities_as_json(prediction.labels, window.intensities)}
            for row, window in zip(timeline_rows([prediction]), prediction.windows, strict=True)
        ],
        "events": event_rows([prediction], threshold),
    }
    if frames:
        clip["frames"] = [
            {
                "time_s": round(sample.time_s, 6),
                "state": sample.state.name.lower(),
                "box": None if sample.box is None else [round(length_px, 1) for length_px in sample.box],
            }
            for sample in prediction.samples
        ]
    return ClipPrediction.model_validate(clip)  # drops the other columns of the tables


def format_timestamp(seconds: float | None) -> str | None:
    """Format seconds since 1970 as ISO 8601, UTC."""
    return (
        None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    )
