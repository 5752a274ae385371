"""Cross-validate a configuration: predict every clip by a model that has not seen it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from reactometer.config import Config, load_config
from reactometer.data.cache import PreparedSet
from reactometer.data.leakage import find_same_files
from reactometer.data.prepare import open_data
from reactometer.data.splits import MIN_NESTED_FOLDS, assign_folds, choose_fold_unit
from reactometer.errors import ConfigError, DataError, OutputError
from reactometer.evaluation.bootstrap import N_RESAMPLES
from reactometer.evaluation.conformal_fit import calibrate
from reactometer.evaluation.evaluate import OUT_OF_FOLD, Evaluation, evaluate
from reactometer.evaluation.metrics import MIN_CLIPS, mean_over_varying, measure, varying_labels
from reactometer.inference.checkpoint import join_models, load_model
from reactometer.inference.conformal import UNCERTAINTY_FILE
from reactometer.io import format_json, make_folder, write_atomic
from reactometer.terminal import messages, progress_bar
from reactometer.training.train import MODEL_DIR, check_config, train_in
from reactometer.training.trainer import delete_run


def crossval(  # noqa: PLR0913 - options by keyword
    config: Config | Path | str,
    out: Path | str,
    overrides: Sequence[str] = (),
    *,
    folds: int = 5,
    leave_one_person_out: bool = False,
    by: str | None = None,
    n_resamples: int = N_RESAMPLES,
    groups: Sequence[str] = (),
    fresh: bool = False,
    progress: bool = True,
) -> Evaluation:
    """Train one model per fold, predict each clip by the model that held it out, and score all clips at once.

    This is nested cross-validation: one fold is held out, the next ones choose the epoch, and the others
    train. Folds share no person if people are known, else no stimulus or clip. Existing splits are ignored.
    A second call resumes the first and skips finished folds.

    Args:
        config: a TOML file, or a configuration object.
        out: the folder for the files of :func:`~reactometer.evaluation.evaluate.evaluate`, one run per fold,
            and ``model``, the ensemble of all folds, with intervals from the out-of-fold predictions.
        overrides: ``section.key=value`` on top of a TOML file.
        folds: number of folds, at least 3.
        leave_one_person_out: make one fold per person instead.
        by, n_resamples, groups: as of ``evaluate``.
        fresh: delete earlier folds and their ensemble.
        progress: show bars on standard error.

    Raises:
        ConfigError: too few folds, people or clips.
        DataError: the dataset cannot be used; a fold is too small to choose an epoch on.
        OutputError: ``out`` contains runs of another configuration or other clips, or other files only.
    """
    if not isinstance(config, Config):
        config = load_config(Path(config), overrides)
    check_config(config)
    out, members = Path(out), []
    _claim_folder(out)
    prepared = open_data(config.data, config.prepare, progress=progress)
    clips = [row.clip for row in prepared.rows if row.clip.labels]
    if leave_one_person_out:
        people = [clip.person for clip in clips]
        folds, n_unknown = len(set(people) - {None}), people.count(None)
        if n_unknown or folds < MIN_NESTED_FOLDS:
            raise ConfigError(
                "leaving one person out needs the person of each clip",
                got=f"{folds} people, and {n_unknown} clips of unknown people",
                expected=f"at least {MIN_NESTED_FOLDS} people",
                fix="Fill the column person, or use --folds",
            )
    _check_copies(prepared, folds)
    unit = choose_fold_unit(clips, folds, nested=True)
    if progress:
        reason = "" if unit == "person" else f": fewer than {MIN_NESTED_FOLDS} people are known"
        messages.print(f"{len(clips)} clips in {folds} folds, disjoint by {unit}{reason}")
    with progress_bar("cross-validating", folds, progress) as advance:
        for fold in range(folds):
            data = config.data.model_copy(update={"folds": folds, "fold": fold, "nested": True})
            run = out / f"fold{fold}of{folds}"
            config = config.model_copy(update={"data": data})
            members.append(train_in(config, run, seed=config.training.seed, fresh=fresh, progress=False))
            trained_on = load_model(members[-1], "cpu").description["data"]["manifest_sha256"]
            if trained_on != prepared.manifest_sha256:
                raise OutputError(
                    f"{run}: trained on other clips",
                    fix="Choose another folder with --out, or start again with --fresh",
                )
            advance()
    if fresh:
        delete_run(out, MODEL_DIR)
    if not (out / MODEL_DIR).exists():
        join_models(members, out / MODEL_DIR)
    if not (out / MODEL_DIR / UNCERTAINTY_FILE).is_file():
        try:
            calibrate(out / MODEL_DIR, prepared.folder, split=OUT_OF_FOLD, progress=False)
        except DataError as error:
            messages.print(f"no intervals: {error}", style="yellow")
    evaluation = evaluate(
        out / MODEL_DIR,
        prepared.folder,
        by=by,
        n_resamples=n_resamples,
        groups=groups,
        split=OUT_OF_FOLD,
        out=out,
        progress=progress,
    )
    evaluation = replace(evaluation, pearson_by_fold=_score_folds(evaluation, prepared, folds))
    write_atomic(out / "metrics.json", format_json(evaluation.as_json()))
    return evaluation


def _claim_folder(out: Path) -> None:
    """Create the folder of a cross-validation; raise OutputError if it contains files of none."""
    names = [entry.name for entry in make_folder(out).iterdir()]
    if names and not any(re.fullmatch(r"fold\d+of\d+", name) for name in names):
        raise OutputError(f"{out}: contains files of no cross-validation", fix="Choose a new folder: --out")


def _score_folds(evaluation: Evaluation, prepared: PreparedSet, folds: int) -> tuple[float, ...]:
    """Return the mean Pearson of each fold that has enough clips, over the labels that vary in it."""
    scores = []
    for fold in range(folds):
        clips = assign_folds([row.clip for row in prepared.rows], folds, fold, nested=True)
        held_out = {clip.clip_id for clip in clips if clip.split == "test"}
        in_fold = [row.clip.clip_id in held_out for row in evaluation.rows]
        targets = evaluation.targets[in_fold]
        if len(targets) >= MIN_CLIPS and any(varying_labels(targets)):
            metrics = measure(targets, evaluation.intensities[in_fold], evaluation.metrics.labels)
            scores.append(mean_over_varying(metrics.pearson, targets))
    return tuple(scores)


def _check_copies(prepared: PreparedSet, folds: int) -> None:
    """Raise DataError if copies of a clip are in several folds."""
    for fold in range(folds):
        clips = assign_folds([row.clip for row in prepared.rows], folds, fold, nested=True)
        rows = [replace(row, clip=clip) for row, clip in zip(prepared.rows, clips, strict=True)]
        if leaks := [leak for leak in find_same_files(rows) if leak.splits[1] == "test"]:
            raise DataError(
                f"{prepared.folder}: copies of a clip are in several folds",
                got=str(leaks[0]),
                fix="Delete the copies",
            )
