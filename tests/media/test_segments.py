"""Windows of a file: whole, in parts and over time, in one pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest

from reactometer.config import PrepareConfig
from reactometer.errors import MediaError
from reactometer.media.faces import Detector, load_detector
from reactometer.media.segments import (
    FULL_CLIP,
    Tracking,
    WindowSpec,
    part_bounds,
    prepare_clip,
    select_face,
    slice_clip,
    stream_windows,
)
from reactometer.media.tracking import track_face, track_faces
from reactometer.types import SOUND_RATE_HZ, Detection, FaceSample, FrameState, PreparedClip

SETTINGS = PrepareConfig(detector="haar", rate_hz=5.0, size_px=32)


def _centre(_: object) -> list[Detection]:
    """A detector that sees a face in every frame."""
    return [Detection((20.0, 20.0, 24.0, 24.0), 1.0, None)]


def _detect(faces: Sequence[Detection], _: object) -> list[Detection]:
    """A detector that sees the same faces in every frame."""
    return list(faces)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven seconds of noise at 10 frames a second, with a tone of five seconds."""
    path = tmp_path_factory.mktemp("video") / "seven.mp4"
    generator = np.random.default_rng(0)
    tone = 0.5 * np.sin(2 * math.pi * 440 * np.arange(5 * SOUND_RATE_HZ) / SOUND_RATE_HZ)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(10))
        stream.width = stream.height = 64
        sound = container.add_stream("aac", SOUND_RATE_HZ, layout="mono")
        for _ in range(70):
            picture = generator.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
        frame = av.AudioFrame.from_ndarray(tone[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = SOUND_RATE_HZ, 0
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return path


def _tracking(detector: Detector, track: Callable[..., Iterator[FaceSample]] = track_face) -> Tracking:
    return partial(track, detector=detector, rate_hz=SETTINGS.rate_hz, size_px=SETTINGS.size_px)


def _windows(path: Path, *shapes: WindowSpec) -> list[tuple[WindowSpec, PreparedClip]]:
    return list(stream_windows(path, _tracking(_centre), shapes))


def _assert_equal(one: PreparedClip, other: PreparedClip) -> None:
    assert (one.start_s, one.samples) == (other.start_s, other.samples)
    assert one.end_s == pytest.approx(other.end_s)
    assert one.waveform is not None
    assert other.waveform is not None
    np.testing.assert_array_equal(one.waveform, other.waveform)


def test_the_whole_file_is_one_window(video: Path) -> None:
    clip = prepare_clip(video, SETTINGS, _centre)
    assert (clip.start_s, clip.frames_read, len(clip.samples)) == (0.0, 70, 35)
    assert clip.duration_s == pytest.approx(7.0)
    assert clip.face_share == 1.0
    assert clip.waveform is not None
    assert len(clip.waveform) == 7 * SOUND_RATE_HZ
    assert np.abs(clip.waveform[: 4 * SOUND_RATE_HZ]).max() > 0.4
    assert np.abs(clip.waveform[6 * SOUND_RATE_HZ :]).max() == 0.0


def test_overlapping_windows_equal_slices_of_the_whole(video: Path) -> None:
    whole = prepare_clip(video, SETTINGS, _centre)
    windows = [clip for _, clip in _windows(video, WindowSpec(2.0, 0.5))]
    assert [window.start_s for window in windows] == [0.5 * number for number in range(11)]
    for window in windows:
        _assert_equal(window, slice_clip(whole, window.start_s, window.end_s))


def test_a_slice_of_a_slice_is_the_slice(video: Path) -> None:
    whole = prepare_clip(video, SETTINGS, _centre)
    part = slice_clip(whole, 1.0, 5.0)
    assert (part.start_s, part.end_s, part.frames_read) == (1.0, 5.0, whole.frames_read)
    _assert_equal(slice_clip(part, 2.5, 4.0), slice_clip(whole, 2.5, 4.0))
    assert [sample.time_s for sample in slice_clip(part, 2.0, 2.4).samples] == pytest.approx([2.0, 2.2])
    assert slice_clip(PreparedClip(0.0, 5.0, (), None), 1.0, 2.0) == PreparedClip(1.0, 2.0, (), None)


def test_the_last_window_ends_with_the_file_and_has_new_content(video: Path) -> None:
    windows = [clip for _, clip in _windows(video, WindowSpec(3.0, 2.0))]
    assert [(window.start_s, round(window.end_s, 6)) for window in windows] == [(0, 3), (2, 5), (4, 7)]
    assert windows[-1].frames_read == 70
    windows = [clip for _, clip in _windows(video, WindowSpec(2.0, 2.0))]
    assert [(window.start_s, round(window.end_s, 6)) for window in windows] == [
        (0, 2),
        (2, 4),
        (4, 6),
        (6, 7),
    ]


def test_several_window_specs_share_one_pass(video: Path) -> None:
    both = _windows(video, FULL_CLIP, WindowSpec(2.0, 1.0))
    _assert_equal(
        next(clip for shape, clip in both if shape == FULL_CLIP), prepare_clip(video, SETTINGS, _centre)
    )
    alone = _windows(video, WindowSpec(2.0, 1.0))
    for (_, one), (_, other) in zip([pair for pair in both if pair[0] != FULL_CLIP], alone, strict=True):
        _assert_equal(one, other)


def test_windows_of_all_faces_equal_the_windows_of_each_face(video: Path) -> None:
    """Two faces in every frame: each window equals the window of a clip with only this face."""
    positions = (
        Detection((4.0, 20.0, 24.0, 24.0), 0.9, None),
        Detection((36.0, 20.0, 24.0, 24.0), 0.8, None),
    )
    shapes = (FULL_CLIP, WindowSpec(2.0, 1.0))
    all_faces = list(stream_windows(video, _tracking(partial(_detect, positions), track_faces), shapes))
    for number, index in enumerate(positions, start=1):
        single_face = list(stream_windows(video, _tracking(partial(_detect, [index])), shapes))
        for (spec, both), (single_spec, single) in zip(all_faces, single_face, strict=True):
            assert spec == single_spec
            _assert_equal(select_face(both, number), single)
    for _, both in all_faces:
        assert {sample.state for sample in select_face(both, None).samples} == {FrameState.NO_FACE}


def test_parts_are_the_windows_of_a_minute() -> None:
    assert part_bounds(10.0) == [(0.0, 10.0)]
    assert part_bounds(60.0) == part_bounds(60.05) == [(0.0, 60.0)]
    assert part_bounds(150.0) == [(0.0, 60.0), (60.0, 120.0), (120.0, 150.0)]
    assert part_bounds(0.0) == [(0.0, 0.0)]


def _write_sound(path: Path) -> Path:
    """A second and a half of sound at the same height."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", SOUND_RATE_HZ, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.full((1, 24000), 5000, np.int16), format="s16", layout="mono")
        frame.sample_rate = SOUND_RATE_HZ
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_a_sound_file_has_sound_and_no_frames(tmp_path: Path) -> None:
    clip = prepare_clip(_write_sound(tmp_path / "voice.wav"), SETTINGS, _centre)
    assert (clip.samples, clip.frames_read, clip.face_share) == ((), 0, 0.0)
    assert clip.duration_s == pytest.approx(1.5)


def test_a_sound_file_beside_a_video_replaces_its_sound(video: Path, tmp_path: Path) -> None:
    clip = prepare_clip(video, SETTINGS, _centre, _write_sound(tmp_path / "voice.wav"))
    assert clip.waveform is not None
    assert clip.waveform.dtype == np.float32
    assert set(clip.waveform[:24000].tolist()) == {float(np.float32(5000 / 32767))}  # as the cache keeps it
    assert not clip.waveform[24000:].any()
    assert len(clip.samples) == 35
    assert clip.end_s == pytest.approx(7.0)


@pytest.mark.parametrize(("shown_at", "end_s"), [([0], 0.1), ([0, 1, 5], 0.9)])
def test_a_silent_video_ends_after_its_last_frame(tmp_path: Path, shown_at: list[int], end_s: float) -> None:
    """As long as the one before it, and of a single one, a tenth of a second at 10 a second."""
    path = tmp_path / "silent.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(10))
        stream.width = stream.height = 64
        for tenth in shown_at:
            picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 90, np.uint8), format="rgb24")
            picture.pts, picture.time_base = tenth, Fraction(1, 10)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    clip = prepare_clip(path, SETTINGS, _centre)
    assert (clip.waveform, clip.frames_read) == (None, len(shown_at))
    assert clip.end_s == pytest.approx(end_s, abs=0.002)
    heard = prepare_clip(path, SETTINGS, _centre, _write_sound(tmp_path / "voice.wav"))
    assert heard.waveform is not None
    assert heard.end_s == pytest.approx(1.5)


@pytest.mark.parametrize("stream", ["video", "sound"])
def test_a_damaged_timestamp_is_an_error_and_not_an_hour_of_silence(tmp_path: Path, stream: str) -> None:
    path = tmp_path / "jump.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=Fraction(10))
        video.width = video.height = 64
        sound = container.add_stream("pcm_s16le", SOUND_RATE_HZ, layout="mono")
        for second in (0, 1, 2000):
            picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 90, np.uint8), format="rgb24")
            picture.pts, picture.time_base = (
                10 * (second if stream == "video" else min(second, 2)),
                Fraction(1, 10),
            )
            container.mux(video.encode(picture))
            heard = av.AudioFrame.from_ndarray(
                np.zeros((1, SOUND_RATE_HZ), np.int16), format="s16", layout="mono"
            )
            heard.sample_rate, heard.pts = (
                SOUND_RATE_HZ,
                SOUND_RATE_HZ * (second if stream == "sound" else min(second, 2)),
            )
            container.mux(sound.encode(heard))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
    with pytest.raises(MediaError, match=rf"jump\.mkv.*{stream}.*2000\.\d s"):
        _windows(path, WindowSpec(2.0, 1.0))


@pytest.mark.slow
@pytest.mark.shared
def test_every_sampled_frame_of_the_real_clips_is_accounted_for(shared_data: Path) -> None:
    """Frames read equal the container's packets, less those that its edit list hides (3 of ``no_face.mp4``).

    Every frame with a face taken for granted, and with the detector those at or after each k / 2.5 s.
    """
    for path in sorted((shared_data / "clips").iterdir()):
        with av.open(str(path)) as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
        n_frames = sum(not packet.is_discard for packet in packets)
        clip = prepare_clip(path, PrepareConfig(rate_hz=240.0, size_px=32), _centre)
        assert clip.frames_read == len(clip.samples) == n_frames
        sparse = prepare_clip(path, PrepareConfig(rate_hz=2.5, size_px=32), load_detector())
        assert (sparse.frames_read, sparse.duration_s) == (n_frames, clip.duration_s)
        assert len(sparse.samples) == math.floor(2.5 * clip.samples[-1].time_s) + 1
        for sample in (*clip.samples, *sparse.samples):
            assert sample.state is not FrameState.UNREADABLE
    assert n_frames == 72  # single_face.mp4, the last one


@pytest.mark.slow
@pytest.mark.shared
def test_memory_does_not_grow_with_the_window_count(shared_data: Path) -> None:
    """The buffer never spans more than a window and a second of sound."""
    counts = []
    path = shared_data / "clips" / "WolfgangLanger_Pexels.mp4"
    for _, window in stream_windows(path, _tracking(_centre), [WindowSpec(1.0, 0.5)]):
        counts.append(len(window.samples))
    assert len(counts) > 35
    assert max(counts) <= 6
