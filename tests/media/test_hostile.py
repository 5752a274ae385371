"""Files that want something else than to be watched: nothing but themselves is opened; and files at
random."""

from __future__ import annotations

import http.server
import struct
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from mutations import mutate, oddities, seeds
from reactometer.config import PrepareConfig
from reactometer.errors import MediaError
from reactometer.media.segments import MAX_SEGMENT, prepare_clip
from reactometer.media.video import open_media
from reactometer.synthetic.clip import clip_plan, render_clip
from reactometer.types import MediaInfo
from reactometer.workers.decoder import DecodeSpec
from reactometer.workers.media_worker import MediaWorker, ResourceLimits

SETTINGS = PrepareConfig(detector="haar")
SPEC = DecodeSpec("haar", SETTINGS.rate_hz, SETTINGS.size_px, (MAX_SEGMENT,))


@pytest.fixture(scope="module")
def clips() -> dict[str, bytes]:
    frames, waveform = render_clip(clip_plan(0))
    return seeds(frames[:8], waveform[:12_800])


@pytest.fixture(scope="module")
def odd() -> dict[str, bytes]:
    frames, waveform = render_clip(clip_plan(0))
    return oddities(frames[:8], waveform[:12_800])


@pytest.fixture
def web_server() -> Iterator[tuple[str, list[str]]]:
    """The address of a local web server, and the requested paths."""
    paths: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", paths
    server.shutdown()


def test_a_playlist_opens_nothing(
    web_server: tuple[str, list[str]], clips: dict[str, bytes], tmp_path: Path
) -> None:
    address, paths = web_server
    (tmp_path / "secret.mp4").write_bytes(clips["mp4"])
    for target in (
        f"{address}/segment.ts",
        str(tmp_path / "secret.mp4"),
        "file:secret.mp4",
        "concat:secret.mp4",
    ):
        for name, text in {
            "hls.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n",
            "list.ffconcat": f"ffconcat version 1.0\nfile '{target}'\n",
            "dash.mpd": f'<?xml version="1.0"?><MPD><Period><BaseURL>{target}</BaseURL></Period></MPD>',
            "film.sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nu={target}\n"
            "m=video 9 RTP/AVP 96\n",
            "ref.asx": f'<asx version="3.0"><entry><ref href="{target}"/></entry></asx>',
        }.items():
            for file_name in (name, "holiday.mp4"):
                (tmp_path / file_name).write_text(text)
                with pytest.raises(MediaError, match="cannot read"), open_media(tmp_path / file_name):
                    pass
    assert paths == []


def test_a_video_that_refers_to_another_file_does_not_open_it(
    clips: dict[str, bytes], tmp_path: Path
) -> None:
    """QuickTime's data references: "url " with another file instead of "in this file"."""
    (tmp_path / "original.mp4").write_bytes(clips["mp4"])
    original = prepare_clip(tmp_path / "original.mp4", SETTINGS, lambda rgb: [])
    secret = seeds(np.zeros((3, 64, 64, 3), np.uint8), np.zeros(4800, np.float32))["mp4"]
    (tmp_path / "secret.mp4").write_bytes(secret)
    inside = struct.pack(">I4sI", 12, b"url ", 1)
    assert inside in clips["mp4"]
    other = struct.pack(">I4sI", 12, b"url ", 0)
    (tmp_path / "film.mp4").write_bytes(clips["mp4"].replace(inside, other))
    alias = b"file://" + str(tmp_path / "secret.mp4").encode() + b"\0"
    longer = struct.pack(">I4sI", 12 + len(alias), b"url ", 0) + alias
    (tmp_path / "longer.mp4").write_bytes(clips["mp4"].replace(inside, longer))
    for name in ("film.mp4", "longer.mp4"):
        try:
            clip = prepare_clip(tmp_path / name, SETTINGS, lambda rgb: [])
        except MediaError:
            continue
        assert len(clip.samples) == len(original.samples)  # and not the three of the other file


def test_addresses_are_no_paths(web_server: tuple[str, list[str]]) -> None:
    address, paths = web_server
    for name in (
        f"{address}/film.mp4",
        "concat:a.mp4|b.mp4",
        "data:video/mp4;base64,AAAA",
        "pipe:0",
        "tcp://127.0.0.1:9",
    ):
        with pytest.raises(MediaError, match="no such file"), open_media(Path(name)):
            pass
    assert paths == []


def _ends_well(reader: MediaWorker, file: Path) -> bool:
    try:
        return bool(list(reader.read(file, SPEC)))
    except MediaError as error:
        assert str(file) in str(error) and "\n" not in str(error)
        return False


def test_every_format_is_read_or_refused(clips: dict[str, bytes], tmp_path: Path) -> None:
    reader, read = MediaWorker(), set[str]()
    for name, data in clips.items():
        (tmp_path / "clip.mp4").write_bytes(data)  # whatever it is, by the wrong name
        if _ends_well(reader, tmp_path / "clip.mp4"):
            read.add(name)
    reader.close()
    assert read == set(clips) - {"png"}


@pytest.mark.slow
def test_unusual_files_are_read_correctly(odd: dict[str, bytes], tmp_path: Path) -> None:
    """And none lasts longer than it says in its frames, whatever rate it claims."""
    reader, ends_s, refused = MediaWorker(), dict[str, float](), list[str]()
    for name, data in odd.items():
        (tmp_path / "clip.mkv").write_bytes(data)
        try:
            pieces = list(reader.read(tmp_path / "clip.mkv", SPEC))
            ends_s[name] = max(piece[1].end_s for piece in pieces if not isinstance(piece, MediaInfo))
        except MediaError:
            refused.append(name)
    reader.close()
    assert refused == ["before zero"]
    assert ends_s.pop("a gap of 100 s") == pytest.approx(100.8, abs=0.2)
    assert all(0.0 <= end_s < 1.0 for end_s in ends_s.values()), ends_s


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_randomly_changed_files_give_a_result_or_a_reason(
    clips: dict[str, bytes], odd: dict[str, bytes], seed: int, tmp_path: Path
) -> None:
    """In the process that a crash would end."""
    reader = MediaWorker(
        ResourceLimits(memory_bytes=2 * 2**30, stall_s=30.0, duration_s=600.0, pixels=10_000_000)
    )
    ends = []
    for number in range(60):
        change, data = mutate([*clips.values(), *odd.values()], np.random.default_rng([seed, number]))
        (tmp_path / f"{change}.mp4").write_bytes(data)
        ends.append(_ends_well(reader, tmp_path / f"{change}.mp4"))
    reader.close()
    assert 12 < sum(ends) < 54
