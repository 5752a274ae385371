"""The transformation of skewed features, compared with SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from item_of import item_of
from reactometer.data.inputs import all_steps
from reactometer.data.power_transform import (
    POWER_LIMITS,
    UNCHANGED,
    Power,
    fit_powers,
    transform,
    transform_item,
)

RNG = np.random.default_rng(0)
TIMES_S = np.zeros(400, np.float32)
UNIT = (RNG.exponential(size=(400, 1)) ** 2).astype(np.float32)  # skewed, as an action unit is


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e6])
def test_a_skewed_feature_becomes_normal_in_any_unit(scale: float) -> None:
    values = UNIT * np.float32(scale)
    powers = fit_powers(values)
    got = transform(all_steps(values, TIMES_S), powers).values
    assert abs(stats.skew(got)[0]) < 0.2 * stats.skew(values)[0]
    assert got.dtype == np.float32


def test_it_is_scipys_formula() -> None:
    values = RNG.normal(size=(400, 3)).astype(np.float32)
    for power in (-1.3, 0.001, 1.0, 2.001, 5.0):
        powers = [Power(0.0, 1.0, power), Power(0.5, 1.0, power), Power(0.0, 2.0, power)]
        expected = [
            stats.yeojohnson((column - p.mean) / p.std, power)
            for column, p in zip(values.T, powers, strict=True)
        ]
        got = transform(all_steps(values, TIMES_S), powers).values
        np.testing.assert_allclose(got, np.array(expected).T, rtol=1e-4, atol=1e-5)


def test_features_that_say_little_are_kept_as_they_are() -> None:
    constant = np.full((400, 1), 7.0, np.float32)
    spike = np.zeros((400, 1), np.float32)
    spike[0] = 1.0
    assert fit_powers(constant) == fit_powers(UNIT[:0]) == [UNCHANGED]
    assert fit_powers(UNIT[:10]) == [UNCHANGED]  # too few steps
    (of_spike,) = fit_powers(spike)
    assert POWER_LIMITS[0] <= of_spike.power <= POWER_LIMITS[1]
    assert np.isfinite(transform(all_steps(spike, TIMES_S), [of_spike]).values).all()


def test_only_streams_with_powers_change() -> None:
    item = item_of(UNIT, TIMES_S == 0.0, TIMES_S, UNIT, TIMES_S)
    changed = transform_item(item, {"face": fit_powers(UNIT), "text": fit_powers(UNIT)})
    assert changed.streams["voice"] is item.streams["voice"]
    assert changed.streams["face"].values.max() < item.streams["face"].values.max()
    assert changed.streams.keys() == item.streams.keys()
