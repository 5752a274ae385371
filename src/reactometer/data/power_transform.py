"""Make skewed features from tables more normal, such as action units, which are 0 most of the time.

Measured effect: docs/project/lab-notes.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from reactometer.data.inputs import Item, Steps
from reactometer.data.person_norm import MIN_STD
from reactometer.types import FloatArray

MIN_STEPS = 20
"""A feature with fewer steps is unchanged."""

MIN_SKEWNESS = 1.0
"""A feature with less skewness, in either direction, is unchanged: with few people, it may be chance."""

POWER_LIMITS = (-4.0, 6.0)
"""Limits of a power, the same distance from 1."""

POLE_DISTANCE = 1e-3
"""Minimum distance of a power from 0 and 2, where its formula divides by 0."""


class Power(NamedTuple):
    """The transformation of one feature: it is standardised, then Yeo-Johnson's formula is applied."""

    mean: float
    std: float
    power: float  # 1: no change


UNCHANGED = Power(0.0, 1.0, 1.0)


def fit_powers(values: FloatArray) -> list[Power]:
    """Fit the transformation of each feature (N, D) to training data, by maximum likelihood."""
    from scipy.stats import skew, yeojohnson_normmax

    powers = []
    for column in values.T.astype(np.float64):
        if len(column) < MIN_STEPS or np.ptp(column) <= MIN_STD * (1.0 + np.abs(column).max()):
            powers.append(UNCHANGED)
            continue
        if abs(skew(column)) < MIN_SKEWNESS:
            powers.append(UNCHANGED)
            continue
        mean, std = float(column.mean()), float(column.std())
        power = float(yeojohnson_normmax((column - mean) / std))
        power = min(max(power, POWER_LIMITS[0]), POWER_LIMITS[1]) if math.isfinite(power) else 1.0
        for pole in (0.0, 2.0):
            if abs(power - pole) < POLE_DISTANCE:
                power = pole + POLE_DISTANCE
        powers.append(Power(mean, std, power))
    return powers


def transform(steps: Steps, powers: Sequence[Power]) -> Steps:
    """Transform the features (T, D) of a stream; without powers they are unchanged.

    Source: Yeo, Johnson 2000, "A new family of power transformations to improve normality or symmetry".
    """
    if not powers:
        return steps
    mean, std, power = np.array(powers).T  # (D,) each
    scaled = (steps.values - mean) / std
    above = np.expm1(power * np.log1p(scaled.clip(min=0.0))) / power
    below = np.expm1((2.0 - power) * np.log1p((-scaled).clip(min=0.0))) / (2.0 - power)
    return steps._replace(values=(above - below).astype(np.float32))


def transform_item(item: Item, powers: Mapping[str, Sequence[Power]]) -> Item:
    """Transform those streams of an item that have powers."""
    return item.with_steps(
        {name: transform(item.streams[name], powers[name]) for name in powers if name in item.streams}
    )
