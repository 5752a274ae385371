"""The prediction for a file: an intensity per emotion, and its course over time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from reactometer.errors import DataError, require, suggestion
from reactometer.types import FaceSample, IntervalBounds

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


class Intensity(NamedTuple):
    """Intensity of one emotion in one file; NaN marks what is unknown."""

    value: float  # of the whole file, in [0, 1]
    low: float  # bounds of its interval; NaN: the model is not calibrated
    high: float
    peak: float  # largest intensity in the timeline
    peak_s: float  # middle of its window, seconds

    def __repr__(self) -> str:
        return f"Intensity({', '.join(f'{name}={value:.2f}' for name, value in self._asdict().items())})"


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


@dataclass(frozen=True, repr=False)
class Event:
    """A time range of a file in which one emotion is at or above a threshold."""

    label: str
    onset_s: float
    peak_s: float
    offset_s: float
    peak: float  # largest intensity
    mean: float  # of the windows between onset and offset

    def __repr__(self) -> str:
        span = f"{self.onset_s:.1f} to {self.offset_s:.1f} s"
        return (
            f"Event({self.label}, {span}, peak {self.peak:.2f} at {self.peak_s:.1f} s, mean {self.mean:.2f})"
        )


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
    def timeline(self) -> Timeline:
        """The windows of the file."""
        return Timeline(self.labels, self.windows)

    def __getitem__(self, label: str) -> Intensity:
        """Return the intensity of an emotion. Raise DataError for a label that the model does not have."""
        index = index_of(label, self.labels)
        unknown = (math.nan, math.nan)
        value = self.intensities[index] if self.intensities else math.nan
        low_high = self.intervals[index] if self.intervals else unknown
        return Intensity(value, *low_high, *(self.peaks[index] if self.peaks else unknown))

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.labels)

    @property
    def peaks(self) -> tuple[tuple[float, float], ...]:
        """Largest intensity of each emotion in the timeline, and its time in seconds; empty without one."""
        values = self.timeline.values  # (K, L)
        valid = np.flatnonzero(~np.isnan(values).any(axis=1))
        if not len(valid):
            return ()
        windows = valid[values[valid].argmax(axis=0)]  # (L,)
        return tuple(
            (float(values[k, i]), float(self.timeline.times_s[k])) for i, k in enumerate(windows.tolist())
        )

    @property
    def strongest(self) -> list[int]:
        """Indices of the emotions, largest peak first; without a timeline, largest intensity first."""
        values = [value for value, _ in self.peaks] or self.intensities or ()
        return sorted(range(len(values)), key=lambda index: -values[index])

    def events(self, threshold: float = 0.5) -> list[Event]:
        """Return the time ranges in which an emotion is at or above a threshold, by their onsets.

        Raises:
            ConfigError: the threshold is outside (0, 1].
        """
        from reactometer.inference.postprocess import find_events

        return find_events(self, threshold)

    def plot(self, *labels: str, axes: Axes | None = None) -> Axes:
        """Draw the curves of emotions over time, with the names beside them; grey marks time without a face.

        Args:
            labels: the emotions to draw; default: all.
            axes: of matplotlib, to draw into; default: those of a new figure.

        Raises:
            DataError: the model has no such label.
            OutputError: the file has no timeline.
            ReactometerError: matplotlib is not installed.
        """
        from reactometer.inference.plot import draw_curves

        return draw_curves(self, labels, axes)

    def save(
        self, folder: Path | str, outputs: Sequence[str] = ("timeline",), threshold: float = 0.5
    ) -> None:
        """Write tables and other files about this prediction into a folder, see :meth:`Batch.save`."""
        Batch([self]).save(folder, outputs, threshold)

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per emotion, the strongest first; the columns are the fields of
        :class:`Intensity`."""
        order = [self.labels[index] for index in self.strongest] or list(self.labels)
        return _frame([self[label]._asdict() for label in order], index=order)

    def __repr__(self) -> str:
        face = "" if self.face is None else f", face {self.face}"
        warned = ", with warnings" if self.warnings else ""
        return f"Prediction({Path(self.path).name!r}{face}: {self._strongest_text() or self.status}{warned})"

    def _strongest_text(self) -> str:
        """Return the three strongest emotions, with their peaks if there is a timeline."""
        texts = []
        for label in [self.labels[index] for index in self.strongest[:3]]:
            value, _, _, peak, peak_s = self[label]
            at_s = f" (peak {peak:.2f} at {peak_s:.1f} s)" if self.peaks else ""
            texts.append(f"{label} {value:.2f}{at_s}")
        return ", ".join(texts)

    def _repr_html_(self) -> str:
        from reactometer.inference.html import prediction_table

        return prediction_table(self)


@dataclass(frozen=True)
class Timeline:
    """The windows of a file, or of a part of it, in order of time."""

    labels: tuple[str, ...]
    windows: tuple[Window, ...] = field(repr=False)

    @property
    def times_s(self) -> npt.NDArray[np.float64]:
        """(K,) middle of each window, seconds."""
        return np.array([(window.start_s + window.end_s) / 2 for window in self.windows])

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """(K, L) intensities of the windows in [0, 1]; NaN if a window has none."""
        unknown = (np.nan,) * len(self.labels)
        rows = [window.intensities or unknown for window in self.windows]
        return np.array(rows, dtype=np.float64).reshape(len(self.windows), len(self.labels))

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, label: str) -> npt.NDArray[np.float64]:
        """Return the intensities (K,) of an emotion. Raise DataError for a label that the model does not
        have."""
        column: npt.NDArray[np.float64] = self.values[:, index_of(label, self.labels)]
        return column

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.labels)

    def between(self, start_s: float, end_s: float) -> Timeline:
        """Return the windows whose middles are in [start_s, end_s), seconds."""
        inside = (start_s <= self.times_s) & (self.times_s < end_s)
        windows = (window for window, is_in in zip(self.windows, inside, strict=True) if is_in)
        return Timeline(self.labels, tuple(windows))

    def mean(self) -> dict[str, float]:
        """Return each emotion's mean over the windows that have values; NaN if none has."""
        return self._summarise(np.mean)

    def max(self) -> dict[str, float]:
        """Return each emotion's largest value; NaN if no window has values."""
        return self._summarise(np.max)

    def _summarise(self, statistic: Any) -> dict[str, float]:
        values = self.values[~np.isnan(self.values).any(axis=1)]
        unknown = np.full(len(self.labels), np.nan)
        summary = statistic(values, axis=0) if len(values) else unknown
        return dict(zip(self.labels, summary.tolist(), strict=True))

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per window, indexed by ``time_s``, its middle; windows have no intervals.

        Columns: the labels, ``start_s``, ``end_s``, ``face_share`` and ``warnings``.
        """
        values = self.values
        rows = [
            {
                **dict(zip(self.labels, values[k].tolist(), strict=True)),
                "start_s": window.start_s,
                "end_s": window.end_s,
                "face_share": window.face_share,
                "warnings": "; ".join(window.warnings),
            }
            for k, window in enumerate(self.windows)
        ]
        return _frame(rows, index=self.times_s, name="time_s")

    def __repr__(self) -> str:
        if not self.windows:
            return "Timeline(no windows)"
        span = f"{self.windows[0].start_s:.1f} to {self.windows[-1].end_s:.1f} s"
        return f"Timeline({len(self.windows)} windows, {span}: {', '.join(self.labels)})"

    def _repr_html_(self) -> str:
        from reactometer.inference.html import timeline_table

        return timeline_table(self)


class Batch(Sequence[Prediction]):
    """Predictions of several files, in the order of the files."""

    def __init__(self, predictions: Sequence[Prediction]) -> None:
        self._predictions = tuple(predictions)

    @overload
    def __getitem__(self, index: int) -> Prediction: ...
    @overload
    def __getitem__(self, index: slice) -> Batch: ...
    def __getitem__(self, index: int | slice) -> Prediction | Batch:
        selected = self._predictions[index]
        return Batch(selected) if isinstance(selected, tuple) else selected

    def __len__(self) -> int:
        return len(self._predictions)

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self._predictions)

    @property
    def failed(self) -> Batch:
        """The files that could not be read; their ``status`` has the reason."""
        return Batch([prediction for prediction in self if prediction.failed])

    def to_pandas(self) -> pd.DataFrame:
        """Return the table that ``reactometer predict --out`` writes: one row per file."""
        from reactometer.inference.tables import clip_columns, clip_rows, with_face

        columns = clip_columns(self[0]) if self else []
        if any(prediction.face is not None for prediction in self):
            columns = with_face(columns)
        return _frame(clip_rows(self))[columns]

    def save(
        self, folder: Path | str, outputs: Sequence[str] = ("timeline",), threshold: float = 0.5
    ) -> None:
        """Write ``files.csv`` and other outputs into a folder, as ``reactometer predict --out-dir`` does.

        Args:
            folder: existing files of the same names are replaced.
            outputs: "timeline", "events", "frames" (tables); "plot", "elan", "vtt", "overlay" (one file per
                video, in a folder each).
            threshold: minimum intensity of an event, in (0, 1].

        Raises:
            ConfigError: an unknown output, or the threshold is out of range.
            OutputError: a file cannot be written.
        """
        from reactometer.inference.outputs import save

        save(self, Path(folder), outputs, threshold)

    def __repr__(self) -> str:
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return f"Batch({len(self)} predictions{failed})"

    def _repr_html_(self) -> str:
        from reactometer.inference.html import batch_table

        return batch_table(self)


def index_of(label: str, labels: Sequence[str]) -> int:
    """Return the index of an emotion. Raise DataError, with a suggestion, if it is not in ``labels``."""
    if label not in labels:
        raise DataError(f"the model has no label {label!r}", fix=suggestion(label, labels))
    return labels.index(label)


def _frame(
    rows: Sequence[dict[str, Any]],
    index: Sequence[Any] | npt.NDArray[Any] | None = None,
    name: str | None = None,
) -> pd.DataFrame:
    require("pandas", extra="evaluate")
    import pandas as pd

    frame = pd.DataFrame(list(rows))
    return frame if index is None else frame.set_axis(pd.Index(index, name=name))
