"""Read a file as a prepared clip, whole or window by window, in one pass and in bounded memory."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reactometer.media.audio import check_gap, read_sound, separate_sound_start_s
from reactometer.media.faces import Detector, resolve_detector_name
from reactometer.media.tracking import track_face
from reactometer.media.video import probe, read_frames
from reactometer.types import (
    SOUND_RATE_HZ,
    FaceSample,
    FloatArray,
    Frame,
    MediaInfo,
    PreparedClip,
    SoundBlock,
)

if TYPE_CHECKING:
    from reactometer.config import PrepareConfig

MIN_NEW_CONTENT_S = 0.1
"""Minimum new content of the last window in seconds; less is an encoder's padding."""


Tracking = Callable[[Iterator[Frame]], Iterator[FaceSample]]
"""Samples the faces of frames: :func:`tracking.track_face` or :func:`tracking.track_faces` with its settings.
"""


@dataclass(frozen=True)
class WindowSpec:
    """Windows of ``length_s`` that start every ``hop_s``, from the start of the file."""

    length_s: float
    hop_s: float


FULL_CLIP = WindowSpec(math.inf, math.inf)
"""A single window: the whole file."""

MAX_SEGMENT = WindowSpec(60.0, 60.0)
"""Parts of longer clips, whose intensities are the parts' mean, weighted by length."""


def resolve_detector(settings: PrepareConfig) -> PrepareConfig:
    """Replace the detector "auto" by the detector of this machine."""
    return settings.model_copy(update={"detector": resolve_detector_name(settings.detector)})


def prepare_clip(
    path: Path, settings: PrepareConfig, detector: Detector, audio_path: Path | None = None
) -> PreparedClip:
    """Read a whole video or sound file: every sampled frame, and all sound (from ``audio_path``, if it is
    separate, aligned with the video's own sound).

    Raises:
        MediaError: the file is missing, empty, truncated or not a media file.
    """
    track = partial(track_face, detector=detector, rate_hz=settings.rate_hz, size_px=settings.size_px)
    (_, clip), *_ = stream_windows(path, track, [FULL_CLIP], audio_path)
    return clip


def stream_windows(
    path: Path,
    track: Tracking,
    specs: Sequence[WindowSpec],
    audio_path: Path | None = None,
    info: MediaInfo | None = None,
) -> Iterator[tuple[WindowSpec, PreparedClip]]:
    """Read a file once and yield its windows of every spec, each as soon as it is complete.

    Windows start at every multiple of ``hop_s`` that adds new content; the last window ends with the file.
    The longest window bounds the memory. If all faces are tracked, :func:`select_face` selects one person.
    ``info`` is the file's, if already probed.
    """
    info = info or probe(path)
    sound_info = info
    if audio_path:
        sound_info = probe(audio_path)
        start_s = separate_sound_start_s(info, sound_info)
        sound_info = replace(sound_info, zero_s=sound_info.zero_s - start_s)
    sound = read_sound(audio_path or path, info=sound_info) if sound_info.has_audio else None
    yield from cut_windows(info, read_frames(path), sound, track, specs)


def cut_windows(
    info: MediaInfo,
    frames: Iterator[Frame],
    sound: Iterator[SoundBlock] | None,
    track: Tracking,
    specs: Sequence[WindowSpec],
) -> Iterator[tuple[WindowSpec, PreparedClip]]:
    """Yield the windows of frames and sound in order of time; see :func:`stream_windows`."""
    buffer = _WindowBuffer(info, specs, sound is not None)
    faces = track(buffer.watch(frames))
    stream: Iterator[FaceSample | SoundBlock] = heapq.merge(faces, sound or iter(()), key=_start_of)
    for entry in stream:
        yield from buffer.complete_until(_start_of(entry))
        buffer.add(entry)
    yield from buffer.finish()


def part_bounds(duration_s: float) -> list[tuple[float, float]]:
    """Return the start and end of each part of a clip, in seconds, as :func:`stream_windows` with
    ``MAX_SEGMENT``."""
    count = max(1, math.ceil((duration_s - MIN_NEW_CONTENT_S) / MAX_SEGMENT.length_s))
    starts = [MAX_SEGMENT.length_s * index for index in range(count)]
    return [(start_s, min(start_s + MAX_SEGMENT.length_s, duration_s)) for start_s in starts]


def slice_clip(clip: PreparedClip, start_s: float, end_s: float) -> PreparedClip:
    """Return the window [start_s, end_s) of a prepared clip, equal to that of :func:`stream_windows`."""
    samples = tuple(sample for sample in clip.samples if start_s <= sample.time_s < end_s)
    first, last = (round((time_s - clip.start_s) * SOUND_RATE_HZ) for time_s in (start_s, end_s))
    waveform = None if clip.waveform is None else clip.waveform[first:last]
    return PreparedClip(start_s, end_s, samples, waveform, clip.frames_read)


def select_face(clip: PreparedClip, face: int | None) -> PreparedClip:
    """Select one person in a window with all faces' samples, as if only this face were tracked."""
    samples: list[FaceSample] = []
    for sample in clip.samples:
        if sample.face is None:
            samples.append(sample)
        elif sample.face == face:
            samples[-1] = replace(sample, face=None)
    return replace(clip, samples=tuple(samples))


def _start_of(entry: FaceSample | SoundBlock) -> float:
    return entry.time_s if isinstance(entry, FaceSample) else entry.start_s


class _WindowBuffer:
    """Buffer of the samples and sound that incomplete windows need, with the end of the video and of the
    sound."""

    def __init__(self, info: MediaInfo, specs: Sequence[WindowSpec], has_sound: bool) -> None:
        self.info = info
        self.frames_read = 0
        self.video_end_s = 0.0
        self.next_window = dict.fromkeys(specs, 0)
        self.has_sound = has_sound
        self.faces: deque[FaceSample] = deque()
        self.blocks: deque[SoundBlock] = deque()
        self.sound_end_s = 0.0

    def watch(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        """Pass frames on; count them, and note the end of the last frame, which lasts as long as the one
        before."""
        duration_s = 1.0 / (self.info.rate_hz or 25.0)
        last_s = None
        for frame in frames:
            check_gap(self.info.path, "video", self.video_end_s, frame.time_s)
            duration_s = duration_s if last_s is None else frame.time_s - last_s
            last_s = frame.time_s
            self.frames_read += 1
            self.video_end_s = frame.time_s + duration_s
            yield frame

    def add(self, entry: FaceSample | SoundBlock) -> None:
        if isinstance(entry, FaceSample):
            self.faces.append(entry)
        else:
            self.blocks.append(entry)
            self.sound_end_s = entry.start_s + len(entry.samples) / SOUND_RATE_HZ

    def complete_until(self, end_s: float) -> Iterator[tuple[WindowSpec, PreparedClip]]:
        """Yield the windows that end at or before ``end_s``, the time of the newest entry."""
        for spec in self.next_window:
            while (start_s := self._start_s(spec)) + spec.length_s <= end_s:
                yield spec, self._window(start_s, start_s + spec.length_s)
                self.next_window[spec] += 1
        self._forget(min(map(self._start_s, self.next_window)))

    def finish(self) -> Iterator[tuple[WindowSpec, PreparedClip]]:
        """Yield the remaining windows with new content."""
        end_s = max(self.video_end_s, self.sound_end_s)
        yield from self.complete_until(end_s)
        for spec, index in self.next_window.items():
            covered_s = self._start_s(spec) - spec.hop_s + spec.length_s
            if index == 0 or covered_s < end_s - MIN_NEW_CONTENT_S:
                yield spec, self._window(self._start_s(spec), end_s)

    def _start_s(self, spec: WindowSpec) -> float:
        return self.next_window[spec] * spec.hop_s if self.next_window[spec] else 0.0

    def _window(self, start_s: float, end_s: float) -> PreparedClip:
        samples = tuple(sample for sample in self.faces if start_s <= sample.time_s < end_s)
        return PreparedClip(start_s, end_s, samples, self._waveform(start_s, end_s), self.frames_read)

    def _waveform(self, start_s: float, end_s: float) -> FloatArray | None:
        if not self.has_sound:
            return None
        first = round(start_s * SOUND_RATE_HZ)
        last = round(end_s * SOUND_RATE_HZ)
        waveform = np.zeros(last - first, dtype=np.float32)  # (S,); silence after the end of the sound
        for block in self.blocks:
            offset = round(block.start_s * SOUND_RATE_HZ) - first
            source = block.samples[max(-offset, 0) : max(len(waveform) - offset, 0)]
            waveform[max(offset, 0) : max(offset, 0) + len(source)] = source
        return (np.round(waveform * 32767) / 32767).astype(np.float32)  # 16 bits, as in the cache

    def _forget(self, needed_s: float) -> None:
        while self.faces and self.faces[0].time_s < needed_s:
            self.faces.popleft()
        while (
            self.blocks and self.blocks[0].start_s + len(self.blocks[0].samples) / SOUND_RATE_HZ <= needed_s
        ):
            self.blocks.popleft()
