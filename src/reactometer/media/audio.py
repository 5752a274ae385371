"""Stream the sound of a media file as mono 16 kHz, on the clock of its video."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import chain, groupby
from pathlib import Path

import av.error
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer

from reactometer.errors import MediaError
from reactometer.media.video import open_media, probe
from reactometer.types import SOUND_RATE_HZ, FloatArray, MediaInfo, SoundBlock

BLOCK_SIZE = SOUND_RATE_HZ  # one second
MIN_GAP_S = 0.05  # a jump of the timestamps that is larger than this is real, a smaller one is rounding
MAX_GAP_S = 600.0
MIN_RATE_HZ = 1000  # lower declared rates would mean hours of sound
MIN_AUDIBLE_DBFS = -60.0  # root mean square of an interval, relative to full scale; below rooms, above dither
LEVEL_INTERVAL_S = 0.1
FULL_SCALE = 2.0**31  # of the resampler's integers

TimedFrame = tuple[float | None, AudioFrame | None]
"""Start in seconds and frame; end and None for a packet that cannot be decoded."""


def read_sound(path: Path, info: MediaInfo | None = None) -> Iterator[SoundBlock]:
    """Yield the first sound stream from the zero of the file's clock on, in blocks of a second, without a
    gap.

    ``info`` is the file's, if already probed. Missing sound is zero: before a late start, in gaps, and in
    packets that cannot be decoded. Without a sound stream, nothing is yielded. Raise MediaError for a file
    that cannot be opened and for a sound stream without a decodable packet.
    """
    with open_media(path) as container:
        if not container.streams.audio:
            return
        zero_s = (info or probe(path)).zero_s
        frames = _decode(path, container, container.streams.audio[0])
        start_sample, size = 0, 0
        pending: list[FloatArray] = []
        for chunk in _fill_gaps(path, resample(frames, zero_s)):
            pending.append(chunk)
            size += len(chunk)
            if size < BLOCK_SIZE:
                continue
            samples = np.concatenate(pending)
            n_complete = size - size % BLOCK_SIZE
            for first in range(0, n_complete, BLOCK_SIZE):
                yield SoundBlock((start_sample + first) / SOUND_RATE_HZ, samples[first : first + BLOCK_SIZE])
            start_sample += n_complete
            size -= n_complete
            pending = [samples[n_complete:]]
        if size:
            yield SoundBlock(start_sample / SOUND_RATE_HZ, np.concatenate(pending))


def read_waveform(path: Path) -> FloatArray | None:
    """Return all sound from the zero of the file's clock, (S,) float32 in [-1, 1]; None without a sound
    stream."""
    with open_media(path) as container:
        if not container.streams.audio:
            return None
    return np.concatenate([np.zeros(0, dtype=np.float32), *(block.samples for block in read_sound(path))])


def separate_sound_start_s(video: MediaInfo, sound: MediaInfo) -> float:
    """Return when a sound file beside a video starts on the video's clock, seconds.

    Extraction drops the silence before a late start, so that the file starts when the video's own sound does.
    If the file is longer than this sound by about the silence, it contains the silence, and starts at 0 s.
    """
    with open_media(video.path) as container:
        stream = container.streams.audio[0] if container.streams.audio else None
        if stream is None or stream.start_time is None or stream.time_base is None:
            return 0.0
        start_s = float(stream.start_time * stream.time_base) - video.zero_s
        stream_s = float(stream.duration * stream.time_base) if stream.duration else None
    excess_s = 0.0 if stream_s is None or sound.duration_s is None else sound.duration_s - stream_s
    return start_s if abs(start_s) > MIN_GAP_S and abs(excess_s) < abs(excess_s - start_s) else 0.0


def is_audible(waveform: FloatArray | None) -> bool:
    """Return whether any 100 ms of a (S,) float32 waveform in [-1, 1] are louder than -60 dBFS."""
    return waveform is not None and bool((_powers(waveform) > 10 ** (MIN_AUDIBLE_DBFS / 10)).any())


def levels_db(waveform: FloatArray) -> list[float | None]:
    """Return the level of each 100 ms of a (S,) float32 waveform in [-1, 1] in dBFS; None for digital
    silence."""
    return [round(10 * math.log10(power), 1) if power else None for power in _powers(waveform).tolist()]


def _powers(waveform: FloatArray) -> npt.NDArray[np.float64]:
    interval = int(LEVEL_INTERVAL_S * SOUND_RATE_HZ)
    starts = np.arange(0, len(waveform), interval)
    squares = np.square(waveform, dtype=np.float64)
    return np.add.reduceat(squares, starts) / interval if len(starts) else squares


def check_gap(path: Path, stream_name: str, end_s: float, next_s: float) -> None:
    """Reject a gap of more than ten minutes in a file's video or sound, which means damaged timestamps.

    Raises:
        MediaError: with the gap, in seconds of the file's clock.
    """
    if next_s - end_s > MAX_GAP_S:
        expected = f"no gap of more than {MAX_GAP_S:.0f} s"
        fix = "Repair the timestamps by converting the file with ffmpeg"
        problem = f"{path}: its {stream_name} jumps from {end_s:.1f} s to {next_s:.1f} s"
        raise MediaError(problem, expected=expected, fix=fix)


def _fill_gaps(path: Path, chunks: Iterable[tuple[int, FloatArray]]) -> Iterator[FloatArray]:
    """Fill gaps between chunks with zeros and remove overlaps, given each chunk's first sample index."""
    position = 0
    for start, samples in chunks:
        check_gap(path, "sound", position / SOUND_RATE_HZ, start / SOUND_RATE_HZ)
        while position < start:
            yield np.zeros(min(start - position, BLOCK_SIZE), dtype=np.float32)
            position = min(start, position + BLOCK_SIZE)
        if len(new_samples := samples[position - start :]):
            yield new_samples
            position += len(new_samples)


def resample(frames: Iterable[TimedFrame], zero_s: float) -> Iterator[tuple[int, FloatArray]]:
    """Resample each run of contiguous frames separately; yield chunks with their first sample index."""
    for _, run in groupby(_number_runs(frames), key=lambda numbered: numbered[0]):
        _, start_s, first = next(run)
        position = round((start_s - zero_s) * SOUND_RATE_HZ)
        if first is None or first.sample_rate < MIN_RATE_HZ:
            yield position, np.zeros(0, dtype=np.float32)
            continue
        # Integers, because FFmpeg lets the mean of float channels exceed full scale.
        resampler = AudioResampler(format="s32", layout="mono", rate=SOUND_RATE_HZ)
        for frame in chain([first], (frame for _, _, frame in run), [None]):  # None flushes the resampler
            try:
                resampled = resampler.resample(frame)
            except av.error.FFmpegError:
                break  # damaged frames can declare an impossible rate or layout; the run becomes silence
            for chunk in resampled:
                samples = np.asarray(chunk.to_ndarray()[0] / FULL_SCALE, dtype=np.float32)  # (S,)
                yield position, samples
                position += len(samples)


def _number_runs(frames: Iterable[TimedFrame]) -> Iterator[tuple[int, float, AudioFrame | None]]:
    """Yield frames with the number of their run; a jump in time, damage, or a new rate or layout starts a
    run."""
    run, start_s, samples, audio_format = 0, 0.0, 0, None
    for time_s, frame in frames:
        expected_s = start_s + (samples / audio_format[0] if audio_format else 0.0)
        if frame is None:
            run, start_s = run + 1, time_s or expected_s
            samples, audio_format = 0, None
            yield run, start_s, None
            continue
        frame_format = (frame.sample_rate, frame.layout.name, frame.format.name)
        if frame_format != audio_format or (time_s is not None and abs(time_s - expected_s) > MIN_GAP_S):
            run = run + 1
            start_s = expected_s if time_s is None else time_s
            samples, audio_format = 0, frame_format
        samples += frame.samples
        frame.pts = None  # the run's start replaces it
        yield run, start_s, frame


def _decode(path: Path, container: InputContainer, stream: AudioStream) -> Iterator[TimedFrame]:
    """Yield the frames of a sound stream on the container's clock."""
    damaged = decoded = False
    if stream.codec_context is None:
        raise MediaError(f"the sound of {path} has an unknown codec", fix="Convert its sound to AAC or WAV")
    try:
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                damaged = True
                if packet.pts is not None:
                    yield float((packet.pts + (packet.duration or 0)) * packet.time_base), None
                continue
            for frame in frames:
                decoded = True
                yield frame.time, frame
    except av.error.FFmpegError as error:
        raise MediaError(
            f"the sound of {path} cannot be read to its end", got=error, fix="Copy it again"
        ) from error
    if damaged and not decoded:
        got = f"{stream.codec_context.name} data without a decodable packet"
        fix = "Convert the sound again, or remove it to use only the video"
        raise MediaError(f"the sound of {path} cannot be decoded", got=got, fix=fix)
