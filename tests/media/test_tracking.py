"""Tracking of several faces by position and size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from reactometer.media.faces import Detector, decode_crop, load_detector
from reactometer.media.segments import select_face
from reactometer.media.tracking import FORGET_AFTER_S, track_face, track_faces
from reactometer.media.video import read_frames
from reactometer.types import ByteArray, Detection, FaceSample, Frame, FrameState, PreparedClip

Walk = Sequence[tuple[float, float, float] | None]
"""Position of a person per frame: x, y and size in pixels; None: not visible."""


def samples_of(samples: Sequence[FaceSample], face: int | None) -> tuple[FaceSample, ...]:
    return select_face(PreparedClip(0.0, 1.0, tuple(samples), None), face).samples


def scene(*people: Walk, rate_hz: float = 10.0) -> tuple[list[Frame], Detector]:
    """Frames of people and a detector that knows where they are; the blue channel tells it the frame's
    number."""
    pictures = [np.full((100, 400, 3), index, dtype=np.uint8) for index in range(len(people[0]))]
    frames = [Frame(index, index / rate_hz, picture.copy) for index, picture in enumerate(pictures)]

    def detect(rgb: ByteArray) -> list[Detection]:
        there = [person[int(rgb[0, 0, 2])] for person in people]
        detections = [Detection((at[0], at[1], at[2], at[2]), 0.9, None) for at in there if at is not None]
        return sorted(detections, key=lambda face: face.box[2], reverse=True)

    return frames, detect


def followed(frames: list[Frame], detector: Detector) -> dict[int, list[float | None]]:
    """By number, the x of the face in every frame, None where it is not seen."""
    samples = list(track_faces(frames, detector, rate_hz=100.0, size_px=16))
    numbers = sorted({sample.face for sample in samples if sample.face is not None})
    return {
        number: [sample.box and sample.box[0] for sample in samples_of(samples, number)] for number in numbers
    }


def walk(
    first: float, last: float, n_frames: int, size: float = 40.0, y: float = 10.0
) -> list[tuple[float, float, float]]:
    return [(float(x), y, size) for x in np.linspace(first, last, n_frames)]


def xs(path: Walk) -> list[float | None]:
    return [at and at[0] for at in path]


def hidden(path: Walk, first: int, last: int) -> Walk:
    """The same, not seen from one frame to another."""
    return [*path[:first], *[None] * (last - first), *path[last:]]


def test_people_are_numbered_by_first_appearance_from_left_to_right() -> None:
    right, left = walk(300, 290, 10, size=60), walk(100, 110, 10)
    late = hidden(walk(10, 10, 10), 0, 4)
    assert followed(*scene(right, left, late)) == {1: xs(left), 2: xs(right), 3: xs(late)}


def test_a_frame_has_one_sample_without_a_face_and_one_per_face() -> None:
    frames, detector = scene(walk(10, 10, 3), hidden(walk(200, 200, 3), 2, 3))
    frames[1] = Frame(1, 0.1, None)
    samples = list(track_faces(frames, detector, rate_hz=100.0, size_px=16))
    assert [(sample.time_s, sample.state.name, sample.face) for sample in samples] == [
        *((0.0, "NO_FACE", None), (0.0, "FACE", 1), (0.0, "FACE", 2)),
        (0.1, "UNREADABLE", None),
        *((0.2, "NO_FACE", None), (0.2, "FACE", 1)),
    ]
    assert [sample.state.name for sample in samples_of(samples, 2)] == ["FACE", "UNREADABLE", "NO_FACE"]
    assert [sample.state.name for sample in samples_of(samples, None)] == ["NO_FACE", "UNREADABLE", "NO_FACE"]
    assert decode_crop(samples[1].crop_jpeg or b"").shape == (16, 16, 3)


def test_only_sampled_frames_are_searched_and_only_faces_cropped() -> None:
    frames, detector = scene(walk(10, 10, 20), [None] * 20)
    samples = list(track_faces(frames, detector, rate_hz=2.5, size_px=16))
    assert [sample.face for sample in samples] == [None, 1] * 5
    assert [sample.crop_jpeg is None for sample in samples] == [True, False] * 5


@pytest.mark.parametrize(("first", "last"), [(10, 10), (7, 14), (8, 12)])
def test_people_who_cross_keep_their_numbers(first: int, last: int) -> None:
    """Two people cross: both are visible in all frames, or one hides behind the other."""
    one, other = walk(20, 220, 21), hidden(walk(220, 20, 21), first, last)
    assert followed(*scene(one, other)) == {1: xs(one), 2: xs(other)}
    assert followed(*scene(other, one)) == {1: xs(one), 2: xs(other)}


def test_a_person_is_new_only_after_a_long_absence() -> None:
    rate_hz, away = 10.0, round(FORGET_AFTER_S * 10)
    short = hidden(walk(10, 10, away + 20), 5, 4 + away)
    assert list(followed(*scene(short, rate_hz=rate_hz))) == [1]
    longer = hidden(walk(10, 10, away + 20), 5, 6 + away)
    assert list(followed(*scene(longer, rate_hz=rate_hz))) == [1, 2]


def test_a_person_at_anothers_former_position_keeps_the_number() -> None:
    one = walk(20, 20, 30)[:5] + [None] * 25
    other = walk(100, 100, 5) + walk(100, 24, 10) + walk(24, 22, 15)
    assert followed(*scene(one, other)) == {1: xs(one), 2: xs(other)}


def test_a_distant_face_or_one_of_another_size_is_another_person() -> None:
    one = [*walk(20, 20, 3), None, None]
    small = [None, None, None, (30.0, 20.0, 15.0), (30.0, 20.0, 15.0)]
    far = [None, None, None, None, (120.0, 10.0, 40.0)]
    assert followed(*scene(one, small, far)) == {1: xs(one), 2: xs(small), 3: xs(far)}


@pytest.fixture(scope="module")
def side_by_side(shared_data: Path) -> tuple[list[Frame], list[Frame], list[Frame]]:
    """Two seconds of two real clips at 10 Hz: each alone, and both in one picture."""

    def first(name: str) -> Iterator[Frame]:
        frames = (frame for frame in read_frames(shared_data / "clips" / name) if frame.index % 3 == 0)
        for index, (frame, _) in enumerate(zip(frames, range(20), strict=False)):
            assert frame.rgb is not None
            yield Frame(index, index / 10, frame.rgb().copy)

    left, right = list(first("WolfgangLanger_Pexels.mp4")), list(first("single_face.mp4"))
    assert len(left) == len(right) == 20
    both = []
    for one, other in zip(left, right, strict=True):
        assert one.rgb is not None
        assert other.rgb is not None
        both.append(Frame(one.index, one.time_s, np.concatenate([one.rgb(), other.rgb()], axis=1).copy))
    return left, right, both


@pytest.mark.shared
def test_two_real_people_are_each_tracked_as_in_a_solo_clip(
    side_by_side: tuple[list[Frame], list[Frame], list[Frame]],
) -> None:
    left, right, both = side_by_side
    samples = list(track_faces(both, load_detector("yunet"), rate_hz=100.0, size_px=64))
    assert {sample.face for sample in samples} == {None, 1, 2}

    def boxes(samples: Sequence[FaceSample]) -> np.ndarray:
        assert all(sample.state is FrameState.FACE for sample in samples)
        return np.array([sample.box for sample in samples])

    for number, alone, shift_px in ((1, left, 0), (2, right, 640)):
        expected = boxes(list(track_face(alone, load_detector("yunet"), rate_hz=100.0, size_px=64)))
        tracked = boxes(samples_of(samples, number)) - [shift_px, 0, 0, 0]
        assert np.abs(tracked - expected).max() < 0.2 * expected[:, 3].min()
