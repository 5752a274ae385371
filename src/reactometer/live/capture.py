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
"""Timeouts of a stream's connection and of its next packet, seconds."""
STOP_S = 2.0

CAMERA = {"framerate": "30", "video_size": "640x480"}
DEVICES = {"linux": ("v4l2", "alsa"), "darwin": ("avfoundation", "avfoundation"), "win32": ("dshow", "dshow")}
"""FFmpeg's formats of cameras and microphones, by operating system."""
ALSA = "/usr/share/alsa/alsa.conf"

Put = Callable[[Packet], None]


class LiveSource:
    """A source of packets: a camera, a stream or a file, optionally with a separate microphone.

    Times are seconds from the start: timestamps of files and streams, arrival times of cameras and
    microphones. A source with a known duration is played in real time.

    Args:
        name: a camera's number or device (``0``, ``/dev/video0``), a stream's address, or a file.
        sound: a microphone, such as ``default`` or ``hw:1``; ``None``: the sound of the source, if any.

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
        """Read in threads; call ``put`` with every packet, and ``done`` at the end of the source."""
        start_s = time.monotonic()
        for index, container in enumerate(self._containers):
            read = partial(self._read, container, put, start_s, is_device=self.is_camera or index > 0)
            self._threads.append(threading.Thread(target=partial(self._run, read, done), daemon=True))
            self._threads[-1].start()

    def stop(self) -> None:
        """Stop the threads and close the source; a thread that waits for a silent stream keeps running."""
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
            self.problem = f"no data for {READ_S:.0f} s"
        except (av.error.FFmpegError, OSError, MediaError) as error:
            self.problem = " ".join(str(error).split())
        done()

    def _read(self, container: InputContainer, put: Put, start_s: float, *, is_device: bool) -> None:
        packets = _packets(
            container, start_s if is_device else None, use_sound=container is self._containers[-1]
        )
        is_live = is_device or container.duration is None  # a live stream has no duration
        for packet in packets:
            wait_s = 0.0 if is_live else start_s + packet.time_s - time.monotonic()
            if self._stop.wait(max(wait_s, 0.0)):
                return
            put(packet if is_live else Packet(packet.kind, packet.time_s, packet.content))


def _packets(container: InputContainer, start_s: float | None, *, use_sound: bool) -> Iterator[Packet]:
    """Decode frames and sound, timed by the container from its first packet on, or by arrival since
    ``start_s``."""
    video, sounds = video_stream(container), container.streams.audio
    sound = sounds[0] if use_sound and sounds else None
    streams = [stream for stream in (video, sound) if stream is not None]
    if not streams:
        raise MediaError(f"{container.name} has neither video nor sound", fix="Choose another source")
    resampler = AudioResampler(format="s32", layout="mono", rate=SOUND_RATE_HZ)
    zero_s = sound_end_s = None
    for packet in container.demux(streams):
        arrived_s, frames = time.monotonic(), []
        with suppress(av.error.FFmpegError):  # skip a damaged packet
            frames = packet.decode()
        for frame in frames:
            if not isinstance(frame, VideoFrame | AudioFrame):
                continue
            time_s = frame.time if start_s is None else arrived_s - start_s
            if time_s is None:
                continue
            if zero_s is None:
                zero_s = time_s if start_s is None else 0.0
            if isinstance(frame, VideoFrame):
                yield Packet(PacketKind.FRAME, time_s - zero_s, partial(upright_rgb, frame), arrived_s)
            elif len(samples := _mono(resampler, frame)):
                length_s = len(samples) / SOUND_RATE_HZ
                begin_s = time_s - zero_s - (0.0 if start_s is None else length_s)
                # Blocks of a microphone are contiguous, but arrive at irregular times.
                if start_s is not None and sound_end_s and abs(sound_end_s - begin_s) < 4 * MIN_GAP_S:
                    begin_s = sound_end_s
                sound_end_s = begin_s + length_s
                yield Packet(PacketKind.SOUND, begin_s, samples, arrived_s)


def _mono(resampler: AudioResampler, frame: AudioFrame) -> FloatArray:
    """Resample decoded sound to (S,) float32 in [-1, 1]; samples that cannot be resampled are dropped."""
    frame.pts, parts = None, []
    with suppress(av.error.FFmpegError, ValueError):
        parts = [part.to_ndarray()[0] for part in resampler.resample(frame)]
    return np.asarray(np.concatenate([np.zeros(0), *parts]) / FULL_SCALE, dtype=np.float32)


def _open_stream(address: str) -> InputContainer:
    options = {"rtsp_transport": "tcp"} if address.startswith("rtsp") else {}
    expected = "a stream that FFmpeg can read, such as rtsp:// or http://"
    return _open(
        address, None, options, address, expected, "Check the address, user name and password in a player"
    )


def _open_device(name: str, device: str, index: int) -> InputContainer:
    system = DEVICES.get(sys.platform, DEVICES["linux"])
    if system[0] == "v4l2":
        file = f"/dev/video{name}" if name.isdecimal() and index == 0 else name
        expected = "a number or path, such as /dev/video0" if index == 0 else "a name from 'arecord -L'"
    else:
        file = f":{name}" if sys.platform == "darwin" and index else name
        expected = f"a name from 'ffmpeg -list_devices true -f {system[index]} -i dummy'"
    if system[index] == "alsa" and Path(ALSA).is_file():
        os.environ.setdefault("ALSA_CONFIG_PATH", ALSA)  # ALSA inside PyAV uses the path of its build machine
    fix = "Connect the device and allow access to it, or use a file or the address of a stream"
    return _open(file, system[index], CAMERA if index == 0 else {}, f"{device} {name}", expected, fix)


def _open(
    file: str, format_name: str | None, options: dict[str, str], title: str, expected: str, fix: str
) -> InputContainer:
    try:
        return av.open(
            file, format=format_name, options=options, timeout=(OPEN_S, READ_S), metadata_errors="replace"
        )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        got = getattr(error, "strerror", None) or error
        raise MediaError(f"{title} cannot be opened", got=got, expected=expected, fix=fix) from error
