"""The drawn faces: detectors find them, and every action shows."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from reactometer.synthetic.clip import clip_plan, render_clip
from reactometer.synthetic.face import ACTIONS, Pose, build_scene, draw_frame, random_appearance
from reactometer.types import ByteArray

REST = dict.fromkeys(ACTIONS, 0.0)


@pytest.fixture(scope="module")
def frames() -> list[ByteArray]:
    """Frames that show a face, two a second of 10 clips, at twice the size and with a border."""
    large: list[ByteArray] = []
    for index in range(0, 480, 48):
        plan = clip_plan(index, rate_hz=2.0)
        for frame, visible in zip(render_clip(plan)[0], plan.face_visible, strict=True):
            if visible:
                twice = cv2.resize(frame, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
                large.append(
                    np.asarray(cv2.copyMakeBorder(twice, 32, 32, 32, 32, cv2.BORDER_REPLICATE), np.uint8)
                )
    return large


def test_the_haar_cascade_finds_the_faces(frames: list[ByteArray]) -> None:
    folder = Path(cv2.__file__).parent / "data"
    cascade = cv2.CascadeClassifier(str(folder / "haarcascade_frontalface_alt2.xml"))
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    is_detected = [len(cascade.detectMultiScale(picture, 1.1, 3, minSize=(90, 90))) > 0 for picture in grey]
    assert len(is_detected) > 40
    assert np.mean(is_detected) >= 0.95


@pytest.mark.slow
@pytest.mark.shared
def test_yunet_finds_the_faces(frames: list[ByteArray]) -> None:
    model = Path(os.environ["REACTOMETER_WEIGHTS"]) / "yunet_n_320_320.onnx"
    detector = cv2.FaceDetectorYN.create(str(model), "", (frames[0].shape[1], frames[0].shape[0]), 0.7)
    is_detected = [detector.detect(np.ascontiguousarray(frame[..., ::-1]))[1] is not None for frame in frames]
    assert np.mean(is_detected) >= 0.95


@pytest.mark.parametrize("action", ACTIONS)
def test_an_action_shows_the_more_the_stronger_it_is(action: str) -> None:
    scene, pose = build_scene(random_appearance(np.random.default_rng(4)), 160), Pose(0.5, 0.45, 0.21)
    neutral = draw_frame(scene, pose, REST).astype(float)
    changes = [
        np.abs(draw_frame(scene, pose, {**REST, action: strength}) - neutral).sum() / 1000
        for strength in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    assert changes[0] == 0
    assert all(weaker < stronger for weaker, stronger in pairwise(changes))


def test_the_picture_scales_with_its_size() -> None:
    look, pose = random_appearance(np.random.default_rng(4)), Pose(0.5, 0.45, 0.21, yaw=0.2, roll=0.1)
    small, large = (draw_frame(build_scene(look, size_px), pose, REST) for size_px in (96, 192))
    shrunk = cv2.resize(large, (96, 96), interpolation=cv2.INTER_AREA)
    face = np.s_[25:70, 30:66]
    assert np.abs(shrunk[face].astype(float) - small[face]).mean() < 8


def test_a_head_out_of_the_picture_leaves_the_room() -> None:
    scene = build_scene(random_appearance(np.random.default_rng(4)), 160)
    assert np.abs(draw_frame(scene, Pose(2.5, 0.45, 0.21), REST) - scene.room.transpose(1, 2, 0)).max() <= 1
