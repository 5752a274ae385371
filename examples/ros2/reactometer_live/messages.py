"""Convert messages of ROS 2 to packets, and scores to text; needs only objects with the same fields."""

from __future__ import annotations

import json
from typing import Any

import cv2
import numpy as np

from reactometer.live.protocol import LiveScore, Packet, PacketKind, score_as_json
from reactometer.types import ByteArray

COLOURS = {
    "rgb8": (3, None),
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, cv2.COLOR_GRAY2RGB),
}
"""Bytes a pixel and what OpenCV does to it, by ``encoding``."""


def time_of(stamp: Any) -> float:
    """Return a ``builtin_interfaces/Time`` in seconds."""
    return float(stamp.sec) + 1e-9 * float(stamp.nanosec)


def image_piece(message: Any) -> Packet:
    """Convert a ``sensor_msgs/Image``, which is decoded when it is used; raise ValueError for an unknown
    encoding."""
    if message.encoding not in COLOURS:
        raise ValueError(f"encoding {message.encoding} is not one of {', '.join(COLOURS)}")
    return Packet(PacketKind.FRAME, time_of(message.header.stamp), lambda: _rgb(message))


def compressed_piece(message: Any) -> Packet:
    """Convert a ``sensor_msgs/CompressedImage``: JPEG or PNG."""
    return Packet(PacketKind.FRAME, time_of(message.header.stamp), lambda: _decoded(bytes(message.data)))


def sound_piece(message: Any, ended_s: float) -> Packet:
    """Convert an ``audio_common_msgs/AudioData`` of 16 bits, mono, 16 kHz, whose message carries no time."""
    samples = np.frombuffer(bytes(message.data), dtype="<i2").astype(np.float32) / 32767
    return Packet(PacketKind.SOUND, ended_s - len(samples) / 16_000, samples)


def score_as_text(score: LiveScore, labels: tuple[str, ...]) -> str:
    """Return JSON for a ``std_msgs/String``, as in the protocol (docs/reference/live-protocol.md)."""
    latency_ms = round(1000 * score.latency_s, 1)
    return json.dumps({**score_as_json(score, labels), "latency_ms": latency_ms})


def _rgb(message: Any) -> ByteArray:
    """(H, W, 3) uint8 RGB; rows may be padded to ``step`` bytes."""
    size, change = COLOURS[message.encoding]
    rows = np.frombuffer(bytes(message.data), dtype=np.uint8).reshape(message.height, message.step)
    pixels = np.ascontiguousarray(
        rows[:, : message.width * size].reshape(message.height, message.width, size)
    )
    return pixels if change is None else np.asarray(cv2.cvtColor(pixels, change), dtype=np.uint8)


def _decoded(data: bytes) -> ByteArray | None:
    bgr = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR) if data else None
    return None if bgr is None else np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)
