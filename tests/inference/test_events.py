"""Events of known timelines."""

from __future__ import annotations

import pytest

from reactometer.errors import ConfigError
from reactometer.inference.postprocess import find_events
from reactometer.inference.prediction import Event, Prediction, Window


def _prediction(values: list[float | None]) -> Prediction:
    """Return a prediction with windows of 2 s every second."""
    windows = tuple(
        Window(float(index), index + 2.0, 1.0, None if value is None else (value,))
        for index, value in enumerate(values)
    )
    return Prediction("a.mp4", "ok", ("Joy",), len(values) + 1.0, windows=windows)


def test_onset_and_offset_lie_where_the_line_crosses_the_threshold() -> None:
    (event,) = find_events(_prediction([0.1, 0.3, 0.7, 0.9, 0.6, 0.2]), 0.5)
    # middles at 1, 2, 3 … s: up through 0.5 between 2 and 3 s, down between 5 and 6 s
    assert event.onset_s == pytest.approx(2.5)
    assert event.peak_s == 4.0
    assert event.offset_s == pytest.approx(5.25)
    assert event.peak == 0.9
    assert event.mean == pytest.approx((0.7 + 0.9 + 0.6) / 3)


def test_an_event_ends_at_the_file_end_and_at_empty_windows() -> None:
    first, second = find_events(_prediction([0.8, None, 0.6, 0.7]), 0.5)
    assert first == Event("Joy", 0.0, 1.0, 1.5, 0.8, 0.8)
    assert (second.onset_s, second.peak_s, second.offset_s) == (2.5, 4.0, 5.0)


def test_a_value_at_the_threshold_counts() -> None:
    assert len(find_events(_prediction([0.1, 0.5, 0.1]), 0.5)) == 1
    assert find_events(_prediction([0.1, 0.49, 0.1]), 0.5) == []
    assert find_events(_prediction([]), 0.5) == []


def test_events_with_another_hop() -> None:
    windows = tuple(
        Window(4.0 * index, 4.0 * index + 2.0, 1.0, (value,)) for index, value in enumerate([0.1, 0.9, 0.3])
    )
    (event,) = find_events(Prediction("a.mp4", "ok", ("Joy",), 10.0, windows=windows), 0.5)
    # middles at 1, 5 and 9 s: up half-way between the first two, down two thirds of the way to the last
    assert event.onset_s == pytest.approx(3.0)
    assert event.offset_s == pytest.approx(5.0 + 4.0 * 2 / 3)


def test_an_event_at_full_intensity() -> None:
    assert [event.peak for event in find_events(_prediction([0.1, 1.0, 0.1]), 1.0)] == [1.0]


def test_events_are_sorted_by_onset_then_by_label() -> None:
    values = [(0.1, 0.9, 0.1), (0.9, 0.9, 0.1), (0.9, 0.1, 0.9), (0.1, 0.1, 0.9)]
    windows = tuple(
        Window(float(index), index + 1.0, 1.0, intensities) for index, intensities in enumerate(values)
    )
    events = find_events(Prediction("a.mp4", "ok", ("Joy", "Fear", "Anger"), 4.0, windows=windows))
    assert [event.label for event in events] == ["Fear", "Joy", "Anger"]
    same = find_events(
        Prediction("a.mp4", "ok", ("Joy", "Fear"), 1.0, windows=(Window(0.0, 1.0, 1.0, (0.8, 0.8)),))
    )
    assert [event.label for event in same] == ["Fear", "Joy"]


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.1, float("nan")])
def test_an_invalid_threshold_is_refused(threshold: float) -> None:
    with pytest.raises(ConfigError) as caught:
        find_events(_prediction([0.1]), threshold)
    message = f"event threshold out of range (got {threshold:g}; expected above 0, at most 1)."
    assert str(caught.value) == message
