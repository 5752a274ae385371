"""The prediction for a file: one value per emotion, and its course over time."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from reactometer.types import FaceSample, IntervalBounds


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
