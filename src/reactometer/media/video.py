"""Stream the frames of a media file, each with its exact presentation time."""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import SideDataContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from reactometer.errors import MediaError, missing_path_hint
from reactometer.types import ByteArray, Frame, MediaInfo

DECODER_THREADS = 1  # two threads are no faster on two cores, and report damage late
MAX_MISSING_SHARE = 0.05  # a file is truncated if both more than this share of its frames
MAX_MISSING_FRAMES = 2  # and more than this number of frames are missing
GRID_TOLERANCE_S = 0.0005  # a frame this little before a sampling time counts as on time
FALLBACK_RATE_HZ = 25.0  # for frames without times in a stream without a rate
MIN_RATE_HZ = 1 / 60  # lower declared rates are ignored: one frame would last for hours
# Demuxers that read one video or sound file. Excluded are text, still images, and playlists, which open other
# files and addresses.
CONTAINERS = (
    "mov,mp4,m4a,3gp,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,ivf,obu,mjpeg,gif,flv,asf,rm,nut,mxf,dv,wtv,"
    "ogg,mp3,wav,w64,aiff,au,caf,flac,aac,ac3,eac3,amr,ape,tta,wv,voc"
)

MEDIA_ENDINGS = (
    *(
        ".mp4",
        ".m4v",
        ".mov",
        ".mkv",
        ".webm",
        ".avi",
        ".mpg",
        ".mpeg",
        ".ts",
        ".mts",
        ".m2ts",
        ".3gp",
        ".wmv",
        ".asf",
    ),
    *(".flv", ".ogv", ".mxf", ".gif"),
    *(".wav", ".mp3", ".m4a", ".aac", ".flac", ".ogg", ".oga", ".opus", ".wma", ".aif", ".aiff"),
)
"""Endings of the media files in a folder; explicitly named files may have any ending."""


def open_media(path: Path) -> InputContainer:
    """Open a local media file, but no file that it refers to; the caller closes it. Raise MediaError."""
    if not path.is_file():
        is_folder = path.is_dir()
        raise MediaError(
            f"cannot open {path}",
            got="a folder" if is_folder else "no such file",
            expected="a video or sound file",
            fix="Name one file in it" if is_folder else missing_path_hint(path),
        )
    if path.stat().st_size == 0:
        raise MediaError(
            f"cannot open {path}", got="an empty file (0 bytes)", fix="Copy or download it again"
        )
    options = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
    try:
        return av.open(
            f"file:{path.absolute()}", mode="r", container_options=options, metadata_errors="replace"
        )
    except (av.error.FFmpegError, OSError) as error:
        expected = "a complete video or sound file, such as MP4, MOV, MKV, WebM, AVI, WAV or MP3"
        fix = "Play the file to check it; copy, download or convert it again"
        raise MediaError(f"cannot read {path}", got=error.strerror, expected=expected, fix=fix) from error


def video_stream(container: InputContainer) -> VideoStream | None:
    """Return the first video stream except cover art, or ``None``. Raise MediaError for an unknown codec."""
    streams = container.streams.video
    stream = next((stream for stream in streams if not stream.disposition & Disposition.attached_pic), None)
    if stream is not None and stream.codec_context is None:
        path = container.name.removeprefix("file:")
        raise MediaError(
            f"the video of {path} has an unknown codec", fix="Convert it to H.264 in an MP4 file"
        )
    return stream


def probe(path: Path) -> MediaInfo:
    """Return the container's declared properties, and the presentation time of its first frame or sound.

    Raise MediaError for a file that has neither video nor sound.
    """
    with open_media(path) as container:
        stream = video_stream(container)
        has_audio = bool(container.streams.audio)
        if stream is None and not has_audio:
            raise MediaError(
                f"{path} has neither video nor sound", expected="video or sound", fix="Check the file"
            )
        duration_s = container.duration / 1_000_000 if container.duration else None
        if stream is None:
            sound = container.streams.audio[0]
            zero_s = float((sound.start_time or 0) * (sound.time_base or 0))
            return MediaInfo(path, duration_s, has_video=False, has_audio=True, zero_s=zero_s)
        width_px, height_px, zero_s = _probe_first_frame(path, container, stream)
        return MediaInfo(
            path,
            duration_s,
            has_video=True,
            has_audio=has_audio,
            width_px=width_px,
            height_px=height_px,
            rate_hz=_rate_hz(stream),
            frame_count=stream.frames or None,
            zero_s=zero_s,
        )


def read_frames(path: Path) -> Iterator[Frame]:
    """Yield every frame in order of presentation; the first frame is at 0 s.

    Times are the container's and strictly increase; a frame without a usable time follows its predecessor by
    the average frame duration. An unreadable Frame has ``rgb`` None. Without a video, nothing is yielded.
    Raise MediaError for a file that cannot be opened and, at the end, for a truncated file.
    """
    with open_media(path) as container:
        stream = video_stream(container)
        if stream is None or stream.time_base is None:
            return
        step_s = 1 / (_rate_hz(stream) or FALLBACK_RATE_HZ)
        numerator, denominator = stream.time_base.as_integer_ratio()
        index, time_s, zero_pts = -1, -step_s, None
        for index, (pts, frame) in enumerate(_decode(path, container, stream)):
            zero_pts = (pts or 0) if zero_pts is None else zero_pts
            frame_time_s = None if pts is None else (pts - zero_pts) * numerator / denominator
            time_s = frame_time_s if frame_time_s is not None and frame_time_s > time_s else time_s + step_s
            yield Frame(index, time_s, None if frame is None else partial(upright_rgb, frame))
        end_s = float((zero_pts or 0) * stream.time_base) + time_s + step_s
        _check_complete(path, container, stream, index + 1, end_s)


def sample_frames(frames: Iterable[Frame], rate_hz: float) -> Iterator[Frame]:
    """Yield the first frame at or after each point ``k / rate_hz``, each frame at most once."""
    point = 0
    for frame in frames:
        if frame.time_s >= point / rate_hz - GRID_TOLERANCE_S:
            point = int((frame.time_s + GRID_TOLERANCE_S) * rate_hz) + 1
            yield frame


def _decode(
    path: Path, container: InputContainer, stream: VideoStream
) -> Iterator[tuple[int | None, VideoFrame | None]]:
    """Yield the presentation time (in the stream's time base) of every frame, and the frame, or None if it is
    lost.

    A decoder skips damaged frames silently. After damage, a packet's frame is lost if a later frame is
    decoded before it. Without damage, packets without a frame are no loss.
    """
    stream.thread_count = DECODER_THREADS
    pending_pts: list[int] = []  # heap of the times of packets whose frames are not decoded yet
    damaged, latest_pts = False, -math.inf
    try:
        for packet in container.demux(stream):
            if packet.size and packet.pts is not None and not packet.is_discard:
                heapq.heappush(pending_pts, packet.pts)
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                damaged, frames = True, []
                if packet.size and packet.pts is None:
                    yield None, None
            for frame in frames:
                if frame.pts is not None:
                    if damaged and frame.pts <= latest_pts:
                        continue  # out of order after damage: already counted as lost
                    latest_pts = frame.pts
                    while pending_pts and pending_pts[0] <= latest_pts:
                        pts = heapq.heappop(pending_pts)
                        if damaged and pts < latest_pts:
                            yield pts, None
                yield frame.pts, None if frame.is_corrupt else frame
    except av.error.FFmpegError as error:
        raise MediaError(
            f"{path} is damaged and cannot be read to its end", got=error, fix="Copy it again"
        ) from error
    if damaged:
        yield from ((pts, None) for pts in sorted(pending_pts))


def _check_complete(
    path: Path, container: InputContainer, stream: VideoStream, count: int, end_s: float
) -> None:
    """Raise MediaError if both the frames and the duration fall short of the declared ones."""
    declared_s = _declared_end(container, stream)
    if declared_s is not None and end_s >= (1 - MAX_MISSING_SHARE) * declared_s:
        return
    declared = stream.frames or round((declared_s or 0.0) * float(stream.average_rate or FALLBACK_RATE_HZ))
    if declared - count > max(MAX_MISSING_FRAMES, MAX_MISSING_SHARE * declared):
        fix = "Copy, download or record it again, or export the readable part with a video editor"
        raise MediaError(f"{path} is truncated: {count} of {declared} frames could be read", fix=fix)


def _declared_end(container: InputContainer, stream: VideoStream) -> float | None:
    """Return the declared end of the video in seconds of the container's clock, or None."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if tag := re.fullmatch(
        r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", "")
    ):  # Matroska and WebM
        hours, minutes, seconds = tag.groups()
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    is_only_stream = len(container.streams) == 1 and container.duration is not None
    return float(container.duration or 0) / 1_000_000 if is_only_stream else None


def _rate_hz(stream: VideoStream) -> float | None:
    rate_hz = float(stream.average_rate or 0.0)
    return rate_hz if rate_hz >= MIN_RATE_HZ else None


def _probe_first_frame(path: Path, container: InputContainer, stream: VideoStream) -> tuple[int, int, float]:
    """Return width and height in pixels of the upright frame, and time of the first frame in seconds.

    Decoding is necessary, because the rotation is known only from the first decodable frame.
    """
    first_pts, frame = None, None
    for index, (pts, frame) in enumerate(_decode(path, container, stream)):
        first_pts = pts if index == 0 else first_pts
        if frame:
            break
    zero_s = float((first_pts or 0) * (stream.time_base or 0))
    if frame is None:
        return stream.width, stream.height, zero_s
    if abs(frame.rotation) % 180 == 90:
        return frame.height, frame.width, zero_s
    return frame.width, frame.height, zero_s


def upright_rgb(frame: VideoFrame) -> ByteArray:
    """Convert a decoded frame to (H, W, 3) uint8 RGB, rotated and mirrored by its display matrix."""
    converted = frame.reformat(format="rgb24", threads=1)  # more threads are no faster
    rgb = np.asarray(converted.to_ndarray(), dtype=np.uint8)
    side_data = SideDataContainer(frame)  # type: ignore[call-arg]  # frame.side_data creates a reference cycle
    matrix = side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return np.ascontiguousarray(rgb)
    a, b, _, c, d = np.frombuffer(matrix, dtype=np.int32)[
        :5
    ]  # x' = ax + cy, y' = bx + dy, in multiples of 90 degrees
    if abs(b) > abs(a):
        rgb, a, d = rgb.transpose(1, 0, 2), c, b  # (W, H, 3)
    return np.ascontiguousarray(rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
