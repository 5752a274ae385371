"""Detect faces in frames, and cut aligned crops."""

from __future__ import annotations

import math
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TypeVar

import cv2
import cv2.data
import numpy as np

from reactometer.errors import ConfigError, MediaError, WeightsError, suggestion
from reactometer.media.video import sample_frames
from reactometer.paths import find_yunet, yunet_on_disk
from reactometer.types import ByteArray, Detection, Frame

Detector = Callable[[ByteArray], list[Detection]]
"""(H, W, 3) uint8 RGB frame in, its faces out, best first: large ones and sure ones before small and doubtful ones."""

DETECTORS = ("auto", "yunet", "haar")

# What a detector sees: large frames are shrunk; small ones are enlarged and framed, since a face may fill them.
LARGE_SIDE_PX, SMALL_SIDE_PX, ENLARGED_SIDE_PX = 480, 320, 240
FRAMED_BORDER_PX = 60
YUNET_SCORE, YUNET_OVERLAP = 0.6, 0.3
HAAR_NEIGHBOURS, HAAR_SMALLEST_PX = 5, 24
HAAR_SMALLEST_ENLARGED_PX = 48  # no face is lost by it in a frame so small, and the search takes half the time

# Where a Haar box lies against YuNet's box of the same face, in shares of the Haar box's side; medians of 443 faces.
HAAR_INSET_X, HAAR_INSET_Y, HAAR_WIDTH, HAAR_HEIGHT = 0.09, 0.014, 0.82, 1.038

# The crop, in shares of its side: the eyes lie level, this far apart and this far down; brows, chin and cheeks are in.
CROP_EYE_DISTANCE, CROP_EYE_HEIGHT = 0.33, 0.39
JPEG_QUALITY = 95

# Parts of an aligned crop from top to bottom: lower end and reach from the middle, in shares of the side. By YuNet's
# medians of 498 crops, the tip of the nose is 0.57 down, and the corners of the mouth 0.73 down and 0.14 aside.
CROP_PARTS = (
    *((0.24, 0.5, "forehead"), (0.335, 0.5, "brows"), (0.45, 0.5, "eyes")),
    *((0.64, 0.15, "nose"), (0.83, 0.22, "mouth"), (1.0, 0.5, "chin")),
)
CROP_BORDER = 0.165

# Where the eyes lie in a box, in shares of its height; medians of YuNet on 443 faces.
BOX_EYE_HEIGHT = 0.36
BOX_EYE_DISTANCE = 0.367
TURNED_EYE_DISTANCE = 0.30  # eyes nearer than this belong to a turned head and no longer tell its size


def settle_detector(name: str) -> str:
    """Replace "auto" by "yunet", or by "haar" with a warning without YuNet's file; refuse unknown names."""
    if name not in DETECTORS:
        raise ConfigError("unknown face detector", got=repr(name), fix=suggestion(name, DETECTORS))
    if name != "auto":
        return name
    return "yunet" if yunet_on_disk() or _download_yunet() else "haar"


@cache
def _download_yunet() -> bool:
    """Try once per process to download YuNet; warn and return False if it is not available."""
    try:
        find_yunet()
    except WeightsError as error:
        warnings.warn(
            "OpenCV's Haar cascade finds the faces, because YuNet is not available: turned and partly covered faces "
            f"are missed and crops are not turned upright. {error}",
            stacklevel=4,
        )
        return False
    return True


def load_detector(name: str = "auto") -> Detector:
    """Return the face detector of a name in ``DETECTORS``; it may be shared among threads.

    Raises:
        WeightsError: YuNet's weight file is not available.
        ConfigError: the name is unknown.
    """
    return _yunet(find_yunet()) if settle_detector(name) == "yunet" else _haar()


def detect_faces(
    frames: Iterable[Frame], detector: Detector, rate_hz: float | None, threads: int = 0
) -> Iterator[tuple[float, ByteArray | None, list[Detection]]]:
    """Yield time, (H, W, 3) uint8 RGB and faces, best first, of each frame sampled at ``rate_hz`` (None: every frame).

    An unreadable frame has no pixels. ``threads`` frames are searched at a time, ahead of use.
    """

    def search(frame: Frame) -> tuple[float, ByteArray | None, list[Detection]]:
        rgb = None if frame.rgb is None else frame.rgb()
        return frame.time_s, rgb, [] if rgb is None else detector(rgb)

    sampled = sample_frames(frames, rate_hz)
    yield from map_ahead(search, sampled, threads) if threads else map(search, sampled)


def crop_face(frame_rgb: ByteArray, detection: Detection, size_px: int) -> ByteArray:
    """Return the aligned face, (size_px, size_px, 3) uint8 RGB, with the eyes at fixed positions.

    Without detected eyes, their positions are estimated from the box. ``frame_rgb``, (H, W, 3) uint8, is extended by
    repeating its edge.
    """
    middle, distance_px, angle = _eye_line(detection)
    scale = CROP_EYE_DISTANCE * size_px / distance_px  # pixels of the crop for one of the frame
    part, corner, shrink = _surroundings(frame_rgb, middle, size_px / scale, min(scale, 1.0))
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    turn = np.array([[cosine, sine], [-sine, cosine]])
    shift = np.array([0.5, CROP_EYE_HEIGHT]) * size_px - turn @ (np.array(middle) - corner)
    turn /= shrink  # from here on: from the pixels of the part
    shift += turn @ np.array([0.5, 0.5]) - 0.5  # OpenCV counts from the middle of the first pixel, not from its corner
    matrix = np.column_stack([turn, shift])  # (2, 3)
    crop = cv2.warpAffine(part, matrix, (size_px, size_px), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(crop, dtype=np.uint8)


def part_of_face(x: float, y: float) -> str:
    """What of the face lies at a place of an aligned crop, shares of its side from the left and from the top."""
    if not (CROP_BORDER <= x <= 1.0 - CROP_BORDER and y >= CROP_BORDER / 2):
        return "hair or background"
    reach, name = next((reach, name) for end, reach, name in CROP_PARTS if y <= end)
    return name if abs(x - 0.5) <= reach else "cheek"


def decode_crop(crop_jpeg: bytes) -> ByteArray:
    """(size_px, size_px, 3) uint8 RGB from the JPEG of a FaceSample. Raises MediaError for other bytes."""
    bgr = cv2.imdecode(np.frombuffer(crop_jpeg, dtype=np.uint8), cv2.IMREAD_COLOR) if crop_jpeg else None
    if bgr is None:
        raise MediaError("a face crop cannot be decoded", got=f"{len(crop_jpeg)} bytes", expected="a JPEG picture")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def encode_crop(crop_rgb: ByteArray) -> bytes:
    """The JPEG of a (size_px, size_px, 3) uint8 RGB crop, as a FaceSample keeps it."""
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(crop_rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return jpeg.tobytes()


def _eye_line(detection: Detection) -> tuple[tuple[float, float], float, float]:
    """Middle of the eyes in pixels, their distance in pixels as if the head faced the camera, and tilt in radians."""
    x, y, width, height = detection.box
    if detection.eyes is None:
        return (x + width / 2, y + BOX_EYE_HEIGHT * height), BOX_EYE_DISTANCE * height, 0.0
    left_x, left_y, right_x, right_y = detection.eyes
    distance_px = math.hypot(right_x - left_x, right_y - left_y)
    middle = (left_x + right_x) / 2, (left_y + right_y) / 2
    return middle, max(distance_px, TURNED_EYE_DISTANCE * height), math.atan2(right_y - left_y, right_x - left_x)


def _surroundings(
    frame_rgb: ByteArray, middle: tuple[float, float], reach_px: float, scale: float
) -> tuple[ByteArray, tuple[int, int], tuple[float, float]]:
    """The frame within ``reach_px`` of a place, shrunk; its corner in the frame, and the exact shrinkage of x and y."""
    height_px, width_px = frame_rgb.shape[:2]
    left = max(0, min(int(middle[0] - reach_px), width_px - 1))
    top = max(0, min(int(middle[1] - reach_px), height_px - 1))
    right, bottom = max(left + 1, math.ceil(middle[0] + reach_px)), max(top + 1, math.ceil(middle[1] + reach_px))
    part = frame_rgb[top:bottom, left:right]
    height_px, width_px = part.shape[:2]
    smaller = max(1, round(width_px * scale)), max(1, round(height_px * scale))
    if scale < 1:  # averaging areas, so that fine texture does not turn into noise
        part = np.asarray(cv2.resize(part, smaller, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return part, (left, top), (part.shape[1] / width_px, part.shape[0] / height_px)


def _framed(rgb: ByteArray) -> tuple[ByteArray, float, int]:
    """The frame as detectors see it, how much larger it is than the original, and the border around it in pixels."""
    side_px = max(rgb.shape[:2])
    small = side_px <= SMALL_SIDE_PX
    target_px = ENLARGED_SIDE_PX if small else min(side_px, LARGE_SIDE_PX)
    scale, border_px = target_px / side_px, FRAMED_BORDER_PX if small else 0
    size = max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale))
    resized = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    framed = cv2.copyMakeBorder(resized, border_px, border_px, border_px, border_px, cv2.BORDER_CONSTANT)
    return np.asarray(framed, dtype=np.uint8), scale, border_px


def _best_first(detections: list[Detection]) -> list[Detection]:
    """Without those that are nowhere or have no size: YuNet's numbers overflow on pictures that are all damage."""
    faces = [one for one in detections if np.isfinite([*one.box, *(one.eyes or ())]).all() and min(one.box[2:]) > 0]
    return sorted(faces, key=lambda face: face.box[2] * face.box[3] * face.score, reverse=True)


@cache
def _yunet(weights: Path) -> Detector:
    """YuNet (Wu, Peng, Yu 2023) through OpenCV: turned, tilted and partly covered faces, with eyes."""
    free: list[cv2.FaceDetectorYN] = []  # one is made for each thread that searches at the same time

    def detect(rgb: ByteArray) -> list[Detection]:
        framed, scale, border_px = _framed(rgb)
        size = framed.shape[1], framed.shape[0]
        try:
            network = free.pop()
        except IndexError:
            network = cv2.FaceDetectorYN.create(str(weights), "", size, YUNET_SCORE, YUNET_OVERLAP)
        if tuple(network.getInputSize()) != size:
            network.setInputSize(size)
        _, rows = network.detect(cv2.cvtColor(framed, cv2.COLOR_RGB2BGR))
        free.append(network)
        detections = []
        for row in [] if rows is None else rows.astype(float):
            x, y = (row[:2] - border_px) / scale
            eyes = sorted(((row[4:8].reshape(2, 2) - border_px) / scale).tolist())  # leftmost in the picture first
            box = float(x), float(y), float(row[2] / scale), float(row[3] / scale)
            detections.append(Detection(box, min(float(row[14]), 1.0), (*eyes[0], *eyes[1])))
        return _best_first(detections)

    return detect


@cache
def _haar() -> Detector:
    """OpenCV's frontal Haar cascade (Viola and Jones 2001, Lienhart 2002): upright frontal faces, without eyes."""
    cascade = cv2.CascadeClassifier(str(Path(cv2.data.haarcascades) / "haarcascade_frontalface_alt2.xml"))
    lock = threading.Lock()

    def detect(rgb: ByteArray) -> list[Detection]:
        framed, scale, border_px = _framed(rgb)
        smallest = (HAAR_SMALLEST_ENLARGED_PX,) * 2 if scale > 1 else (HAAR_SMALLEST_PX,) * 2
        with lock:
            boxes, votes = cascade.detectMultiScale2(
                cv2.cvtColor(framed, cv2.COLOR_RGB2GRAY), minNeighbors=HAAR_NEIGHBOURS, minSize=smallest
            )
        detections = []
        for (left, top, side, _), vote in zip(boxes, votes, strict=True):
            x, y = (left + HAAR_INSET_X * side - border_px) / scale, (top + HAAR_INSET_Y * side - border_px) / scale
            box = float(x), float(y), float(HAAR_WIDTH * side / scale), float(HAAR_HEIGHT * side / scale)
            detections.append(Detection(box, float(vote / (vote + HAAR_NEIGHBOURS)), None))
        return _best_first(detections)

    return detect


Given = TypeVar("Given")
Made = TypeVar("Made")


def map_ahead(function: Callable[[Given], Made], items: Iterable[Given], threads: int) -> Iterator[Made]:
    """Map ``function`` over items, in order, in threads that work at most ``threads`` items ahead of the caller.

    Items are taken in the caller's thread, and errors are raised in their item's turn.
    """
    waiting: deque[Future[Made]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
