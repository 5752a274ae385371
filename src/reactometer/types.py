"""The records that the stages pass to each other, and the legend of shape letters.

Shape letters, used in every docstring of the package:

====  =====================================================================
B     clips in a batch
T     sampled frames of a clip, in order of time
H, W  height and width of a picture, pixels
S     sound samples (mono, 16,000 per second)
N     steps of the log-mel spectrogram (100 per second)
M     mel bands
L     labels (emotions), in the order of the model's label set
D     features of one frame or clip
====  =====================================================================

Every time is in seconds on the file's own clock, whose zero is the first presentation time of its video
(of its sound if there is no video).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt

SOUND_RATE_HZ = 16_000
"""Rate of every waveform inside the package, samples per second."""

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]
IntervalBounds = tuple[tuple[float, float], ...]
"""(low, high) of each of L intervals, in [0, 1]."""
BOUNDS = ("low", "high")
"""Suffixes of table columns: ``LABEL_low`` and ``LABEL_high``."""


class FrameState(IntEnum):
    """State of a sampled frame; every sampled frame has exactly one."""

    NO_FACE = 0
    FACE = 1
    UNREADABLE = 2


@dataclass(frozen=True)
class Clip:
    """One row of a dataset's manifest. ``problem`` is the reason why the row cannot be used."""

    clip_id: str
    path: Path
    split: str | None = None  # "train", "val", "test"
    person: str | None = None
    stimulus: str | None = None
    labels: tuple[float, ...] | None = None  # (L,) in [0, 1]; None: the dataset withholds them
    audio_path: Path | None = None  # a sound file beside the video; None: the sound is inside the video file
    attributes: Mapping[str, str] = field(default_factory=dict)  # other columns, such as age or country
    problem: str | None = None


@dataclass(frozen=True)
class MediaInfo:
    """Metadata of a container, read before decoding."""

    path: Path
    duration_s: float | None
    has_video: bool
    has_audio: bool
    width_px: int = 0  # as displayed, after rotation
    height_px: int = 0
    rate_hz: float | None = None  # the container's average; the frames carry their own times
    frame_count: int | None = None  # as declared by the container
    zero_s: float = (
        0.0  # start of the file's clock on the container's: the first frame, or else the first sound
    )


@dataclass(frozen=True)
class Frame:
    """One frame, decoded or unreadable."""

    index: int  # index in the stream, from 0
    time_s: float
    rgb: Callable[[], ByteArray] | None  # call for (H, W, 3) uint8 RGB, upright; None: unreadable


@dataclass(frozen=True)
class Detection:
    """One face found in one frame, in pixels of the upright frame."""

    box: tuple[float, float, float, float]  # x, y, width, height
    score: float  # detector's confidence in [0, 1]
    eyes: (
        tuple[float, float, float, float] | None
    )  # x, y of the eye at the picture's left, then the right one


@dataclass(frozen=True, slots=True)
class FaceSample:
    """One sampled frame of the tracked face: an aligned crop, or the reason why there is none.

    If all faces are tracked, a frame has one sample without a face, followed by one sample per visible face,
    all at the same time.
    """

    time_s: float
    state: FrameState
    box: tuple[float, float, float, float] | None = None  # x, y, width, height; pixels of the upright frame
    score: float = 0.0
    crop_jpeg: bytes | None = None  # JPEG of the aligned crop, (size_px, size_px, 3) RGB once decoded
    face: int | None = None  # number of the face, from 1, if all faces are tracked


@dataclass(frozen=True)
class SoundBlock:
    """A block of sound on the file's clock."""

    start_s: float
    samples: FloatArray  # (S,) float32 in [-1, 1], mono, 16 kHz


@dataclass(frozen=True)
class PreparedClip:
    """A file, or a segment of one, ready for a model: face crops with their times and states, and the sound.

    Crops stay JPEG-encoded, in the cache and in memory, so that a cached clip and a fresh file give the same
    numbers.
    """

    start_s: float
    end_s: float
    samples: tuple[FaceSample, ...]  # T sampled frames
    waveform: FloatArray | None  # (S,) float32 in [-1, 1] from start_s on; None: the file has no sound stream
    frames_read: int = 0  # frames decoded from the container, sampled or not

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.end_s - self.start_s

    @property
    def face_share(self) -> float:
        """Share in [0, 1] of the sampled frames that show the tracked face; 0 if there is no frame."""
        n_faces = sum(sample.state is FrameState.FACE for sample in self.samples)
        return n_faces / len(self.samples) if self.samples else 0.0


@dataclass(frozen=True)
class Window:
    """Intensities of one window of a file; ``None`` if it has no usable face or voice.

    A model of whole clips scores the window as if it were a clip. No dataset has labels of windows, so they
    have no intervals.
    """

    start_s: float
    end_s: float
    face_share: float
    intensities: tuple[float, ...] | None  # (L,) in [0, 1]
    warnings: tuple[str, ...] = ()  # reasons not to use the intensities


@dataclass(frozen=True)
class Event:
    """A time range of a file in which one emotion is at or above a threshold."""

    label: str
    onset_s: float
    peak_s: float
    offset_s: float
    peak: float  # largest intensity
    mean: float  # of the windows between onset and offset


@dataclass(frozen=True)
class Prediction:
    """The prediction for one file, or for one face if all faces are followed.

    ``status`` is "ok", "no face", "no sound", "no face or sound", "no usable face or voice", or "failed:
    REASON"; with any but "ok" there are no intensities.
    """

    path: str  # as given
    status: str
    labels: tuple[str, ...]
    duration_s: float | None = None
    face_share: float | None = None  # of the sampled frames
    has_sound: bool | None = None  # audible somewhere
    intensities: tuple[float, ...] | None = None  # (L,) in [0, 1]
    windows: tuple[Window, ...] = field(default=(), repr=False)
    samples: tuple[FaceSample, ...] = field(default=(), repr=False)  # sampled frames without their crops
    frames_read: int = 0  # frames decoded from the container
    notes: tuple[str, ...] = ()  # post-processing and missing inputs, in words
    face: int | None = None  # number of the face, from 1 by first appearance; None: the tracked face, or none
    intervals: IntervalBounds | None = None  # around the intensities
    coverage: float | None = None  # share of labels inside the intervals; None: no intervals
    warnings: tuple[str, ...] = ()  # unused faces and voices, and reasons not to use the intensities

    @property
    def failed(self) -> bool:
        """True if the file could not be read."""
        return self.status.startswith("failed")

    @property
    def middles_s(self) -> npt.NDArray[np.float64]:
        """(K,) middle of each window, seconds."""
        return np.array([(window.start_s + window.end_s) / 2 for window in self.windows])

    @property
    def timeline(self) -> npt.NDArray[np.float64]:
        """(K, L) intensities of the windows; NaN if a window has none."""
        unknown = (np.nan,) * len(self.labels)
        values = [window.intensities or unknown for window in self.windows]
        return np.array(values, dtype=np.float64).reshape(len(self.windows), len(self.labels))

    @property
    def peaks(self) -> tuple[tuple[float, float], ...]:
        """Largest intensity of each emotion in the timeline, and its time in seconds; empty without one."""
        values = self.timeline  # (K, L)
        valid = np.flatnonzero(~np.isnan(values).any(axis=1))
        if not len(valid):
            return ()
        windows = valid[values[valid].argmax(axis=0)]  # (L,)
        return tuple((float(values[k, i]), float(self.middles_s[k])) for i, k in enumerate(windows.tolist()))

    @property
    def strongest(self) -> list[int]:
        """Indices of the emotions, largest peak first; without a timeline, largest intensity first."""
        values = [value for value, _ in self.peaks] or self.intensities or ()
        return sorted(range(len(values)), key=lambda index: -values[index])
