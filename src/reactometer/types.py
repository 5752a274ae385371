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
