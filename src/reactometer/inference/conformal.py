"""How sure a prediction is: split-conformal intervals, recalibration, and reasons to give no answer.

Everything here is fitted on clips that the weights were not fitted on, and kept in the checkpoint beside them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, TypeAdapter
from safetensors.numpy import load_file, save

from reactometer.errors import ModelError
from reactometer.inference.scores import Score
from reactometer.io import atomic_file, format_json, parse_json_object, sha256_of, wrap_decode_errors
from reactometer.types import FloatArray, IntervalBounds

UNCERTAINTY_FILE, REFERENCES_FILE = "uncertainty.json", "uncertainty.safetensors"
FORMAT = 1

SHORT = 0.5
"""A clip is too short when it is less than this share of the shortest one that was learned from; our choice."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TrainingDensity:
    """Where the training clips' features of one modality lie: a Gaussian whose smaller variances are one.

    Probabilistic principal components (Tipping & Bishop, J. R. Stat. Soc. B 61, 1999). Of the mean over time of what
    the encoder makes of a face or voice, not of the vector before the output layer (Lee et al., NeurIPS 2018), in which
    noise lies where faces do (docs/results.md).
    """

    mean: FloatArray  # (D,)
    axes: FloatArray  # (K, D) of length one, orthogonal
    stds: FloatArray  # (K,)
    rest: float  # standard deviation along all other directions

    def distance(self, features: FloatArray) -> float:
        """Mahalanobis' distance over √D: about 1 for clips like those that were learned from."""
        away = features.astype(np.float64) - self.mean  # (D,)
        along = self.axes @ away  # (K,)
        beyond = max(float(away @ away - along @ along), 0.0)
        return math.sqrt((float(((along / self.stds) ** 2).sum()) + beyond / self.rest**2) / len(away))


@dataclass(frozen=True)
class ModalityIntervals:
    """What was found on clips by the same: face and voice, the face alone, or the voice alone."""

    n_clips: int
    half_widths: tuple[float, ...]  # (L,) of the intervals; 1 where there are too few clips to say anything


@dataclass(frozen=True)
class IsotonicMap:
    """A monotone map of one label's intensities: straight between its points, flat beyond them."""

    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Uncertainty:
    """Intervals, recalibration and limits of one model, or of an ensemble."""

    __pydantic_config__ = ConfigDict(arbitrary_types_allowed=True)  # arrays

    coverage: float  # of the intervals, such as 0.9
    by_modalities: Mapping[str, ModalityIntervals]
    fitted_on: Mapping[str, Any]  # which clips, as JSON can hold it
    shortest_s: float = 0.0  # of the clips that were learned from; 0: not known
    recalibration: tuple[IsotonicMap, ...] = ()  # one a label, or none
    references: Mapping[str, tuple[TrainingDensity, ...]] = field(default_factory=dict)  # by modality, one a member
    ood_threshold: Mapping[str, float] = field(default_factory=dict)  # by modality: distances of 1 % of clips at most

    def recalibrate(self, score: Score) -> FloatArray:
        """(L,) the intensities on the labels' scale; the same where there is no curve, or nothing to go by."""
        if not self.recalibration or not score.has_input:
            return score.intensities
        pairs = zip(score.intensities, self.recalibration, strict=True)
        return np.array([np.interp(value, curve.x, curve.y) for value, curve in pairs], dtype=np.float32)

    def intervals(self, score: Score, intensities: FloatArray) -> IntervalBounds | None:
        """The interval of each label around intensities (L,) in [0, 1]; none where there is nothing to go by."""
        if not score.has_input:
            return None
        own = self.by_modalities.get(score.modalities)
        half = np.array(own.half_widths) if own else np.ones(len(intensities))
        low, high = np.clip(intensities - half, 0.0, 1.0), np.clip(intensities + half, 0.0, 1.0)  # (L,) each
        return tuple((float(one), float(other)) for one, other in zip(low, high, strict=True))

    def distances(self, score: Score) -> dict[str, float]:
        """By modality, how far a clip is from those that were learned from; mean over an ensemble."""
        found = {}
        for name, references in self.references.items():
            if score.features and len(references) == len(score.features) and name in score.features[0]:
                pairs = zip(references, score.features, strict=True)
                found[name] = float(np.mean([reference.distance(own[name]) for reference, own in pairs]))
        return found

    def warnings(self, score: Score, duration_s: float | None) -> tuple[str, ...]:
        """Reasons to give no answer, in words, although there is something to go by."""
        reasons = []
        if duration_s is not None and duration_s < SHORT * self.shortest_s:
            reasons.append(f"too short: {duration_s:.1f} s; it learned from clips of {self.shortest_s:.1f} s and more")
        for name, distance in self.distances(score).items():
            limit = self.ood_threshold.get(name, math.inf)
            if distance > limit:
                reasons.append(f"{name} unlike the training data: {distance / limit:.1f} times the limit")
        return tuple(reasons)


def conformal_half_widths(
    residuals: npt.ArrayLike, coverage: float, people: Sequence[str] | None = None
) -> tuple[float, ...]:
    """Half the width of each label's interval, so that it holds a new clip's label with at least this probability.

    Split-conformal prediction: of n absolute residuals the ⌈(n + 1) · coverage⌉-th smallest (Lei et al., J. Am. Stat.
    Assoc. 113, 2018); valid for clips exchangeable with these, over the draw of both. With ``people``, for a clip of a
    new person: each person's residuals weigh as much as another's, and one more person's are infinite (hierarchical
    conformal prediction, Lee, Barber & Willett, arXiv 2306.06342). With too few clips or people, see
    :func:`min_calibration_size`, the interval is all of [0, 1].

    Args:
        residuals: (n, L) label less prediction.
        coverage: in (0, 1).
        people: who is in each clip; ``None``: each is somebody else.
    """
    sizes = np.abs(np.asarray(residuals, dtype=np.float64))  # (n, L)
    names = np.arange(len(sizes)) if people is None else np.array(people)
    _, unit, counts = np.unique(names, return_inverse=True, return_counts=True)
    weights = 1.0 / ((len(counts) + 1) * counts[unit])  # (n,)
    widths = []
    for column in sizes.T:
        order = np.argsort(column, kind="stable")
        place = int(np.searchsorted(weights[order].cumsum(), coverage - 1e-9))
        widths.append(float(column[order[place]]) if place < len(order) else 1.0)
    return tuple(widths)


def min_calibration_size(coverage: float) -> int:
    """So many clips (or people) are needed for an interval of this coverage that is not all of [0, 1]."""
    return math.ceil(coverage / (1.0 - coverage) - 1e-9)


def fit_training_density(features: npt.ArrayLike, max_axes: int = 32) -> TrainingDensity:
    """The Gaussian of training clips' features (n, D), with a tenth as many axes as clips at most."""
    values = np.asarray(features, dtype=np.float64)
    mean = values.mean(axis=0)
    _, sizes, axes = np.linalg.svd(values - mean, full_matrices=False)
    variances = sizes**2 / max(len(values) - 1, 1)
    n_axes = max(1, min(max_axes, len(values) // 10, len(variances) - 1))
    n_rest = max(values.shape[1] - n_axes, 1)
    least = 1e-3 * math.sqrt(variances.sum() / values.shape[1]) + 1e-9  # no direction is known exactly
    stds = np.maximum(np.sqrt(variances[:n_axes]), least)
    rest = max(math.sqrt(variances[n_axes:].sum() / n_rest), least)
    return TrainingDensity(mean.astype(np.float32), axes[:n_axes].astype(np.float32), stds.astype(np.float32), rest)


def fit_isotonic_map(predictions: npt.ArrayLike, targets: npt.ArrayLike) -> IsotonicMap:
    """Isotonic regression (SciPy's) of one label on its predictions, (n,) each; a point for each of its levels.

    Points lie at the mean prediction of their level and are joined by straight lines, so that fewer clips are tied.
    """
    from scipy.optimize import isotonic_regression

    guess, truth = np.asarray(predictions, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    order = np.argsort(guess, kind="stable")
    fitted = isotonic_regression(truth[order])
    weights = np.diff(fitted.blocks)
    middles = np.add.reduceat(guess[order], fitted.blocks[:-1]) / weights
    levels = np.clip(fitted.x[fitted.blocks[:-1]], 0.0, 1.0)
    return IsotonicMap(tuple(middles.tolist()), tuple(levels.tolist()))


def save_uncertainty(folder: Path, uncertainty: Uncertainty) -> None:
    """Write ``uncertainty.json`` and ``uncertainty.safetensors`` into a checkpoint, over those that are there."""
    tensors = {
        f"{modality}/{member}/{name}": np.atleast_1d(np.asarray(value, dtype=np.float32))
        for modality, references in uncertainty.references.items()
        for member, reference in enumerate(references)
        for name, value in vars(reference).items()
    }
    about = {name: value for name, value in asdict(uncertainty).items() if name != "references"}
    with atomic_file(folder / REFERENCES_FILE) as first, atomic_file(folder / UNCERTAINTY_FILE) as second:
        first.write_bytes(save(tensors))  # both are there before either takes its place: they go together
        about = {"format": FORMAT, **about, "sha256": {REFERENCES_FILE: sha256_of(first)}}
        second.write_text(format_json(about), encoding="utf-8")


def load_uncertainty(folder: Path) -> Uncertainty | None:
    """Read the uncertainty of a checkpoint; ``None`` if it was never calibrated.

    Raises:
        ModelError: damaged, or of another version.
    """
    if not (folder / UNCERTAINTY_FILE).is_file():
        return None
    file = folder / UNCERTAINTY_FILE
    with wrap_decode_errors(file, ModelError, "Delete it, or write it anew with 'reactometer calibrate'"):
        about, tensors = parse_json_object(file.read_bytes()), folder / REFERENCES_FILE
        if about["format"] != FORMAT or about["sha256"][REFERENCES_FILE] != sha256_of(tensors):
            raise ValueError("another format, or not the tensors that it names")
        about["references"] = _read_references(load_file(tensors))
        return _UNCERTAINTY.validate_python(about)


_UNCERTAINTY = TypeAdapter(Uncertainty)  # built at import, so that reading a folder compiles nothing


def _read_references(tensors: Mapping[str, FloatArray]) -> dict[str, tuple[TrainingDensity, ...]]:
    parts: dict[str, dict[int, dict[str, FloatArray]]] = {}
    for key, tensor in tensors.items():
        modality, member, name = key.split("/")
        parts.setdefault(modality, {}).setdefault(int(member), {})[name] = tensor
    return {
        modality: tuple(
            TrainingDensity(own["mean"], own["axes"], own["stds"], float(own["rest"][0]))
            for _, own in sorted(members.items())
        )
        for modality, members in parts.items()
    }
