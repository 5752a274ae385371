"""Work done ahead: the same results in the same order, errors in their turn, and no thread left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from reactometer.media.faces import load_detector, prefetch_map
from reactometer.media.tracking import track_faces
from reactometer.media.video import read_frames


def _taken(count: int, taken: list[int]) -> Iterator[int]:
    for number in range(count):
        taken.append(number)
        yield number


def test_results_are_in_order_and_few_items_are_read_ahead() -> None:
    taken: list[int] = []
    gates = [threading.Event() for _ in range(20)]

    def square(number: int) -> int:
        if number + 1 < len(gates) and number % 2 == 0:
            gates[number + 1].wait(5.0)  # every other item ends after the one behind it
        gates[number].set()
        return number * number

    for index, result in enumerate(prefetch_map(square, _taken(20, taken), 3)):
        assert result == index * index
        assert len(taken) <= index + 1 + 3
    assert taken == list(range(20))


def test_an_error_is_raised_in_order_and_ends_the_threads() -> None:
    before = threading.active_count()
    results = prefetch_map(lambda number: 1 / (3 - number), iter(range(10)), 2)
    assert [next(results) for _ in range(3)] == pytest.approx([1 / 3, 1 / 2, 1.0])
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert threading.active_count() == before


def test_threads_end_when_the_caller_stops() -> None:
    before, taken = threading.active_count(), list[int]()
    results = prefetch_map(str, _taken(100, taken), 4)
    assert next(results) == "0"
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    assert len(taken) <= 5


@pytest.mark.shared
def test_samples_do_not_depend_on_the_number_of_threads(shared_data: Path) -> None:
    path, detector = shared_data / "clips" / "single_face.mp4", load_detector("yunet")
    alone, several = (
        list(track_faces(read_frames(path), detector, rate_hz=8.0, size_px=48, threads=threads))
        for threads in (0, 3)
    )
    assert alone == several
    assert len(alone) > 10
