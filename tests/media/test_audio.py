from __future__ import annotations

import wave
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.audio.stream import AudioStream
from av.video.stream import VideoStream

from reactometer.config import PrepareConfig
from reactometer.errors import MediaError
from reactometer.media.audio import (
    _fill_gaps,
    is_audible,
    read_sound,
    read_waveform,
    separate_sound_start_s,
)
from reactometer.media.segments import prepare_clip
from reactometer.media.video import probe
from reactometer.types import SOUND_RATE_HZ, FloatArray

MILLISECOND = SOUND_RATE_HZ // 1000


def tone(seconds: float, rate_hz: int, amplitude: float = 0.5) -> FloatArray:
    return (amplitude * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(
        np.float32
    )


def write_wav(path: Path, samples: FloatArray, rate_hz: int, bytes_a_sample: int, channels: int) -> Path:
    """PCM by the standard library, because another library than the reader.s must write the file."""
    scaled = np.repeat(
        np.round(samples.astype(float) * (2 ** (8 * bytes_a_sample - 1) - 1)).astype("<i4"), channels
    )
    if bytes_a_sample == 1:
        data = (scaled + 128).astype(np.uint8).tobytes()  # 8-bit PCM has no sign
    else:
        data = scaled.view(np.uint8).reshape(-1, 4)[:, :bytes_a_sample].tobytes()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(bytes_a_sample)
        file.setframerate(rate_hz)
        file.writeframes(data)
    return path


def write_clip(
    path: Path,
    runs: Sequence[tuple[float, FloatArray]],
    rate_hz: int,
    codec: str,
    video_start_s: float | None = None,
) -> Path:
    """A file with sound at these times and, with a start time, a second of video."""
    with av.open(path, "w") as container:
        sound = container.add_stream(codec, rate=rate_hz, layout="mono")
        assert isinstance(sound, AudioStream)
        if video_start_s is not None:
            video = container.add_stream("mpeg4" if path.suffix == ".mov" else "ffv1", rate=25)
            assert isinstance(video, VideoStream)
            video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
            for index in range(25):
                picture = av.VideoFrame.from_ndarray(
                    np.full((32, 32, 3), index, dtype=np.uint8), format="rgb24"
                )
                picture.pts, picture.time_base = index + round(video_start_s * 25), Fraction(1, 25)
                container.mux(video.encode(picture))
            container.mux(video.encode(None))
        size = sound.codec_context.frame_size or 1024
        for start_s, samples in runs:
            for first in range(0, len(samples), size):
                part = (samples[first : first + size] * 32767).astype(np.int16)[None]
                frame = av.AudioFrame.from_ndarray(part, format="s16", layout="mono")
                frame.sample_rate, frame.time_base = rate_hz, Fraction(1, rate_hz)
                frame.pts = round(start_s * rate_hz) + first
                container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return path


def damage(path: Path, first: int, last: int | None) -> None:
    """Overwrite the sound packets from ``first`` up to ``last`` with zeros."""
    data = bytearray(path.read_bytes())
    with av.open(path) as container:
        spans = [(packet.pos or 0, packet.size) for packet in container.demux(audio=0) if packet.size]
    for position, size in spans[first:last]:
        data[position : position + size] = bytes(size)
    path.write_bytes(data)


def loudness(samples: FloatArray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize(("bytes_a_sample", "channels"), [(1, 1), (2, 2), (3, 2)])
def test_wav_files_of_every_kind_become_the_same_waveform(
    tmp_path: Path, rate_hz: int, bytes_a_sample: int, channels: int
) -> None:
    path = write_wav(tmp_path / "voice.wav", tone(1.5, rate_hz), rate_hz, bytes_a_sample, channels)
    waveform = read_waveform(path)
    assert waveform is not None
    assert waveform.dtype == np.float32
    assert len(waveform) == pytest.approx(1.5 * SOUND_RATE_HZ, abs=MILLISECOND)
    middle = slice(1000, 20_000)  # away from the ends, where the resampler has no neighbours
    assert np.abs(waveform[middle] - tone(1.5, SOUND_RATE_HZ)[middle]).max() < 0.02


def test_sound_does_not_drift_within_a_minute(tmp_path: Path) -> None:
    samples = np.zeros(60 * 44_100, dtype=np.float32)
    for second in range(1, 60):
        samples[second * 44_100 : second * 44_100 + 44] = 0.9
    waveform = read_waveform(write_clip(tmp_path / "clicks.mkv", [(0.0, samples)], 44_100, "flac"))
    assert waveform is not None
    for second in range(1, 60):
        window = np.abs(waveform[int((second - 0.5) * SOUND_RATE_HZ) : int((second + 0.5) * SOUND_RATE_HZ)])
        assert int(window.argmax()) == pytest.approx(SOUND_RATE_HZ // 2, abs=2 * MILLISECOND)


def test_sound_before_the_video_is_cut(tmp_path: Path) -> None:
    samples = np.concatenate([tone(0.4, 16_000), np.zeros(8000, dtype=np.float32)])
    path = write_clip(tmp_path / "early.mkv", [(0.0, samples)], 16_000, "pcm_s16le", video_start_s=0.2)
    waveform = read_waveform(path)
    assert waveform is not None
    assert len(waveform) == len(samples) - 3200
    assert waveform == pytest.approx(samples[3200:], abs=1e-3)


def test_sound_after_the_video_starts_with_zeros(tmp_path: Path) -> None:
    samples = tone(0.5, 16_000)
    path = write_clip(tmp_path / "late.mkv", [(1.75, samples)], 16_000, "pcm_s16le", video_start_s=1.0)
    waveform = read_waveform(path)
    assert waveform is not None
    assert not waveform[:12_000].any()
    assert waveform[12_000:] == pytest.approx(samples, abs=1e-3)


def test_a_sound_file_starts_with_its_sound(tmp_path: Path) -> None:
    waveform = read_waveform(
        write_clip(tmp_path / "late.mkv", [(3.0, tone(0.5, 16_000))], 16_000, "pcm_s16le")
    )
    assert waveform == pytest.approx(tone(0.5, 16_000), abs=1e-3)


@pytest.mark.parametrize("rate_hz", [16_000, 48_000])
def test_a_gap_in_the_times_is_silence_of_its_length(tmp_path: Path, rate_hz: int) -> None:
    runs = [(0.0, tone(0.512, rate_hz)), (1.0, tone(0.512, rate_hz))]
    waveform = read_waveform(write_clip(tmp_path / "gap.mkv", runs, rate_hz, "pcm_s16le"))
    assert waveform is not None
    assert len(waveform) == pytest.approx(1.512 * SOUND_RATE_HZ, abs=MILLISECOND)
    assert loudness(waveform[:8000]) > 0.3
    assert not waveform[8400:15_900].any()
    assert loudness(waveform[16_100:24_000]) > 0.3


def test_overlapping_sound_is_used_once() -> None:
    pieces = [
        (-2, np.arange(6)),
        (2, np.arange(10, 14)),
        (10, np.arange(20, 22)),
        (4, np.arange(3)),
        (12, np.arange(1)),
    ]
    floats = ((start, samples.astype(np.float32)) for start, samples in pieces)
    joined = np.concatenate(list(_fill_gaps(Path("a.wav"), floats)))
    assert joined.tolist() == [2, 3, 4, 5, 12, 13, 0, 0, 0, 0, 20, 21, 0]


def test_loud_stereo_is_not_clipped(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "loud.wav", tone(1.0, 44_100, amplitude=0.95), 44_100, 2, channels=2)
    waveform = read_waveform(path)
    assert waveform is not None
    assert waveform[1000:-1000].max() == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize(
    ("name", "codec", "first", "last"), [("a.mp4", "aac", 10, 20), ("b.mov", "alac", 3, 6)]
)
def test_packets_that_cannot_be_decoded_are_silence(
    tmp_path: Path, name: str, codec: str, first: int, last: int
) -> None:
    path = write_clip(tmp_path / name, [(0.0, tone(3.0, 16_000))], 16_000, codec)
    whole = read_waveform(path)
    damage(path, first, last)
    hurt = read_waveform(path)
    assert whole is not None
    assert hurt is not None
    assert len(hurt) == pytest.approx(len(whole), abs=MILLISECOND)
    assert loudness(hurt[-8000:-2000]) == pytest.approx(loudness(whole[-8000:-2000]), rel=0.05)
    assert np.abs(hurt[:4000] - whole[:4000]).max() < 0.05
    stretches = hurt[: len(hurt) // 1600 * 1600].reshape(-1, 1600)
    assert min(loudness(stretch) for stretch in stretches) < 0.01


def test_packets_that_cannot_be_decoded_at_the_end_are_silence(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "voice.mp4", [(0.0, tone(3.0, 16_000))], 16_000, "aac")
    whole = read_waveform(path)
    damage(path, -5, None)
    hurt = read_waveform(path)
    assert whole is not None
    assert hurt is not None
    assert len(hurt) == pytest.approx(len(whole), abs=1024)
    assert not hurt[-3000:].any()


def test_sound_of_which_nothing_can_be_decoded_is_an_error(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "noise.mp4", [(0.0, tone(1.0, 16_000))], 16_000, "aac")
    damage(path, 0, None)
    with pytest.raises(MediaError, match=r"noise\.mp4.*aac"):
        read_waveform(path)


def test_blocks_follow_each_other_and_are_the_waveform(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "voice.wav", tone(2.5, 44_100), 44_100, 2, 1)
    blocks, waveform = list(read_sound(path)), read_waveform(path)
    assert waveform is not None
    assert [block.start_s for block in blocks] == [0.0, 1.0, 2.0]
    assert [len(block.samples) for block in blocks[:2]] == [SOUND_RATE_HZ] * 2
    assert np.array_equal(np.concatenate([block.samples for block in blocks]), waveform)


def test_a_video_without_sound_has_no_waveform(tmp_path: Path) -> None:
    path = tmp_path / "mute.mkv"
    with av.open(path, "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        container.mux(stream.encode(None))
    assert read_waveform(path) is None
    assert list(read_sound(path)) == []


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"none\.wav"):
        read_waveform(tmp_path / "none.wav")


def test_silence_is_not_audible() -> None:
    random = np.random.default_rng(0)
    hiss = (random.standard_normal(SOUND_RATE_HZ) * 3e-4).astype(np.float32)  # -70 dBFS
    word = np.concatenate([hiss, tone(0.2, SOUND_RATE_HZ, amplitude=0.01), hiss])
    assert not is_audible(None)
    assert not is_audible(np.zeros(0, dtype=np.float32))
    assert not is_audible(np.zeros(SOUND_RATE_HZ, dtype=np.float32))
    assert not is_audible(hiss)
    assert is_audible(word)
    assert is_audible(np.full(5, 0.5, dtype=np.float32))


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "duration_s", "audible"),
    [
        ("single_face.mp4", 2.419, True),
        ("WolfgangLanger_Pexels.mp4", 19.69, False),  # a silent track
        ("face_noface.mov", 6.396, True),
        ("no_face.mp4", 3.945, True),
    ],
)
def test_real_sound_has_its_length(shared_data: Path, name: str, duration_s: float, audible: bool) -> None:
    waveform = read_waveform(shared_data / "clips" / name)
    assert waveform is not None
    assert len(waveform) / SOUND_RATE_HZ == pytest.approx(duration_s, abs=0.03)
    assert np.abs(waveform).max() <= 1
    assert is_audible(waveform) is audible


@pytest.mark.shared
def test_real_sound_that_starts_late_leaves_a_gap(shared_data: Path) -> None:
    waveform = read_waveform(shared_data / "clips" / "face_noface.mov")
    assert waveform is not None
    start = round(107_164 / 44_100 * SOUND_RATE_HZ)  # start of the sound in the container
    assert not waveform[:start].any()
    assert waveform[start : start + SOUND_RATE_HZ // 10].any()


@pytest.mark.parametrize("is_padded", [False, True])
def test_a_sound_file_beside_a_video_starts_when_the_videos_own_sound_does(
    tmp_path: Path, is_padded: bool
) -> None:
    """FFmpeg extracts the sound without the silence before it, unless it is asked for the silence."""
    late = tone(1.0, 16_000)
    video = write_clip(tmp_path / "late.mov", [(0.5, late)], 16_000, "pcm_s16le", video_start_s=0.0)
    wav = write_clip(tmp_path / "late.wav", [(0.0, late)], 16_000, "pcm_s16le")
    if is_padded:
        silence = np.zeros(8000, np.float32)
        wav = write_clip(tmp_path / "late.wav", [(0.0, np.append(silence, late))], 16_000, "pcm_s16le")
    assert separate_sound_start_s(probe(video), probe(wav)) == pytest.approx(
        0.0 if is_padded else 0.5, abs=1e-3
    )
    settings = PrepareConfig(detector="haar")
    clip = prepare_clip(video, settings, lambda frame: [], audio_path=wav)
    assert clip.waveform is not None
    assert not clip.waveform[:7990].any()
    assert clip.waveform[8010:8100].any()
