"""The score of a clip, and the aggregation of scores over parts and over models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from reactometer.types import FloatArray

MODALITIES = ("face", "voice")

Features = Mapping[str, FloatArray]
"""Modality -> (D,) mean of its encoder's features over time; without modalities that the clip lacks."""


@dataclass(frozen=True)
class Score:
    """Intensities of one item, the modalities they are based on, and the features of each modality."""

    intensities: FloatArray  # (L,) in [0, 1]
    has_face: bool  # a face is visible, and the model uses it
    has_voice: bool  # sound is audible, and the model uses it
    features: tuple[Features, ...] = ()  # one mapping per member of an ensemble

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
        features=tuple(
            _mean(member, weights) for member in zip(*(score.features for score in scores), strict=True)
        ),
    )


def _mean(parts: Sequence[Features], weights: Sequence[float]) -> dict[str, FloatArray]:
    """Average the features of each modality over the parts that have it."""
    means = {}
    for name in MODALITIES:
        rows = [(part[name], weight) for part, weight in zip(parts, weights, strict=True) if name in part]
        if rows:
            values, shares = zip(*rows, strict=True)
            means[name] = np.average(values, axis=0, weights=shares).astype(np.float32)
    return means


def average_scores(by_member: Sequence[Sequence[Score]]) -> list[Score]:
    """Average the scores of several models for the same items; features are not averaged."""
    return [
        replace(
            scores[0],
            intensities=np.mean([score.intensities for score in scores], axis=0, dtype=np.float32),
            features=tuple(features for score in scores for features in score.features),
        )
        for scores in zip(*by_member, strict=True)
    ]
