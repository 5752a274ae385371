"""The bytes of the live protocol (docs/live.md): one message a piece, packed and unpacked."""

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
MOST_FEATURES_BYTES = 2_000_000
MOST_MESSAGE_BYTES = MOST_FRAME_BYTES + HEAD.size
"""No message may be longer; what uvicorn's ``ws_max_size`` should be."""

LATEST_S = 1e11
"""Times beyond are no seconds of any clock."""

JPEG_QUALITY = 90
FULL_SCALE = 32767


def pack(piece: Piece) -> bytes | None:
    """The message of a piece; None for a frame that could not be decoded."""
    head, content = HEAD.pack(piece.kind, piece.time_s), piece.content
    if callable(content):
        rgb = content()
        return None if rgb is None else head + encode_frame(rgb)
    if content is None:
        return head
    if piece.kind is Kind.SOUND:
        return head + np.round(np.clip(content, -1.0, 1.0) * FULL_SCALE).astype("<i2").tobytes()
    return head + content.astype("<f4").tobytes()


def unpack(message: bytes, voice_size: int = 0) -> Piece:
    """The piece of a message; a frame is decoded when its content is called for.

    Args:
        message: as :func:`pack` makes it.
        voice_size: features of a step of the voice, in mode "features".

    Raises:
        ConfigError: it is none, or beyond a limit.
    """
    if len(message) <= HEAD.size - 1:
        raise ConfigError("a message is too short", got=f"{len(message)} bytes", expected=f"{HEAD.size} or more")
    number, time_s = HEAD.unpack_from(message)
    payload = message[HEAD.size :]
    if number not in set(Kind):
        raise ConfigError("a message is of no known kind", got=number, expected="1 to 4")
    if not (math.isfinite(time_s) and abs(time_s) <= LATEST_S):
        raise ConfigError("the time of a piece is no time", got=time_s, expected="seconds, a finite number")
    kind = Kind(number)
    if kind is Kind.FRAME:
        return Piece(kind, time_s, _frame(payload))
    if kind is Kind.SOUND:
        return Piece(kind, time_s, _sound(payload))
    if len(payload) > MOST_FEATURES_BYTES or len(payload) % 4:
        raise ConfigError("features of a wrong size", got=f"{len(payload)} bytes", expected="float32 numbers")
    values = np.frombuffer(payload, dtype="<f4").astype(np.float32)
    if kind is Kind.FACE_FEATURES:
        return Piece(kind, time_s, values if len(values) else None)
    if len(values) % (1 + voice_size):
        raise ConfigError("voice features of a wrong size", got=len(values), expected=f"steps of {1 + voice_size}")
    return Piece(kind, time_s, values.reshape(-1, 1 + voice_size))


def encode_frame(rgb: ByteArray) -> bytes:
    """The JPEG of a frame, (H, W, 3) uint8 RGB."""
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return jpeg.tobytes()


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
