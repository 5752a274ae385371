"""Fit a model's intervals, recalibration and limits to clips that its weights were not fitted on."""

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
from reactometer.inference.checkpoint import LoadedModel, load_model
from reactometer.inference.conformal import (
    Array,
    IsotonicMap,
    ModalityIntervals,
    TrainingDensity,
    Uncertainty,
    conformal_half_widths,
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
"""Share of new clips whose label the intervals are to hold."""

KNOWN = 0.99
"""Share of clips like the training clips that get no warning."""

MAX_CLIPS = 2000
"""Maximum number of train clips whose features are measured."""

MIN_CLIPS = 20
"""Fewer clips are too few to fit a curve or a Gaussian to."""

ROUNDING = 1e-3
"""Relative tolerance of distances, which are computed in single precision."""

FOLDS = 5


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
    """Fit a model's intervals to clips that its weights have not seen, and write them into its folder.

    Args:
        model: a checkpoint, or an ensemble.
        data: a dataset, or a folder prepared before.
        split: the split to fit to, or "all" of a dataset that the model has never seen.
        coverage: share of new clips whose label the intervals contain.
        recalibrate: also fit one monotone curve per label, which brings predictions to the labels' scale.
        out: a folder for a copy of the model with the intervals; default: the checkpoint itself.
        device: as of :func:`~reactometer.inference.checkpoint.load_model`.
        progress: show bars on standard error.

    Raises:
        DataError: no such split, too few clips with labels, or clips that the model learned from.
        OutputError: the folder cannot be written into, or ``out`` exists.
        ConfigError: coverage is out of range.
    """
    folder = find_checkpoint(model)
    if out is None and folder == STARTER:
        raise OutputError("the starter model is part of the package", fix="Name a folder for a calibrated copy: --out")
    loaded = load_model(folder, device)
    prepared = open_for_model(loaded, data, progress=progress)
    _refuse_learned(loaded, prepared, choose_split(prepared, split))
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
    """Fit intervals, limits and, if asked for, recalibration to clips of one split.

    If enough people are known, the intervals are for clips of a new person, else for new clips like these. A model of
    face and voice is also scored with either one hidden, so that there are intervals for each of the three. The
    region of the training clips is taken from the model's own uncertainty if it has one, else from split "train".

    With recalibration, each clip's residual comes from curves fitted to other people's clips (five folds). The
    arguments are those of :func:`calibrate`; coverage is in [0.5, 1).

    Raises:
        ConfigError: coverage is out of range.
        DataError: too few clips with labels.
    """
    if not 0.5 <= coverage < 1.0:
        raise ConfigError("coverage is a share of clips", got=coverage, expected="0.5 or more, and less than 1")
    raw, known = replace(loaded, uncertainty=None), loaded.uncertainty
    rows = prepared.split(split)
    whole, by_basis = _score_each_way(raw, prepared, split, progress)
    least = MIN_CLIPS if recalibrate else min_calibration_size(coverage)
    if len(whole) < least:
        raise DataError(
            f"{prepared.folder}: too few clips in split '{split}' to tell how sure a prediction is",
            got=f"{len(whole)} with labels and with something to go by",
            expected=f"at least {least}",
            fix="Add clips, or give others with 'reactometer calibrate'",
        )
    whose = {place: rows[place].clip.person or "" for place in whole}
    if "" in whose.values() or len(set(whose.values())) < min_calibration_size(coverage):
        whose = {}  # too few people are known for intervals of a new person
    if known and known.references:
        references, shortest_s = dict(known.references), known.shortest_s
    else:
        references, shortest_s = _learned_from(raw, prepared, progress)
    if recalibrate:
        by_basis = _recalibrated_elsewhere(whole, by_basis, rows)
    by_modalities = {}
    for basis, scores in by_basis.items():
        guess, truth = _pairs(scores, rows)
        people = [whose[place] for place in scores] if whose else None
        by_modalities[basis] = ModalityIntervals(len(scores), conformal_half_widths(truth - guess, coverage, people))
    fitted = Uncertainty(
        coverage=coverage,
        by_modalities=by_modalities,
        fitted_on={
            "name": prepared.folder.name,
            "split": split,
            "n_clips": len(whole),
            "n_people": len(set(whose.values())),
            "manifest_sha256": prepared.manifest_sha256,
        },
        shortest_s=shortest_s,
        recalibration=_fit_curves(whole, rows) if recalibrate else (),
        references=references,
    )
    return replace(fitted, ood_threshold=_limits(whole.values(), fitted))


def _score_each_way(
    loaded: LoadedModel, prepared: PreparedSet, split: str, progress: bool
) -> tuple[dict[int, Score], dict[str, dict[int, Score]]]:
    """Score clips with labels as they are, by index of the clip; and with either modality hidden, too, by basis."""
    rows, samplings = prepared.split(split), [loaded.sampling]
    if loaded.sampling.uses_face and loaded.sampling.uses_voice:
        samplings += [replace(loaded.sampling, uses_voice=False), replace(loaded.sampling, uses_face=False)]
    passes = [score_split(loaded, prepared, split, sampling, progress=progress)[0] for sampling in samplings]
    usable = [
        {place: score for place, score in enumerate(scores) if score.has_input and rows[place].clip.labels}
        for scores in passes
    ]
    by_basis: dict[str, dict[int, Score]] = {}
    for place, score in (pair for scores in usable for pair in scores.items()):
        by_basis.setdefault(score.modalities, {}).setdefault(place, score)
    return usable[0], by_basis


def _learned_from(
    loaded: LoadedModel, prepared: PreparedSet, progress: bool
) -> tuple[dict[str, tuple[TrainingDensity, ...]], float]:
    """Where the train clips lie, by modality and member, and the length of the shortest."""
    train = [row for row in prepared.split("train") if row.file]
    if not loaded.is_frozen:
        train = train[:: len(train) // MAX_CLIPS + 1]  # of frozen encoders, features are kept: the same for all clips
    scores = score_split(loaded, replace(prepared, rows=tuple(train)), "train", progress=progress)[0] if train else []
    references = {}
    for name in MODALITIES:
        own = [[features[name] for features in score.features] for score in scores if name in score.features[0]]
        if len(own) >= MIN_CLIPS:
            references[name] = tuple(fit_training_density(np.array(member)) for member in zip(*own, strict=True))
    return references, min((row.duration_s for row in train), default=0.0)


def _fit_curves(scores: dict[int, Score], rows: Sequence[PreparedRow]) -> tuple[IsotonicMap, ...]:
    guess, truth = _pairs(scores, rows)
    return tuple(fit_isotonic_map(guess[:, place], truth[:, place]) for place in range(guess.shape[1]))


def _recalibrated_elsewhere(
    whole: dict[int, Score], by_basis: dict[str, dict[int, Score]], rows: Sequence[PreparedRow]
) -> dict[str, dict[int, Score]]:
    """Return the scores after curves that were fitted to the clips of other people."""
    whose = {place: rows[place].clip.person or f"clip {place}" for place in whole}
    people = np.random.default_rng(0).permutation(sorted(set(whose.values()))).tolist()
    fold = {place: people.index(person) % FOLDS for place, person in whose.items()}
    by_fold = []
    for number in range(FOLDS):
        others = {place: score for place, score in whole.items() if fold[place] != number} or whole
        by_fold.append(Uncertainty(KNOWN, {}, {}, recalibration=_fit_curves(others, rows)))
    return {
        basis: {
            place: replace(score, intensities=by_fold[fold[place]].recalibrate(score)) for place, score in own.items()
        }
        for basis, own in by_basis.items()
    }


def _pairs(scores: dict[int, Score], rows: Sequence[PreparedRow]) -> tuple[Array, Array]:
    """(n, L) predictions and labels."""
    guess = np.array([score.intensities for score in scores.values()], dtype=np.float64)
    return guess, np.array([rows[place].clip.labels for place in scores], dtype=np.float64)


def _limits(scores: Iterable[Score], fitted: Uncertainty) -> dict[str, float]:
    """By modality, the distance that 1 % of clips like these exceed (with few clips: that none of these does)."""
    found = [fitted.distances(score) for score in scores]
    limits = {}
    for name in MODALITIES:
        own = np.sort([distances[name] for distances in found if name in distances])
        if len(own):
            limits[name] = float(own[min(math.ceil((len(own) + 1) * KNOWN), len(own)) - 1]) * (1.0 + ROUNDING)
    return limits


def _refuse_learned(loaded: LoadedModel, prepared: PreparedSet, split: str) -> None:
    """Refuse clips that the weights were fitted to: their residuals are too small."""
    sha256 = prepared.manifest_sha256
    own = [member for member in loaded.members if member.description.get("data", {}).get("manifest_sha256") == sha256]
    learned = {"train", "all", *("val" for member in own if member.config.data.folds)}
    if own and split in learned:
        raise DataError(
            f"the model learned from clips of split '{split}' of {prepared.folder.name}",
            expected="clips that it has not seen",
            fix="Name another split, or give clips of your own",
        )
