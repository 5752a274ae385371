"""Track faces over time: one person, or all people with a number each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

from reactometer.media.faces import Detector, crop_face, detect_faces, encode_crop
from reactometer.types import ByteArray, Detection, FaceSample, Frame, FrameState

# A person's next face is the nearest within reach (in face sizes) and of similar size.
REACH, REACH_PER_S, MAX_REACH = 0.5, 0.5, 1.0
MAX_SIZE_RATIO = 2.0
SWITCH_AFTER_S = 1.0  # after this time without detection, the best face of the frame is chosen

FORGET_AFTER_S = 5.0
"""A person counts as new after this time without detection: people are identified only by position and size.
"""

EXTRAPOLATE_S = 0.5  # an undetected face is expected to keep moving for this time, then to stay
SMOOTHING = 0.5  # share of the previous velocity in the new estimate, because boxes jitter


def track_face(
    frames: Iterable[Frame], detector: Detector, *, rate_hz: float, size_px: int, threads: int = 0
) -> Iterator[FaceSample]:
    """Yield one sample per frame sampled at ``rate_hz``, all of one person.

    The first face is the best of its frame; afterwards it is the face nearest to the previous one. A frame
    without such a face is NO_FACE; boxes are never carried over.
    """
    tracker = FaceTracker(size_px)
    yield from (tracker.update(*frame) for frame in detect_faces(frames, detector, rate_hz, threads))


class FaceTracker:
    """State of :func:`track_face`, for one frame at a time."""

    def __init__(self, size_px: int) -> None:
        self.size_px = size_px
        self.last_detection: tuple[float, Detection] | None = None  # time and face of the last detection

    def update(self, time_s: float, rgb: ByteArray | None, detections: list[Detection]) -> FaceSample:
        """Return the person's sample of the next frame, (H, W, 3) uint8 RGB; ``None`` if it is unreadable."""
        face = _choose_face(detections, self.last_detection, time_s)
        if rgb is None or face is None:
            return FaceSample(time_s, FrameState.UNREADABLE if rgb is None else FrameState.NO_FACE)
        self.last_detection = time_s, face
        crop_jpeg = encode_crop(crop_face(rgb, face, self.size_px))
        return FaceSample(time_s, FrameState.FACE, face.box, face.score, crop_jpeg)


def track_faces(
    frames: Iterable[Frame], detector: Detector, *, rate_hz: float, size_px: int, threads: int = 0
) -> Iterator[FaceSample]:
    """Yield for each frame sampled at ``rate_hz`` a sample without a face, then one per face.

    The first sample has the state NO_FACE or UNREADABLE and no number. The others have the state FACE and the
    person's number, from 1 in order of first appearance, from left to right. In each frame, the face nearest
    to a person's expected position is assigned first; people in the previous frame have priority. An
    unassigned face is a new person. When people cross, a hidden face is expected to continue its motion.
    """
    tracks: list[_Track] = []
    numbers = count(1)
    for time_s, rgb, faces in detect_faces(frames, detector, rate_hz, threads):
        yield FaceSample(time_s, FrameState.UNREADABLE if rgb is None else FrameState.NO_FACE)
        if rgb is None:
            continue
        detections = sorted(faces, key=lambda face: face.box[0])
        tracks = [track for track in tracks if time_s - track.last_s <= FORGET_AFTER_S]
        track_of = _assign_tracks(tracks, detections, time_s)
        for i, face in enumerate(detections):
            if i in track_of:
                track_of[i].update(face, time_s)
            else:
                track_of[i] = _Track(next(numbers), face, time_s)
                tracks.append(track_of[i])
            crop_jpeg = encode_crop(crop_face(rgb, face, size_px))
            yield FaceSample(time_s, FrameState.FACE, face.box, face.score, crop_jpeg, track_of[i].number)


@dataclass
class _Track:
    """Last position, time and velocity of one person."""

    number: int
    face: Detection
    last_s: float
    velocity: tuple[float, float] = (0.0, 0.0)  # of the box's centre, pixels per second to the right and down

    def update(self, face: Detection, time_s: float) -> None:
        elapsed_s = max(time_s - self.last_s, 1e-3)
        (x, y), (last_x, last_y) = _centre(face), _centre(self.face)
        right = SMOOTHING * self.velocity[0] + (1 - SMOOTHING) * (x - last_x) / elapsed_s
        down = SMOOTHING * self.velocity[1] + (1 - SMOOTHING) * (y - last_y) / elapsed_s
        self.face = face
        self.last_s = time_s
        self.velocity = (right, down)

    def distance(self, face: Detection, time_s: float) -> float:
        """Return the distance from the expected position in face sizes; infinite beyond reach."""
        unseen_s = time_s - self.last_s
        x, y, width, height = self.face.box
        right, down = (speed * min(unseen_s, EXTRAPOLATE_S) for speed in self.velocity)
        expected = box_distance(face, replace(self.face, box=(x + right, y + down, width, height)))
        distance_to_reach = min(expected, box_distance(face, self.face)) <= reach_after(unseen_s)
        return expected if distance_to_reach else math.inf


def _assign_tracks(
    tracks: Sequence[_Track], detections: Sequence[Detection], time_s: float
) -> dict[int, _Track]:
    """Return the track of each assigned face, by the face's index."""
    latest_s = max((track.last_s for track in tracks), default=0.0)
    pairs = [
        (track.last_s < latest_s, track.distance(face, time_s), i, track)
        for track in tracks
        for i, face in enumerate(detections)
    ]
    track_of: dict[int, _Track] = {}
    for _, distance, i, track in sorted(pairs, key=lambda pair: pair[:2]):
        if distance < math.inf and i not in track_of and track not in track_of.values():
            track_of[i] = track
    return track_of


def _centre(face: Detection) -> tuple[float, float]:
    x, y, width, height = face.box
    return x + width / 2, y + height / 2


def box_distance(face: Detection, other: Detection) -> float:
    """Return the distance of the boxes' centres in sizes of the larger box; infinite if the sizes differ too
    much."""
    smaller, larger = sorted(math.sqrt(box[2] * box[3]) for box in (face.box, other.box))
    if larger > MAX_SIZE_RATIO * smaller:
        return math.inf
    return math.dist(_centre(face), _centre(other)) / larger


def reach_after(unseen_s: float) -> float:
    """Return the maximum distance from a position ``unseen_s`` ago, in face sizes."""
    return min(REACH + REACH_PER_S * unseen_s, MAX_REACH)


def _choose_face(
    detections: list[Detection], last: tuple[float, Detection] | None, time_s: float
) -> Detection | None:
    """Return the tracked person's face, or the best face without a tracked person, or None."""
    if last is None:
        return detections[0] if detections else None
    unseen_s = time_s - last[0]
    if candidates := [face for face in detections if box_distance(face, last[1]) <= reach_after(unseen_s)]:
        return min(candidates, key=lambda face: box_distance(face, last[1]))
    return detections[0] if detections and unseen_s > SWITCH_AFTER_S else None
