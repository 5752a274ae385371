"""Split a clip into the packets of a camera and a microphone, and into a client's messages."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from reactometer.live.protocol import Packet, PacketKind
from reactometer.media.audio import read_sound
from reactometer.media.video import read_frames, sample_frames
from reactometer.types import SOUND_RATE_HZ, ByteArray

CHUNK_S = 0.1
HEAD = struct.Struct("<Bd")


def packets_of(path: Path, rate_hz: float) -> list[Packet]:
    """Return frames, and sound in blocks of 0.1 s, in the order of their arrival."""
    timed: list[tuple[float, Packet]] = []
    size = round(CHUNK_S * SOUND_RATE_HZ)
    for block in read_sound(path):
        for first in range(0, len(block.samples), size):
            start_s, samples = block.start_s + first / SOUND_RATE_HZ, block.samples[first : first + size]
            timed.append((start_s + len(samples) / SOUND_RATE_HZ, Packet(PacketKind.SOUND, start_s, samples)))
    frames = sample_frames(read_frames(path), rate_hz)
    timed += [
        (frame.time_s, Packet(PacketKind.FRAME, frame.time_s, frame.rgb or (lambda: None)))
        for frame in frames
    ]
    return [packet for _, packet in sorted(timed, key=lambda pair: pair[0])]


def until(packets: Sequence[Packet], end_s: float) -> list[Packet]:
    """Return the packets that begin before a time."""
    return [packet for packet in packets if packet.time_s < end_s]


def pack(packet: Packet) -> bytes:
    """Return the binary message of a packet, see docs/reference/live-protocol.md."""
    head = HEAD.pack(packet.kind, packet.time_s)
    if not callable(packet.content):
        return head + np.round(np.clip(packet.content, -1.0, 1.0) * 32767).astype("<i2").tobytes()
    rgb = packet.content()
    assert rgb is not None
    return head + encode_frame(rgb)


def encode_frame(rgb: ByteArray) -> bytes:
    """Encode a frame, (H, W, 3) uint8 RGB, as JPEG."""
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])
    return jpeg.tobytes()
