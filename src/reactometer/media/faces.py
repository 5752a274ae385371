"""Detect faces in frames, and cut aligned crops."""

from __future__ import annotations

import math
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TypeVar

import cv2
import cv2.data
import numpy as np

from reactometer.errors import MediaError, WeightsError
from reactometer.media.video import sample_frames
from reactometer.paths import find_yunet, yunet_on_disk
from reactometer.types import ByteArray, Detection, FloatArray, Frame

Detector = Callable[[ByteArray], list[Detection]]
"""Maps an (H, W, 3) uint8 RGB frame to its faces, sorted by area times score, largest first."""

# Detector input: large frames are shrunk; small ones are enlarged and framed, because a face may fill them.
LARGE_SIDE_PX, SMALL_SIDE_PX, ENLARGED_SIDE_PX = 480, 320, 240
FRAMED_BORDER_PX = 60
YUNET_MIN_SCORE, YUNET_MAX_OVERLAP = 0.6, 0.3
YUNET_STEP_PX = 1 / 256
"""Boxes and eyes are rounded to it, because CPUs compute them up to 1e-4 px apart; 1/64 px moves intensities
more."""

YUNET_STRIDES = (8, 16, 32)
YUNET_OUTPUTS = [f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in YUNET_STRIDES]
# The file declares an input of 320 x 320 pixels, but its graph computes any size: declare "h" x "w" (ONNX
# TensorShape).
YUNET_FIXED_SIZE = 2 * b"\n\x03\x08\xc0\x02"
YUNET_ANY_SIZE = b"\n\x03\x12\x01h\n\x03\x12\x01w"
HAAR_MIN_NEIGHBOURS, HAAR_MIN_FACE_PX = 5, 24
HAAR_MIN_FACE_ENLARGED_PX = 48  # in an enlarged frame, no face is lost and the search takes half the time

# YuNet's box relative to the Haar box of the same face, in shares of the Haar box's side; medians of 443
# faces.
HAAR_INSET_X = 0.09
HAAR_INSET_Y = 0.014
HAAR_WIDTH = 0.82
HAAR_HEIGHT = 1.038

# Distance and height of the level eyes in a crop, in shares of its side; brows, chin and cheeks are inside.
CROP_EYE_DISTANCE, CROP_EYE_HEIGHT = 0.33, 0.39
JPEG_QUALITY = 95

# Regions of an aligned crop from top to bottom: lower end and half width, in shares of the side. By YuNet's
# medians of 498 crops, the tip of the nose is 0.57 down, and the corners of the mouth 0.73 down and 0.14
# aside.
FACE_REGIONS = (
    *((0.24, 0.5, "forehead"), (0.335, 0.5, "brows"), (0.45, 0.5, "eyes")),
    *((0.64, 0.15, "nose"), (0.83, 0.22, "mouth"), (1.0, 0.5, "chin")),
)
CROP_BORDER = 0.165

# Position of the eyes in a box, in shares of its height; medians of YuNet on 443 faces.
BOX_EYE_HEIGHT = 0.36
BOX_EYE_DISTANCE = 0.367
TURNED_EYE_DISTANCE = 0.30  # closer eyes belong to a turned head, whose size they do not determine


def resolve_detector_name(name: str) -> str:
    """Replace "auto" by "yunet", or by "haar" with a warning without YuNet's file."""
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
            "OpenCV's Haar cascade detects faces, because YuNet is not available. Turned and partly covered "
            "faces "
            f"are missed, and crops are not rotated upright. {error}",
            stacklevel=4,
        )
        return False
    return True


def load_detector(name: str = "auto") -> Detector:
    """Return the thread-safe face detector "yunet", "haar" or "auto". Raise WeightsError without YuNet's
    file."""
    return _yunet(find_yunet()) if resolve_detector_name(name) == "yunet" else _haar()


def detect_faces(
    frames: Iterable[Frame], detector: Detector, rate_hz: float, threads: int = 0
) -> Iterator[tuple[float, ByteArray | None, list[Detection]]]:
    """Yield time, (H, W, 3) uint8 RGB and faces, best first, of each frame sampled at ``rate_hz``.

    An unreadable frame has no pixels. ``threads`` frames are searched at a time, ahead of use.
    """

    def search(frame: Frame) -> tuple[float, ByteArray | None, list[Detection]]:
        rgb = None if frame.rgb is None else frame.rgb()
        return frame.time_s, rgb, [] if rgb is None else detector(rgb)

    sampled = sample_frames(frames, rate_hz)
    yield from prefetch_map(search, sampled, threads) if threads else map(search, sampled)


def crop_face(frame_rgb: ByteArray, detection: Detection, size_px: int) -> ByteArray:
    """Return the aligned face, (size_px, size_px, 3) uint8 RGB, with the eyes at fixed positions.

    Without detected eyes, their positions are estimated from the box. ``frame_rgb``, (H, W, 3) uint8, is
    extended by repeating its edge.
    """
    middle, distance_px, angle = _eye_line(detection)
    scale = CROP_EYE_DISTANCE * size_px / distance_px  # pixels of the crop for one of the frame
    part, (left, top) = _surroundings(frame_rgb, middle, angle, size_px / scale, 2 / min(scale, 1.0))
    part, factor = _halve(part, scale)
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    # From pixels of the part to those of the crop; OpenCV counts from the middle of the first pixel, not its
    # corner.
    x, y = left - middle[0] + factor / 2, top - middle[1] + factor / 2
    right = 0.5 * size_px - 0.5 + cosine * x + sine * y
    down = CROP_EYE_HEIGHT * size_px - 0.5 - sine * x + cosine * y
    matrix = np.array([[factor * cosine, factor * sine, right], [-factor * sine, factor * cosine, down]])
    crop = cv2.warpAffine(
        part, matrix, (size_px, size_px), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(crop, dtype=np.uint8)


def face_region(x: float, y: float) -> str:
    """Return the facial region at (x, y) of an aligned crop, in shares of its side from the left and the
    top."""
    if not (CROP_BORDER <= x <= 1.0 - CROP_BORDER and y >= CROP_BORDER / 2):
        return "hair or background"
    half_width, name = next((half_width, name) for bottom, half_width, name in FACE_REGIONS if y <= bottom)
    return name if abs(x - 0.5) <= half_width else "cheek"


def decode_crop(crop_jpeg: bytes) -> ByteArray:
    """Decode the JPEG of a FaceSample to (size_px, size_px, 3) uint8 RGB. Raise MediaError for other
    bytes."""
    bgr = cv2.imdecode(np.frombuffer(crop_jpeg, dtype=np.uint8), cv2.IMREAD_COLOR) if crop_jpeg else None
    if bgr is None:
        raise MediaError(
            "a face crop cannot be decoded", got=f"{len(crop_jpeg)} bytes", expected="a JPEG image"
        )
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def encode_crop(crop_rgb: ByteArray) -> bytes:
    """Encode a (size_px, size_px, 3) uint8 RGB crop as the JPEG of a FaceSample."""
    _, jpeg = cv2.imencode(
        ".jpg", cv2.cvtColor(crop_rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    return jpeg.tobytes()


def _eye_line(detection: Detection) -> tuple[tuple[float, float], float, float]:
    """Return the midpoint of the eyes and their distance in a frontal view, both in pixels, and tilt in
    radians."""
    x, y, width, height = detection.box
    if detection.eyes is None:
        return (x + width / 2, y + BOX_EYE_HEIGHT * height), BOX_EYE_DISTANCE * height, 0.0
    left_x, left_y, right_x, right_y = detection.eyes
    distance_px = math.hypot(right_x - left_x, right_y - left_y)
    middle = (left_x + right_x) / 2, (left_y + right_y) / 2
    return (
        middle,
        max(distance_px, TURNED_EYE_DISTANCE * height),
        math.atan2(right_y - left_y, right_x - left_x),
    )


def _surroundings(
    frame_rgb: ByteArray, middle: tuple[float, float], angle: float, side_px: float, margin_px: float
) -> tuple[ByteArray, tuple[int, int]]:
    """Return the part of the frame around a rotated crop, given the midpoint of the eyes; and the part's
    corner."""
    cosine = abs(math.cos(angle))
    sine = abs(math.sin(angle))
    down = max(CROP_EYE_HEIGHT, 1 - CROP_EYE_HEIGHT)
    reaches_px = side_px * (0.5 * cosine + down * sine), side_px * (0.5 * sine + down * cosine)
    (height_px, width_px), spans = frame_rgb.shape[:2], []
    for centre_px, reach_px, length_px in zip(middle, reaches_px, (width_px, height_px), strict=True):
        first = max(0, min(int(centre_px - reach_px - margin_px), length_px - 1))
        spans.append(slice(first, max(first + 1, math.ceil(centre_px + reach_px + margin_px))))
    return frame_rgb[spans[1], spans[0]], (spans[0].start, spans[1].start)


def _halve(image: ByteArray, scale: float) -> tuple[ByteArray, int]:
    """Halve an image as often as ``scale`` allows, so that bilinear sampling of the result skips no pixel.

    Returns:
        The image, without an odd last row or column, and the factor by which it is smaller. OpenCV halves six
        times faster than it averages areas at any other scale.
    """
    factor = 1
    while scale * factor <= 0.5 and min(image.shape[:2]) > 1:
        height_px, width_px = image.shape[0] // 2, image.shape[1] // 2
        cropped = image[: 2 * height_px, : 2 * width_px]
        image = np.asarray(
            cv2.resize(cropped, (width_px, height_px), interpolation=cv2.INTER_AREA), dtype=np.uint8
        )
        factor *= 2
    return image, factor


def _resize(rgb: ByteArray) -> tuple[ByteArray, float, int]:
    """Return the resized detector input, its scale relative to the original, and its border in pixels."""
    side_px = max(rgb.shape[:2])
    is_small = side_px <= SMALL_SIDE_PX
    scale = (ENLARGED_SIDE_PX if is_small else min(side_px, LARGE_SIDE_PX)) / side_px
    image, factor = _halve(rgb, scale)
    height_px, width_px = (max(1, round(length_px * factor * scale)) for length_px in image.shape[:2])
    resized = np.asarray(
        cv2.resize(image, (width_px, height_px), interpolation=cv2.INTER_LINEAR), dtype=np.uint8
    )
    return resized, scale, FRAMED_BORDER_PX if is_small else 0


def _sort_faces(detections: list[Detection]) -> list[Detection]:
    """Sort by area times score, and drop empty boxes."""
    faces = [face for face in detections if min(face.box[2:]) > 0]
    return sorted(faces, key=lambda face: face.box[2] * face.box[3] * face.score, reverse=True)


@cache
def _yunet(weights: Path) -> Detector:
    """Load YuNet (Wu, Peng, Yu 2023) on ONNX Runtime: turned, tilted and partly covered faces, with eyes.

    Boxes, eyes and scores are those of ``cv2.FaceDetectorYN``, rounded to ``YUNET_STEP_PX``, except that a
    face at infinity, as in damaged frames, is dropped before it can suppress others.
    """
    from onnxruntime import InferenceSession, SessionOptions  # here, because Haar does not need it
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, RuntimeException

    options = SessionOptions()
    options.log_severity_level = (
        4  # errors are raised, and the outputs' declared sizes are those of 320 x 320 pixels
    )
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # frames are searched in parallel instead
    model = weights.read_bytes().replace(YUNET_FIXED_SIZE, YUNET_ANY_SIZE)
    session = InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def detect(rgb: ByteArray) -> list[Detection]:
        resized, scale, border_px = _resize(rgb)
        bgr = _yunet_input(resized, border_px)
        try:
            outputs = session.run(YUNET_OUTPUTS, {"input": bgr})
        except (Fail, RuntimeException) as error:
            raise MemoryError(f"YuNet: {error}") from error  # nothing else can fail in a verified graph
        boxes, eyes, scores = _decode(outputs, *bgr.shape[2:])
        boxes[:, :2] -= border_px
        coordinates = np.hstack([boxes, eyes - border_px]).astype(float) / scale
        coordinates = np.rint(coordinates / YUNET_STEP_PX) * YUNET_STEP_PX
        rows = zip(coordinates.tolist(), scores.tolist(), strict=True)
        return _sort_faces([Detection(tuple(row[:4]), score, tuple(row[4:])) for row, score in rows])

    return detect


def _yunet_input(rgb: ByteArray, border_px: int) -> FloatArray:
    """Return YuNet's input, (1, 3, H, W) float32 BGR in [0, 255]: with a black border, padded to the
    stride."""
    height_px, width_px = rgb.shape[:2]
    stride = YUNET_STRIDES[-1]
    shape = (-(-(length_px + 2 * border_px) // stride) * stride for length_px in (height_px, width_px))
    bgr = np.zeros((1, 3, *shape), np.float32)
    for channel, plane in enumerate(cv2.split(rgb)):
        bgr[0, 2 - channel, border_px : border_px + height_px, border_px : border_px + width_px] = plane
    return bgr


def _decode(
    outputs: Sequence[FloatArray], height_px: int, width_px: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Decode YuNet's outputs for a frame into F faces, as ``modules/objdetect/src/face_detect.cpp`` of OpenCV
    does.

    Returns:
        (F, 4) x, y, width and height of the boxes, (F, 4) x and y of the left eye in the frame, then of the
        right eye, all in pixels, and (F,) scores in [0, 1]. Overlapping boxes with lower scores are removed.
    """
    cls, obj, bbox, kps = (np.concatenate(outputs[first : first + 3], axis=1)[0] for first in range(0, 12, 3))
    scores = np.sqrt(cls.clip(0, 1) * obj.clip(0, 1))[:, 0]
    candidates = np.flatnonzero(scores >= YUNET_MIN_SCORE)
    cells, strides = (values[candidates] for values in _grid(height_px, width_px))
    with np.errstate(over="ignore"):  # in damaged frames
        sizes = np.exp(bbox[candidates, 2:]) * strides  # (F, 2)
    corners = (cells + bbox[candidates, :2]) * strides - sizes / 2
    eyes = (np.tile(cells, 2) + kps[candidates, :4]) * strides  # (F, 4)
    eyes = np.where(eyes[:, :1] <= eyes[:, 2:3], eyes, np.roll(eyes, 2, axis=1))
    boxes, scores = np.hstack([corners, sizes]), scores[candidates]
    finite = np.isfinite(np.hstack([boxes, eyes])).all(axis=1)
    boxes, eyes, scores = boxes[finite], eyes[finite], scores[finite]
    best = list(cv2.dnn.NMSBoxes(np.trunc(boxes).tolist(), scores.tolist(), 0.0, YUNET_MAX_OVERLAP))
    return boxes[best], eyes[best], scores[best]


@cache
def _grid(height_px: int, width_px: int) -> tuple[FloatArray, FloatArray]:
    """Return column and row, (N, 2), and stride in pixels, (N, 1), of every cell that YuNet scores."""
    shapes = [(height_px // stride, width_px // stride) for stride in YUNET_STRIDES]
    cells = [np.indices(shape, np.float32)[::-1].reshape(2, -1).T for shape in shapes]
    strides = [
        np.full((len(cell), 1), stride, np.float32) for cell, stride in zip(cells, YUNET_STRIDES, strict=True)
    ]
    return np.concatenate(cells), np.concatenate(strides)


@cache
def _haar() -> Detector:
    """Load OpenCV's frontal Haar cascade (Viola and Jones 2001, Lienhart 2002): upright frontal faces,
    without eyes."""
    cascade = cv2.CascadeClassifier(str(Path(cv2.data.haarcascades) / "haarcascade_frontalface_alt2.xml"))
    lock = threading.Lock()

    def detect(rgb: ByteArray) -> list[Detection]:
        resized, scale, border_px = _resize(rgb)
        grey = cv2.cvtColor(resized, cv2.COLOR_RGB2GRAY)
        framed = cv2.copyMakeBorder(grey, border_px, border_px, border_px, border_px, cv2.BORDER_CONSTANT)
        min_size = (HAAR_MIN_FACE_ENLARGED_PX,) * 2 if scale > 1 else (HAAR_MIN_FACE_PX,) * 2
        with lock:
            boxes, votes = cascade.detectMultiScale2(
                framed, minNeighbors=HAAR_MIN_NEIGHBOURS, minSize=min_size
            )
        detections = []
        for (left, top, side, _), vote in zip(boxes, votes, strict=True):
            x = (left + HAAR_INSET_X * side - border_px) / scale
            y = (top + HAAR_INSET_Y * side - border_px) / scale
            box = float(x), float(y), float(HAAR_WIDTH * side / scale), float(HAAR_HEIGHT * side / scale)
            detections.append(Detection(box, float(vote / (vote + HAAR_MIN_NEIGHBOURS)), None))
        return _sort_faces(detections)

    return detect


Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch_map(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Map ``function`` over items, in order, in threads that work at most ``threads`` items ahead of the
    caller.

    Items are taken in the caller's thread, and errors are raised in their item's turn.
    """
    futures: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            futures.append(pool.submit(function, item))
            if len(futures) > threads:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
