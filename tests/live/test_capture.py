"""Live sources: files, streams over HTTP, and a fake microphone; no test needs a camera."""

from __future__ import annotations

import functools
import http.server
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from reactometer.errors import MediaError
from reactometer.live.capture import LiveSource
from reactometer.live.protocol import Packet, PacketKind
from reactometer.media.faces import encode_crop
from reactometer.types import SOUND_RATE_HZ


@pytest.fixture(scope="module")
def video(simulated: Path) -> Path:
    return sorted((simulated / "test" / "mp4").iterdir())[0]


def played(
    source: LiveSource, is_enough: Callable[[list[Packet]], bool] = lambda packets: False
) -> list[Packet]:
    """Return the packets of a source until it ends or has sent enough."""
    packets: list[Packet] = []
    done = threading.Event()

    def take(packet: Packet) -> None:
        packets.append(packet)
        if is_enough(packets):
            done.set()

    source.start(take, done.set)
    assert done.wait(120.0)
    source.stop()
    return packets


def check(packets: list[Packet]) -> None:
    """15 frames and 1.5 s of sound, on one clock and without a gap."""
    frames = [packet for packet in packets if packet.kind is PacketKind.FRAME]
    assert [packet.time_s for packet in frames] == pytest.approx(np.arange(15) / 10, abs=0.03)
    assert callable(frames[0].content)
    rgb = frames[0].content()
    assert rgb is not None
    assert rgb.shape[2] == 3
    sounds = [packet for packet in packets if packet.kind is PacketKind.SOUND]
    at_s = sounds[0].time_s
    for packet in sounds:
        assert isinstance(packet.content, np.ndarray)
        assert packet.time_s == pytest.approx(at_s, abs=0.05)
        at_s = packet.time_s + len(packet.content) / SOUND_RATE_HZ
    assert at_s == pytest.approx(1.5, abs=0.15)


def test_a_file_is_played_in_real_time(video: Path) -> None:
    began_s = time.monotonic()
    source = LiveSource(str(video))
    packets = played(source)
    check(packets)
    assert time.monotonic() - began_s > 1.3
    late_s = [
        packet.arrived_s - began_s - packet.time_s for packet in packets if packet.kind is PacketKind.FRAME
    ]
    assert min(late_s) >= 0.0
    assert source.problem == ""


def test_a_source_that_is_stopped_ends_early(talking: Callable[[int], Path]) -> None:
    packets = played(LiveSource(str(talking(20))), bool)
    assert max(packet.time_s for packet in packets) < 45.0  # of 60


@pytest.fixture
def address(video: Path) -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(video.parent))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/{video.name}"
    server.shutdown()
    server.server_close()


class _Stalls(http.server.BaseHTTPRequestHandler):
    """Serve an MJPEG stream that stops sending."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=b")
        self.end_headers()
        jpeg = encode_crop(np.zeros((48, 64, 3), np.uint8))
        for _ in range(20):
            head = f"--b\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            self.wfile.write(head.encode() + jpeg + b"\r\n")
        time.sleep(3.0)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def test_a_stream_yields_packets_as_they_arrive(address: str) -> None:
    check(played(LiveSource(address)))


def test_a_silent_stream_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reactometer.live.capture.READ_S", 1.0)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Stalls)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    source = LiveSource(f"http://127.0.0.1:{server.server_port}/")
    packets = played(source)
    server.shutdown()
    server.server_close()
    assert {packet.kind for packet in packets} == {PacketKind.FRAME}
    assert source.problem == "no data for 1 s"


@pytest.mark.skipif(sys.platform != "linux", reason="ALSA is Linux'")
def test_a_microphone_beside_a_file(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ALSA's null device replaces a microphone; it returns samples as fast as they are read."""
    (tmp_path / "alsa.conf").write_text("pcm.still { type null }\n")
    monkeypatch.setenv("ALSA_CONFIG_PATH", str(tmp_path / "alsa.conf"))
    packets = played(
        LiveSource(str(video), "still"), lambda packets: len({packet.kind for packet in packets}) == 2
    )
    assert {packet.kind for packet in packets} == {PacketKind.FRAME, PacketKind.SOUND}


@pytest.mark.parametrize(
    ("open_source", "message"),
    [
        (lambda: LiveSource("97"), "camera 97 cannot be opened"),
        (lambda: LiveSource("no-such-file.mp4"), "no such file"),
        (lambda: LiveSource("rtsp://127.0.0.1:9/x"), "rtsp://127.0.0.1:9/x cannot be opened"),
    ],
)
def test_a_source_that_cannot_be_opened_raises_an_error(
    open_source: Callable[[], LiveSource], message: str
) -> None:
    with pytest.raises(MediaError) as caught:
        open_source()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_endless_stream_is_not_delayed() -> None:
    """MPEG-TS over UDP has no duration, so packets are not delayed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    stop = threading.Event()

    def send() -> None:
        with av.open(f"udp://127.0.0.1:{port}?pkt_size=1316", "w", format="mpegts") as container:
            stream = container.add_stream("mpeg2video", rate=25, width=64, height=48, pix_fmt="yuv420p")
            while not stop.wait(0.01):
                picture = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
                container.mux(stream.encode(picture))

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        source = LiveSource(f"udp://127.0.0.1:{port}?overrun_nonfatal=1")
        packets = played(source, lambda packets: len(packets) > 3)
    finally:
        stop.set()
        thread.join(timeout=5)
    assert len(packets) > 3
    assert {packet.kind for packet in packets} == {PacketKind.FRAME}
