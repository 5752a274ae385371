"""Capture frames and sound from a camera, a microphone, a stream or a file that is played in real time."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import av
import av.error
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.container import InputContainer
from av.video.frame import VideoFrame

from reactometer.errors import MediaError
from reactometer.live.protocol import Packet, PacketKind
from reactometer.media.audio import FULL_SCALE, MIN_GAP_S
from reactometer.media.video import open_media, upright_rgb, video_stream
from reactometer.types import SOUND_RATE_HZ, FloatArray

STREAMS = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://", "udp://", "srt://", "tcp://")
OPEN_S, READ_S = 10.0, 10.0
"""How long an address may take to answer, and to bring the next packet."""
STOP_S = 2.0

CAMERA = {"framerate": "30", "video_size": "640x480"}
DEVICES = {"linux": ("v4l2", "alsa"), "darwin": ("avfoundation", "avfoundation"), "win32": ("dshow", "dshow")}
"""FFmpeg's formats of cameras and microphones, by system."""
ALSA = "/usr/share/alsa/alsa.conf"

Put = Callable[[Packet], None]


class LiveSource:
    """Opens a source, and a microphone beside it, and once started gives its pieces until it ends or is stopped.

    Times are seconds from the start: of files and streams their own, of cameras and microphones those of arrival.
    A source that knows its duration, a file or one at an address, is played in real time.

    Args:
        name: a camera's number or device (``0``, ``/dev/video0``), a stream's address, or a file.
        sound: a microphone, such as ``default`` or ``hw:1``; ``None``: the source's own sound, if it has any.

    Raises:
        MediaError: the camera, microphone, stream or file cannot be opened.
    """

    def __init__(self, name: str, sound: str | None = None) -> None:
        self.name, self.problem = name, ""
        self.is_camera = name.isdecimal() or name.startswith(("/dev/", "video="))
        if self.is_camera:
            containers = [_open_device(name, "camera", 0)]
        else:
            containers = [_open_stream(name) if name.startswith(STREAMS) else open_media(Path(name))]
        if sound is not None:
            containers.append(_open_device(sound, "microphone", 1))
        self._containers, self._stop = containers, threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, put: Put, done: Callable[[], None]) -> None:
        """Read in threads; ``put`` gets every piece, ``done`` is called at the end of the source."""
        began_s = time.monotonic()
        for place, container in enumerate(self._containers):
            own = partial(self._read, container, put, began_s, of_device=self.is_camera or place > 0)
            self._threads.append(threading.Thread(target=partial(self._run, own, done), daemon=True))
            self._threads[-1].start()

    def stop(self) -> None:
        """End the threads and close the source; a thread that waits for a silent stream is left alone."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=STOP_S)
        if not any(thread.is_alive() for thread in self._threads):
            for container in self._containers:
                container.close()

    def _run(self, read: Callable[[], None], done: Callable[[], None]) -> None:
        try:
            read()
        except av.error.ExitError:
            self.problem = f"nothing came for {READ_S:.0f} s"
        except (av.error.FFmpegError, OSError, MediaError) as error:
            self.problem = " ".join(str(error).split())
        done()

    def _read(self, container: InputContainer, put: Put, began_s: float, *, of_device: bool) -> None:
        pieces = _pieces(container, began_s if of_device else None, heard=container is self._containers[-1])
        is_live = of_device or container.duration is None  # a live stream does not know how long it will be
        for piece in pieces:
            wait_s = 0.0 if is_live else began_s + _end_s(piece) - time.monotonic()
            if self._stop.wait(max(wait_s, 0.0)):
                return
            put(piece if is_live else Packet(piece.kind, piece.time_s, piece.content))


def _pieces(container: InputContainer, began_s: float | None, *, heard: bool) -> Iterator[Packet]:
    """Decode frames and sound, timed by the container from its first packet on, or by arrival since ``began_s``."""
    video, sounds = video_stream(container), container.streams.audio
    sound = sounds[0] if heard and sounds else None
    streams = [stream for stream in (video, sound) if stream is not None]
    if not streams:
        raise MediaError(f"{container.name} has neither video nor sound", fix="Choose another source")
    resampler, zero_s, heard_s = AudioResampler(format="s32", layout="mono", rate=SOUND_RATE_HZ), None, None
    for packet in container.demux(streams):
        arrived_s, frames = time.monotonic(), []
        with suppress(av.error.FFmpegError):  # a damaged packet shows nothing
            frames = packet.decode()
        for frame in frames:
            if not isinstance(frame, VideoFrame | AudioFrame):
                continue
            own_s = frame.time if began_s is None else arrived_s - began_s
            if own_s is None:
                continue
            zero_s = (own_s if began_s is None else 0.0) if zero_s is None else zero_s
            if isinstance(frame, VideoFrame):
                yield Packet(PacketKind.FRAME, own_s - zero_s, partial(upright_rgb, frame), arrived_s)
            elif len(samples := _mono(resampler, frame)):
                length_s = len(samples) / SOUND_RATE_HZ
                at_s = own_s - zero_s - (0.0 if began_s is None else length_s)
                # A microphone's blocks follow each other without a gap, whenever they arrive.
                at_s = heard_s if began_s is not None and heard_s and abs(heard_s - at_s) < 4 * MIN_GAP_S else at_s
                heard_s = at_s + length_s
                yield Packet(PacketKind.SOUND, at_s, samples, arrived_s)


def _mono(resampler: AudioResampler, frame: AudioFrame) -> FloatArray:
    """(S,) float32 in [-1, 1] of a decoded frame of sound; what cannot be resampled is left out."""
    frame.pts, parts = None, []
    with suppress(av.error.FFmpegError, ValueError):
        parts = [part.to_ndarray()[0] for part in resampler.resample(frame)]
    return np.asarray(np.concatenate([np.zeros(0), *parts]) / FULL_SCALE, dtype=np.float32)


def _end_s(piece: Packet) -> float:
    is_sound = piece.kind is PacketKind.SOUND and isinstance(piece.content, np.ndarray)
    return piece.time_s + (len(piece.content) / SOUND_RATE_HZ if is_sound else 0.0)  # type: ignore[arg-type]


def _open_stream(address: str) -> InputContainer:
    options = {"rtsp_transport": "tcp"} if address.startswith("rtsp") else {}
    known = "a stream that FFmpeg reads, such as rtsp:// or http://"
    return _open(address, None, options, address, known, "Check the address, name and password in a player")


def _open_device(name: str, what: str, place: int) -> InputContainer:
    system = DEVICES.get(sys.platform, DEVICES["linux"])
    if system[0] == "v4l2":
        file = f"/dev/video{name}" if name.isdecimal() and place == 0 else name
        cameras = ", ".join(sorted(map(str, Path("/dev").glob("video*")))) or "a camera; none is here"
        known = cameras if place == 0 else "see 'arecord -L'"
    else:
        file = f":{name}" if sys.platform == "darwin" and place else name
        known = f"see 'ffmpeg -list_devices true -f {system[place]} -i dummy'"
    if system[place] == "alsa" and Path(ALSA).is_file():
        os.environ.setdefault("ALSA_CONFIG_PATH", ALSA)  # PyAV's own ALSA looks where it was built
    fix = "Plug it in, allow access to it, or name a file or a stream's address instead"
    return _open(file, system[place], CAMERA if place == 0 else {}, f"{what} {name}", known, fix)


def _open(
    file: str, format_name: str | None, options: dict[str, str], what: str, known: str, fix: str
) -> InputContainer:
    try:
        return av.open(file, format=format_name, options=options, timeout=(OPEN_S, READ_S), metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        got = getattr(error, "strerror", None) or error
        raise MediaError(f"{what} cannot be opened", got=got, expected=known, fix=fix) from error
