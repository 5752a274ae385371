from __future__ import annotations

import itertools
import math
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from reactometer.errors import MediaError, WeightsError
from reactometer.media import faces
from reactometer.media.faces import (
    CROP_EYE_DISTANCE,
    CROP_EYE_HEIGHT,
    crop_face,
    decode_crop,
    face_region,
    load_detector,
    resolve_detector_name,
)
from reactometer.media.tracking import track_face
from reactometer.media.video import read_frames
from reactometer.types import ByteArray, Detection, FaceSample, Frame, FrameState

SIZE_PX = 96


def frame_at(path: Path, index: int) -> ByteArray:
    frame = next(itertools.islice(read_frames(path), index, None))
    assert frame.rgb is not None
    return frame.rgb()


def states(samples: Sequence[FaceSample]) -> Counter[FrameState]:
    return Counter(sample.state for sample in samples)


def crop_geometry(detection: Detection) -> tuple[float, float, float, float]:
    """Middle of the eyes (x, y), their distance, and tilt, from which a crop follows."""
    middle, distance_px, tilt = faces._eye_line(detection)
    return (*middle, distance_px, tilt)


def test_without_yunet_auto_is_haar_with_one_warning(no_yunet: None) -> None:
    with pytest.warns(UserWarning, match="REACTOMETER_WEIGHTS") as caught:
        first = load_detector("auto")
        second = load_detector("auto")
    assert len(caught) == 1
    assert first is second is load_detector("haar")
    assert resolve_detector_name("auto") == "haar"


@pytest.mark.shared
def test_yunet_is_used_as_soon_as_its_file_is_there(
    no_yunet: None, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.warns(UserWarning, match="YuNet"):
        assert resolve_detector_name("auto") == "haar"
    monkeypatch.setenv("REACTOMETER_WEIGHTS", str(shared_data.parent / "weights"))
    monkeypatch.setenv("REACTOMETER_CACHE", "~nobody-of-this-name/cache")  # no home folder
    assert resolve_detector_name("auto") == "yunet"


def test_an_unavailable_yunet_is_an_error(no_yunet: None) -> None:
    with pytest.raises(WeightsError, match="YuNet"):
        load_detector("yunet")


@pytest.mark.shared
def test_with_its_file_auto_is_yunet_and_loaded_once() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve_detector_name("auto") == "yunet"
        assert load_detector("auto") is load_detector("yunet")


@pytest.mark.shared
@pytest.mark.parametrize("name", ["yunet", pytest.param("haar", marks=pytest.mark.slow)])
def test_an_empty_room_has_no_face(shared_data: Path, name: str) -> None:
    path = shared_data / "clips" / "no_face.mp4"
    samples = list(track_face(read_frames(path), load_detector(name), rate_hz=4.0, size_px=SIZE_PX))
    assert states(samples) == {FrameState.NO_FACE: 16}
    assert all(sample.box is None and sample.crop_jpeg is None for sample in samples)


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize(("name", "least"), [("yunet", 1.0), ("haar", 0.9)])
def test_one_moving_face_is_tracked_without_jumps(shared_data: Path, name: str, least: float) -> None:
    path = shared_data / "clips" / "WolfgangLanger_Pexels.mp4"
    samples = list(track_face(read_frames(path), load_detector(name), rate_hz=2.0, size_px=SIZE_PX))
    boxes = [sample.box for sample in samples if sample.box is not None]
    assert len(samples) == 40
    assert states(samples)[FrameState.FACE] >= least * len(samples)
    for (x, y, width, height), (next_x, next_y, _, next_height) in itertools.pairwise(boxes):
        assert math.hypot(next_x - x, next_y - y) < 0.75 * width
        assert 0.6 < next_height / height < 1.7


@pytest.mark.shared
def test_a_missing_face_is_masked(shared_data: Path) -> None:
    path = shared_data / "clips" / "face_noface.mov"
    samples = list(track_face(read_frames(path), load_detector("yunet"), rate_hz=5.0, size_px=SIZE_PX))
    seen = [sample.state is FrameState.FACE for sample in samples]
    leaves = seen.index(False)
    assert all(seen[:leaves])
    assert not any(seen[leaves:])
    assert samples[leaves].time_s == pytest.approx(2.4, abs=0.3)  # where its sound starts, too


@pytest.mark.slow
@pytest.mark.shared
def test_a_face_that_fills_a_small_image_is_detected(shared_data: Path) -> None:
    counts: Counter[FrameState] = Counter()
    for path in sorted((shared_data / "facevoice" / "train" / "mp4").glob("*.mp4"))[::40]:
        counts += states(
            list(track_face(read_frames(path), load_detector("yunet"), rate_hz=2.0, size_px=SIZE_PX))
        )
    assert counts[FrameState.FACE] >= 0.92 * counts.total()  # 4 % of the shots show none


@pytest.mark.shared
def test_crops_have_the_requested_size(shared_data: Path) -> None:
    path = shared_data / "clips" / "single_face.mp4"
    samples = list(track_face(read_frames(path), load_detector("yunet"), rate_hz=2.0, size_px=80))
    assert [round(sample.time_s, 3) for sample in samples] == [0.0, 0.5, 1.0, 1.5, 2.0]
    for sample in samples:
        assert sample.crop_jpeg is not None
        crop = decode_crop(sample.crop_jpeg)
        assert crop.shape == (80, 80, 3)
        assert crop.dtype == np.uint8
        red, _, blue = crop[30:60, 25:55].reshape(-1, 3).mean(axis=0)
        assert red > blue + 20  # skin: channels are not swapped
        assert 0.6 < sample.score <= 1


@pytest.mark.shared
@pytest.mark.parametrize(("name", "index"), [("single_face.mp4", 0), ("face_noface.mov", 20)])
def test_both_detectors_frame_a_face_alike(shared_data: Path, name: str, index: int) -> None:
    frame = frame_at(shared_data / "clips" / name, index)
    (x, y, distance_px, _), (other_x, other_y, other_distance_px, _) = (
        crop_geometry(load_detector(detector)(frame)[0]) for detector in ("yunet", "haar")
    )
    side_px = distance_px / CROP_EYE_DISTANCE
    assert math.hypot(other_x - x, other_y - y) < 0.06 * side_px
    assert 0.88 < other_distance_px / distance_px < 1.14


@pytest.mark.shared
@pytest.mark.parametrize("side_px", [120, 300, 330, 480, 1200])
def test_detections_are_in_pixels_of_the_frame_at_every_size(shared_data: Path, side_px: int) -> None:
    frame = frame_at(shared_data / "clips" / "single_face.mp4", 0)
    scale = side_px / frame.shape[1]
    resized = np.asarray(
        cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), dtype=np.uint8
    )
    for name in ("yunet", "haar"):
        original, detections = load_detector(name)(frame), load_detector(name)(resized)
        assert len(original) == len(detections) == 1
        assert np.array(detections[0].box) / scale == pytest.approx(
            np.array(original[0].box), abs=0.12 * original[0].box[3]
        )


@pytest.mark.shared
@pytest.mark.parametrize("degrees", [-30, 0, 25])
def test_yunet_gives_upright_crops_of_tilted_faces(shared_data: Path, degrees: int) -> None:
    frame = frame_at(shared_data / "clips" / "single_face.mp4", 0)
    height_px, width_px = frame.shape[:2]
    turn = cv2.getRotationMatrix2D((width_px / 2, height_px / 2), degrees, 1.0)
    tilted = np.asarray(cv2.warpAffine(frame, turn, (width_px, height_px)), dtype=np.uint8)
    detector = load_detector("yunet")
    crop = crop_face(tilted, detector(tilted)[0], 256)
    left_x, left_y, right_x, right_y = detector(crop)[0].eyes or (0.0,) * 4
    # The detector itself errs by some degrees and by a tenth of the distance on faces as large as this one.
    assert math.degrees(math.atan2(right_y - left_y, right_x - left_x)) == pytest.approx(0, abs=8)
    assert (left_x + right_x) / 2 == pytest.approx(128, abs=10)
    assert (left_y + right_y) / 2 == pytest.approx(CROP_EYE_HEIGHT * 256, abs=10)
    assert right_x - left_x == pytest.approx(CROP_EYE_DISTANCE * 256, rel=0.25)


@pytest.mark.shared
def test_detection_is_the_same_every_time_and_in_every_thread(shared_data: Path) -> None:
    frames = [frame_at(shared_data / "clips" / "single_face.mp4", index) for index in (0, 30)]
    frames.append(np.ascontiguousarray(frames[0][:300, 100:500]))  # another size
    for name in ("yunet", "haar"):
        detector = load_detector(name)
        alone = [detector(frame) for frame in frames]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(detector, frames * 4)) == alone * 4


def dots(
    height_px: int, width_px: int, positions: Sequence[tuple[float, float]], radius_px: int
) -> ByteArray:
    """A black picture with a white dot at each position (x, y)."""
    ys, xs = np.mgrid[:height_px, :width_px] + 0.5
    near = np.any([(xs - x) ** 2 + (ys - y) ** 2 <= radius_px**2 for x, y in positions], axis=0)
    return np.repeat(near[..., None].astype(np.uint8) * 255, 3, axis=2)


@pytest.mark.parametrize(
    "eyes",
    [
        (140.0, 120.0, 180.0, 120.0),
        (80.0, 150.0, 280.0, 90.0),  # large and tilted
        (150.0, 100.0, 162.0, 109.0),  # small and tilted
        (20.0, 30.0, 70.0, 15.0),  # at the frame's corner
    ],
)
def test_the_eyes_lie_at_fixed_positions_of_the_crop(eyes: tuple[float, float, float, float]) -> None:
    distance_px = math.hypot(eyes[2] - eyes[0], eyes[3] - eyes[1])
    frame = dots(240, 320, [eyes[:2], eyes[2:]], radius_px=max(2, round(distance_px / 8)))
    detection = Detection(
        (eyes[0] - distance_px / 2, eyes[1] - distance_px, 2 * distance_px, 2.6 * distance_px), 0.9, eyes
    )
    crop = crop_face(frame, detection, 100)
    for half, expected_x in (
        (crop[:, :50, 0], 50 - 50 * CROP_EYE_DISTANCE),
        (crop[:, 50:, 0], 50 * CROP_EYE_DISTANCE),
    ):
        weight = half.astype(float) / half.sum()
        assert (weight.sum(axis=0) @ (np.arange(50) + 0.5)) == pytest.approx(expected_x, abs=0.5)
        assert (weight.sum(axis=1) @ (np.arange(100) + 0.5)) == pytest.approx(100 * CROP_EYE_HEIGHT, abs=0.5)


@pytest.mark.parametrize("distance_px", [20.0, 50.0, 75.0, 140.0, 180.0])
def test_a_crop_keeps_waves_and_shows_fine_texture_as_grey(distance_px: float) -> None:
    """Waves of 69 and 82 pixels stay where they are, and a checkerboard of single pixels makes no moire."""
    eyes = (350.3 - distance_px / 2, 250.6, 350.3 + distance_px / 2, 250.6)
    face = Detection((eyes[0] - distance_px / 2, 100.0, 2 * distance_px, 2.6 * distance_px), 0.9, eyes)
    pixel_px = distance_px / CROP_EYE_DISTANCE / 100  # side of the crop's pixels in the frame
    positions = (np.arange(100) + 0.5) * pixel_px
    own_xs, own_ys = (
        350.3 - 50 * pixel_px + positions,
        250.6 - 100 * CROP_EYE_HEIGHT * pixel_px + positions[:, None],
    )
    ys, xs = np.mgrid[:640, :720] + 0.5

    def crop_of(picture: np.ndarray) -> np.ndarray:
        return crop_face(np.repeat(picture[..., None].astype(np.uint8), 3, axis=2), face, 100)[..., 1].astype(
            float
        )

    waves = crop_of(128 + 100 * np.sin(xs / 11) * np.cos(ys / 13))
    assert np.abs(waves - 128 - 100 * np.sin(own_xs / 11) * np.cos(own_ys / 13)).mean() < 2
    if pixel_px >= 2:
        board = crop_of(255.0 * ((xs + ys) % 2 == 0))
        assert board.mean() == pytest.approx(128, abs=1)
        assert board.std() < 1


def test_a_turned_head_is_not_enlarged() -> None:
    frontal = crop_geometry(Detection((0, 0, 80, 100), 0.9, (20, 36, 57, 36)))
    turned = crop_geometry(Detection((0, 0, 80, 100), 0.9, (20, 36, 26, 36)))
    assert frontal[2] == pytest.approx(37)
    assert turned[2] == pytest.approx(30)


def test_a_face_across_the_edge_gives_a_full_crop() -> None:
    frame = np.full((60, 50, 3), 200, dtype=np.uint8)
    for box in ((-30.0, -30.0, 60.0, 70.0), (40.0, 50.0, 60.0, 70.0), (200.0, 200.0, 10.0, 10.0)):
        crop = crop_face(frame, Detection(box, 0.9, None), 64)
        assert crop.shape == (64, 64, 3)
        assert crop.min() == 200  # the edge is repeated


def test_a_broken_crop_is_an_error() -> None:
    for data in (b"", b"no picture"):
        with pytest.raises(MediaError, match=f"{len(data)} bytes.*JPEG"):
            decode_crop(data)


def scene(*people: Sequence[tuple[float, float, float] | None]) -> tuple[list[Frame], faces.Detector]:
    """Frames at 10 Hz of people, each with (x, y, size) per frame, and a detector that knows where they are.

    The blue channel carries the frame's number to the detector.
    """
    pictures = [np.full((100, 200, 3), index, dtype=np.uint8) for index in range(len(people[0]))]
    frames = [Frame(index, index / 10, picture.copy) for index, picture in enumerate(pictures)]

    def detect(rgb: ByteArray) -> list[Detection]:
        there = [person[int(rgb[0, 0, 2])] for person in people]
        detections = [Detection((at[0], at[1], at[2], at[2]), 0.9, None) for at in there if at is not None]
        return sorted(detections, key=lambda face: face.box[2], reverse=True)

    return frames, detect


def followed(frames: list[Frame], detector: faces.Detector, rate_hz: float = 100.0) -> list[float | None]:
    """The x of the followed face at every frame, None where there is none."""
    samples = track_face(frames, detector, rate_hz=rate_hz, size_px=16)
    return [None if sample.box is None else sample.box[0] for sample in samples]


def test_the_larger_person_stays_tracked_when_the_other_grows() -> None:
    first = [(10.0 + i, 10.0, 40.0) for i in range(10)]
    other = [(120.0, 10.0, 30.0 + 5 * i) for i in range(10)]
    assert followed(*scene(first, other)) == [10.0 + i for i in range(10)]


def test_a_short_absence_does_not_switch_to_another_person() -> None:
    first = [(10.0, 10.0, 40.0)] * 3 + [None] * 5 + [(12.0, 10.0, 40.0)] * 3
    other = [(120.0, 10.0, 35.0)] * 11
    assert followed(*scene(first, other)) == [10.0] * 3 + [None] * 5 + [12.0] * 3


def test_an_absence_of_more_than_a_second_ends_the_track() -> None:
    first = [(10.0, 10.0, 40.0)] * 3 + [None] * 17
    other = [(120.0, 10.0, 35.0)] * 20
    assert followed(*scene(first, other)) == [10.0] * 3 + [None] * 10 + [120.0] * 7


def test_a_face_of_another_size_is_another_person() -> None:
    first = [(10.0, 10.0, 40.0)] * 2 + [None] * 2
    other = [None] * 2 + [(25.0, 25.0, 10.0)] * 2  # at the same position, on a picture on the wall
    assert followed(*scene(first, other)) == [10.0, 10.0, None, None]


def test_an_unreadable_frame_is_a_sample() -> None:
    frames, detector = scene([(10.0, 10.0, 40.0)] * 4)
    frames[2] = Frame(2, 0.2, None)
    samples = list(track_face(frames, detector, rate_hz=100.0, size_px=16))
    assert [sample.state.name for sample in samples] == ["FACE", "FACE", "UNREADABLE", "FACE"]
    assert (samples[2].time_s, samples[2].box, samples[2].crop_jpeg) == (0.2, None, None)


def test_only_sampled_frames_are_converted() -> None:
    frames, detector = scene([(10.0, 10.0, 40.0)] * 20)
    converted = []

    def watch(frame: Frame) -> Frame:
        def rgb() -> ByteArray:
            converted.append(frame.index)
            assert frame.rgb is not None
            return frame.rgb()

        return Frame(frame.index, frame.time_s, rgb)

    assert len(list(track_face(map(watch, frames), detector, rate_hz=2.5, size_px=16))) == 5
    assert converted == [0, 4, 8, 12, 16]


def test_facial_regions_have_fixed_positions_in_a_crop() -> None:
    """Eyes as crops are cut; nose and mouth where YuNet has them in the middle."""
    positions = {"eyes": (0.335, 0.39), "nose": (0.5, 0.57), "mouth": (0.36, 0.73), "brows": (0.335, 0.29)}
    positions |= {
        "forehead": (0.5, 0.15),
        "chin": (0.5, 0.92),
        "cheek": (0.25, 0.6),
        "hair or background": (0.05, 0.5),
    }
    assert {name: face_region(*position) for name, position in positions.items()} == {
        name: name for name in positions
    }


def test_a_box_that_is_not_finite_is_dropped() -> None:
    """YuNet's numbers overflow on pictures that are all damage; 64 x 32 pixels have 32 + 8 + 2 cells."""
    counts, channels = (32, 8, 2), {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
    outputs = [np.zeros((1, count, width), np.float32) for width in channels.values() for count in counts]
    for cell in (0, 5, 9):  # of the cells of 8 x 8 pixels, eight in a row
        outputs[0][0, cell] = outputs[3][0, cell] = 1.0
        outputs[6][0, cell] = 0.5, 0.5, 0.0, math.log(2.0)
        outputs[9][0, cell, :4] = 1.0, 0.5, 0.0, 0.5  # the right eye first
    outputs[6][0, 0, 3] = 1e4
    outputs[9][0, 5, 0] = math.nan
    boxes, eyes, scores = faces._decode(outputs, 32, 64)
    assert boxes.tolist() == pytest.approx(np.array([[8.0, 4.0, 8.0, 16.0]]), abs=1e-5)
    assert (eyes.tolist(), scores.tolist()) == ([[8.0, 12.0, 16.0, 12.0]], [1.0])


@pytest.mark.shared
def test_yunet_equals_opencvs_face_detector(shared_data: Path) -> None:
    """The reference reads a frame as it is, so frames are taken that are neither shrunk nor framed."""
    weights, seen = shared_data.parent / "weights" / "yunet_n_320_320.onnx", 0
    for name, index in (("single_face.mp4", 0), ("face_noface.mov", 20), ("no_face.mp4", 0)):
        frame = frame_at(shared_data / "clips" / name, index)
        for height_px, width_px in ((256, 480), (270, 480), (480, 333)):
            resized = np.asarray(cv2.resize(frame, (width_px, height_px)), dtype=np.uint8)
            network = cv2.FaceDetectorYN.create(str(weights), "", (width_px, height_px), 0.6, 0.3)
            _, rows = network.detect(np.ascontiguousarray(resized[..., ::-1]))
            reference = (
                [] if rows is None else sorted(rows.tolist(), key=lambda row: -row[2] * row[3] * row[14])
            )
            detections = load_detector("yunet")(resized)
            assert [(*face.box, face.score) for face in detections] == [
                pytest.approx((*row[:4], row[14]), abs=1e-2) for row in reference
            ]
            eyes = [sorted([row[4:6], row[6:8]]) for row in reference]
            assert [face.eyes for face in detections] == [
                pytest.approx((*left, *right), abs=1e-2) for left, right in eyes
            ]
            seen += len(detections)
    assert seen >= 6
