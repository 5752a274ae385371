"""The bytes of the live protocol (docs/live.md): one message per piece, as clients send them."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from functools import partial
from typing import cast

import cv2
import numpy as np

from reactometer.errors import ConfigError
from reactometer.records import SOUND_RATE_HZ, ByteArray, FloatArray, Kind, Piece

HEAD = struct.Struct("<Bd")
"""Kind and time in seconds, before each payload."""

MOST_FRAME_BYTES = 2_000_000
MOST_FRAME_PIXELS = 3840 * 2160
MOST_SOUND_S = 1.0
MOST_MESSAGE_BYTES = MOST_FRAME_BYTES + HEAD.size
"""No message may be longer; what uvicorn's ``ws_max_size`` should be."""

LATEST_S = 1e11
"""Times beyond are no seconds of any clock."""

FULL_SCALE = 32767


def unpack(message: bytes) -> Piece:
    """Read one binary message; a frame is decoded when its content is called.

    Raises:
        ConfigError: the message is malformed or beyond a limit.
    """
    if len(message) <= HEAD.size - 1:
        raise ConfigError("a message is too short", got=f"{len(message)} bytes", expected=f"{HEAD.size} or more")
    number, time_s = HEAD.unpack_from(message)
    payload = message[HEAD.size :]
    if number not in set(Kind):
        raise ConfigError("a message is of no known kind", got=number, expected="1 or 2")
    if not (math.isfinite(time_s) and abs(time_s) <= LATEST_S):
        raise ConfigError("the time of a piece is no time", got=time_s, expected="seconds, a finite number")
    kind = Kind(number)
    if kind is Kind.FRAME:
        return Piece(kind, time_s, _frame(payload))
    return Piece(kind, time_s, _sound(payload))


def jpeg_size(jpeg: bytes) -> tuple[int, int] | None:
    """Width and height in pixels that a JPEG's header declares, without decoding it; None where it is none."""
    place = 2
    while jpeg[:2] == b"\xff\xd8" and place + 9 <= len(jpeg) and jpeg[place] == 0xFF:
        marker = jpeg[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame header
            height_px, width_px = struct.unpack_from(">HH", jpeg, place + 5)
            return width_px, height_px
        filler = marker == 0xFF
        place += 1 if filler else 2 + struct.unpack_from(">H", jpeg, place + 2)[0]
    return None


def _frame(jpeg: bytes) -> Callable[[], ByteArray | None]:
    if len(jpeg) > MOST_FRAME_BYTES:
        raise ConfigError("a frame is too large", got=f"{len(jpeg)} bytes", expected=f"at most {MOST_FRAME_BYTES}")
    size = jpeg_size(jpeg)
    if size is None:
        raise ConfigError("a frame is no JPEG picture", got=f"{len(jpeg)} bytes", expected="a JPEG")
    if not 0 < size[0] * size[1] <= MOST_FRAME_PIXELS:
        expected = f"at most {MOST_FRAME_PIXELS} pixels"
        raise ConfigError("a frame is too large", got=f"{size[0]} x {size[1]} pixels", expected=expected)
    return partial(_decode, jpeg)


def _decode(jpeg: bytes) -> ByteArray | None:
    """(H, W, 3) uint8 RGB, upright; None where the JPEG is damaged."""
    try:
        bgr = cv2.imdecode(np.frombuffer(jpeg, dtype=np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        return None
    return None if bgr is None else cast(ByteArray, cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))


def _sound(payload: bytes) -> FloatArray:
    most = round(MOST_SOUND_S * SOUND_RATE_HZ)
    if not payload or len(payload) % 2 or len(payload) > 2 * most:
        got, expected = f"{len(payload)} bytes", f"1 to {most} samples of 16 bits"
        raise ConfigError("sound of a wrong size", got=got, expected=expected)
    return np.asarray(np.frombuffer(payload, dtype="<i2") / FULL_SCALE, dtype=np.float32).clip(-1.0, 1.0)
