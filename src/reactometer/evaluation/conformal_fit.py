"""Fit a model's intervals, recalibration and thresholds to held-out clips."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np

from reactometer.data.cache import PreparedRow, PreparedSet
from reactometer.errors import ConfigError, DataError, OutputError
from reactometer.evaluation.evaluate import OUT_OF_FOLD, choose_split, open_for_model
from reactometer.evaluation.overlap import check_held_out, find_held_out_members
from reactometer.evaluation.screening_fit import fit_screening
from reactometer.inference.checkpoint import LoadedModel, load_model
from reactometer.inference.conformal import (
    Array,
    IsotonicMap,
    Uncertainty,
    fit_intervals,
    fit_isotonic_map,
    min_calibration_size,
    save_uncertainty,
)
from reactometer.inference.scores import Score
from reactometer.inference.scoring import score_split
from reactometer.inference.screening import save_screening
from reactometer.io import atomic_folder
from reactometer.paths import find_checkpoint, find_starter
from reactometer.terminal import progress_bar

COVERAGE = 0.9
"""Default share of new labels that the intervals should contain."""

MIN_CLIPS = 20
"""Minimum number of clips for a curve."""

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

    The screening of unusable faces and voices is that of the training. A model without it gets one from split
    "train".

    Args:
        model: a checkpoint, or an ensemble.
        data: a dataset, or a folder prepared before.
        split: the split to fit to, "all" if the model was not trained on the dataset, or "out-of-fold" for an
            ensemble of folds: each clip is scored by the members that held it out (CV+, Barber et al., Annals
            of Statistics 49, 2021, but symmetric).
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
    if out is None and folder == find_starter():
        raise OutputError(
            "the starter model is part of an installed package",
            fix="Name a folder for a calibrated copy: --out",
        )
    if not 0.5 <= coverage < 1.0:
        raise ConfigError("coverage is out of range", got=coverage, expected="0.5 or more, and less than 1")
    with nullcontext(folder) if out is None else atomic_folder(Path(out)) as target:
        loaded = load_model(folder, device)
        prepared = open_for_model(loaded, data, progress=progress)
        if choose_split(prepared, split) != OUT_OF_FOLD:
            check_held_out(loaded, prepared.split(split))
        is_screened = any(member.screening for member in loaded.members) or not prepared.split("train")
        if not is_screened:
            loaded = replace(loaded, screening=fit_screening(loaded, prepared))
        fitted = fit_uncertainty(loaded, prepared, split, coverage, recalibrate, progress=progress)
        fitted = replace(fitted, fitted_on={**fitted.fitted_on, "name": Path(data).resolve().name})
        if out is not None:
            shutil.copytree(folder, target, dirs_exist_ok=True)
        if loaded.screening and not is_screened:
            save_screening(target, loaded.screening)
        save_uncertainty(target, fitted)
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
    """Fit intervals and, optionally, recalibration to clips of one split.

    If enough people are known, the intervals are for clips of a new person, else for new clips like these. A
    model of several streams is also scored with each one hidden, and with all but one hidden, so that there
    are intervals for each of these sets.

    With recalibration, each clip's residual comes from curves fitted to other people's clips (five folds).
    The arguments are those of :func:`calibrate`; coverage is in [0.5, 1).

    Raises:
        DataError: too few clips with labels.
    """
    raw = replace(loaded, uncertainty=None)
    previous = loaded.uncertainty
    rows, unmasked, scores_by_modalities = _score_by_modalities(raw, prepared, split, progress)
    min_clips = MIN_CLIPS if recalibrate else min_calibration_size(coverage)
    if len(unmasked) < min_clips:
        raise DataError(
            f"{prepared.folder}: too few clips in split '{split}' for calibration",
            got=f"{len(unmasked)} with labels and a usable face or voice",
            expected=f"at least {min_clips}",
            fix="Add clips, or calibrate on another dataset: reactometer calibrate DATA -m MODEL",
        )
    person = {index: rows[index].clip.person or "" for index in unmasked}
    if "" in person.values() or len(set(person.values())) < min_calibration_size(coverage):
        person = {}  # too few people for intervals of a new person
    train_s = [row.duration_s for row in prepared.split("train") if row.file]
    if recalibrate:
        scores_by_modalities = _cross_fit_curves(unmasked, scores_by_modalities, rows)
    by_modalities = {}
    for modalities, scores in scores_by_modalities.items():
        predictions, targets = _stack(scores, rows)
        people = [person[index] for index in scores] if person else None
        by_modalities[modalities] = fit_intervals(predictions, targets, coverage, people)
    return Uncertainty(
        coverage=coverage,
        by_modalities=by_modalities,
        fitted_on={
            "name": prepared.folder.name,
            "split": split,
            "n_clips": len(unmasked),
            "n_people": len(set(person.values())),
            "manifest_sha256": prepared.manifest_sha256,
        },
        shortest_s=previous.shortest_s if previous else min(train_s, default=0.0),
        recalibration=_fit_curves(unmasked, rows) if recalibrate else (),
    )


def _score_by_modalities(
    loaded: LoadedModel, prepared: PreparedSet, split: str, progress: bool
) -> tuple[Sequence[PreparedRow], dict[int, Score], dict[str, dict[int, Score]]]:
    """Return the rows of a split, and scores of clips with labels by index of the row: unmasked, and by the
    streams that are left after masking some."""
    members = None
    if split == OUT_OF_FOLD:
        split = "all"
        members, _ = find_held_out_members(loaded, prepared.rows)
    rows = [
        row
        for index, row in enumerate(prepared.split(split))
        if members is None or members[index]  # of clips outside the folds, score_split returns nothing
    ]
    passes = [score_split(loaded, prepared, split, (), members, progress=progress)[0]]
    hidden_sets = _hidden_sets(sorted(loaded.streams))
    if hidden_sets:
        with progress_bar("masking streams", len(hidden_sets), progress) as advance:
            for hidden in hidden_sets:
                passes.append(score_split(loaded, prepared, split, hidden, members, progress=False)[0])
                advance()
    usable = [
        {index: score for index, score in enumerate(scores) if score.has_input and rows[index].clip.labels}
        for scores in passes
    ]
    scores_by_modalities: dict[str, dict[int, Score]] = {}
    for index, score in (pair for scores in usable for pair in scores.items()):
        scores_by_modalities.setdefault(score.modalities, {}).setdefault(index, score)
    return rows, usable[0], scores_by_modalities


def _hidden_sets(streams: list[str]) -> list[tuple[str, ...]]:
    """Return the sets of streams to hide: each one, and all but one; none of a single stream."""
    if len(streams) == 1:
        return []
    each = [(name,) for name in reversed(streams)]
    others = [tuple(name for name in streams if name != remaining) for remaining in streams]
    return [*dict.fromkeys([*each, *others])]


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
        by_fold.append(Uncertainty(COVERAGE, {}, {}, recalibration=_fit_curves(training_scores, rows)))
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
