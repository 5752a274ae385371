"""Damaged media files: valid files of many kinds, and random changes."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image

HUGE = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1_000_000_000, 100_000)
"""Extreme values of counts, sizes, durations and times in a header."""

BOXES = tuple(b"tkhd mvhd mdhd stts stsz stco stsc ctts elst avcC stsd moov mdat".split())
BLOCK = re.compile(rb"\xa3(?:[\x81-\xfe]|[\x40-\x7f].|[\x20-\x3f]..)\x81", re.DOTALL)
"""Head of a block of the first stream in Matroska and WebM; its time, a signed 16-bit integer, follows."""


def seeds(frames: np.ndarray, waveform: np.ndarray) -> dict[str, bytes]:
    """Return the clip in many containers and codecs, by name.

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
        "mjpeg 4:4:4": ("mjpeg", "mjpeg", None, "yuvj444p"),
    }
    return {name: _encode(frames, waveform, *how) for name, how in kinds.items()}


def oddities(frames: np.ndarray, waveform: np.ndarray) -> dict[str, bytes]:
    """Return unusual versions of the clip by name: rotated, very wide, with other colours or timestamps."""
    wide = np.zeros((1, 16, 100_000, 3), np.uint8)
    mp4, mkv = ("mp4", "libx264", "aac", "yuv420p"), ("matroska", "libx264", None, "yuv420p")
    early = [10 * number - 50_000 for number in range(len(frames))]
    sparse = [10 * number + 10_000 * (number > 5) for number in range(len(frames))]
    return {
        "turned": _encode(frames, waveform, *mp4, turned=90),
        "askew": _encode(frames, waveform, *mp4, turned=37),
        "before zero": _encode(frames, waveform, *mp4, times=early),
        "a gap of 100 s": _encode(frames, waveform, *mkv, times=sparse),
        "all at once": _encode(frames, waveform, *mkv, times=[0] * len(frames)),
        "a million a second": _encode(frames, waveform, *mkv, rate=Fraction(1_000_000)),
        "a frame a day": _with_a_long_frame(_encode(frames[:1], waveform, *mp4)),
        "a sample a second": _encode(frames, waveform, "wav", None, "pcm_s16le", "").replace(
            struct.pack("<II", 16_000, 32_000), struct.pack("<II", 1, 2)
        ),
        "100,000 pixels wide": _encode(wide, waveform, "matroska", "ffv1", None, "yuv420p"),
        "CMYK": b"".join(_cmyk(picture) for picture in frames),
        "alpha": _encode(frames, waveform, "mov", "qtrle", None, "argb"),
        "planes of RGB": _encode(frames, waveform, "matroska", "libx265", None, "gbrp"),
        "grey of 16 bits": _encode(frames, waveform, "matroska", "ffv1", None, "gray16le"),
        "12 bits": _encode(frames, waveform, "matroska", "ffv1", None, "yuv444p12le"),
    }


def _with_a_long_frame(mp4: bytes) -> bytes:
    """Edit the table of times: the first frame lasts for about a day."""
    delta = mp4.find(b"stts") + 16
    return mp4[:delta] + struct.pack(">I", 1_000_000_000) + mp4[delta + 4 :]


def _cmyk(picture: np.ndarray) -> bytes:
    target = io.BytesIO()
    Image.fromarray(picture).convert("CMYK").save(target, "jpeg")
    return target.getvalue()


def mutate(clips: list[bytes], rng: np.random.Generator) -> tuple[str, bytes]:
    """Change a random clip in a random way; return the name of the change and the bytes."""
    clip = clips[rng.integers(len(clips))]
    change = CHANGES[rng.integers(len(CHANGES))]
    return change.__name__.strip("_"), change(clip, clips[rng.integers(len(clips))], rng)


def _flip_bits(clip: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(clip)
    for position in rng.integers(len(data), size=rng.integers(1, 200)):
        data[position] ^= 1 << int(rng.integers(8))
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
    """Change a count, size, duration or time in an MP4 or MOV header; in other files, any four bytes of the
    head."""
    data = bytearray(clip)
    positions = [position for box in BOXES if (position := clip.find(box)) > 0]
    first = int(rng.choice(positions)) - 4 if positions else int(rng.integers(min(512, len(data) - 4)))
    position = min(first + 4 * int(rng.integers(24)), len(data) - 4)
    data[position : position + 4] = struct.pack(">I", int(rng.choice(HUGE)))
    return bytes(data)


def _lie_about_a_number(clip: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Change a possible size, count or rate near the beginning or end of any container, in either byte
    order."""
    data, ends = (
        bytearray(clip),
        [*range(min(2048, len(clip) - 4)), *range(max(0, len(clip) - 2048), len(clip) - 4)],
    )
    places = [
        (at, how) for at in ends for how in ("<I", ">I") if 1 < struct.unpack_from(how, data, at)[0] < 20_000
    ]
    for number in rng.integers(len(places), size=rng.integers(1, 4)) if places else ():
        at, how = places[number]
        struct.pack_into(how, data, at, int(rng.choice(HUGE)))
    return bytes(data)


def _move_times(clip: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Write decreasing, jumping and negative times into Matroska blocks, MP4 tables, or any bytes of other
    files."""
    data = bytearray(clip)
    for block in BLOCK.finditer(clip):
        if block.end() + 2 <= len(data) and rng.random() < 0.5:
            struct.pack_into(">h", data, block.end(), int(rng.integers(-(2**15), 2**15)))
    for box in (b"stts", b"ctts"):
        first, count = clip.find(box) + 12, int(rng.integers(1, 40))
        for position in range(first, min(first + 4 * count, len(data) - 4), 4) if first > 11 else ():
            if rng.random() < 0.3:
                struct.pack_into(
                    ">i", data, position, int(rng.choice([-1, 0, 1, -(2**31), 2**31 - 1, -1000, 10**9]))
                )
    return bytes(data) if data != clip else _lie_about_a_number(clip, other, rng)


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
    _lie_about_a_number,
    _lie_about_a_number,
    _move_times,
)


def _encode(
    frames: np.ndarray,
    waveform: np.ndarray,
    container: str,
    video: str | None,
    audio: str | None,
    pixels: str,
    *,
    times: list[int] | None = None,
    turned: int = 0,
    rate: Fraction = Fraction(10),
) -> bytes:
    """``times`` in hundredths of a second; ``turned`` by so many degrees."""
    target = io.BytesIO()
    opened: Any = av.open(target, "w", format=container)
    with opened as out:
        seen: Any = out.add_stream(video, rate=rate) if video else None
        heard: Any = None
        if seen is not None:
            seen.height, seen.width, seen.pix_fmt = *frames.shape[1:3], pixels
        if turned:
            seen.set_display_rotation(turned)
        if times:
            seen.codec_context.time_base = Fraction(1, 100)
        if audio:
            heard = out.add_stream(audio, rate=48_000 if audio == "libopus" else 16_000)
            heard.layout = "mono"
        for number, rgb in enumerate(frames[: 1 if video == "png" else None] if seen is not None else ()):
            picture = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=pixels)
            if times:
                picture.pts, picture.time_base = times[number], Fraction(1, 100)
            out.mux(seen.encode(picture))
        if seen is not None:
            out.mux(seen.encode(None))
        if heard is not None:
            sound = av.AudioFrame.from_ndarray(
                waveform[None].astype(np.float32), format="fltp", layout="mono"
            )
            sound.sample_rate = 16_000
            for frame in av.AudioResampler(
                heard.format, "mono", heard.rate, heard.frame_size or 1024
            ).resample(sound):
                out.mux(heard.encode(frame))
            out.mux(heard.encode(None))
    return target.getvalue()
