"""What a model says of a clip, and how the scores of parts and of several models are joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from reactometer.types import FloatArray

MODALITIES = ("face", "voice")

Features = Mapping[str, FloatArray]
"""By modality, (D,): the mean over time of what the encoder makes of it; only of what was seen or heard."""


@dataclass(frozen=True)
class Score:
    """What the model says of one item, what it went by, and where the item lies for it."""

    index: int  # of the item
    intensities: FloatArray  # (L,) in [0, 1]
    has_face: bool  # a face, where the model looks
    has_voice: bool  # a sound, where the model listens
    features: tuple[Features, ...] = ()  # one mapping a model of an ensemble

    @property
    def has_input(self) -> bool:
        """False: nothing seen or heard, and the intensities are the training mean."""
        return self.has_face or self.has_voice

    @property
    def modalities(self) -> str:
        """What the model went by: "face and voice", "face", "voice", or "nothing"."""
        had = zip(MODALITIES, (self.has_face, self.has_voice), strict=True)
        return " and ".join(name for name, has in had if has) or "nothing"


def join_parts(index: int, parts: Sequence[tuple[float, Score]]) -> Score:
    """The score of a clip from ``(length_s, score)`` of its parts: their mean, weighted by length.

    Parts without evidence do not count; when none has any, the answer is theirs, the training mean.
    """
    known = [part for part in parts if part[1].has_input] or list(parts)
    weights = [max(length_s, 1e-6) for length_s, _ in known]
    scores = [score for _, score in known]
    mean = np.average([score.intensities for score in scores], axis=0, weights=weights)
    return Score(
        index,
        mean.astype(np.float32),
        has_face=any(score.has_face for score in scores),
        has_voice=any(score.has_voice for score in scores),
        features=tuple(_mean(own, weights) for own in zip(*(score.features for score in scores), strict=True)),
    )


def _mean(parts: Sequence[Features], weights: Sequence[float]) -> dict[str, FloatArray]:
    """Of each modality, the mean over the parts that have it."""
    found = {}
    for name in MODALITIES:
        own = [(part[name], weight) for part, weight in zip(parts, weights, strict=True) if name in part]
        if own:
            values, shares = zip(*own, strict=True)
            found[name] = np.average(values, axis=0, weights=shares).astype(np.float32)
    return found


def average_scores(by_member: Sequence[Sequence[Score]]) -> list[Score]:
    """The mean of several models' scores of the same items, in the items' order; their features side by side."""
    ordered = [sorted(scores, key=lambda score: score.index) for scores in by_member]
    return [
        replace(
            own[0],
            intensities=np.mean([score.intensities for score in own], axis=0, dtype=np.float32),
            features=tuple(features for score in own for features in score.features),
        )
        for own in zip(*ordered, strict=True)
    ]
