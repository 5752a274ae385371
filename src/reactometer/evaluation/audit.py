"""Audit a dataset: leaks between its splits, labels that the clip length predicts, and missing data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd

from reactometer.config import DataConfig, PrepareConfig
from reactometer.data.cache import PreparedSet
from reactometer.data.leakage import (
    LabelVectors,
    Leak,
    find_label_vectors,
    find_mixed_splits,
    find_same_files,
    find_shared,
)
from reactometer.data.prepare import open_data
from reactometer.data.splits import SPLITS
from reactometer.evaluation.baselines import labelled_train_rows, predict_from_length
from reactometer.evaluation.bootstrap import Interval, bootstrap_mean_pearson, choose_units
from reactometer.evaluation.metrics import MIN_CLIPS, MIN_STD, Array
from reactometer.io import format_json, write_atomic


@dataclass(frozen=True)
class SplitSummary:
    """Counts of one split, and the mean and drift (L,) of its labels; empty if the labels are withheld."""

    n_clips: int
    n_labelled: int
    n_failed: int
    n_without_face: int
    n_without_sound: int
    face_share: float  # of the sampled frames
    mean: tuple[float, ...]
    drift: tuple[float, ...]  # (mean − mean of train) / standard deviation of train


@dataclass(frozen=True, repr=False)
class Audit:
    """Result of an audit; ``leaks`` make a score untrustworthy."""

    labels: tuple[str, ...]
    splits: dict[str, SplitSummary]
    leaks: tuple[Leak, ...]
    label_vectors: LabelVectors
    length_baseline: Interval | None  # mean Pearson of the clip length as the only predictor, fitted on train
    length_split: str  # the split that the clip length was scored on
    limitations: tuple[str, ...]  # checks that the data do not allow, in words

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per split: its counts, and the mean of each label."""
        rows = {split: asdict(item) for split, item in self.splits.items()}
        means = [dict(zip(self.labels, row.pop("mean"), strict=False)) for row in rows.values()]
        counts = pd.DataFrame.from_dict(rows, orient="index").drop(columns="drift")
        return counts.join(pd.DataFrame(means, index=counts.index, columns=list(self.labels)))

    def __repr__(self) -> str:
        n_clips = sum(item.n_clips for item in self.splits.values())
        return f"Audit({n_clips} clips, leaks: {len(self.leaks)})"

    def _repr_html_(self) -> str:
        leaks = "".join(f"<li>{escape(str(leak))}</li>" for leak in self.leaks)
        table: str = self.to_pandas().to_html(float_format="{:.3f}".format)
        return f"<p>{self!r}</p>{table}<ul>{leaks}</ul>"


def audit(
    data: Path | str,
    *,
    labels: str | Sequence[str] | None = None,
    features: Mapping[str, str] = {},
    out: Path | str | None = None,
    progress: bool = True,
) -> Audit:
    """Report leaks between splits, labels that the clip length predicts, and missing data; write JSON to
    ``out``.

    ``labels`` and ``features`` are those of :class:`~reactometer.config.DataConfig`.

    Raises:
        DataError: the dataset cannot be used.
    """
    config = {"path": data, "labels": labels, "features": dict(features)}
    prepared = open_data(DataConfig.model_validate(config), PrepareConfig(), progress=progress)
    clips = [row.clip for row in prepared.rows]
    label_vectors, label_leaks = find_label_vectors(clips)
    length_interval, length_split = _score_length(prepared)
    result = Audit(
        labels=prepared.labels,
        splits={split: _summarise(prepared, split) for split in SPLITS if prepared.split(split)},
        leaks=(
            *find_shared(clips, "person"),
            *find_mixed_splits(clips),
            *find_shared(clips, "stimulus"),
            *label_leaks,
            *find_same_files(prepared.rows),
        ),
        label_vectors=label_vectors,
        length_baseline=length_interval,
        length_split=length_split,
        limitations=_list_limitations(prepared),
    )
    if out is not None:
        write_atomic(Path(out), format_json(asdict(result)))
    return result


def _score_length(prepared: PreparedSet) -> tuple[Interval | None, str]:
    """Score the clip length as the only predictor, on val, or on test if val has no labels; return the
    split."""
    labelled = {split: [row for row in prepared.split(split) if row.clip.labels] for split in ("val", "test")}
    split = "val" if len(labelled["val"]) >= MIN_CLIPS else "test"
    rows, targets = labelled[split], _labels(prepared, split)
    with_length = [row for row in labelled_train_rows(prepared) if row.duration_s > 0]
    if min(len(with_length), len(rows)) < MIN_CLIPS or not (np.ptp(targets, axis=0) > MIN_STD).any():
        return None, split
    resampling = choose_units([row.clip for row in rows])
    return bootstrap_mean_pearson(targets, predict_from_length(prepared, rows), resampling=resampling), split


def _summarise(prepared: PreparedSet, split: str) -> SplitSummary:
    rows = prepared.split(split)
    values = _labels(prepared, split)
    train = _labels(prepared, "train")  # (clips, L)
    readable = [row for row in rows if row.file]
    mean, drift = np.empty(0), np.empty(0)
    if len(values):
        mean = values.mean(axis=0)
    if len(values) and len(train):
        spread = train.std(axis=0)
        drift = (mean - train.mean(axis=0)) / np.where(spread > MIN_STD, spread, 1.0)
    return SplitSummary(
        n_clips=len(rows),
        n_labelled=len(values),
        n_failed=len(rows) - len(readable),
        n_without_face=sum(row.n_faces == 0 for row in readable),
        n_without_sound=sum(not row.has_sound for row in readable),
        face_share=sum(row.n_faces for row in rows) / max(1, sum(row.n_samples for row in rows)),
        mean=tuple(mean.tolist()),
        drift=tuple(drift.tolist()),
    )


def _labels(prepared: PreparedSet, split: str) -> Array:
    values = [row.clip.labels for row in prepared.split(split) if row.clip.labels]
    return np.array(values, dtype=np.float64).reshape(len(values), len(prepared.labels))


def _list_limitations(prepared: PreparedSet) -> tuple[str, ...]:
    """List the checks that the data do not allow, in words."""
    messages, n_clips = [], len(prepared.rows)
    for field in ("person", "stimulus"):
        n_unknown = sum(getattr(row.clip, field) is None for row in prepared.rows)
        if n_unknown:
            messages.append(f"{field} unknown for {n_unknown} of {n_clips} clips: splits may share them")
    if n_failed := sum(row.file is None for row in prepared.rows):
        messages.append(f"{n_failed} clips could not be read")
    if n_withheld := sum(row.clip.labels is None for row in prepared.rows):
        messages.append(f"{n_withheld} clips have no labels")
    return tuple(messages)
