"""The score of a clip, and the aggregation of scores over parts and over models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from reactometer.types import FloatArray

MODALITIES = ("face", "voice")


@dataclass(frozen=True)
class Score:
    """Intensities of one item, and the modalities they are based on."""

    intensities: FloatArray  # (L,) in [0, 1]
    has_face: bool  # a usable face is visible, and the model uses it
    has_voice: bool  # a usable voice is audible, and the model uses it
    warnings: tuple[str, ...] = ()  # unusable faces and voices, which are not used

    @property
    def has_input(self) -> bool:
        """False if there is no usable face or voice; the intensities are then the training mean."""
        return self.has_face or self.has_voice

    @property
    def modalities(self) -> str:
        """The modalities used: "face and voice", "face", "voice", or "nothing"."""
        used = zip(MODALITIES, (self.has_face, self.has_voice), strict=True)
        return " and ".join(name for name, is_used in used if is_used) or "nothing"


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
        has_face=any(score.has_face for score in scores),
        has_voice=any(score.has_voice for score in scores),
        warnings=_count_warnings([score for _, score in parts]),
    )


def _count_warnings(scores: Sequence[Score]) -> tuple[str, ...]:
    """Return each different warning, with the number of scores it applies to unless it applies to all."""
    counts = Counter(warning for score in scores for warning in score.warnings)
    share = {count: f" ({count} of {len(scores)} minutes)" for count in range(len(scores))}
    return tuple(warning + share.get(count, "") for warning, count in counts.items())


def average_scores(by_member: Sequence[Sequence[Score]]) -> list[Score]:
    """Average the scores of several models for the same items. Warnings are those of all models."""
    return [
        replace(
            scores[0],
            intensities=np.mean([score.intensities for score in scores], axis=0, dtype=np.float32),
            has_face=any(score.has_face for score in scores),
            has_voice=any(score.has_voice for score in scores),
            warnings=tuple(dict.fromkeys(warning for score in scores for warning in score.warnings)),
        )
        for scores in zip(*by_member, strict=True)
    ]
