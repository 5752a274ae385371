"""Fit a model's intervals, recalibration and limits to clips that its weights were not fitted on."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from reactometer.data.cache import PreparedRow, PreparedSet
from reactometer.data.splits import SPLITS
from reactometer.errors import ConfigError, DataError, suggestion
from reactometer.evaluation.evaluate import open_for
from reactometer.inference.checkpoint import LoadedModel, load_model
from reactometer.inference.conformal import (
    Array,
    Basis,
    Curve,
    Reference,
    Uncertainty,
    conformal_half_widths,
    fit_curve,
    fit_reference,
    least_units,
    save_uncertainty,
)
from reactometer.inference.scores import MODALITIES, Score
from reactometer.inference.scoring import score_split
from reactometer.io import appearing

COVERAGE = 0.9
"""Share of new clips whose label the intervals are to hold."""

KNOWN = 0.99
"""Share of clips like those that were learned from that pass for such."""

MOST_CLIPS = 2000
"""Train clips that are looked at to know where they lie."""

LEAST_CLIPS = 20
"""Fewer are too few to fit a curve on, or a Gaussian to."""

ROUNDING = 1e-3
"""Distances come from single precision: one as far as the limit is not beyond it."""

FOLDS = 5


def calibrate(
    model: Path | str,
    data: Path | str,
    *,
    split: str = "val",
    coverage: float = COVERAGE,
    recalibrate: bool = False,
    out: Path | str | None = None,
    cache: Path | str | None = None,
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
        cache: where prepared clips are kept when ``data`` is not prepared yet; default: the user's cache folder.
        device: "auto" (a GPU if there is one), or a torch device.
        progress: show bars on standard error.

    Raises:
        DataError: no such split, too few clips with labels, or clips that the model learned from.
        OutputError: the folder cannot be written into, or ``out`` exists.
        ModelError, ConfigError: no model, or no coverage.
    """
    if split not in (*SPLITS, "all"):
        raise DataError(f"no split '{split}'", fix=suggestion(split, (*SPLITS, "all")))
    loaded = load_model(model, device)
    prepared = open_for(loaded, data, cache, progress=progress)
    _refuse_learned(loaded, prepared, split)
    fitted = fit_uncertainty(
        loaded, prepared, split=split, coverage=coverage, recalibrate=recalibrate, progress=progress
    )
    fitted = replace(fitted, fitted_on={**fitted.fitted_on, "name": Path(data).resolve().name})
    if out is None:
        save_uncertainty(Path(model), fitted)
    else:
        with appearing(Path(out)) as partial:
            shutil.copytree(model, partial, dirs_exist_ok=True)
            save_uncertainty(partial, fitted)
    return fitted


def fit_uncertainty(
    loaded: LoadedModel,
    prepared: PreparedSet,
    *,
    split: str = "val",
    coverage: float = COVERAGE,
    recalibrate: bool = False,
    progress: bool = True,
) -> Uncertainty:
    """Fit intervals, limits and, if asked for, recalibration to clips of one split.

    If enough people are known, the intervals are for clips of a new person, else for new clips like these. A model of
    face and voice is also scored with either one hidden, so that there are intervals for each of the three. The
    region of the training clips is taken from the model's own uncertainty if it has one, else from split "train".

    With recalibration, each clip's residual comes from curves fitted to other people's clips (five folds).

    Args:
        loaded: a model, or an ensemble.
        prepared: clips with labels, prepared as its training data were.
        split, coverage, recalibrate, progress: as of :func:`calibrate`; coverage in [0.5, 1).

    Raises:
        ConfigError: a coverage out of range.
        DataError: too few clips with labels.
    """
    if not 0.5 <= coverage < 1.0:
        raise ConfigError("coverage is a share of clips", got=coverage, expected="0.5 or more, and less than 1")
    raw, known = replace(loaded, uncertainty=None), loaded.uncertainty
    rows = prepared.split(split)
    shown = _by_basis(raw, prepared, split, progress)
    whole = _as_they_are(shown)
    least = LEAST_CLIPS if recalibrate else least_units(coverage)
    if len(whole) < least:
        raise DataError(
            f"{prepared.folder}: too few clips in split '{split}' to tell how sure a prediction is",
            got=f"{len(whole)} with labels and with something to go by",
            expected=f"at least {least}",
            fix="Add clips, or give others with 'reactometer calibrate'",
        )
    whose = {place: rows[place].clip.person or "" for place in whole}
    if "" in whose.values() or len(set(whose.values())) < least_units(coverage):
        whose = {}  # too few people are known for intervals of a new person
    if known and known.references:
        references, shortest_s = dict(known.references), known.shortest_s
    else:
        references, shortest_s = _learned_from(raw, prepared, progress)
    fitted = Uncertainty(
        coverage=coverage,
        bases={},
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
    limits = _limits(whole.values(), fitted)
    shown = _recalibrated_elsewhere(shown, rows) if recalibrate else shown
    bases = {}
    for basis, scores in shown.items():
        guess, truth = _pairs(scores, rows)
        people = [whose[place] for place in scores] if whose else None
        bases[basis] = Basis(len(scores), conformal_half_widths(truth - guess, coverage, people))
    return replace(fitted, bases=bases, farthest=limits)


def _by_basis(loaded: LoadedModel, prepared: PreparedSet, split: str, progress: bool) -> dict[str, dict[int, Score]]:
    """Score clips with labels as they are, and with either modality hidden: by basis, then by index of the clip."""
    rows, found, samplings = prepared.split(split), dict[str, dict[int, Score]](), [loaded.sampling]
    if loaded.sampling.looks and loaded.sampling.listens:
        samplings += [replace(loaded.sampling, listens=False), replace(loaded.sampling, looks=False)]
    for sampling in samplings:
        scores, _ = score_split(loaded, prepared, split, sampling, progress=progress)
        for place, score in enumerate(scores):
            if score.has_evidence and rows[place].clip.labels:
                found.setdefault(score.basis, {}).setdefault(place, score)
    return found


def _learned_from(
    loaded: LoadedModel, prepared: PreparedSet, progress: bool
) -> tuple[dict[str, tuple[Reference, ...]], float]:
    """Where the train clips lie, by modality and member, and the length of the shortest."""
    train = [row for row in prepared.split("train") if row.file]
    if not loaded.is_frozen:
        train = train[:: len(train) // MOST_CLIPS + 1]  # of frozen encoders, features are kept: the same for all clips
    scores = score_split(loaded, replace(prepared, rows=tuple(train)), "train", progress=progress)[0] if train else []
    references = {}
    for name in MODALITIES:
        own = [[features[name] for features in score.features] for score in scores if name in score.features[0]]
        if len(own) >= LEAST_CLIPS:
            references[name] = tuple(fit_reference(np.array(member)) for member in zip(*own, strict=True))
    return references, min((row.duration_s for row in train), default=0.0)


def _as_they_are(shown: dict[str, dict[int, Score]]) -> dict[int, Score]:
    """Return each clip's score from all modalities that it has."""
    richest_last = sorted(shown, key=len)  # "face", "voice", "face and voice"
    return {place: score for basis in richest_last for place, score in shown[basis].items()}


def _fit_curves(scores: dict[int, Score], rows: Sequence[PreparedRow]) -> tuple[Curve, ...]:
    guess, truth = _pairs(scores, rows)
    return tuple(fit_curve(guess[:, place], truth[:, place]) for place in range(guess.shape[1]))


def _recalibrated_elsewhere(
    shown: dict[str, dict[int, Score]], rows: Sequence[PreparedRow]
) -> dict[str, dict[int, Score]]:
    """The scores by curves that were fitted to the clips of other people."""
    whole = _as_they_are(shown)
    whose = {place: rows[place].clip.person or f"clip {place}" for place in whole}
    people = np.random.default_rng(0).permutation(sorted(set(whose.values()))).tolist()
    fold = {place: people.index(person) % FOLDS for place, person in whose.items()}
    curves = [
        _fit_curves({place: score for place, score in whole.items() if fold[place] != number} or whole, rows)
        for number in range(FOLDS)
    ]
    by_fold = [Uncertainty(KNOWN, {}, {}, recalibration=own) for own in curves]
    return {
        basis: {
            place: replace(score, intensities=by_fold[fold[place]].recalibrate(score)) for place, score in own.items()
        }
        for basis, own in shown.items()
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
    """Residuals of clips that the weights were fitted to are too small: intervals from them would hold too little."""
    own = [
        member
        for member in loaded.each
        if member.description.get("data", {}).get("manifest_sha256") == prepared.manifest_sha256
    ]
    learned = {"train", "all", *(["val"] if any(member.config.data.folds for member in own) else [])}
    if own and split in learned:
        raise DataError(
            f"the model learned from clips of split '{split}' of {prepared.folder.name}",
            expected="clips that it has not seen",
            fix="Name another split, or give clips of your own",
        )
