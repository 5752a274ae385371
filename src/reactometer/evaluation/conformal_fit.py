"""Fit a model's intervals, recalibration and thresholds to held-out clips."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from reactometer.data.cache import PreparedRow, PreparedSet
from reactometer.errors import ConfigError, DataError, OutputError
from reactometer.evaluation.evaluate import choose_split, open_for_model
from reactometer.evaluation.overlap import check_held_out
from reactometer.inference.checkpoint import LoadedModel, load_model
from reactometer.inference.conformal import (
    Array,
    IsotonicMap,
    TrainingDensity,
    Uncertainty,
    fit_intervals,
    fit_isotonic_map,
    fit_training_density,
    min_calibration_size,
    save_uncertainty,
)
from reactometer.inference.scores import MODALITIES, Score
from reactometer.inference.scoring import score_split
from reactometer.io import atomic_folder
from reactometer.paths import STARTER, find_checkpoint

COVERAGE = 0.9
"""Default share of new labels that the intervals should contain."""

IN_DISTRIBUTION_SHARE = 0.99
"""Share of in-distribution clips without a warning."""

MAX_REFERENCE_CLIPS = 2000
"""Maximum number of train clips for the reference density."""

MIN_CLIPS = 20
"""Minimum number of clips for a curve or a Gaussian."""

DISTANCE_RTOL = 1e-3
"""Relative tolerance of distances, which are computed in single precision."""

N_FOLDS = 5


def calibrate(
    model: Path | str,
    data: Path | str,
    *,
    split: str = "val",
    coverage: float = COVERAGE,
    recalibrate: bool = False,
    out: Path | str | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Uncertainty:
    """Fit a model's intervals to held-out clips, and write them into its folder.

    Args:
        model: a checkpoint, or an ensemble.
        data: a dataset, or a folder prepared before.
        split: the split to fit to, or "all" if the model was not trained on the dataset.
        coverage: share of new clips whose label the intervals contain.
        recalibrate: also fit one monotone curve per label, which brings predictions to the labels' scale.
        out: a folder for a copy of the model with the intervals; default: the checkpoint itself.
        device: as of :func:`~reactometer.inference.checkpoint.load_model`.
        progress: show bars on standard error.

    Raises:
        DataError: unknown split, too few clips with labels, or clips of the training data.
        OutputError: the folder cannot be written into, or ``out`` exists.
        ConfigError: coverage is out of range.
    """
    folder = find_checkpoint(model)
    if out is None and folder == STARTER:
        raise OutputError(
            "the starter model is part of the package", fix="Name a folder for a calibrated copy: --out"
        )
    loaded = load_model(folder, device)
    prepared = open_for_model(loaded, data, progress=progress)
    check_held_out(loaded, prepared.split(choose_split(prepared, split)))
    fitted = fit_uncertainty(loaded, prepared, split, coverage, recalibrate, progress=progress)
    fitted = replace(fitted, fitted_on={**fitted.fitted_on, "name": Path(data).resolve().name})
    if out is None:
        save_uncertainty(folder, fitted)
    else:
        with atomic_folder(Path(out)) as partial:
            shutil.copytree(folder, partial, dirs_exist_ok=True)
            save_uncertainty(partial, fitted)
    return fitted


def fit_uncertainty(
    loaded: LoadedModel,
    prepared: PreparedSet,
    split: str = "val",
    coverage: float = COVERAGE,
    recalibrate: bool = False,
    *,
    progress: bool = True,
) -> Uncertainty:
    """Fit intervals, thresholds and, optionally, recalibration to clips of one split.

    If enough people are known, the intervals are for clips of a new person, else for new clips like these. A
    model of face and voice is also scored with either one hidden, so that there are intervals for each of the
    three. The region of the training clips is taken from the model's own uncertainty if it has one, else from
    split "train".

    With recalibration, each clip's residual comes from curves fitted to other people's clips (five folds).
    The arguments are those of :func:`calibrate`; coverage is in [0.5, 1).

    Raises:
        ConfigError: coverage is out of range.
        DataError: too few clips with labels.
    """
    if not 0.5 <= coverage < 1.0:
        raise ConfigError("coverage is out of range", got=coverage, expected="0.5 or more, and less than 1")
    raw = replace(loaded, uncertainty=None)
    previous = loaded.uncertainty
    rows = prepared.split(split)
    unmasked, scores_by_modalities = _score_by_modalities(raw, prepared, split, progress)
    min_clips = MIN_CLIPS if recalibrate else min_calibration_size(coverage)
    if len(unmasked) < min_clips:
        raise DataError(
            f"{prepared.folder}: too few clips in split '{split}' for calibration",
            got=f"{len(unmasked)} with labels and a usable face or voice",
            expected=f"at least {min_clips}",
            fix="Add clips, or calibrate on another dataset: reactometer calibrate DATA --model MODEL",
        )
    person = {index: rows[index].clip.person or "" for index in unmasked}
    if "" in person.values() or len(set(person.values())) < min_calibration_size(coverage):
        person = {}  # too few people for intervals of a new person
    if previous and previous.references:
        references = dict(previous.references)
        shortest_s = previous.shortest_s
    else:
        references, shortest_s = _fit_references(raw, prepared, progress)
    if recalibrate:
        scores_by_modalities = _cross_fit_curves(unmasked, scores_by_modalities, rows)
    by_modalities = {}
    for modalities, scores in scores_by_modalities.items():
        predictions, targets = _stack(scores, rows)
        people = [person[index] for index in scores] if person else None
        by_modalities[modalities] = fit_intervals(predictions, targets, coverage, people)
    fitted = Uncertainty(
        coverage=coverage,
        by_modalities=by_modalities,
        fitted_on={
            "name": prepared.folder.name,
            "split": split,
            "n_clips": len(unmasked),
            "n_people": len(set(person.values())),
            "manifest_sha256": prepared.manifest_sha256,
        },
        shortest_s=shortest_s,
        recalibration=_fit_curves(unmasked, rows) if recalibrate else (),
        references=references,
    )
    return replace(fitted, ood_threshold=_ood_thresholds(unmasked.values(), fitted))


def _score_by_modalities(
    loaded: LoadedModel, prepared: PreparedSet, split: str, progress: bool
) -> tuple[dict[int, Score], dict[str, dict[int, Score]]]:
    """Score clips with labels by index: unmasked, and by the modalities that are left after masking either
    one."""
    rows, specs = prepared.split(split), [loaded.sampling]
    if loaded.sampling.uses_face and loaded.sampling.uses_voice:
        specs += [replace(loaded.sampling, uses_voice=False), replace(loaded.sampling, uses_face=False)]
    passes = [score_split(loaded, prepared, split, sampling, progress=progress)[0] for sampling in specs]
    usable = [
        {index: score for index, score in enumerate(scores) if score.has_input and rows[index].clip.labels}
        for scores in passes
    ]
    scores_by_modalities: dict[str, dict[int, Score]] = {}
    for index, score in (pair for scores in usable for pair in scores.items()):
        scores_by_modalities.setdefault(score.modalities, {}).setdefault(index, score)
    return usable[0], scores_by_modalities


def _fit_references(
    loaded: LoadedModel, prepared: PreparedSet, progress: bool
) -> tuple[dict[str, tuple[TrainingDensity, ...]], float]:
    """Fit the density of the train clips by modality and member; return the length of the shortest, too."""
    if not loaded.is_frozen:  # frozen encoders need no limit: their features are cached
        train = [row for row in prepared.split("train") if row.file]
        prepared = replace(prepared, rows=tuple(train[:: len(train) // MAX_REFERENCE_CLIPS + 1]))
    train = [row for row in prepared.split("train") if row.file]
    scores = score_split(loaded, prepared, "train", progress=progress)[0] if train else []
    references = {}
    for name in MODALITIES:
        values = [
            [features[name] for features in score.features] for score in scores if name in score.features[0]
        ]
        if len(values) >= MIN_CLIPS:
            references[name] = tuple(
                fit_training_density(np.array(member)) for member in zip(*values, strict=True)
            )
    return references, min((row.duration_s for row in train), default=0.0)


def _fit_curves(scores: dict[int, Score], rows: Sequence[PreparedRow]) -> tuple[IsotonicMap, ...]:
    predictions, targets = _stack(scores, rows)
    return tuple(
        fit_isotonic_map(predictions[:, index], targets[:, index]) for index in range(predictions.shape[1])
    )


def _cross_fit_curves(
    unmasked: dict[int, Score], scores_by_modalities: dict[str, dict[int, Score]], rows: Sequence[PreparedRow]
) -> dict[str, dict[int, Score]]:
    """Recalibrate each score with curves that were fitted to other people's clips."""
    person = {index: rows[index].clip.person or f"clip {index}" for index in unmasked}
    people = np.random.default_rng(0).permutation(sorted(set(person.values()))).tolist()
    fold = {index: people.index(person) % N_FOLDS for index, person in person.items()}
    by_fold = []
    for fold_index in range(N_FOLDS):
        training_scores = {
            index: score for index, score in unmasked.items() if fold[index] != fold_index
        } or unmasked
        by_fold.append(
            Uncertainty(IN_DISTRIBUTION_SHARE, {}, {}, recalibration=_fit_curves(training_scores, rows))
        )
    return {
        modalities: {
            index: replace(score, intensities=by_fold[fold[index]].recalibrate(score))
            for index, score in scores.items()
        }
        for modalities, scores in scores_by_modalities.items()
    }


def _stack(scores: dict[int, Score], rows: Sequence[PreparedRow]) -> tuple[Array, Array]:
    """Stack scores into (n, L) predictions and targets."""
    predictions = np.array([score.intensities for score in scores.values()], dtype=np.float64)
    return predictions, np.array([rows[index].clip.labels for index in scores], dtype=np.float64)


def _ood_thresholds(scores: Iterable[Score], fitted: Uncertainty) -> dict[str, float]:
    """Return by modality the distance that 1% of in-distribution clips exceed (with few clips: none of
    these)."""
    distances_by_score = [fitted.distances(score) for score in scores]
    thresholds = {}
    for name in MODALITIES:
        values = np.sort([distances[name] for distances in distances_by_score if name in distances])
        if len(values):
            rank = min(math.ceil((len(values) + 1) * IN_DISTRIBUTION_SHARE), len(values))
            thresholds[name] = float(values[rank - 1]) * (1.0 + DISTANCE_RTOL)
    return thresholds
