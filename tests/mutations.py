"""Media files that are damaged, lie, or are something else: seeds of many kinds, and changes drawn at random."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
import numpy as np

HUGE = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1_000_000_000, 100_000)
"""What a header claims of counts, sizes, durations and times."""

BOXES = (
    b"tkhd",
    b"mvhd",
    b"mdhd",
    b"stts",
    b"stsz",
    b"stco",
    b"stsc",
    b"ctts",
    b"elst",
    b"avcC",
    b"stsd",
    b"moov",
    b"mdat",
)


def seeds(frames: np.ndarray, waveform: np.ndarray) -> dict[str, bytes]:
    """The same clip in many containers and codecs, by a name that tells which.

    Args:
        frames: (T, H, W, 3) uint8 RGB at 10 a second.
        waveform: (S,) float32 in [-1, 1] at 16 kHz.
    """
    kinds = {
        "mp4": ("mp4", "libx264", "aac", "yuv420p"),
        "mkv": ("matroska", "libx264", "aac", "yuv420p"),
        "mkv 10 bits": ("matroska", "libx265", None, "yuv420p10le"),
        "avi": ("avi", "mpeg4", "mp3", "yuv420p"),
        "webm": ("webm", "libvpx", "libopus", "yuv420p"),
        "mov 4:4:4": ("mov", "libx264", "pcm_s16le", "yuv444p"),
        "mpegts": ("mpegts", "mpeg2video", "mp2", "yuv420p"),
        "gif": ("gif", "gif", None, "rgb8"),
        "mp3": ("mp3", None, "mp3", ""),
        "wav": ("wav", None, "pcm_s16le", ""),
        "flac": ("flac", None, "flac", ""),
        "png": ("image2pipe", "png", None, "rgb24"),
        "jpeg of print": ("mjpeg", "mjpeg", None, "yuvj444p"),
    }
    return {name: _encode(frames, waveform, *how) for name, how in kinds.items()}


def mutate(clips: list[bytes], rng: np.random.Generator) -> tuple[str, bytes]:
    """One of the clips, changed in one of many ways: which way, and the bytes."""
    clip = clips[rng.integers(len(clips))]
    change = CHANGES[rng.integers(len(CHANGES))]
    return change.__name__.strip("_"), change(clip, clips[rng.integers(len(clips))], rng)


def _flip_bits(clip: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(clip)
    for place in rng.integers(len(data), size=rng.integers(1, 200)):
        data[place] ^= 1 << int(rng.integers(8))
    return bytes(data)


def _flip_bits_of_the_head(clip: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    head = min(len(clip), 2048)
    return _flip_bits(clip[:head], other, rng) + clip[head:]


def _cut(clip: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    return clip[: int(rng.integers(len(clip)))]


def _cut_the_head(clip: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    return clip[int(rng.integers(len(clip))) :]


def _splice(clip: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    return clip[: int(rng.integers(len(clip)))] + other[int(rng.integers(len(other))) :]


def _blank(clip: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    first = int(rng.integers(len(clip)))
    last = min(len(clip), first + int(rng.integers(1, 4096)))
    return clip[:first] + bytes([int(rng.choice([0, 255]))]) * (last - first) + clip[last:]


def _repeat(clip: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    first = int(rng.integers(len(clip)))
    part = clip[first : first + int(rng.integers(1, 4096))]
    return clip[:first] + part * int(rng.integers(2, 20)) + clip[first:]


def _lie_in_a_box(clip: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Of MP4 and MOV: a count, size, duration or time of a header; of others, any four bytes of the head."""
    data = bytearray(clip)
    found = [place for box in BOXES if (place := clip.find(box)) > 0]
    first = int(rng.choice(found)) - 4 if found else int(rng.integers(min(512, len(data) - 4)))
    place = min(first + 4 * int(rng.integers(24)), len(data) - 4)
    data[place : place + 4] = struct.pack(">I", int(rng.choice(HUGE)))
    return bytes(data)


CHANGES: tuple[Callable[[bytes, bytes, np.random.Generator], bytes], ...] = (
    _flip_bits,
    _flip_bits_of_the_head,
    _cut,
    _cut_the_head,
    _splice,
    _blank,
    _repeat,
    _lie_in_a_box,
    _lie_in_a_box,
)


def _encode(
    frames: np.ndarray, waveform: np.ndarray, container: str, video: str | None, audio: str | None, pixels: str
) -> bytes:
    target = io.BytesIO()
    opened: Any = av.open(target, "w", format=container)
    with opened as out:
        seen: Any = out.add_stream(video, rate=Fraction(10)) if video else None
        heard: Any = None
        if seen is not None:
            seen.height, seen.width, seen.pix_fmt = *frames.shape[1:3], pixels
        if audio:
            heard = out.add_stream(audio, rate=48_000 if audio == "libopus" else 16_000)
            heard.layout = "mono"
        for picture in frames[: 1 if video == "png" else None] if seen is not None else ():
            out.mux(seen.encode(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels)))
        if seen is not None:
            out.mux(seen.encode(None))
        if heard is not None:
            sound = av.AudioFrame.from_ndarray(waveform[None].astype(np.float32), format="fltp", layout="mono")
            sound.sample_rate = 16_000
            for frame in av.AudioResampler(heard.format, "mono", heard.rate, heard.frame_size or 1024).resample(sound):
                out.mux(heard.encode(frame))
            out.mux(heard.encode(None))
    return target.getvalue()
