from __future__ import annotations

import gc
import itertools
import shutil
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.stream import VideoStream

from reactometer.errors import MediaError
from reactometer.media.video import probe, read_frames, sample_frames
from reactometer.types import ByteArray, Frame

RATE_HZ = 25
CLIPS = ("single_face.mp4", "WolfgangLanger_Pexels.mp4", "face_noface.mov", "no_face.mp4")
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def corners(height_px: int, width_px: int) -> ByteArray:
    """A picture whose quarters are red, green (above), blue and white (below)."""
    picture = np.zeros((height_px, width_px, 3), dtype=np.uint8)
    middle, centre = height_px // 2, width_px // 2
    picture[:middle, :centre], picture[:middle, centre:] = RED, GREEN
    picture[middle:, :centre], picture[middle:, centre:] = BLUE, WHITE
    return picture


def textured(count: int, height_px: int = 96, width_px: int = 128) -> list[ByteArray]:
    """Pictures of random blocks that are hard to compress, so that every packet has many bytes."""
    random = np.random.default_rng(0)
    return [random.integers(0, 255, (height_px, width_px, 3), dtype=np.uint8) for _ in range(count)]


def write_video(
    path: Path,
    pictures: Sequence[ByteArray],
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    times: Sequence[int] | None = None,
    rotation: tuple[float, bool] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Encode pictures; ``times`` are in units of 1/100 s."""
    with av.open(path, "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=RATE_HZ)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels
        stream.codec_context.gop_size = 12
        if times:
            stream.codec_context.time_base = Fraction(1, 100)
        if rotation:
            stream.set_display_rotation(rotation[0], hflip=rotation[1])
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times:
                frame.pts, frame.time_base = times[index], Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_sound(path: Path, seconds: float = 0.5, cover: bool = False) -> Path:
    with av.open(path, "w") as container:
        stream = container.add_stream("mp3" if path.suffix == ".mp3" else "pcm_s16le", rate=16_000)
        picture = container.add_stream("png", rate=1) if cover else None
        if picture is not None:
            picture.width, picture.height, picture.pix_fmt = 32, 32, "rgb24"
            container.mux(picture.encode(av.VideoFrame.from_ndarray(corners(32, 32), format="rgb24")))
        wave = np.sin(np.arange(int(seconds * 16_000)) / 10) * 8000
        frame = av.AudioFrame.from_ndarray(wave.astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def packets(path: Path) -> list[tuple[int, int, float]]:
    """Byte position, size and presentation time in seconds of every displayed video packet, in the file's
    order."""
    with av.open(path) as container:
        return [
            (packet.pos or 0, packet.size, float((packet.pts or 0) * packet.time_base))
            for packet in container.demux(video=0)
            if packet.size and not packet.is_discard
        ]


def pixels_of(frame: Frame) -> ByteArray:
    assert frame.rgb is not None
    return frame.rgb()


def assert_corners(rgb: ByteArray, expected: Sequence[Sequence[int]]) -> None:
    """The middles of the quarters, row by row, have the expected colours but for the codec's losses."""
    height_px, width_px = rgb.shape[:2]
    positions = itertools.product((height_px // 4, height_px * 3 // 4), (width_px // 4, width_px * 3 // 4))
    for (y, x), colour in zip(positions, expected, strict=True):
        assert np.abs(rgb[y, x].astype(int) - colour).max() < 40


@pytest.mark.shared
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "face_noface.mov" else pytest.mark.slow) for name in CLIPS],
)
def test_every_frame_of_a_real_clip_has_its_exact_time(shared_data: Path, name: str) -> None:
    path = shared_data / "clips" / name
    times_s = sorted(time_s for _, _, time_s in packets(path))
    frames = list(read_frames(path))
    assert [frame.index for frame in frames] == list(range(len(times_s)))
    assert [frame.time_s for frame in frames] == pytest.approx(
        [time_s - times_s[0] for time_s in times_s], abs=1e-9
    )
    assert all(frame.rgb is not None for frame in frames)
    assert all(later.time_s > earlier.time_s for earlier, later in itertools.pairwise(frames))


@pytest.mark.slow
@pytest.mark.shared
def test_the_counts_are_those_that_the_containers_declare(shared_data: Path) -> None:
    voices = sorted((shared_data / "facevoice" / "val" / "mp4").glob("*.mp4"))[:6]
    for path in [*(shared_data / "clips" / name for name in CLIPS[:3]), *voices]:
        assert sum(1 for _ in read_frames(path)) == probe(path).frame_count
    trimmed = shared_data / "clips" / "no_face.mp4"  # its edit list hides three of its 98 frames
    assert (probe(trimmed).frame_count, sum(1 for _ in read_frames(trimmed))) == (98, 95)


@pytest.mark.shared
def test_probe_returns_what_a_real_container_declares(shared_data: Path) -> None:
    info = probe(shared_data / "clips" / "WolfgangLanger_Pexels.mp4")
    assert info.has_video
    assert info.has_audio
    assert (info.width_px, info.height_px, info.frame_count) == (640, 360, 472)
    assert info.duration_s == pytest.approx(19.69)
    assert info.rate_hz == pytest.approx(24000 / 1001)


@pytest.mark.parametrize(
    ("degrees", "mirrored", "expected"),
    [
        (0.0, False, (RED, GREEN, BLUE, WHITE)),
        (90.0, False, (GREEN, WHITE, RED, BLUE)),  # anticlockwise
        (180.0, False, (WHITE, BLUE, GREEN, RED)),
        (-90.0, False, (BLUE, RED, WHITE, GREEN)),
        (0.0, True, (GREEN, RED, WHITE, BLUE)),
    ],
)
def test_rotation_and_mirroring_are_undone(
    tmp_path: Path, degrees: float, mirrored: bool, expected: Sequence[Sequence[int]]
) -> None:
    path = write_video(tmp_path / "turned.mp4", [corners(64, 96)] * 3, rotation=(degrees, mirrored))
    rgb = pixels_of(next(read_frames(path)))
    info = probe(path)
    assert rgb.shape == ((96, 64, 3) if abs(degrees) == 90 else (64, 96, 3))
    assert (info.height_px, info.width_px) == rgb.shape[:2]
    assert rgb.flags.c_contiguous
    assert_corners(rgb, expected)


def test_frames_are_freed_without_garbage_collection(tmp_path: Path) -> None:
    path = write_video(tmp_path / "turned.mp4", [corners(64, 96)] * 9, rotation=(90.0, False))
    gc.collect()
    gc.disable()
    try:
        for frame in read_frames(path):
            pixels_of(frame)
        del frame
        live_frames = [item for item in gc.get_objects() if isinstance(item, av.VideoFrame)]
    finally:
        gc.enable()
    assert not live_frames


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("odd.mkv", "ffv1", "yuv444p"),
        ("deep.mkv", "ffv1", "yuv420p10le"),
        ("alpha.mkv", "ffv1", "yuva444p"),
        ("planar.mp4", "libx264", "yuv444p"),
        ("moving.avi", "mjpeg", "yuvj420p"),
        ("web.webm", "libvpx-vp9", "yuv420p"),
    ],
)
def test_every_pixel_format_becomes_rgb_at_its_true_size(
    tmp_path: Path, name: str, codec: str, pixels: str
) -> None:
    path = write_video(tmp_path / name, [corners(97, 161)] * 4, codec=codec, pixels=pixels)
    frames = list(read_frames(path))
    assert len(frames) == 4
    for frame in frames:
        rgb = pixels_of(frame)
        assert rgb.shape == (97, 161, 3)
        assert rgb.dtype == np.uint8
        assert rgb.flags.c_contiguous
        assert_corners(rgb, (RED, GREEN, BLUE, WHITE))


def test_grey_video_becomes_rgb(tmp_path: Path) -> None:
    path = write_video(tmp_path / "grey.mkv", [corners(97, 161)] * 2, codec="ffv1", pixels="gray")
    rgb = pixels_of(next(read_frames(path)))
    assert rgb.shape == (97, 161, 3)
    assert np.ptp(rgb.astype(int), axis=2).max() == 0
    assert rgb[-10, -10, 0] > rgb[10, -10, 0] > rgb[10, 10, 0] > rgb[-10, 10, 0]  # white, green, red, blue


def test_times_of_a_variable_rate_are_exact_and_start_at_zero(tmp_path: Path) -> None:
    times = [100, 104, 108, 130, 131, 180, 184, 260]
    path = write_video(tmp_path / "variable.mkv", textured(8), times=times)
    assert [frame.time_s for frame in read_frames(path)] == pytest.approx(
        [(time - 100) / 100 for time in times]
    )
    assert probe(path).zero_s == pytest.approx(1.0)


def test_frames_without_times_follow_the_average_rate(tmp_path: Path) -> None:
    path = write_video(tmp_path / "bare.h264", textured(10))
    assert [frame.time_s for frame in read_frames(path)] == pytest.approx(
        [index / RATE_HZ for index in range(10)]
    )


def test_a_frame_can_be_converted_after_the_reader_is_closed(tmp_path: Path) -> None:
    frames = list(read_frames(write_video(tmp_path / "clip.mp4", [corners(64, 96)] * 5)))
    assert_corners(pixels_of(frames[0]), (RED, GREEN, BLUE, WHITE))


def test_a_sound_file_has_no_frames(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "voice.wav")
    info = probe(path)
    assert list(read_frames(path)) == []
    assert (info.has_video, info.has_audio, info.frame_count, info.rate_hz) == (False, True, None, None)
    assert info.duration_s == pytest.approx(0.5)


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "song.mp3", cover=True)
    with av.open(path) as container:
        assert len(container.streams.video) == 1
    assert not probe(path).has_video
    assert list(read_frames(path)) == []


def test_a_missing_file_a_folder_and_an_empty_file_are_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty.mp4"
    empty.touch()
    for path, reason in ((tmp_path / "none.mp4", "no such file"), (tmp_path, "a folder"), (empty, "0 bytes")):
        with pytest.raises(MediaError, match=reason) as caught:
            probe(path)
        assert str(path) in str(caught.value)
        with pytest.raises(MediaError, match=reason):
            next(read_frames(path))


@pytest.mark.parametrize(
    "text", ["Dear diary,\n" * 500, "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\ngood.mp4\n"]
)
@pytest.mark.parametrize("name", ["text.mp4", "list.m3u8"])
def test_text_and_playlists_are_refused(tmp_path: Path, text: str, name: str) -> None:
    write_video(tmp_path / "good.mp4", [corners(64, 96)] * 5)
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(MediaError, match=r"cannot read"):
        probe(path)


def test_a_list_of_files_to_join_is_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "good.mp4", [corners(64, 96)] * 5)
    path = tmp_path / "joined.mp4"
    path.write_text("ffconcat version 1.0\nfile good.mp4\n")
    with pytest.raises(MediaError, match="cannot read"):
        probe(path)


def test_a_name_that_looks_like_an_address_is_a_file_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.move(write_video(tmp_path / "good.mp4", [corners(64, 96)] * 5), tmp_path / "concat:a|b.mp4")
    monkeypatch.chdir(tmp_path)
    assert probe(Path("concat:a|b.mp4")).frame_count == 5


def test_an_unknown_codec_is_named(tmp_path: Path) -> None:
    path = write_video(tmp_path / "future.mp4", textured(5))
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    for read in (probe, lambda path: list(read_frames(path))):
        with pytest.raises(MediaError, match=r"future\.mp4.*codec.*H\.264"):
            read(path)


def test_a_file_without_its_index_cannot_be_opened(tmp_path: Path) -> None:
    path = write_video(tmp_path / "whole.mp4", textured(30))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(MediaError, match=r"whole\.mp4"):
        probe(path)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [("cut.mp4", "libx264", {"movflags": "faststart"}), ("cut.mkv", "mpeg4", {}), ("cut.avi", "mjpeg", {})],
)
def test_a_truncated_file_gives_its_frames_and_then_an_error(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write_video(tmp_path / name, textured(100), codec=codec, pixels=pixels, options=options)
    position, size, _ = packets(path)[40]
    path.write_bytes(path.read_bytes()[: position + size // 2])
    frames: list[Frame] = []
    with pytest.raises(MediaError, match=r"truncated: (39|40|41) of 100 frames"):
        for frame in read_frames(path):
            frames.append(frame)  # noqa: PERF402, one by one: the last step raises
    assert 39 <= len(frames) <= 41


def test_an_edit_list_that_trims_the_end_is_no_truncation(tmp_path: Path) -> None:
    path = write_video(tmp_path / "trimmed.mp4", textured(60))
    data = bytearray(path.read_bytes())
    segment = data.index(b"elst") + 12  # after the box's name, version and number of entries
    data[segment : segment + 4] = (1200).to_bytes(4, "big")  # show 1.2 of 2.4 seconds
    path.write_bytes(data)
    assert probe(path).frame_count == 60
    assert [frame.time_s for frame in read_frames(path)] == pytest.approx(
        [index / RATE_HZ for index in range(30)]
    )


@pytest.mark.parametrize(
    ("name", "codec", "pixels"), [("hurt.mp4", "libx264", "yuv420p"), ("hurt.avi", "mjpeg", "yuvj420p")]
)
def test_damage_in_the_middle_gives_unreadable_frames_with_exact_times(
    tmp_path: Path, name: str, codec: str, pixels: str
) -> None:
    path = write_video(tmp_path / name, textured(60), codec=codec, pixels=pixels)
    whole = [frame.time_s for frame in read_frames(path)]
    data, hurt = bytearray(path.read_bytes()), packets(path)[30:35]
    for position, size, _ in hurt:
        data[position : position + size] = bytes(size)
    path.write_bytes(data)
    frames = list(read_frames(path))
    lost = {frame.time_s for frame in frames if frame.rgb is None}
    zero_s = probe(path).zero_s
    assert [frame.time_s for frame in frames] == pytest.approx(whole)
    assert len(lost) < 30
    assert all(min(abs(time_s - zero_s - at_s) for at_s in lost) < 1e-6 for _, _, time_s in hurt)
    assert all(pixels_of(frame).shape == (96, 128, 3) for frame in frames[-10:])


def test_a_lost_first_frame_keeps_its_index(tmp_path: Path) -> None:
    path = write_video(tmp_path / "hurt.avi", textured(10), codec="mjpeg", pixels="yuvj420p")
    data, (position, size, _) = bytearray(path.read_bytes()), packets(path)[0]
    data[position : position + size] = bytes(size)
    path.write_bytes(data)
    frames = list(read_frames(path))
    assert [frame.rgb is None for frame in frames] == [True] + [False] * 9
    assert [frame.time_s for frame in frames] == pytest.approx([index / RATE_HZ for index in range(10)])


def stub_frames(times: Sequence[float]) -> list[Frame]:
    return [Frame(index, time_s, None) for index, time_s in enumerate(times)]


def test_sampling_takes_the_first_frame_at_or_after_each_point() -> None:
    frames = stub_frames([index / 24 for index in range(48)])
    picked = [frame.time_s for frame in sample_frames(frames, 10.0)]
    expected = [next(frame.time_s for frame in frames if frame.time_s >= k / 10 - 0.0005) for k in range(20)]
    assert picked == expected


def test_sampling_forgives_rounding_and_uses_a_frame_once() -> None:
    assert [frame.index for frame in sample_frames(stub_frames([0.0, 0.0999, 0.2, 0.75, 0.8]), 10.0)] == [
        0,
        1,
        2,
        3,
        4,
    ]
    assert [frame.index for frame in sample_frames(stub_frames([0.0, 0.05, 0.55, 0.56, 0.6]), 10.0)] == [
        0,
        2,
        4,
    ]


def test_the_grid_does_not_drift_over_hours() -> None:
    frames = stub_frames([index * 1001 / 30000 for index in range(30 * 3600)])
    picked = [frame.time_s for frame in sample_frames(frames, 10.0)]
    assert len(picked) == 36036
    assert max(time_s - k / 10 for k, time_s in enumerate(picked)) < 1001 / 30000
