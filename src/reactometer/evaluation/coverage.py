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

NOTHING = "nothing to go by"


@dataclass(frozen=True)
class Coverage:
    """Share of labels inside the prediction intervals."""

    asked: float  # share of labels that the intervals are to contain
    mean: Interval  # share of labels contained, over all labels and clips
    by_label: dict[str, float]  # the same for each label
    widths: dict[str, float]  # mean width of each label's intervals
    by_basis: dict[str, dict[str, float]]  # by "face and voice", "face", "voice": "n_clips" and "coverage"
    n_clips: int  # clips with intervals
    warnings: dict[str, str]  # id: warnings, of clips whose prediction should not be used
    is_in_sample: bool  # the intervals were fitted to these very clips: their coverage is no evidence


def interval_table(
    scores: Sequence[Score], rows: Sequence[PreparedRow], labels: Sequence[str], sure: Uncertainty
) -> pd.DataFrame:
    """Return ``intervals.csv``, one row per clip: ``File_ID, basis, warnings`` and each label's ``_low`` and ``_high``.

    The intervals of a clip without a usable face or voice are empty.
    """
    names = [f"{label}_{end}" for label in labels for end in BOUNDS]
    table = []
    for score, row in zip(scores, rows, strict=True):
        ends = sure.intervals(score, score.intensities)
        warnings = sure.warnings(score, row.duration_s or None) if score.has_input else (NOTHING,)
        numbers = np.full(len(names), np.nan) if ends is None else np.ravel(ends)
        table.append([row.clip.clip_id, score.modalities, "; ".join(warnings), *numbers])
    return pd.DataFrame(table, columns=["File_ID", "basis", "warnings", *names])


def measure_coverage(
    table: pd.DataFrame,
    targets: Array,
    labels: Sequence[str],
    how: Resampling,
    *,
    asked: float,
    is_in_sample: bool,
) -> Coverage | None:
    """Count the targets (clips, L) inside their intervals, rows of :func:`interval_table`; ``None`` if there are none.

    ``asked`` and ``is_in_sample`` are those of :class:`Coverage`.
    """
    low, high = (table[[f"{label}_{end}" for label in labels]].to_numpy() for end in BOUNDS)  # (clips, L)
    known = np.isfinite(low).all(axis=1)
    if not known.any():
        return None
    held = (low <= targets) & (targets <= high)  # (clips, L)
    counts = np.column_stack([known, known * held.mean(axis=1)])
    by_basis = pd.Series(held[known].mean(axis=1)).groupby(table["basis"][known].to_numpy()).agg(["size", "mean"])
    warned = table[table["warnings"] != ""]
    return Coverage(
        asked=asked,
        mean=interval(how.resample(counts, lambda sums: sums[:, 1] / np.where(sums[:, 0] > 0, sums[:, 0], np.nan))),
        by_label=dict(zip(labels, held[known].mean(axis=0).tolist(), strict=True)),
        widths=dict(zip(labels, (high - low)[known].mean(axis=0).tolist(), strict=True)),
        by_basis={name: {"n_clips": int(n), "coverage": float(share)} for name, n, share in by_basis.itertuples()},
        n_clips=int(known.sum()),
        warnings=dict(warned[["File_ID", "warnings"]].to_numpy().tolist()),
        is_in_sample=is_in_sample,
    )
