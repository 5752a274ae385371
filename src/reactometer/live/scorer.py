"""Score the last seconds of frames and sound as they arrive, exactly as a window of a file is scored."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from reactometer.errors import ConfigError
from reactometer.inference.checkpoint import LoadedModel
from reactometer.inference.predictor import DEFAULT_WINDOW_S, PredictOptions, Predictor
from reactometer.inference.scores import Score
from reactometer.live.protocol import LiveScore, Packet
from reactometer.media.audio import LEVEL_INTERVAL_S, MIN_GAP_S, levels_db
from reactometer.media.faces import load_detector
from reactometer.media.segments import MAX_SEGMENT
from reactometer.media.tracking import FaceTracker
from reactometer.types import SOUND_RATE_HZ, ByteArray, FaceSample, FloatArray, PreparedClip

LIVE_RATE_HZ = 10.0
"""Lowest default rate of frames, so that scores come often."""

EDGE_S = 1e-6
"""Time from the newest frame to the window's end, because windows are half open."""

MARGIN_S = 1.0
"""Frames and sound are buffered for this time in addition to the window, because their times may differ."""

MIN_WINDOW_S = 0.2
MIN_FILLED_RATIO = 0.9
"""Share of the window that must have arrived for a score without a warning."""


class AudioRingBuffer:
    """The last seconds of sound; gaps are filled with zeros."""

    def __init__(self, length_s: float) -> None:
        self.max_samples = round(length_s * SOUND_RATE_HZ)
        self.end = 0  # index of the next sample, from the clock's zero
        self.samples = np.zeros(0, np.float32)

    def add(self, start_s: float, samples: FloatArray) -> None:
        """Append (S,) samples; a jump of less than :data:`~reactometer.media.audio.MIN_GAP_S` is ignored."""
        index = round(start_s * SOUND_RATE_HZ)
        if not len(self.samples) or index - self.end > self.max_samples:
            self.samples, self.end = np.zeros(0, np.float32), index
        if abs(index - self.end) <= MIN_GAP_S * SOUND_RATE_HZ:
            index = self.end
        gap = np.zeros(max(index - self.end, 0), np.float32)
        new = samples[max(self.end - index, 0) :]
        self.samples = np.concatenate((self.samples, gap, new))[-self.max_samples :]
        self.end += len(gap) + len(new)

    @property
    def end_s(self) -> float | None:
        """Time after the last sample, seconds; None without sound."""
        return self.end / SOUND_RATE_HZ if len(self.samples) else None

    def between(self, start_s: float, end_s: float) -> FloatArray | None:
        """Return the sound of a span, (S,) float32, rounded to 16 bits as in a file; None without sound."""
        begin = self.end - len(self.samples)
        first, last = (max(round(time_s * SOUND_RATE_HZ) - begin, 0) for time_s in (start_s, end_s))
        if not len(part := self.samples[first:last]):
            return None
        lead = np.zeros(max(begin - round(start_s * SOUND_RATE_HZ), 0), np.float32)  # before the first sound
        waveform = np.concatenate((lead, part))
        return (np.round(waveform * 32767) / 32767).astype(np.float32)


class LiveScorer:
    """A scorer of the last seconds of frames and sound while they arrive.

    Frames and sound stay in memory for a window and a second; nothing is written. Face crops are stored as
    JPEG.

    Args:
        model: a model of media, not of precomputed features.
        window_s: length of the window, seconds.
        rate_hz: scored frames per second; default: the model's rate, at least :data:`LIVE_RATE_HZ`.

    Raises:
        ConfigError: the window or the rate is out of range.
        ModelError: the model uses precomputed features.
    """

    def __init__(
        self, model: LoadedModel, window_s: float = DEFAULT_WINDOW_S, rate_hz: float | None = None
    ) -> None:
        if not MIN_WINDOW_S <= window_s <= MAX_SEGMENT.length_s:
            expected = f"{MIN_WINDOW_S} to {MAX_SEGMENT.length_s:.0f} s"
            raise ConfigError("live window out of range", got=f"{window_s} s", expected=expected)
        self.model, self.window_s = model, window_s
        self.rate_hz = rate_hz or max(model.config.prepare.rate_hz, LIVE_RATE_HZ)
        self._predictor = Predictor(model, PredictOptions(rate_hz=self.rate_hz))
        spec = self._predictor.decode_spec
        self._detector = load_detector(spec.detector)
        self._size_px = spec.size_px
        self.reset()

    def reset(self) -> None:
        """Delete all frames, sound and cached features."""
        self._tracker = FaceTracker(self._size_px)
        self._first_s = math.inf  # time of the first packet
        self.samples: deque[FaceSample] = deque()
        self.sound = AudioRingBuffer(self.window_s + MARGIN_S)
        self._predictor.reset()

    def warm_up(self) -> None:
        """Score a black frame and noise once, because the first score takes longer, then delete both."""
        noise = np.random.default_rng(0).normal(0.0, 0.05, round(self.window_s * SOUND_RATE_HZ))
        self.add_frame(0.0, np.zeros((360, 640, 3), np.uint8))
        self.add_audio(0.0, noise.astype(np.float32))
        self.score()
        self.reset()

    def push(self, packet: Packet) -> None:
        """Add one packet; decode a frame, then detect and crop its face."""
        if callable(packet.content):
            self.add_frame(packet.time_s, packet.content())
        else:
            self.add_audio(packet.time_s, packet.content)

    def add_frame(self, time_s: float, rgb: ByteArray | None) -> None:
        """Detect the face in a frame, (H, W, 3) uint8 RGB, or None if it could not be decoded.

        Frames must be in temporal order; others are ignored. If the time jumps back by more than a window,
        the clock has changed, and all earlier frames and sound are deleted.
        """
        self._check_clock(time_s)
        if self.samples and time_s <= self.samples[-1].time_s:
            return
        faces = self._detector(rgb) if rgb is not None and self.model.uses_face else []
        self.samples.append(self._tracker.update(time_s, rgb, faces))
        self._delete_old(time_s)

    def add_audio(self, start_s: float, samples: FloatArray) -> None:
        """Add (S,) float32 samples in [-1, 1], mono at 16 kHz."""
        self._check_clock(start_s)
        self.sound.add(start_s, samples)
        self._delete_old(start_s)

    def score(self, end_s: float | None = None) -> LiveScore | None:
        """Score the window that ends with the newest packet, or at ``end_s``; return None before the first
        packet."""
        newest_s = self._newest_s()
        if newest_s is None:
            return None
        end_s = newest_s + EDGE_S if end_s is None else end_s
        start_s = max(end_s - self.window_s, self._first_s)
        samples = tuple(sample for sample in self.samples if start_s <= sample.time_s < end_s)
        clip = PreparedClip(start_s, end_s, samples, self.sound.between(start_s, end_s))
        (score,) = self._predictor.score([clip])
        last = samples[-1] if samples else None
        intensities = tuple(self.model.intensities_of(score).tolist()) if score.has_input else None
        return LiveScore(
            time_s=newest_s,
            start_s=clip.start_s,
            end_s=clip.end_s,
            intensities=intensities,
            frame_s=last.time_s if last else None,
            face=last.box if last else None,
            face_share=clip.face_share,
            level_db=level_of(clip.waveform),
            warnings=self._warnings(score, clip.duration_s),
        )

    def _warnings(self, score: Score, length_s: float) -> str | None:
        """Return the reasons not to use the intensities of a window with ``length_s`` seconds of input."""
        uncertainty = self.model.uncertainty
        if not score.has_input and not score.warnings:
            missing = ["no visible face"] * self.model.uses_face + [
                "no audible sound"
            ] * self.model.uses_voice
            return " and ".join(missing)
        warnings = list(uncertainty.warnings(score, None) if uncertainty else score.warnings)
        if length_s < MIN_FILLED_RATIO * self.window_s:
            warnings.insert(0, f"{length_s:.1f} of {self.window_s:.1f} s so far")
        return "; ".join(warnings) or None

    def _newest_s(self) -> float | None:
        """Return the time of the newest frame or sound; None before the first packet."""
        times_s = [self.samples[-1].time_s if self.samples else None, self.sound.end_s]
        return max((time_s for time_s in times_s if time_s is not None), default=None)

    def _delete_old(self, time_s: float) -> None:
        """Delete frames and sound that no later window will contain."""
        oldest_s = time_s - self.window_s - MARGIN_S
        while self.samples and self.samples[0].time_s < oldest_s:
            self.samples.popleft()
        if (self.sound.end_s or oldest_s) < oldest_s:
            self.sound = AudioRingBuffer(self.sound.max_samples / SOUND_RATE_HZ)

    def _check_clock(self, time_s: float) -> None:
        newest_s = self._newest_s()
        if newest_s is not None and time_s < newest_s - self.window_s:
            self.reset()
        self._first_s = min(self._first_s, time_s)


def level_of(waveform: FloatArray | None) -> float | None:
    """Return the level of the last tenth of a second of (S,) samples, dB relative to full scale; None:
    silence."""
    last = [] if waveform is None else levels_db(waveform[-round(LEVEL_INTERVAL_S * SOUND_RATE_HZ) :])
    return last[-1] if last else None
