"""Smoothing and baselines: what becomes of known timelines, and that it is told."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from reactometer.errors import ConfigError
from reactometer.inference.refine import Baseline, check_span, parse_baseline, refine, smooth, subtract_baseline
from reactometer.records import Prediction, Window


def _prediction(values: Sequence[float | None], hop_s: float = 1.0, window_s: float = 1.0) -> Prediction:
    windows = tuple(
        Window(place * hop_s, place * hop_s + window_s, 1.0, None if value is None else (value, 0.5))
        for place, value in enumerate(values)
    )
    return Prediction("a.mp4", "ok", ("Joy", "Fear"), len(values) * hop_s, 1.0, True, (0.6, 0.5), windows)


def _joy(prediction: Prediction) -> list[float]:
    return [window.intensities[0] if window.intensities else np.nan for window in prediction.windows]


def test_smoothing_is_a_hann_weighted_mean() -> None:
    smoothed = smooth(_prediction([0.0, 0.0, 1.0, 0.0, 0.0]), 4.0)
    # weights at 0, 1 and 2 s from the middle of a Hann window of 4 s: 1, 1/2, 0
    assert _joy(smoothed) == pytest.approx([0.0, 0.25, 0.5, 0.25, 0.0])
    assert smoothed.notes == ("smoothed: Hann-weighted mean over 4 s",)
    assert smooth(_prediction([0.2, 0.4]), 0.0) == _prediction([0.2, 0.4])


def test_smoothing_fills_no_gap_and_takes_nothing_from_one() -> None:
    assert _joy(smooth(_prediction([0.4, None, 0.4, 0.4]), 4.0)) == pytest.approx([0.4, np.nan, 0.4, 0.4], nan_ok=True)


def test_a_stretch_at_rest_is_subtracted_from_all() -> None:
    lifted = subtract_baseline(_prediction([0.1, 0.3, 0.2, 0.9, 0.1]), Baseline(0.0, 3.0))
    assert _joy(lifted) == pytest.approx([0.0, 0.1, 0.0, 0.7, 0.0])
    assert lifted.intensities == pytest.approx((0.4, 0.0))
    assert lifted.notes == ("baseline: mean of what 0 to 3 s show (windows: 3), subtracted",)


def test_a_stretch_without_anybody_leaves_the_values_and_says_so() -> None:
    given = _prediction([None, None, 0.4])
    lifted = subtract_baseline(given, Baseline(0.0, 2.0))
    assert lifted.windows == given.windows
    assert "values are as the model gave them" in lifted.notes[0]


def test_a_running_baseline_knows_the_past_only() -> None:
    values = [0.5, 0.2, 0.8, 0.2, 0.9]
    lifted = subtract_baseline(_prediction(values), Baseline())
    expected = [value - np.quantile(values[: place + 1], 0.2) for place, value in enumerate(values)]
    assert _joy(lifted) == pytest.approx(np.maximum(expected, 0.0))
    shorter = subtract_baseline(_prediction(values[:3]), Baseline())
    assert _joy(shorter) == pytest.approx(_joy(lifted)[:3])
    assert lifted.intensities == (0.6, 0.5)


def test_a_running_baseline_forgets_after_a_minute() -> None:
    lifted = subtract_baseline(_prediction([0.0] * 5 + [0.5] * 100), Baseline())
    assert _joy(lifted)[10] == pytest.approx(0.5)
    assert _joy(lifted)[104] == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0-3s", Baseline(0.0, 3.0)), ("12.5 - 20", Baseline(12.5, 20.0)), ("Running", Baseline())],
)
def test_baselines_are_read(text: str, expected: Baseline) -> None:
    assert parse_baseline(text, 2.0) == expected


@pytest.mark.parametrize(
    ("text", "message"), [("3", "not a baseline"), ("0-1s", "shorter than a window"), ("5-2s", "shorter than a window")]
)
def test_other_baselines_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_baseline(text, 2.0)


@pytest.mark.parametrize("span_s", [-1.0, float("nan"), float("inf")])
def test_smoothing_over_no_length_of_time_is_refused(span_s: float) -> None:
    with pytest.raises(ConfigError, match="length of time"):
        check_span(span_s)


def test_a_file_without_a_timeline_is_left_alone() -> None:
    failed = Prediction("a.mp4", "failed: no such file", ("Joy",))
    assert refine(failed, 2.0, Baseline()) == failed
