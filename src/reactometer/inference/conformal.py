"""Split-conformal intervals and recalibration, fitted on clips that the weights were not fitted on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from reactometer.errors import ModelError
from reactometer.inference.scores import Score
from reactometer.io import format_json, parse_json_object, wrap_decode_errors, write_atomic
from reactometer.types import FloatArray, IntervalBounds

UNCERTAINTY_FILE = "uncertainty.json"
FORMAT = 3

MIN_LENGTH_RATIO = 0.5
"""A clip gets a warning if it is shorter than this share of the shortest training clip."""

MAX_STRONGEST_BINS, MAX_BINS, MIN_CLIPS_PER_BIN = 2, 8, 20
"""Maximum number of bins of predictions of similar size, of the strongest of each clip and of the others;
minimum number of clips per bin."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bins:
    """Half widths of intervals by size of prediction."""

    edges: tuple[float, ...]  # values that separate the bins, ascending
    half_widths: tuple[float, ...]  # one more than edges; 1 if there are too few clips

    def __post_init__(self) -> None:
        if len(self.half_widths) != len(self.edges) + 1:
            raise ValueError(f"{len(self.edges)} edges and {len(self.half_widths)} half widths")

    def half_width(self, values: Array) -> Array:
        """Return the half width for each prediction."""
        return np.array(self.half_widths)[np.searchsorted(self.edges, values, side="right")]


@dataclass(frozen=True)
class ModalityIntervals:
    """Intervals by size of prediction, from face and voice, only the face, or only the voice."""

    n_clips: int
    n_units: int  # minimum number of clips, or people, with a prediction in a bin
    strongest: Bins  # of the largest prediction of a clip
    others: Bins
    width: float  # mean of high − low, within [0, 1], over the calibration clips

    @property
    def n_bins(self) -> int:
        """Number of bins of all predictions."""
        return len(self.strongest.half_widths) + len(self.others.half_widths)

    def bounds(self, predictions: npt.ArrayLike) -> Array:
        """Return the interval around each prediction, (..., L) in [0, 1]: (..., L, 2), clipped to [0, 1]."""
        values = np.asarray(predictions, dtype=np.float64)
        strongest, others = self.strongest.half_width(values), self.others.half_width(values)
        half = np.where(_is_strongest(values), strongest, others)
        return np.stack([values - half, values + half], axis=-1).clip(0.0, 1.0)


NO_BINS = Bins((), (1.0,))
UNKNOWN = ModalityIntervals(0, 0, NO_BINS, NO_BINS, 1.0)
"""Intervals of modalities without calibration clips."""


@dataclass(frozen=True)
class IsotonicMap:
    """A monotone map of one label's intensities: straight between its points, flat beyond them."""

    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Uncertainty:
    """Intervals, recalibration and limits of one model, or of an ensemble."""

    coverage: float  # of the intervals, such as 0.9; in (0, 1)
    by_modalities: Mapping[str, ModalityIntervals]
    fitted_on: Mapping[str, Any]  # the clips, as JSON
    shortest_s: float = 0.0  # length of the shortest training clip; 0: unknown
    recalibration: tuple[IsotonicMap, ...] = ()  # one per label, or none

    def recalibrate(self, score: Score) -> FloatArray:
        """Return intensities (L,) on the labels' scale; unchanged without a map, or without usable input."""
        if not self.recalibration or not score.has_input:
            return score.intensities
        pairs = zip(score.intensities, self.recalibration, strict=True)
        return np.array(
            [np.interp(value, isotonic.x, isotonic.y) for value, isotonic in pairs], dtype=np.float32
        )

    def intervals(self, score: Score, intensities: FloatArray) -> IntervalBounds | None:
        """Return the interval of each label around intensities (L,) in [0, 1]; ``None`` without usable
        input."""
        if not score.has_input:
            return None
        fitted = self.by_modalities.get(score.modalities, UNKNOWN)
        return tuple((low, high) for low, high in fitted.bounds(intensities).tolist())

    def warnings(self, score: Score, duration_s: float | None) -> tuple[str, ...]:
        """Return reasons not to trust the intensities: an unusable face or voice, or a short clip."""
        reasons = list(score.warnings)
        if duration_s is not None and duration_s < MIN_LENGTH_RATIO * self.shortest_s:
            reasons.append(
                f"too short: {duration_s:.1f} s; the shortest training clip has {self.shortest_s:.1f} s"
            )
        return tuple(reasons)


def fit_intervals(
    predictions: npt.ArrayLike, targets: npt.ArrayLike, coverage: float, people: Sequence[str] | None = None
) -> ModalityIntervals:
    """Fit intervals to calibration clips: one half width per bin of predictions of similar size.

    Mondrian conformal prediction (Vovk, Gammerman & Shafer, Algorithmic Learning in a Random World, 2005,
    section 4.5): coverage holds in each bin, over all labels. The strongest prediction of each clip is in
    bins of their own, at most :data:`MAX_STRONGEST_BINS`; the others are in at most :data:`MAX_BINS`. There
    are as many as the clips allow, see :data:`MIN_CLIPS_PER_BIN`, each with about as many predictions.

    Args:
        predictions: (n, L) in [0, 1].
        targets: (n, L) their labels.
        coverage: in (0, 1).
        people: the person in each clip; ``None``: another person in each clip.
    """
    values = np.asarray(predictions, dtype=np.float64)
    labels = np.asarray(targets, dtype=np.float64)
    clips = np.repeat(np.arange(len(values))[:, None], values.shape[1], axis=1)  # (n, L)
    units = clips if people is None else np.array(people)[clips]
    residuals, is_strongest = np.abs(values - labels), _is_strongest(values)

    def fit(chosen: npt.NDArray[np.bool_], max_bins: int) -> tuple[Bins, int]:
        arrays = values[chosen], residuals[chosen], clips[chosen], units[chosen]
        return _fit_bins(*arrays, coverage, max_bins)

    strongest, n_strongest = fit(is_strongest, MAX_STRONGEST_BINS)
    others, n_others = fit(~is_strongest, MAX_BINS)
    n_units = min(n_strongest, n_others) or n_others  # with one label, no prediction is the strongest
    fitted = ModalityIntervals(len(labels), n_units, strongest, others, width=0.0)
    return replace(fitted, width=float(np.diff(fitted.bounds(predictions)).mean()))


def _fit_bins(
    values: Array,
    residuals: Array,
    clips: npt.NDArray[Any],
    units: npt.NDArray[Any],
    coverage: float,
    max_bins: int,
) -> tuple[Bins, int]:
    """Fit as many bins as possible to predictions (n,); return the minimum number of units per bin, too."""
    if not len(values):
        return NO_BINS, 0
    for n_bins in range(max_bins, 0, -1):
        edges = np.unique(np.quantile(values, np.arange(1, n_bins) / n_bins))
        index = np.searchsorted(edges, values, side="right")
        bins = [index == number for number in range(len(edges) + 1)]
        n_clips, n_units = (min(len(set(names[inside])) for inside in bins) for names in (clips, units))
        if n_clips >= MIN_CLIPS_PER_BIN and n_units >= min_calibration_size(coverage):
            break
    half_widths = [conformal_half_width(residuals[inside], units[inside], coverage) for inside in bins]
    return Bins(tuple(edges.tolist()), tuple(half_widths)), n_units


def _is_strongest(values: Array) -> npt.NDArray[np.bool_]:
    """Mark the largest of each L values (..., L); nothing if there is one label."""
    n_labels = values.shape[-1]
    is_largest = np.arange(n_labels) == values.argmax(axis=-1, keepdims=True)
    return np.asarray(is_largest & (n_labels > 1))


def conformal_half_width(residuals: npt.NDArray[Any], units: npt.NDArray[Any], coverage: float) -> float:
    """Return the half width of an interval that contains a label of a new unit with this probability.

    Split-conformal prediction: of n residuals, the ⌈(n + 1) · coverage⌉-th smallest (Lei et al., J. Am. Stat.
    Assoc. 113, 2018), exact if each unit has one residual. Otherwise the residuals of each unit have the same
    total weight, and n is the effective sample size: the number of independent residuals whose coverage would
    vary as much as it does over units (Kish, Survey Sampling, 1965), at least the number of units. Checked by
    simulation. With too few units, see :func:`min_calibration_size`, the half width is 1.

    Args:
        residuals: (n,) absolute difference of label and prediction.
        units: (n,) the clip, or the person, of each residual.
        coverage: in (0, 1).
    """
    _, unit, counts = np.unique(units, return_inverse=True, return_counts=True)
    n_units = len(counts)
    if n_units < min_calibration_size(coverage):
        return 1.0
    order = np.argsort(residuals, kind="stable")
    shares = (1.0 / (n_units * counts[unit]))[order].cumsum()  # (n,)

    def quantile(level: float) -> float:
        rank = int(np.searchsorted(shares, level - 1e-9))
        return float(residuals[order[rank]]) if rank < len(order) else 1.0

    inside = np.bincount(unit, residuals <= quantile(coverage)) / counts  # (n_units,) share of each unit
    variance = float(inside.var()) * n_units / max(n_units - 1, 1)
    effective = n_units * coverage * (1.0 - coverage) / max(variance, 1e-9)
    return quantile(coverage * (1.0 + 1.0 / min(max(effective, n_units), len(residuals))))


def min_calibration_size(coverage: float) -> int:
    """Return the number of clips (or people) from which on an interval of this coverage is not all of [0,
    1]."""
    return math.ceil(coverage / (1.0 - coverage) - 1e-9)


def fit_isotonic_map(predictions: npt.ArrayLike, targets: npt.ArrayLike) -> IsotonicMap:
    """Fit isotonic regression (SciPy's) of one label to its predictions, (n,) each; one point per level.

    Each point lies at the mean prediction of its level. Straight lines join the points, so that fewer clips
    are tied.
    """
    from scipy.optimize import isotonic_regression

    x = np.asarray(predictions, dtype=np.float64)
    y = np.asarray(targets, dtype=np.float64)
    order = np.argsort(x, kind="stable")
    fitted = isotonic_regression(y[order])
    weights = np.diff(fitted.blocks)
    middles = np.add.reduceat(x[order], fitted.blocks[:-1]) / weights
    levels = np.clip(fitted.x[fitted.blocks[:-1]], 0.0, 1.0)
    return IsotonicMap(tuple(middles.tolist()), tuple(levels.tolist()))


def save_uncertainty(folder: Path, uncertainty: Uncertainty) -> None:
    """Write ``uncertainty.json`` into a checkpoint; replace an existing one."""
    write_atomic(folder / UNCERTAINTY_FILE, format_json({"format": FORMAT, **asdict(uncertainty)}))


def load_uncertainty(folder: Path) -> Uncertainty | None:
    """Read the uncertainty of a checkpoint; ``None`` if it was never calibrated.

    Raises:
        ModelError: damaged, or of another version.
    """
    if not (folder / UNCERTAINTY_FILE).is_file():
        return None
    file = folder / UNCERTAINTY_FILE
    with wrap_decode_errors(
        file, ModelError, "Delete the file, or calibrate again with 'reactometer calibrate'"
    ):
        about = parse_json_object(file.read_bytes())
        if about["format"] != FORMAT:
            raise ValueError("another format")
        return _UNCERTAINTY.validate_python(about)


_UNCERTAINTY = TypeAdapter(Uncertainty)  # built at import, so that loading compiles nothing
