"""The score of a clip, and the aggregation of scores over parts and over models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from reactometer.types import FloatArray


@dataclass(frozen=True)
class Score:
    """Intensities of one item, and the streams they are based on."""

    intensities: FloatArray  # (L,) in [0, 1]
    streams: tuple[str, ...] = ()  # those that the model uses and the item contains, in a usable form
    warnings: tuple[str, ...] = ()  # unusable faces and voices, which are not used

    @property
    def has_input(self) -> bool:
        """False if there is no usable stream; the intensities are then the training mean."""
        return bool(self.streams)

    @property
    def modalities(self) -> str:
        """The streams used, such as "face and voice", or "nothing"."""
        return join_names(self.streams) or "nothing"


def join_names(names: Iterable[str]) -> str:
    """Return names as in a sentence: "face, text and voice"."""
    *others, last = [*names] or [""]
    return f"{', '.join(others)} and {last}" if others else last


def join_streams(scores: Iterable[Score]) -> tuple[str, ...]:
    """Return all streams that some score is based on."""
    return tuple(sorted({name for score in scores for name in score.streams}))


def join_parts(parts: Sequence[tuple[float, Score]]) -> Score:
    """Average the scores of a clip's parts, ``(length_s, score)`` each, weighted by length.

    Parts without a usable face or voice are ignored. If no part has any, the result is the training mean.
    """
    usable = [part for part in parts if part[1].has_input] or list(parts)
    weights = [max(length_s, 1e-6) for length_s, _ in usable]
    scores = [score for _, score in usable]
    mean = np.average([score.intensities for score in scores], axis=0, weights=weights)
    return Score(
        mean.astype(np.float32),
        join_streams(scores),
        _count_warnings([score for _, score in parts]),
    )


def _count_warnings(scores: Sequence[Score]) -> tuple[str, ...]:
    """Return each different warning, with the number of scores it applies to unless it applies to all."""
    counts = Counter(warning for score in scores for warning in score.warnings)
    share = {count: f" ({count} of {len(scores)} minutes)" for count in range(len(scores))}
    return tuple(warning + share.get(count, "") for warning, count in counts.items())


def average_scores(by_member: Sequence[Sequence[Score]]) -> list[Score]:
    """Average the scores of several models for the same items; warnings are those of all models.

    A model without a usable stream of an item does not count for it, unless this holds for all models.
    """
    averaged = []
    for scores in zip(*by_member, strict=True):
        usable = [score for score in scores if score.has_input] or scores
        mean = np.stack([score.intensities for score in usable]).mean(axis=0, dtype=np.float32)
        warnings = dict.fromkeys(warning for score in scores for warning in score.warnings)
        averaged.append(Score(mean, join_streams(usable), tuple(warnings)))
    return averaged
