"""Frames -> everybody's faces: each person is followed over time under a number of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from reactometer.media.faces import (
    REACH_LIMIT,
    Detector,
    box_distance,
    crop_face,
    detect_faces,
    encode_crop,
    reach_after,
)
from reactometer.types import Detection, FaceSample, Frame, FrameState

GIVEN_UP_S = 5.0
"""A person unseen for longer is given up, and is somebody new on return: nothing but place and size tells who it is.
Longer than where one person is followed, since nobody else is chosen meanwhile; our choice."""

COAST_S = 0.5  # so long a face that is not seen is expected to go on as it moved; then, to stay
STEADINESS = 0.5  # share of a face's earlier speed that is kept at each sighting, since boxes tremble
OUT_OF_REACH = 2 * REACH_LIMIT  # what it costs to give nobody a face


def follow_faces(
    frames: Iterable[Frame], detector: Detector, *, rate_hz: float | None, size_px: int, threads: int = 0
) -> Iterator[FaceSample]:
    """Of each frame sampled at ``rate_hz`` (None: every frame), a sample without a face, then one of each face in it.

    The first carries the frame's state, NO_FACE or UNREADABLE, and no number; the others are FACE and carry the
    person's number, from 1 in order of first appearance, from left to right where people appear together. In each
    frame, faces are given to people so that they lie as near as possible, all in all, to where they are expected; those
    seen in the frame before come first. A face that is nobody's is a new person's. Where people cross, a hidden face is
    expected beyond the other one; whoever turns around while hidden may be taken for the other.
    """
    tracks: list[_Track] = []
    numbers = count(1)
    for time_s, rgb, found in detect_faces(frames, detector, rate_hz, threads):
        yield FaceSample(time_s, FrameState.UNREADABLE if rgb is None else FrameState.NO_FACE)
        if rgb is None:
            continue
        detections = sorted(found, key=lambda face: face.box[0])
        tracks = [track for track in tracks if time_s - track.seen_s <= GIVEN_UP_S]
        owners = _owners(tracks, detections, time_s)
        for place, face in enumerate(detections):
            if place in owners:
                owners[place].see(face, time_s)
            else:
                owners[place] = _Track(next(numbers), face, time_s)
                tracks.append(owners[place])
            crop_jpeg = encode_crop(crop_face(rgb, face, size_px))
            yield FaceSample(time_s, FrameState.FACE, face.box, face.score, crop_jpeg, owners[place].number)


@dataclass
class _Track:
    """One person: where and when they were seen last, and how they moved."""

    number: int
    face: Detection
    seen_s: float
    speed: tuple[float, float] = (0.0, 0.0)  # of the box's centre, pixels a second to the right and down

    def see(self, face: Detection, time_s: float) -> None:
        passed_s = max(time_s - self.seen_s, 1e-3)
        moves = ((new - old) / passed_s for new, old in zip(_centre(face), _centre(self.face), strict=True))
        right, down = (STEADINESS * old + (1 - STEADINESS) * new for old, new in zip(self.speed, moves, strict=True))
        self.face, self.seen_s, self.speed = face, time_s, (right, down)

    def cost(self, face: Detection, time_s: float) -> float:
        """Distance from where the person is expected, in shares of the face's size; ``OUT_OF_REACH`` beyond reach."""
        unseen_s = time_s - self.seen_s
        x, y, width, height = self.face.box
        right, down = (speed * min(unseen_s, COAST_S) for speed in self.speed)
        expected = box_distance(face, replace(self.face, box=(x + right, y + down, width, height)))
        within = min(expected, box_distance(face, self.face)) <= reach_after(unseen_s)
        return min(expected, REACH_LIMIT) if within else OUT_OF_REACH


def _owners(tracks: Sequence[_Track], detections: Sequence[Detection], time_s: float) -> dict[int, _Track]:
    """Who shows each face, by its place in the list; a face that is nobody's is left out."""
    from scipy.optimize import linear_sum_assignment  # here: most predictions follow one person and do without it

    owners: dict[int, _Track] = {}
    latest_s = max((track.seen_s for track in tracks), default=0.0)
    present, missed = ([track for track in tracks if (track.seen_s == latest_s) is there] for there in (True, False))
    for own in (present, missed):
        left = [place for place in range(len(detections)) if place not in owners]
        costs = [[track.cost(detections[place], time_s) for place in left] for track in own]
        matrix = np.array(costs).reshape(len(own), len(left))
        for row, column in zip(*linear_sum_assignment(matrix), strict=True):
            if matrix[row, column] < OUT_OF_REACH:
                owners[left[column]] = own[row]
    return owners


def _centre(face: Detection) -> tuple[float, float]:
    x, y, width, height = face.box
    return x + width / 2, y + height / 2
