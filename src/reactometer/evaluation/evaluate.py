"""Score a model on a dataset, over all clips of a split at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reactometer.data.cache import PreparedRow, PreparedSet
from reactometer.data.inputs import Sampling
from reactometer.data.prepare import open_data
from reactometer.data.splits import SPLITS
from reactometer.errors import DataError, ModelError, ScoreError, suggestion
from reactometer.evaluation.bootstrap import N_RESAMPLES, Intervals, bootstrap_metrics, choose_units
from reactometer.evaluation.calibration import Reliability, measure_reliability
from reactometer.evaluation.coverage import Coverage, interval_table, measure_coverage
from reactometer.evaluation.metrics import Array, Metrics, measure
from reactometer.evaluation.plots import plot_calibration
from reactometer.evaluation.subgroups import Grouping, as_table, compare_groups, split_column
from reactometer.inference.checkpoint import LoadedModel, load_model
from reactometer.inference.scoring import score_split
from reactometer.io import format_json, make_folder, write_picture, write_whole

CHOICES = (*SPLITS, "all")

LEAST_RESAMPLES = 100
"""For differences between groups."""


@dataclass(frozen=True)
class Evaluation:
    """What a model scored, on what, and what it said of each clip."""

    split: str
    metrics: Metrics
    predictions: pd.DataFrame  # File_ID and one column a label; every clip of the split has a row
    rows: tuple[PreparedRow, ...]  # the clips that were scored: those with labels
    truth: Array  # (clips, L) their labels
    guess: Array  # (clips, L) what the model said of them
    n_without_labels: int  # predicted, not scored
    without_evidence: tuple[str, ...]  # ids answered with the training mean: nothing seen or heard
    failed: tuple[str, ...]  # "id: reason" of clips that could not be read; answered with the training mean too
    person_norm: str | None = None  # how features were normalised per person, in words
    intervals: Intervals | None = None  # of the scores; None where no clips were resampled
    coverage: Coverage | None = None  # of the predictions' own intervals; None: the model gives none
    prediction_intervals: pd.DataFrame | None = None  # see coverage.interval_table
    reliability: Reliability | None = None  # None where no clips were resampled
    groups: tuple[Grouping, ...] = ()  # one a column asked for

    def as_json(self) -> dict[str, Any]:
        """All figures, without the predictions: what ``metrics.json`` holds."""
        return {
            "split": self.split,
            "person_norm": self.person_norm,
            **self.metrics.as_json(),
            "intervals": self.intervals.as_json() if self.intervals else None,
            "coverage": asdict(self.coverage) if self.coverage else None,
            "reliability": asdict(self.reliability) if self.reliability else None,
        }


def evaluate(  # noqa: PLR0913 - options by keyword
    model: LoadedModel | Path | str,
    data: Path | str,
    *,
    split: str | None = None,
    without: str | None = None,
    by: str | None = None,
    n_resamples: int = N_RESAMPLES,
    groups: Sequence[str] = (),
    out: Path | str | None = None,
    cache: Path | str | None = None,
    progress: bool = True,
) -> Evaluation:
    """Score a model on one split of a dataset: Pearson, CCC and MAE over **all** its clips at once.

    A clip without a usable face or voice, or an unreadable one, counts with the training mean as its prediction; every
    clip counts. Clips without labels are predicted and not scored.

    Args:
        model: a checkpoint, or a loaded model.
        data: a dataset, or a folder prepared before.
        split: "train", "val", "test" or "all"; default: test, or val if test has no labels.
        without: "face" or "voice", to hide that modality from a model that uses both.
        by: resampling unit of the intervals, "person", "stimulus" or "clip"; default: person if known, else clip.
        n_resamples: number of resamples for the intervals; 0: no intervals and no reliability.
        groups: columns of the manifest, such as "age" and "country", whose groups are also scored one by one.
        out: a folder for ``predictions.csv``, ``metrics.json``, ``reliability.png`` and, with groups, ``groups.csv``.
        cache: folder of prepared clips when ``data`` is not prepared yet; default: the user's cache folder.
        progress: show a bar on standard error.

    Raises:
        DataError: no such split or column, its labels are not the model's, or the unit to resample is not known.
        ScoreError: the split has too few clips with labels, or groups are to be told apart without resamples.
        OutputError: ``out`` is no folder and none can be made.
    """
    if groups and n_resamples < LEAST_RESAMPLES:
        least = f"at least {LEAST_RESAMPLES}"
        raise ScoreError("groups are told apart by resamples", got=n_resamples, expected=least, fix="Set --resamples")
    loaded = model if isinstance(model, LoadedModel) else load_model(model)
    if out is not None:
        make_folder(Path(out))
    sampling = _without(loaded, without)
    prepared = open_for(loaded, data, cache, progress=progress)
    chosen = choose_split(prepared, split)
    rows = prepared.split(chosen)
    known = [place for place, row in enumerate(rows) if row.clip.labels]
    scored, labels, sure = tuple(rows[place] for place in known), loaded.labels, loaded.uncertainty
    unit, units = choose_units([row.clip for row in scored], by)
    for column in groups:
        split_column([row.clip for row in scored], column)  # raises before the work
    scores, note = score_split(loaded, prepared, chosen, sampling, progress=progress)
    intensities = np.array([score.intensities for score in scores])  # (clips, L)
    targets = np.array([row.clip.labels for row in scored], dtype=np.float64).reshape(len(scored), len(labels))
    guess, ids = intensities[known], [row.clip.clip_id for row in rows]
    table = pd.DataFrame(intensities, columns=list(labels))
    table.insert(0, "File_ID", ids)
    clips = list(zip(scores, ids, [row.duration_s for row in rows], strict=True))
    coverage = None
    if sure:
        coverage = measure_coverage(targets, [clips[place] for place in known], labels, sure, units, n_resamples)
        learned = (sure.fitted_on.get("split"), sure.fitted_on.get("manifest_sha256"))
        if coverage and learned == (chosen, prepared.manifest_sha256):
            coverage = replace(coverage, fitted_here=True)
    how: dict[str, Any] = {"unit": unit, "groups": units, "n_resamples": n_resamples}
    evaluation = Evaluation(
        split=chosen,
        metrics=measure(targets, guess, labels),
        predictions=table,
        rows=scored,
        truth=targets,
        guess=guess.astype(np.float64),
        n_without_labels=len(rows) - len(known),
        without_evidence=tuple(ids[score.number] for score in scores if not score.has_evidence),
        failed=tuple(f"{row.clip.clip_id}: {row.clip.problem}" for row in rows if row.clip.problem),
        person_norm=note,
        intervals=bootstrap_metrics(targets, guess, labels, **how) if n_resamples else None,
        coverage=coverage,
        prediction_intervals=interval_table(clips, labels, sure) if sure else None,
        reliability=measure_reliability(targets, guess, labels, **how) if n_resamples else None,
        groups=compare_groups(scored, targets, guess, labels, groups, **how) if groups else (),
    )
    if out is not None:
        write_evaluation(evaluation, Path(out))
    return evaluation


def open_for(
    loaded: LoadedModel, data: Path | str, cache: Path | str | None = None, *, progress: bool = True
) -> PreparedSet:
    """The data set, prepared as the model's training data were.

    Raises:
        DataError: its labels or features are not the model's.
        ModelError: it was prepared otherwise.
    """
    asked = {"path": Path(data), "cache": Path(cache) if cache else None, "labels": loaded.labels}
    prepared = open_data(loaded.config.data.model_copy(update=asked), loaded.config.prepare, progress=progress)
    _check_fit(loaded, prepared)
    return prepared


def write_evaluation(evaluation: Evaluation, out: Path) -> None:
    """Write what is known of ``predictions.csv, metrics.json, reliability.png, groups.csv, intervals.csv``."""
    write_whole(out / "predictions.csv", evaluation.predictions.to_csv(index=False))
    if evaluation.prediction_intervals is not None:
        write_whole(out / "intervals.csv", evaluation.prediction_intervals.to_csv(index=False))
    if evaluation.groups:
        write_whole(out / "groups.csv", as_table(evaluation.groups).to_csv(index=False))
    if evaluation.reliability:
        write_picture(plot_calibration(evaluation.reliability), out / "reliability.png")
    write_whole(out / "metrics.json", format_json(evaluation.as_json()))


def _check_fit(loaded: LoadedModel, prepared: PreparedSet) -> None:
    if prepared.labels != loaded.labels:
        raise DataError(
            f"{prepared.folder}: not the model's labels",
            got=", ".join(prepared.labels),
            expected=", ".join(loaded.labels),
            fix="Evaluate on a data set with the same labels in the same order",
        )
    needed, sizes = loaded.networks.feature_sizes, prepared.feature_sizes
    if needed is None and sizes is None:
        settings, trained = prepared.settings, loaded.config.prepare
        if (settings.rate_hz, settings.size_px) != (trained.rate_hz, trained.size_px):
            raise ModelError(
                f"{prepared.folder}: prepared otherwise than the model's training data",
                got=f"rate_hz={settings.rate_hz}, size_px={settings.size_px}",
                expected=f"rate_hz={trained.rate_hz}, size_px={trained.size_px}",
                fix="Give the dataset itself, and it is prepared as the model needs it",
            )
    elif needed is None or sizes is None or any(sizes.get(stream, 0) != size for stream, size in needed.items()):
        raise DataError(
            f"{prepared.folder}: not the features that the model was trained on",
            got=sizes or "videos",
            expected=needed or "videos",
            fix="Give the same kind of data as in training",
        )


def _without(loaded: LoadedModel, modality: str | None) -> Sampling:
    """What the model is shown, less one modality."""
    if modality is None:
        return loaded.sampling
    if modality not in ("face", "voice"):
        raise ModelError(f"no modality '{modality}'", expected="face or voice")
    if not (loaded.sampling.listens and loaded.sampling.looks):
        own = "face" if loaded.sampling.looks else "voice"
        raise ModelError(f"this model goes by the {own} alone", got=f"without {modality}", fix="Leave --without out")
    return replace(loaded.sampling, looks=modality != "face", listens=modality != "voice")


def choose_split(prepared: PreparedSet, split: str | None) -> str:
    """The split asked for; else test, or val where test has no labels.

    Raises:
        DataError: no such split, or no clips in it.
    """
    if split is None:
        has_test = any(row.clip.labels for row in prepared.split("test"))
        split = "test" if has_test else "val"
    if split not in CHOICES:
        raise DataError(f"no split '{split}'", fix=suggestion(split, CHOICES))
    if not prepared.split(split):
        raise DataError(f"{prepared.folder}: split '{split}' has no clips", fix="Choose another with --split, or 'all'")
    return split
