"""The logic of the ROS 2 example, with objects that have the fields of ROS 2's messages: rclpy is not
needed."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pytest

from reactometer.inference.checkpoint import load_model
from reactometer.live.scorer import LiveScorer
from reactometer.live.session import FrameQueue, run_session
from reactometer.media.video import read_frames
from reactometer.paths import STARTER, find_checkpoint

EXAMPLE = Path(__file__).parents[1] / "examples" / "ros2" / "reactometer_live"


@pytest.fixture(scope="module")
def messages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reactometer_live_messages", EXAMPLE / "messages.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def header(time_s: float) -> SimpleNamespace:
    return SimpleNamespace(
        stamp=SimpleNamespace(sec=int(time_s), nanosec=round(time_s % 1 * 1e9)), frame_id="camera"
    )


def test_from_messages_to_a_message(messages: ModuleType, simulated: Path, tmp_path: Path) -> None:
    unscreened = shutil.ignore_patterns("screening.safetensors")  # it refuses rendered faces
    model = load_model(
        shutil.copytree(find_checkpoint(STARTER), tmp_path / "model", ignore=unscreened), "cpu"
    )
    scorer, video = LiveScorer(model, 1.0), sorted((simulated / "test" / "mp4").iterdir())[0]
    inbox = FrameQueue(scorer.rate_hz)
    tone = (3000 * np.sin(np.arange(1600) * 0.1)).astype("<i2")
    frame = next(read_frames(video))
    assert frame.rgb is not None
    rgb = frame.rgb()
    height, width = rgb.shape[:2]
    padded = np.zeros(
        (height, width * 3 + 5), np.uint8
    )  # rows of bgr8, each with a little that is no picture
    padded[:, : width * 3] = rgb[:, :, ::-1].reshape(height, -1)
    fields = {
        "height": height,
        "width": width,
        "encoding": "bgr8",
        "step": width * 3 + 5,
        "data": padded.tobytes(),
    }
    packet = messages.image_piece(SimpleNamespace(header=header(7.25), **fields))
    np.testing.assert_array_equal(packet.content(), rgb)
    inbox.put(packet)
    inbox.put(messages.sound_piece(SimpleNamespace(data=list(tone.tobytes())), 7.25))
    inbox.close()
    (window,) = run_session(scorer, inbox)
    message = json.loads(messages.score_as_text(window, model.labels))
    assert message["frame_s"] == pytest.approx(7.25)
    assert set(message["intensities"]) == set(model.labels)
    assert message["level_db"] > -40
    assert message["latency_ms"] > 0


def test_other_pictures(messages: ModuleType) -> None:
    picture = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    _, png = cv2.imencode(".png", picture[:, :, ::-1])
    compressed = messages.compressed_piece(
        SimpleNamespace(header=header(1.0), format="png", data=png.tobytes())
    )
    np.testing.assert_array_equal(compressed.content(), picture)
    grey = {"height": 2, "width": 3, "encoding": "mono8", "step": 3, "data": bytes(range(6))}
    np.testing.assert_array_equal(
        messages.image_piece(SimpleNamespace(header=header(1.0), **grey)).content()[:, :, 1],
        [[0, 1, 2], [3, 4, 5]],
    )
    with pytest.raises(ValueError, match="yuv422"):
        messages.image_piece(SimpleNamespace(header=header(1.0), **{**grey, "encoding": "yuv422"}))
