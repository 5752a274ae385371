"""Smoothing and baselines of known timelines, and their notes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from reactometer.errors import ConfigError
from reactometer.inference.postprocess import Baseline, parse_baseline, refine, smooth, subtract_baseline
from reactometer.inference.prediction import Prediction, Window
from reactometer.inference.predictor import PredictOptions


def _prediction(values: Sequence[float | None], hop_s: float = 1.0, window_s: float = 1.0) -> Prediction:
    windows = tuple(
        Window(index * hop_s, index * hop_s + window_s, 1.0, None if value is None else (value, 0.5))
        for index, value in enumerate(values)
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


def test_smoothing_over_less_than_a_window_changes_nothing() -> None:
    for span_s in (1.0, 1e-300):
        with np.errstate(over="ignore"):
            assert _joy(smooth(_prediction([0.2, 0.8, 0.4]), span_s)) == pytest.approx([0.2, 0.8, 0.4])


def test_smoothing_weights_by_time() -> None:
    # 3 s apart, a Hann window of 12 s: weights cos²(π/4) and cos²(π/2)
    smoothed = smooth(_prediction([0.0, 0.9, 0.0, 0.0], hop_s=3.0), 12.0)
    assert _joy(smoothed) == pytest.approx([0.3, 0.45, 0.225, 0.0])


def test_smoothing_precedes_the_baseline() -> None:
    prediction, rest = _prediction([0.0, 0.2, 0.9, 0.0]), (0.0, 2.0)
    assert refine(prediction, 0.0, None) == prediction
    assert refine(prediction, 4.0, None) == smooth(prediction, 4.0)
    assert refine(prediction, 0.0, rest) == subtract_baseline(prediction, rest)
    both = refine(prediction, 4.0, rest)
    assert both == subtract_baseline(smooth(prediction, 4.0), rest)
    assert [note.split(":")[0] for note in both.notes] == ["smoothed", "baseline"]


@pytest.mark.parametrize(
    ("summary", "value"), [("model", 0.2), ("mean", 0.3), ("max", 0.5), ("p90", np.quantile([0.1, 0.5], 0.9))]
)
def test_a_summary_replaces_the_value_of_the_file(summary: str, value: float) -> None:
    prediction = replace(
        _prediction([0.1, None, 0.5]), intensities=(0.2, 0.3), intervals=((0.1, 0.3), (0.2, 0.4))
    )
    refined = refine(prediction, 0.0, None, summary)
    assert refined.intensities is not None
    assert refined.intensities[0] == pytest.approx(value)
    assert (refined == prediction) == (summary == "model")
    assert (refined.intervals is None) == (summary != "model")
    assert all("no intervals" in note and summary in note for note in refined.notes)
    assert refine(replace(prediction, windows=()), 0.0, None, summary).intensities == (0.2, 0.3)


@pytest.mark.parametrize("baseline", [None, (0.0, 2.0), "running"])
def test_changed_values_have_no_intervals(baseline: Baseline | None) -> None:
    prediction = _prediction([0.1, 0.4, 0.3])
    bounds = ((0.0, 0.2), (0.1, 0.3))
    prediction = replace(prediction, intervals=bounds, coverage=0.9, notes=("by the face alone",))
    refined = refine(prediction, 2.0 if baseline is None else 0.0, baseline)
    assert refined.intervals == (
        None if baseline == (0.0, 2.0) else bounds
    )  # the file's intervals are unchanged
    assert refined.notes[0] == "by the face alone"
    assert refined.notes[1].startswith(("smoothed: ", "baseline: "))
    assert ("no intervals" in refined.notes[1]) == (baseline == (0.0, 2.0))


def test_smoothing_ignores_empty_windows() -> None:
    assert _joy(smooth(_prediction([0.4, None, 0.4, 0.4]), 4.0)) == pytest.approx(
        [0.4, np.nan, 0.4, 0.4], nan_ok=True
    )


def test_the_baseline_is_subtracted_from_all_windows() -> None:
    lifted = subtract_baseline(_prediction([0.1, 0.3, 0.2, 0.9, 0.1]), (0.0, 3.0))
    assert _joy(lifted) == pytest.approx([0.0, 0.1, 0.0, 0.7, 0.0])
    assert lifted.intensities == pytest.approx((0.4, 0.0))
    assert lifted.notes == ("baseline: mean of 0 to 3 s (windows: 3), subtracted",)


def test_only_windows_inside_the_baseline_count() -> None:
    """Windows of 2 s start every second; a baseline from 1 to 4 s contains those from 1 and 2 s, one of them
    empty."""
    prediction = _prediction([0.9, 0.2, None, 0.5], window_s=2.0)
    lifted = subtract_baseline(replace(prediction, intensities=None), (1.0, 4.0))
    assert _joy(lifted) == pytest.approx([0.7, 0.0, np.nan, 0.3], nan_ok=True)
    assert lifted.windows[2].intensities is None
    assert lifted.intensities is None
    assert lifted.notes == ("baseline: mean of 1 to 4 s (windows: 1), subtracted",)


def test_an_empty_baseline_changes_nothing_and_adds_a_note() -> None:
    prediction = _prediction([None, None, 0.4])
    note = "baseline: no window with a face or sound in 0 to 2 s; values are unchanged"
    assert subtract_baseline(prediction, (0.0, 2.0)) == replace(prediction, notes=(note,))
    refined = subtract_baseline(replace(prediction, notes=("by the face alone",)), (0.0, 2.0))
    assert refined.notes == ("by the face alone", note)


def test_a_running_baseline_uses_only_the_past() -> None:
    values = [0.5, 0.2, 0.8, 0.2, 0.9]
    lifted = subtract_baseline(_prediction(values), "running")
    expected = [value - np.quantile(values[: index + 1], 0.2) for index, value in enumerate(values)]
    assert _joy(lifted) == pytest.approx(np.maximum(expected, 0.0))
    shorter = subtract_baseline(_prediction(values[:3]), "running")
    assert _joy(shorter) == pytest.approx(_joy(lifted)[:3])
    assert lifted.intensities == (0.6, 0.5)
    unchanged = "the file's intensities are unchanged"
    assert lifted.notes == (f"baseline: lower fifth of the last 60 s, subtracted; {unchanged}",)


def test_a_running_baseline_ignores_empty_windows() -> None:
    lifted = subtract_baseline(_prediction([None, 0.0, 0.5, 0.5, None, 0.5], hop_s=30.0), "running")
    assert _joy(lifted) == pytest.approx([np.nan, 0.0, 0.4, 0.0, np.nan, 0.0], nan_ok=True)
    assert lifted.windows[0].intensities is lifted.windows[4].intensities is None


def test_a_running_baseline_forgets_after_a_minute() -> None:
    lifted = subtract_baseline(_prediction([0.0] * 5 + [0.5] * 100), "running")
    assert _joy(lifted)[10] == pytest.approx(0.5)
    assert _joy(lifted)[104] == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0-3s", (0.0, 3.0)),
        (" 12.5 s - 20 ", (12.5, 20.0)),
        ("1-3", (1.0, 3.0)),
        (" Running ", "running"),
    ],
)
def test_baselines_are_parsed(text: str, expected: Baseline) -> None:
    assert parse_baseline(text, 2.0) == expected


SHORT = "the baseline is shorter than a window of the timeline (got '{}' and windows of 2 s). hint: "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3", "invalid baseline (got '3'; expected seconds such as 0-3s, or running)."),
        ("0-3m", "invalid baseline (got '0-3m'; expected seconds such as 0-3s, or running)."),
        ("0-1s", SHORT.format("0-1s") + "Use a longer baseline or a shorter window."),
        ("5-2s", SHORT.format("5-2s") + "Use a longer baseline or a shorter window."),
        ("2-3.9s", SHORT.format("2-3.9s") + "Use a longer baseline or a shorter window."),
    ],
)
def test_invalid_baselines_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_baseline(text, 2.0)
    assert str(caught.value) == message


@pytest.mark.parametrize("span_s", [-1.0, float("nan"), float("inf")])
def test_an_invalid_smoothing_time_is_refused(span_s: float) -> None:
    with pytest.raises(ConfigError, match="smoothing"):
        PredictOptions(smooth_s=span_s).check()
    assert PredictOptions().check() is None


def test_a_prediction_without_timeline_is_unchanged() -> None:
    failed = Prediction("a.mp4", "failed: no such file", ("Joy",))
    assert refine(failed, 2.0, "running") == failed


def test_a_day_of_windows_is_smoothed_in_little_memory() -> None:
    tracemalloc.start()
    smoothed = smooth(_prediction([0.2, 0.4] * 2_000), 4.0)
    _, most_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert _joy(smoothed)[100:102] == pytest.approx([0.3, 0.3])
    assert most_bytes < 10e6  # each window's weight in each other's would be 128e6
