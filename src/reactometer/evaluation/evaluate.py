"""Score a model on a dataset, over all clips of a split at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reactometer.data.cache import PreparedRow, PreparedSet
from reactometer.data.inputs import InputSpec
from reactometer.data.prepare import open_data
from reactometer.data.splits import SPLITS
from reactometer.errors import DataError, ModelError, ScoreError, suggestion
from reactometer.evaluation.bootstrap import N_RESAMPLES, Intervals, bootstrap_metrics, choose_units
from reactometer.evaluation.calibration import LabelReliability, measure_reliability
from reactometer.evaluation.coverage import Coverage, interval_table, measure_coverage
from reactometer.evaluation.metrics import Array, Metrics, measure
from reactometer.evaluation.plots import plot_calibration
from reactometer.evaluation.subgroups import Group, as_table, compare_groups, split_column
from reactometer.inference.checkpoint import LoadedModel, load_model
from reactometer.inference.scoring import score_split
from reactometer.io import format_json, make_folder, write_atomic, write_plot

CHOICES = (*SPLITS, "all")

MIN_RESAMPLES = 100
"""Minimum number of resamples for differences between groups."""


@dataclass(frozen=True)
class Evaluation:
    """A model's scores on one split, and its predictions."""

    split: str
    metrics: Metrics
    predictions: pd.DataFrame  # File_ID and one column a label; every clip of the split has a row
    rows: tuple[PreparedRow, ...]  # the clips that were scored: those with labels
    truth: Array  # (clips, L) their labels
    guess: Array  # (clips, L) what the model said of them
    n_without_labels: int  # predicted, not scored
    without_input: tuple[str, ...]  # ids answered with the training mean: nothing seen or heard
    failed: tuple[str, ...]  # "id: reason" of clips that could not be read; answered with the training mean too
    person_norm: str | None = None  # how features were normalised per person, in words
    intervals: Intervals | None = None  # of the scores; None where no clips were resampled
    coverage: Coverage | None = None  # of the predictions' own intervals; None: the model gives none
    prediction_intervals: pd.DataFrame | None = None  # see coverage.interval_table
    reliability: tuple[LabelReliability, ...] = ()  # empty where no clips were resampled
    groups: tuple[Group, ...] = ()  # of each column asked for

    def as_json(self) -> dict[str, Any]:
        """Return all figures, without the predictions: what ``metrics.json`` holds."""
        return {
            "split": self.split,
            "person_norm": self.person_norm,
            **self.metrics.as_json(),
            "intervals": asdict(self.intervals) if self.intervals else None,
            "coverage": asdict(self.coverage) if self.coverage else None,
            "reliability": [asdict(label) for label in self.reliability],
        }


def evaluate(
    model: LoadedModel | Path | str,
    data: Path | str,
    *,
    split: str | None = None,
    without: str | None = None,
    by: str | None = None,
    n_resamples: int = N_RESAMPLES,
    groups: Sequence[str] = (),
    out: Path | str | None = None,
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
        out: a folder for ``predictions.csv``, ``metrics.json``, ``reliability.png`` and, if the model is calibrated,
            ``intervals.csv``; with groups, ``groups.csv``.
        progress: show a bar on standard error.

    Raises:
        DataError: no such split or column, its labels are not the model's, or the unit to resample is not known.
        ScoreError: the split has too few clips with labels, or groups are compared with too few resamples.
        OutputError: ``out`` is no folder and none can be made.
    """
    if groups and n_resamples < MIN_RESAMPLES:
        least = f"at least {MIN_RESAMPLES}"
        raise ScoreError("comparing groups needs resamples", got=n_resamples, expected=least, fix="Set --resamples")
    loaded = model if isinstance(model, LoadedModel) else load_model(model)
    if out is not None:
        make_folder(Path(out))
    sampling = _without(loaded, without)
    prepared = open_for_model(loaded, data, progress=progress)
    chosen = choose_split(prepared, split)
    rows = prepared.split(chosen)
    known = [place for place, row in enumerate(rows) if row.clip.labels]
    scored, labels, sure = tuple(rows[place] for place in known), loaded.labels, loaded.uncertainty
    how = choose_units([row.clip for row in scored], by, n_resamples)
    for column in groups:
        split_column([row.clip for row in scored], column)  # raises before the work
    scores, note = score_split(loaded, prepared, chosen, sampling, progress=progress)
    intensities = np.array([score.intensities for score in scores])  # (clips, L)
    targets = np.array([row.clip.labels for row in scored], dtype=np.float64).reshape(len(scored), len(labels))
    guess, ids = intensities[known], [row.clip.clip_id for row in rows]
    table = pd.DataFrame(intensities, columns=list(labels))
    table.insert(0, "File_ID", ids)
    coverage = ends = None
    if sure:
        ends = interval_table(scores, rows, labels, sure)
        fitted_on = (sure.fitted_on.get("split"), sure.fitted_on.get("manifest_sha256"))
        is_here = fitted_on == (chosen, prepared.manifest_sha256)
        coverage = measure_coverage(ends.iloc[known], targets, labels, how, asked=sure.coverage, is_in_sample=is_here)
    evaluation = Evaluation(
        split=chosen,
        metrics=measure(targets, guess, labels),
        predictions=table,
        rows=scored,
        truth=targets,
        guess=guess.astype(np.float64),
        n_without_labels=len(rows) - len(known),
        without_input=tuple(ids[score.index] for score in scores if not score.has_input),
        failed=tuple(f"{row.clip.clip_id}: {row.clip.problem}" for row in rows if row.clip.problem),
        person_norm=note,
        intervals=bootstrap_metrics(targets, guess, labels, how) if n_resamples else None,
        coverage=coverage,
        prediction_intervals=ends,
        reliability=measure_reliability(targets, guess, labels, how) if n_resamples else (),
        groups=compare_groups(scored, targets, guess, labels, groups, how),
    )
    if out is not None:
        _write(evaluation, Path(out))
    return evaluation


def open_for_model(loaded: LoadedModel, data: Path | str, *, progress: bool = True) -> PreparedSet:
    """Open a dataset, prepared as the model's training data were.

    Raises:
        DataError: its labels or features are not the model's.
        ModelError: it was prepared otherwise.
    """
    asked = {"path": Path(data), "cache": None, "labels": loaded.labels}
    prepared = open_data(loaded.config.data.model_copy(update=asked), loaded.config.prepare, progress=progress)
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
    return prepared


def _write(evaluation: Evaluation, out: Path) -> None:
    write_atomic(out / "predictions.csv", evaluation.predictions.to_csv(index=False))
    if evaluation.prediction_intervals is not None:
        write_atomic(out / "intervals.csv", evaluation.prediction_intervals.to_csv(index=False))
    if evaluation.groups:
        write_atomic(out / "groups.csv", as_table(evaluation.groups).to_csv(index=False))
    if evaluation.reliability:
        write_plot(plot_calibration(evaluation.reliability), out / "reliability.png")
    write_atomic(out / "metrics.json", format_json(evaluation.as_json()))


def _without(loaded: LoadedModel, modality: str | None) -> InputSpec:
    """Return how the model samples clips, with one modality hidden."""
    if modality is None:
        return loaded.sampling
    if modality not in ("face", "voice"):
        raise ModelError(f"no modality '{modality}'", expected="face or voice")
    if not (loaded.sampling.uses_voice and loaded.sampling.uses_face):
        raise ModelError("this model uses one modality only", got=f"without {modality}", fix="Leave --without out")
    return replace(loaded.sampling, uses_face=modality != "face", uses_voice=modality != "voice")


def choose_split(prepared: PreparedSet, split: str | None) -> str:
    """Return ``split``, or test (val if test has no labels) by default; raise DataError if it has no clips."""
    if split is None:
        split = "test" if any(row.clip.labels for row in prepared.split("test")) else "val"
    if split not in CHOICES:
        raise DataError(f"no split '{split}'", fix=suggestion(split, CHOICES))
    if not prepared.split(split):
        raise DataError(f"{prepared.folder}: split '{split}' has no clips", fix="Choose another with --split, or 'all'")
    return split
