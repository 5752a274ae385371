"""WebSocket /v1/live: a real server with correct and malformed clients."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from prometheus_client import generate_latest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from fixtures_of_serving import live_route
from live_clips import encode_frame, pack, packets_of
from reactometer.inference.checkpoint import LoadedModel
from reactometer.live.protocol import HEAD, MAX_FRAME_BYTES, Packet, PacketKind, jpeg_size, unpack
from reactometer.live.scorer import LiveScorer
from reactometer.serving.queue import ServiceMetrics, Settings
from reactometer.types import SOUND_RATE_HZ, ByteArray

pytestmark = pytest.mark.usefixtures("found_once")

KEY = "a-key-of-some-length"
SETTINGS = Settings(Path(), {"anna": KEY}, live_sessions=2)


@pytest.fixture(scope="module")
def video(simulated: Path) -> Path:
    return sorted((simulated / "test" / "mp4").iterdir())[0]


@pytest.fixture(scope="module")
def metrics() -> ServiceMetrics:
    return ServiceMetrics()


@pytest.fixture(scope="module")
def address(starter: LoadedModel, metrics: ServiceMetrics) -> Iterator[str]:
    """Serve only this route."""
    with live_route(starter, SETTINGS, metrics) as address:
        yield address


@contextmanager
def session(address: str, **start: object) -> Iterator[ClientConnection]:
    with connect(address, compression=None) as client:
        client.send(json.dumps({"type": "start", "window_s": 1.0, "key": KEY, **start}))
        ready = json.loads(client.recv(10))
        assert ready["type"] == "ready", ready
        yield client


def received(client: ClientConnection) -> tuple[list[dict[str, Any]], int]:
    """Receive all messages until the server closes; return them with the close code."""
    messages: list[dict[str, Any]] = []
    try:
        while True:
            messages.append(json.loads(client.recv(10)))
    except ConnectionClosed as end:
        return messages, end.rcvd.code if end.rcvd else 0


def test_a_clip_is_scored_as_it_comes(
    address: str, starter: LoadedModel, video: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scorer = LiveScorer(starter, 1.0)
    with caplog.at_level(logging.DEBUG), session(address) as client:
        for packet in packets_of(video, 10.0):
            message = pack(packet)
            client.send(message)
            scorer.push(unpack(message))  # with the same JPEG
            time.sleep(0.02)
        client.send('{"type": "stop"}')
        messages, code = received(client)
    assert code == 1000
    assert {message["type"] for message in messages} == {"intensities"}
    last, expected = messages[-1], scorer.score()
    assert expected is not None
    values = [last["intensities"][label]["value"] for label in starter.labels]
    if not last["dropped"]:
        np.testing.assert_allclose(values, expected.intensities or (), atol=1e-4)
    assert last["time_s"] == expected.time_s
    assert last["start_s"] == pytest.approx(last["end_s"] - 1.0, abs=2e-3)
    assert set(last["intensities"]["Anger"]) == {"value"}  # no interval
    assert len(last["face"]) == 4
    assert last["level_db"] < 0.0
    assert not list(tmp_path.iterdir())
    assert "\\xff\\xd8" not in caplog.text


@pytest.mark.parametrize(
    ("start", "error"),
    [
        ("nonsense", "invalid start message"),
        ("[1]", "invalid start message"),
        ('{"type": "start", "window_s": "x"}', "window"),
        ('{"type": "start", "window_s": NaN}', "window"),
        ('{"type": "start", "window_s": 1e9}', "window"),
        (f'{{"type": "start", "window_s": 0, "key": "{KEY}"}}', "window"),
        ('{"type": "start", "key": 5}', "key"),
        ('{"type": "start", "key": "wrong"}', "the key is unknown"),
        (b"\x01", "invalid start message"),
    ],
)
def test_an_invalid_start_message_is_refused(address: str, start: str | bytes, error: str) -> None:
    with connect(address) as client:
        client.send(start)
        (answer,), code = received(client)
    assert code == 1008
    assert answer["type"] == "error"
    assert error in answer["error"]
    assert "\n" not in answer["error"]


@pytest.mark.slow
def test_silent_clients_time_out(starter: LoadedModel) -> None:
    settings = Settings(Path(), live_start_s=2.0, live_idle_s=2.0)
    with live_route(starter, settings, ServiceMetrics()) as address:
        with connect(address) as client:
            assert received(client) == ([{"type": "error", "error": "no start message within 2 s"}], 1008)
        with session(address) as client:
            (answer,), code = received(client)
            assert (code, answer["error"]) == (1000, "no message for 2 s")


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (b"\x01", "neither a frame nor sound"),
        (HEAD.pack(9, 0.0), "neither a frame nor sound"),
        (HEAD.pack(1, float("nan")) + encode_frame(np.zeros((9, 9, 3), np.uint8)), "invalid time"),
        (HEAD.pack(1, 1e300), "invalid time"),
        (HEAD.pack(1, 0.0) + b"not an image", "not a JPEG"),
        (HEAD.pack(1, 0.0) + b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03", "65535 x 65535 pixels"),
        (HEAD.pack(1, 0.0) + b"\xff\xd8" + b"\xff" * 50, "not a JPEG"),
        (HEAD.pack(1, 0.0) + b"\xff\xd8\xff\xe0\x00\x00" * 9, "not a JPEG"),
        (HEAD.pack(2, 0.0), "invalid size of sound"),
        (HEAD.pack(2, 0.0) + bytes(3), "invalid size of sound"),
        (HEAD.pack(2, 0.0) + bytes(40_000), "invalid size of sound"),
        (HEAD.pack(3, 0.0) + bytes(4), "neither a frame nor sound"),
        ('{"type": "dance"}', "invalid message"),
    ],
)
def test_a_malformed_packet_ends_the_session(address: str, message: str | bytes, error: str) -> None:
    with session(address) as client:
        client.send(message)
        (answer,), code = received(client)
    assert (answer["type"], code) == ("error", 1008)
    assert error in answer["error"]


def test_a_packet_that_is_too_large_ends_the_session(address: str) -> None:
    with session(address) as client:
        client.send(bytes(MAX_FRAME_BYTES + 100))
        messages, code = received(client)
        assert (code, "too large" in messages[-1]["error"]) == (1009, True)


def test_the_number_of_sessions_is_limited(
    address: str, metrics: ServiceMetrics, wait_for: Callable[[Callable[[], bool]], None]
) -> None:
    with session(address), session(address), connect(address) as client:
        client.send(json.dumps({"type": "start", "key": KEY}))
        (answer,), code = received(client)
        assert b"reactometer_live_sessions 2.0" in generate_latest(metrics.registry)
        assert (code, "too many live sessions (limit 2)" in answer["error"]) == (1013, True)
    wait_for(lambda: b"reactometer_live_sessions 0.0" in generate_latest(metrics.registry))
    with session(address):  # a closed session frees its slot
        pass


def test_a_damaged_frame_is_one_without_a_face(address: str, video: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    jpeg = encode_frame(rgb)
    with session(address) as client:
        client.send(HEAD.pack(1, 0.0) + jpeg[:40] + jpeg[: len(jpeg) // 2])
        answer = json.loads(client.recv(10))
        if answer["type"] == "intensities":
            assert answer["face"] is None


def test_packets_survive_packing() -> None:
    image: ByteArray = np.full((20, 30, 3), 128, np.uint8)
    back = unpack(pack(Packet(PacketKind.FRAME, 1.5, lambda: image)))
    assert back.time_s == 1.5
    assert callable(back.content)
    decoded = back.content()
    assert decoded is not None
    assert np.abs(decoded.astype(int) - image).max() <= 2
    samples = np.array([-1.0, 0.25, 1.0, 7.0], np.float32)
    samples_back = unpack(pack(Packet(PacketKind.SOUND, 0.0, samples))).content
    np.testing.assert_allclose(samples_back, [-1.0, 0.25, 1.0, 1.0], atol=1 / SOUND_RATE_HZ)  # type: ignore[arg-type]


@pytest.mark.parametrize("option", [cv2.IMWRITE_JPEG_PROGRESSIVE, cv2.IMWRITE_JPEG_OPTIMIZE, None])
def test_the_size_of_a_jpeg_is_read_without_decoding(option: int | None) -> None:
    _, jpeg = cv2.imencode(".jpg", np.zeros((123, 456, 3), np.uint8), [option, 1] if option else [])
    assert jpeg_size(jpeg.tobytes()) == (456, 123)
