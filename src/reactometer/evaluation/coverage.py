"""Coverage: the share of labels that a model's intervals contain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from reactometer.data.cache import PreparedRow
from reactometer.evaluation.bootstrap import Interval, Resampling, interval
from reactometer.evaluation.metrics import Array
from reactometer.inference.conformal import Uncertainty
from reactometer.inference.scores import Score
from reactometer.types import BOUNDS

NO_INPUT = "no usable face or voice"


@dataclass(frozen=True)
class Coverage:
    """Share of labels inside the prediction intervals."""

    nominal: float  # share of labels that the intervals should contain
    mean: Interval  # share of labels contained, over all labels and clips
    by_label: dict[str, float]  # the same for each label
    widths: dict[str, float]  # mean width of each label's intervals
    by_modalities: dict[str, dict[str, float]]  # by "face and voice", "face", "voice": "n_clips" and "coverage"
    n_clips: int  # clips with intervals
    warnings: dict[str, str]  # warnings by clip id
    is_in_sample: bool  # the intervals were fitted to these clips: their coverage is no evidence


def interval_table(
    scores: Sequence[Score], rows: Sequence[PreparedRow], labels: Sequence[str], uncertainty: Uncertainty
) -> pd.DataFrame:
    """Return ``intervals.csv``, one row per clip: ``File_ID, basis, warnings`` and each label's ``_low`` and ``_high``.

    The intervals of a clip without a usable face or voice are empty.
    """
    names = [f"{label}_{bound}" for label in labels for bound in BOUNDS]
    table = []
    for score, row in zip(scores, rows, strict=True):
        bounds = uncertainty.intervals(score, score.intensities)
        warnings = uncertainty.warnings(score, row.duration_s or None) if score.has_input else (NO_INPUT,)
        numbers = np.full(len(names), np.nan) if bounds is None else np.ravel(bounds)
        table.append([row.clip.clip_id, score.modalities, "; ".join(warnings), *numbers])
    return pd.DataFrame(table, columns=["File_ID", "basis", "warnings", *names])


def measure_coverage(
    table: pd.DataFrame,
    targets: Array,
    labels: Sequence[str],
    resampling: Resampling,
    *,
    nominal: float,
    is_in_sample: bool,
) -> Coverage | None:
    """Measure the share of targets (clips, L) inside their intervals, rows of :func:`interval_table`.

    ``nominal`` and ``is_in_sample`` are those of :class:`Coverage`. Returns ``None`` if no clip has intervals.
    """
    low, high = (table[[f"{label}_{bound}" for label in labels]].to_numpy() for bound in BOUNDS)  # (clips, L)
    has_interval = np.isfinite(low).all(axis=1)
    if not has_interval.any():
        return None
    is_inside = (low <= targets) & (targets <= high)  # (clips, L)
    counts = np.column_stack([has_interval, has_interval * is_inside.mean(axis=1)])
    by_modalities = (
        pd.Series(is_inside[has_interval].mean(axis=1))
        .groupby(table["basis"][has_interval].to_numpy())
        .agg(["size", "mean"])
    )
    flagged = table[table["warnings"] != ""]
    return Coverage(
        nominal=nominal,
        mean=interval(
            resampling.resample(counts, lambda sums: sums[:, 1] / np.where(sums[:, 0] > 0, sums[:, 0], np.nan))
        ),
        by_label=dict(zip(labels, is_inside[has_interval].mean(axis=0).tolist(), strict=True)),
        widths=dict(zip(labels, (high - low)[has_interval].mean(axis=0).tolist(), strict=True)),
        by_modalities={
            name: {"n_clips": int(n), "coverage": float(share)} for name, n, share in by_modalities.itertuples()
        },
        n_clips=int(has_interval.sum()),
        warnings=dict(flagged[["File_ID", "warnings"]].to_numpy().tolist()),
        is_in_sample=is_in_sample,
    )
