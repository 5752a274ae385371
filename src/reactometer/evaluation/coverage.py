"""Do a model's intervals hold what they say, and is it right where it gives no answer?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from reactometer.evaluation.bootstrap import N_RESAMPLES, Interval, interval, resample, sum_by_unit
from reactometer.evaluation.metrics import LEAST_CLIPS, Array, measure
from reactometer.inference.conformal import Uncertainty
from reactometer.inference.scores import Score
from reactometer.types import ENDS

Scored = tuple[Score, str, float]
"""A clip's score, its id, and its length in seconds (0: not known)."""


@dataclass(frozen=True)
class Coverage:
    """Share of labels inside the prediction intervals of clips that the intervals were not fitted on."""

    asked: float  # share of labels that the intervals are to contain
    mean: Interval  # share of labels contained, over all labels and clips
    by_label: dict[str, float]  # the same for each label
    widths: dict[str, float]  # mean width of each label's intervals
    by_basis: dict[str, dict[str, float]]  # by "face and voice", "face", "voice": "n_clips" and "coverage"
    n_clips: int
    abstained: dict[str, str]  # id: warnings, of clips whose prediction should not be used
    mean_pearson_kept: float | None  # over the other clips; None: undefined, or too few
    fitted_here: bool = False  # the intervals were fitted to these very clips: their coverage is no evidence


def measure_coverage(
    targets: Array,
    clips: Sequence[Scored],
    labels: Sequence[str],
    sure: Uncertainty,
    groups: Sequence[str] | None,
    n_resamples: int = N_RESAMPLES,
) -> Coverage | None:
    """Count the labels that lie in their intervals; clips with nothing to go by have none and do not count.

    Args:
        targets: (clips, L) in [0, 1].
        clips: the same clips.
        labels: L names.
        sure: the model's.
        groups: what is resampled as a whole, such as people; ``None``: clips.
        n_resamples: of the interval, a percentile bootstrap.

    Returns:
        ``None`` where no clip has an interval.
    """
    scores = [score for score, _, _ in clips]
    found = [(place, sure.intervals(score, score.intensities)) for place, score in enumerate(scores)]
    places = [place for place, ends in found if ends is not None]
    if not places:
        return None
    ends = np.array([own for _, own in found if own is not None])  # (n, L, 2)
    held = (ends[..., 0] <= targets[places]) & (targets[places] <= ends[..., 1])  # (n, L)
    counts = np.column_stack([np.ones(len(places)), held.mean(axis=1)])
    units = sum_by_unit(counts, [groups[place] for place in places] if groups else None)
    shares = resample(units, lambda sums: sums[:, 1] / sums[:, 0], n_resamples)
    bases = [scores[place].basis for place in places]
    reasons = [_reasons(clip, sure) for clip in clips]
    kept, score_kept = [place for place, told in enumerate(reasons) if not told], None
    if len(kept) >= LEAST_CLIPS:
        score_kept = measure(targets[kept], [scores[place].intensities for place in kept], labels).mean_pearson
    return Coverage(
        asked=sure.coverage,
        mean=interval(shares),
        by_label=dict(zip(labels, held.mean(axis=0).tolist(), strict=True)),
        widths=dict(zip(labels, (ends[..., 1] - ends[..., 0]).mean(axis=0).tolist(), strict=True)),
        by_basis={
            name: {"n_clips": bases.count(name), "coverage": float(held[[own == name for own in bases]].mean())}
            for name in sorted(set(bases))
        },
        n_clips=len(places),
        abstained={clip[1]: told for clip, told in zip(clips, reasons, strict=True) if told},
        mean_pearson_kept=score_kept,
    )


def interval_table(clips: Sequence[Scored], labels: Sequence[str], sure: Uncertainty) -> pd.DataFrame:
    """A row a clip, as in ``intervals.csv``: ``File_ID, basis, abstain`` and each label's ``_low`` and ``_high``."""
    rows = []
    for clip in clips:
        score, name, _ = clip
        ends = sure.intervals(score, score.intensities) or ((None, None),) * len(labels)
        columns = {
            f"{label}_{end}": value
            for label, own in zip(labels, ends, strict=True)
            for end, value in zip(ENDS, own, strict=True)
        }
        rows.append({"File_ID": name, "basis": score.basis, "abstain": _reasons(clip, sure), **columns})
    return pd.DataFrame(rows)


def _reasons(clip: Scored, sure: Uncertainty) -> str:
    """Why a clip's prediction had better not be used; empty: no reason is known."""
    score, _, duration_s = clip
    return "; ".join(sure.doubts(score, duration_s or None)) if score.has_evidence else "nothing to go by"
