"""Packets and scores of a live session, in memory and as messages (docs/reference/live-protocol.md)."""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from typing import Any, cast

import cv2
import numpy as np

from reactometer.errors import ConfigError
from reactometer.inference.tables import intensities_as_json
from reactometer.types import SOUND_RATE_HZ, ByteArray, FloatArray

HEAD = struct.Struct("<Bd")
"""Packet kind and time in seconds, before each payload."""

MAX_FRAME_BYTES = 2_000_000
MAX_FRAME_PIXELS = 3840 * 2160
MAX_SOUND_S = 1.0
MAX_MESSAGE_BYTES = MAX_FRAME_BYTES + HEAD.size
"""Maximum length of a message; the value for uvicorn's ``ws_max_size``."""

MAX_TIME_S = 1e11
"""Larger times are refused as invalid."""

FULL_SCALE = 32767


class PacketKind(IntEnum):
    """Kind of a packet, with its number in the protocol."""

    FRAME = 1
    SOUND = 2


@dataclass(frozen=True)
class Packet:
    """A frame, or up to a second of sound, from a camera, a microphone or a client."""

    kind: PacketKind
    time_s: float  # of the frame, or of the first sample of sound
    content: Callable[[], ByteArray | None] | FloatArray
    """A frame: a function that returns (H, W, 3) uint8 RGB, or None if damaged. Sound: (S,) float32 in [-1,
    1]."""
    arrived_s: float = field(default_factory=time.monotonic)  # on this process's clock


@dataclass(frozen=True)
class LiveScore:
    """Intensities of the window that ends now."""

    time_s: float  # of the newest frame or sound in it
    start_s: float
    end_s: float
    intensities: (
        tuple[float, ...] | None
    )  # (L,) in [0, 1]; None if the window contains no usable face or voice
    frame_s: float | None = None  # time of the newest frame in it
    face: tuple[float, float, float, float] | None = (
        None  # its box in that frame: x, y, width, height in pixels
    )
    face_share: float = 0.0  # of the window's frames
    level_db: float | None = (
        None  # of the last tenth of a second, relative to full scale; None: silence, or no sound
    )
    warnings: str | None = None  # reasons not to use the intensities
    latency_s: float = (
        0.0  # from the arrival of the newest frame (or sound, if no frame has come) to the score
    )
    dropped: int = 0  # frames of the session, so far


def score_as_json(score: LiveScore, labels: tuple[str, ...]) -> dict[str, Any]:
    """Return the protocol's message of a score, without its ``type``."""
    return {
        "time_s": score.time_s,
        "start_s": round(score.start_s, 3),
        "end_s": round(score.end_s, 3),
        "intensities": intensities_as_json(labels, score.intensities),
        "frame_s": score.frame_s,
        "face": None if score.face is None else [round(value, 1) for value in score.face],
        "face_share": round(score.face_share, 3),
        "level_db": None if score.level_db is None else round(score.level_db, 1),
        "warnings": score.warnings,
        "dropped": score.dropped,
    }


def unpack(message: bytes) -> Packet:
    """Parse one binary message; a frame is decoded when its content is called.

    Raises:
        ConfigError: the message is malformed or exceeds a limit.
    """
    if len(message) < HEAD.size or message[0] not in set(PacketKind):
        got = f"{len(message)} bytes: {message[: HEAD.size].hex()}"
        expected = "kind 1 or 2, then the time in 8 bytes"
        raise ConfigError("the message is neither a frame nor sound", got=got, expected=expected)
    number, time_s = HEAD.unpack_from(message)
    if not (math.isfinite(time_s) and abs(time_s) <= MAX_TIME_S):
        raise ConfigError("invalid time of a packet", got=time_s, expected="a finite number of seconds")
    kind, payload = PacketKind(number), message[HEAD.size :]
    return Packet(kind, time_s, _frame(payload) if kind is PacketKind.FRAME else _sound(payload))


def jpeg_size(jpeg: bytes) -> tuple[int, int] | None:
    """Return the width and height in pixels from a JPEG's header, without decoding; None for other data."""
    offset = 2
    while jpeg[:2] == b"\xff\xd8" and offset + 9 <= len(jpeg) and jpeg[offset] == 0xFF:
        marker = jpeg[offset + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame header
            height_px, width_px = struct.unpack_from(">HH", jpeg, offset + 5)
            return width_px, height_px
        is_filler = marker == 0xFF
        offset += 1 if is_filler else 2 + struct.unpack_from(">H", jpeg, offset + 2)[0]
    return None


def _frame(jpeg: bytes) -> Callable[[], ByteArray | None]:
    if len(jpeg) > MAX_FRAME_BYTES:
        raise ConfigError(
            "the frame is too large", got=f"{len(jpeg)} bytes", expected=f"at most {MAX_FRAME_BYTES}"
        )
    size = jpeg_size(jpeg)
    if size is None:
        raise ConfigError("the frame is not a JPEG image", got=f"{len(jpeg)} bytes", expected="a JPEG")
    if not 0 < size[0] * size[1] <= MAX_FRAME_PIXELS:
        expected = f"at most {MAX_FRAME_PIXELS} pixels"
        raise ConfigError("the frame is too large", got=f"{size[0]} x {size[1]} pixels", expected=expected)
    return partial(_decode, jpeg)


def _decode(jpeg: bytes) -> ByteArray | None:
    """Decode a JPEG to (H, W, 3) uint8 RGB, upright; return None if damaged."""
    try:
        bgr = cv2.imdecode(np.frombuffer(jpeg, dtype=np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        return None
    return None if bgr is None else cast(ByteArray, cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))


def _sound(payload: bytes) -> FloatArray:
    max_samples = round(MAX_SOUND_S * SOUND_RATE_HZ)
    if not payload or len(payload) % 2 or len(payload) > 2 * max_samples:
        got = f"{len(payload)} bytes"
        expected = f"1 to {max_samples} samples of 16 bits"
        raise ConfigError("invalid size of sound", got=got, expected=expected)
    return np.asarray(np.frombuffer(payload, dtype="<i2") / FULL_SCALE, dtype=np.float32).clip(-1.0, 1.0)
