"""Score a model on a dataset, over all clips of a split at once; write a challenge's submission."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reactometer.data.cache import PreparedRow, PreparedSet
from reactometer.data.prepare import open_data
from reactometer.data.splits import SPLITS
from reactometer.errors import DataError, ModelError, OutputError, ScoreError, suggestion
from reactometer.evaluation.bootstrap import N_RESAMPLES, Intervals, bootstrap_metrics, choose_units
from reactometer.evaluation.calibration import (
    Coverage,
    LabelReliability,
    interval_table,
    measure_coverage,
    measure_reliability,
)
from reactometer.evaluation.metrics import Array, Metrics, measure
from reactometer.evaluation.overlap import Overlap, check_held_out, find_held_out_members, find_overlap
from reactometer.evaluation.plots import mark, plot_calibration, plot_coverage
from reactometer.evaluation.subgroups import Group, as_table, compare_groups, split_column
from reactometer.inference.checkpoint import LoadedModel, load_model
from reactometer.inference.scores import join_names
from reactometer.inference.scoring import score_split
from reactometer.io import format_json, make_folder, write_atomic, write_plot
from reactometer.labels import EMI, HUME_REACTION

ID_COLUMNS = {HUME_REACTION: "File_ID", EMI: "Filename"}
"""Name of the id column by challenge; the label set identifies the challenge."""


def submission(
    model: LoadedModel | Path | str, data: Path | str, out: Path | str, *, progress: bool = True
) -> Path:
    """Predict the test split and write the challenge's file.

    The file has one row per test clip, sorted by id, and one column per label in the challenge's order. Ids
    are written as in the dataset. A clip without a usable face or voice, or an unreadable one, gets the
    training mean.

    Args:
        model: a checkpoint, or a loaded model; its labels identify the challenge.
        data: the dataset, or a folder prepared before; its test labels may be withheld.
        out: the CSV file to write.
        progress: show bars on standard error.

    Raises:
        ModelError: the labels are those of no challenge.
        DataError: the dataset has no test clips.
        OutputError: ``out`` does not end in .csv, or cannot be written.
    """
    out = Path(out)
    if out.suffix.lower() != ".csv":
        raise OutputError(
            f"{out}: a submission is a CSV file", got=out.suffix or "no suffix", expected=".csv"
        )
    loaded = model if isinstance(model, LoadedModel) else load_model(model)
    if loaded.labels not in ID_COLUMNS:
        raise ModelError(
            "the model's labels are those of no challenge",
            got=", ".join(loaded.labels),
            expected=" or ".join(", ".join(labels) for labels in ID_COLUMNS),
            fix="For a table of predictions: reactometer evaluate DATA -m MODEL -o FOLDER",
        )
    prepared = open_for_model(loaded, data, progress=progress)
    ids = [row.clip.clip_id for row in prepared.split(choose_split(prepared, "test"))]
    scores, _ = score_split(loaded, prepared, "test", progress=progress)
    intensities = np.array([score.intensities for score in scores], dtype=np.float32)  # (clips, L) in [0, 1]
    table = pd.DataFrame(intensities, columns=list(loaded.labels))
    table.insert(0, ID_COLUMNS[loaded.labels], ids)
    table = table.drop_duplicates(subset=table.columns[0])  # of a duplicate id, the first row counts
    table = table.sort_values(by=table.columns[0])
    return write_atomic(out, table.to_csv(index=False, float_format="%.6f"))


OUT_OF_FOLD = "out-of-fold"
SPLIT_CHOICES = (*SPLITS, "all", OUT_OF_FOLD)

MIN_RESAMPLES = 100
"""Minimum number of resamples for differences between groups."""


@dataclass(frozen=True, repr=False)
class Evaluation:
    """A model's scores on one split, and its predictions."""

    split: str
    metrics: Metrics
    predictions: pd.DataFrame  # File_ID and one column per label; every clip of the split has a row
    rows: tuple[PreparedRow, ...]  # the clips that were scored: those with labels
    targets: Array  # (clips, L) their labels
    intensities: Array  # (clips, L) their predictions
    n_without_labels: int  # predicted, not scored
    without_input: tuple[str, ...]  # ids predicted as the training mean: no usable face or voice
    failed: tuple[str, ...]  # "id: reason" of unreadable clips; predicted as the training mean, too
    overlap: Overlap  # with the clips that the model was trained on
    person_norm: str | None = None  # a note on normalisation per person
    intervals: Intervals | None = None  # of the scores; None: no resampling
    coverage: Coverage | None = None  # of the prediction intervals; None: the model is not calibrated
    prediction_intervals: pd.DataFrame | None = None  # see coverage.interval_table
    reliability: tuple[LabelReliability, ...] = ()  # empty: no resampling
    groups: tuple[Group, ...] = ()  # of all requested columns
    pearson_by_fold: tuple[float, ...] = ()  # of a cross-validation: over the labels that vary in each fold

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per emotion and their mean: Pearson with its interval, CCC, MAE; NaN: undefined."""
        metrics, intervals = self.metrics, self.intervals
        frame = pd.DataFrame(metrics.by_metric, index=metrics.labels, dtype=float)
        frame.loc["mean"] = pd.Series(metrics.means, dtype=float)
        if intervals:
            bounds = [*intervals.by_label["pearson"], intervals.mean["pearson"]]
            frame.insert(1, "low", [bound.low if bound else np.nan for bound in bounds])
            frame.insert(2, "high", [bound.high if bound else np.nan for bound in bounds])
        return frame

    def __repr__(self) -> str:
        mean = self.metrics.mean_pearson
        score = "undefined" if mean is None else f"{mean:.3f}"
        return f"Evaluation({self.split}, {self.metrics.n_clips} clips: mean Pearson {score})"

    def _repr_html_(self) -> str:
        table: str = self.to_pandas().to_html(float_format="{:.3f}".format)
        return f"<p>{escape(repr(self))}</p>{table}"

    def as_json(self) -> dict[str, Any]:
        """Return the content of ``metrics.json``: all scores, without the predictions."""
        return {
            "split": self.split,
            "training_overlap": self.overlap.as_json(),
            "pearson_by_fold": self.pearson_by_fold,
            "person_norm": self.person_norm,
            **self.metrics.as_json(),
            "intervals": asdict(self.intervals) if self.intervals else None,
            "coverage": asdict(self.coverage) if self.coverage else None,
            "reliability": [asdict(label) for label in self.reliability],
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
    in_sample: bool = False,
    out: Path | str | None = None,
    progress: bool = True,
) -> Evaluation:
    """Score a model on one split of a dataset: Pearson, CCC and MAE over **all** its clips at once.

    A clip without a usable face or voice, or an unreadable one, counts with the training mean as its
    prediction; every clip counts. Clips without labels are predicted and not scored.

    Args:
        model: a checkpoint, or a loaded model.
        data: a dataset, or a folder prepared before.
        split: "train", "val", "test", "all", or "out-of-fold": the clips in the folds of an ensemble, each
            scored by the members that held it out; default: test, or val if test has no labels.
        without: mask this stream, such as "face" or "voice", of a model that uses several.
        by: resampling unit of the intervals, "person", "stimulus" or "clip"; default: person if known, else
            clip.
        n_resamples: number of resamples for the intervals; 0: no intervals and no reliability.
        groups: columns of the manifest, such as "age" and "country", whose groups are also scored separately.
        in_sample: score clips that the model was trained on, too. All outputs then say "in-sample".
        out: a folder for ``predictions.csv``, ``metrics.json``, ``reliability.png`` and, if the model is
            calibrated, ``intervals.csv`` and ``coverage.png``; with groups, ``groups.csv``.
        progress: show a bar on standard error.

    Raises:
        DataError: unknown split, column or resampling unit, the labels are not the model's, or the model was
            trained on some of the clips.
        ScoreError: the split has too few clips with labels, or groups are compared with too few resamples.
        OutputError: ``out`` is not a writable folder.
    """
    if groups and n_resamples < MIN_RESAMPLES:
        expected = f"at least {MIN_RESAMPLES}"
        raise ScoreError(
            "comparing groups needs resamples", got=n_resamples, expected=expected, fix="Add --resamples 2000"
        )
    loaded = model if isinstance(model, LoadedModel) else load_model(model)
    if out is not None:
        make_folder(Path(out))
    hidden = hide_stream(loaded, without)
    prepared = open_for_model(loaded, data, progress=progress)
    chosen = choose_split(prepared, split)
    split_of_rows = "all" if chosen == OUT_OF_FOLD else chosen
    members = None
    rows = prepared.split(split_of_rows)
    if chosen == OUT_OF_FOLD:
        loaded = replace(loaded, uncertainty=None)  # intervals and recalibration may be fitted to these clips
        members, overlap = find_held_out_members(loaded, rows)
        rows = tuple(row for row, chosen_members in zip(rows, members, strict=True) if chosen_members)
    labelled = [index for index, row in enumerate(rows) if row.clip.labels]
    scored = tuple(rows[index] for index in labelled)
    labels = loaded.labels
    uncertainty = loaded.uncertainty
    if members is None:
        overlap = (find_overlap if in_sample else check_held_out)(loaded, scored)
    resampling = choose_units([row.clip for row in scored], by, n_resamples)
    for column in groups:
        split_column([row.clip for row in scored], column)  # raises before the slow part
    scores, note = score_split(loaded, prepared, split_of_rows, hidden, members, progress=progress)
    intensities = np.array([score.intensities for score in scores])  # (clips, L)
    targets = np.array([row.clip.labels for row in scored], dtype=np.float64).reshape(
        len(scored), len(labels)
    )
    scored_intensities = intensities[labelled]
    ids = [row.clip.clip_id for row in rows]
    table = pd.DataFrame(intensities, columns=list(labels))
    table.insert(0, "File_ID", ids)
    coverage = bounds = None
    if uncertainty:
        bounds = interval_table(scores, rows, labels, uncertainty)
        fitted_on = (uncertainty.fitted_on.get("split"), uncertainty.fitted_on.get("manifest_sha256"))
        is_in_sample = fitted_on == (chosen, prepared.manifest_sha256)
        coverage = measure_coverage(
            bounds.iloc[labelled],
            scored_intensities,
            targets,
            labels,
            resampling,
            nominal=uncertainty.coverage,
            is_in_sample=is_in_sample,
        )
    evaluation = Evaluation(
        split=chosen,
        metrics=measure(targets, scored_intensities, labels),
        predictions=table,
        rows=scored,
        targets=targets,
        intensities=scored_intensities.astype(np.float64),
        n_without_labels=len(rows) - len(labelled),
        without_input=tuple(name for name, score in zip(ids, scores, strict=True) if not score.has_input),
        failed=tuple(f"{row.clip.clip_id}: {row.clip.problem}" for row in rows if row.clip.problem),
        overlap=overlap,
        person_norm=note,
        intervals=bootstrap_metrics(targets, scored_intensities, labels, resampling) if n_resamples else None,
        coverage=coverage,
        prediction_intervals=bounds,
        reliability=measure_reliability(targets, scored_intensities, labels, resampling)
        if n_resamples
        else (),
        groups=compare_groups(scored, targets, scored_intensities, labels, groups, resampling),
    )
    if out is not None:
        _write_files(evaluation, Path(out))
    return evaluation


def open_for_model(loaded: LoadedModel, data: Path | str, *, progress: bool = True) -> PreparedSet:
    """Open a dataset with the prepare settings of the model's training data.

    Raises:
        DataError: the labels or features are not the model's.
        ModelError: the folder was prepared with other settings.
    """
    update = {"path": Path(data), "cache": None, "labels": loaded.labels}
    prepared = open_data(
        loaded.config.data.model_copy(update=update), loaded.config.prepare, progress=progress
    )
    if prepared.labels != loaded.labels:
        raise DataError(
            f"{prepared.folder}: the dataset has other labels than the model",
            got=", ".join(prepared.labels),
            expected=", ".join(loaded.labels),
            fix="Evaluate on a dataset with the same labels in the same order",
        )
    _check_streams(loaded, prepared)
    lead = next((member for member in loaded.members if member.networks.media), loaded)
    settings, trained = prepared.settings, loaded.config.prepare
    trained_detector = lead.description.get("data", {}).get("detector")
    if not (prepared.has_media and lead.networks.media):
        return prepared
    if trained_detector not in (None, settings.detector):
        warnings.warn(
            f"{prepared.folder}: faces were found by {settings.detector}, but by {trained_detector} "
            "in the model's training data, so scores may differ. "
            f"hint: reactometer prepare --detector {trained_detector}",
            stacklevel=3,
        )
    if (settings.rate_hz, settings.size_px) != (trained.rate_hz, trained.size_px):
        raise ModelError(
            f"{prepared.folder}: prepared with other settings than the model's training data",
            got=f"rate_hz={settings.rate_hz}, size_px={settings.size_px}",
            expected=f"rate_hz={trained.rate_hz}, size_px={trained.size_px}",
            fix="Name the dataset instead of the prepared folder",
        )
    return prepared


def _check_streams(loaded: LoadedModel, prepared: PreparedSet) -> None:
    """Raise DataError if the dataset lacks a stream of a model, or of every member of an ensemble."""

    def is_available(name: str) -> bool:
        return name in (prepared.media if loaded.streams[name].medium else prepared.features)

    is_usable = any(all(map(is_available, member.networks.inputs)) for member in loaded.members)
    columns = {name: stream.columns for name, stream in loaded.streams.items() if not stream.medium}
    is_other = any(columns.get(name, [*names]) != [*names] for name, names in prepared.features.items())
    if is_other or not is_usable:
        media = sorted({name for member in loaded.members for name in member.networks.media})
        raise DataError(
            f"{prepared.folder}: other input than the model was trained on",
            got=_describe_streams(prepared.media, prepared.features),
            expected=_describe_streams(media, columns),
            fix="Use the same features, or videos, as in training",
        )


def _describe_streams(media: Sequence[str], features: Mapping[str, Sequence[str]]) -> str:
    descriptions = [
        f"{name} ({len(names)} features, {names[0]} to {names[-1]})"
        for name, names in features.items()
        if names
    ]
    return join_names([*media, *descriptions]) or "no input"


def _write_files(evaluation: Evaluation, out: Path) -> None:
    write_atomic(out / "predictions.csv", evaluation.predictions.to_csv(index=False))
    if evaluation.prediction_intervals is not None:
        write_atomic(out / "intervals.csv", evaluation.prediction_intervals.to_csv(index=False))
    if evaluation.groups:
        write_atomic(out / "groups.csv", as_table(evaluation.groups).to_csv(index=False))
    label = evaluation.overlap.label
    if evaluation.reliability:
        write_plot(mark(plot_calibration(evaluation.reliability), label), out / "reliability.png")
    if evaluation.coverage:
        write_plot(mark(plot_coverage(evaluation.coverage), label), out / "coverage.png")
    write_atomic(out / "metrics.json", format_json(evaluation.as_json()))


def hide_stream(loaded: LoadedModel, name: str | None) -> tuple[str, ...]:
    """Return the streams to mask: one of several that the model uses, or none; else raise ModelError."""
    if name is None:
        return ()
    if name not in loaded.streams:
        raise ModelError("unknown stream", got=name, expected=join_names(sorted(loaded.streams)))
    if len(loaded.streams) < 2:
        raise ModelError("this model uses one stream only", got=f"without {name}", fix="Remove --without")
    return (name,)


def choose_split(prepared: PreparedSet, split: str | None) -> str:
    """Return ``split``, or test (val if test has no labels) by default; raise DataError if it has no
    clips."""
    if split is None:
        split = "test" if any(row.clip.labels for row in prepared.split("test")) else "val"
    if split not in SPLIT_CHOICES:
        raise DataError(f"no split '{split}'", fix=suggestion(split, SPLIT_CHOICES))
    if split != OUT_OF_FOLD and not prepared.split(split):
        raise DataError(
            f"{prepared.folder}: split '{split}' has no clips", fix="Choose another split: --split all"
        )
    return split
