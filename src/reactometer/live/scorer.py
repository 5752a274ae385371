"""Score the last seconds of frames and sound as they arrive, exactly as a window of a file is scored."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from reactometer.errors import ConfigError
from reactometer.inference.aggregate import calibrated_values
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
"""A window ends this long after its newest frame, since windows are half open."""

KEPT_S = 1.0
"""Frames and sound are kept for the window and this much more, since sound and picture may be apart."""

MIN_WINDOW_S = 0.2
FILLED = 0.9
"""Share of a window that must have come for a score without a warning."""


class AudioRingBuffer:
    """The last seconds of sound, without a gap: zeros stand where none came."""

    def __init__(self, kept_s: float) -> None:
        self.kept = round(kept_s * SOUND_RATE_HZ)
        self.end = 0  # place of the next sample, counted from the clock's zero
        self.samples = np.zeros(0, np.float32)

    def add(self, start_s: float, samples: FloatArray) -> None:
        """Append (S,) samples; a jump of less than :data:`~reactometer.media.audio.MIN_GAP_S` is taken for rounding."""
        place = round(start_s * SOUND_RATE_HZ)
        if not len(self.samples) or place - self.end > self.kept:
            self.samples, self.end = np.zeros(0, np.float32), place
        if abs(place - self.end) <= MIN_GAP_S * SOUND_RATE_HZ:
            place = self.end
        gap = np.zeros(max(place - self.end, 0), np.float32)
        fresh = samples[max(self.end - place, 0) :]
        self.samples = np.concatenate((self.samples, gap, fresh))[-self.kept :]
        self.end += len(gap) + len(fresh)

    @property
    def end_s(self) -> float | None:
        """Where it ends; None where none has come."""
        return self.end / SOUND_RATE_HZ if len(self.samples) else None

    def between(self, start_s: float, end_s: float) -> FloatArray | None:
        """(S,) float32, rounded to 16 bits as a file's is, of what is there; None where there is nothing."""
        begins = self.end - len(self.samples)
        first, last = (max(round(at_s * SOUND_RATE_HZ) - begins, 0) for at_s in (start_s, end_s))
        if not len(part := self.samples[first:last]):
            return None
        lead = np.zeros(max(begins - round(start_s * SOUND_RATE_HZ), 0), np.float32)  # before the first sound
        waveform = np.concatenate((lead, part))
        return (np.round(waveform * 32767) / 32767).astype(np.float32)


class LiveScorer:
    """Scores the last seconds of frames and sound as they arrive.

    Nothing is written, and nothing is kept longer than a window and a second. Crops are kept as JPEG, in memory only.

    Args:
        model: a model that takes media.
        window_s: length of the window, seconds.
        rate_hz: frames to be scored per second; default: the model's own rate, and :data:`LIVE_RATE_HZ` at least.

    Raises:
        ConfigError: the window or the rate is out of range.
        ModelError: the model takes features.
    """

    def __init__(self, model: LoadedModel, window_s: float = DEFAULT_WINDOW_S, rate_hz: float | None = None) -> None:
        if not MIN_WINDOW_S <= window_s <= MAX_SEGMENT.length_s:
            expected = f"{MIN_WINDOW_S} to {MAX_SEGMENT.length_s:.0f} s"
            raise ConfigError("the length of a live window is out of range", got=f"{window_s} s", expected=expected)
        self.model, self.window_s = model, window_s
        self.rate_hz = rate_hz or max(model.config.prepare.rate_hz, LIVE_RATE_HZ)
        max_crops = math.ceil(window_s * self.rate_hz) + 1  # that a window can hold
        self._predictor = Predictor(model, PredictOptions(rate_hz=self.rate_hz), max_crops=max_crops)
        settings = self._predictor.decode_spec.settings
        self._detector, self._size_px = load_detector(settings.detector), settings.size_px
        self.reset()

    def reset(self) -> None:
        """Forget all frames, sound and remembered features."""
        self._clear()
        self._predictor.reset()

    def warm_up(self) -> None:
        """Score an empty picture and faint noise once, since the first score takes longer, and forget both."""
        noise = np.random.default_rng(0).normal(0.0, 0.05, round(self.window_s * SOUND_RATE_HZ))
        self.look(0.0, np.zeros((360, 640, 3), np.uint8))
        self.hear(0.0, noise.astype(np.float32))
        self.score()
        self.reset()

    def take(self, piece: Packet) -> None:
        """Add one piece: a frame is decoded, and its face found and cropped."""
        if callable(piece.content):
            self.look(piece.time_s, piece.content())
        else:
            self.hear(piece.time_s, piece.content)

    def look(self, time_s: float, rgb: ByteArray | None) -> None:
        """Find the face in a frame, (H, W, 3) uint8 RGB, or None if it could not be decoded.

        A frame that is no later than the one before is ignored. A time that lies more than a window back means another
        clock, and everything before is forgotten.
        """
        self._follow_clock(time_s)
        if self.samples and time_s <= self.samples[-1].time_s:
            return
        found = self._detector(rgb) if rgb is not None and self.model.networks.uses_face else []
        self.samples.append(self._follower.update(time_s, rgb, found))
        self._forget(time_s)

    def hear(self, start_s: float, samples: FloatArray) -> None:
        """Add (S,) float32 samples in [-1, 1], mono at 16 kHz."""
        self._follow_clock(start_s)
        self.sound.add(start_s, samples)
        self._forget(start_s)

    def score(self, end_s: float | None = None) -> LiveScore | None:
        """Score the window that ends with the newest piece, or at ``end_s``; None if nothing has come."""
        newest_s = self._newest_s()
        if newest_s is None:
            return None
        end_s = newest_s + EDGE_S if end_s is None else end_s
        start_s = max(end_s - self.window_s, self._first_s)
        samples = tuple(sample for sample in self.samples if start_s <= sample.time_s < end_s)
        clip = PreparedClip(start_s, end_s, samples, self.sound.between(start_s, end_s))
        (score,) = self._predictor.score([clip])
        last = samples[-1] if samples else None
        intensities, intervals = calibrated_values(score, self.model)
        return LiveScore(
            time_s=newest_s,
            start_s=clip.start_s,
            end_s=clip.end_s,
            intensities=intensities,
            intervals=intervals,
            frame_s=last.time_s if last else None,
            face=last.box if last else None,
            face_share=clip.face_share,
            level_db=level_of(clip.waveform),
            warnings=self._warnings(score, clip.duration_s),
        )

    def _warnings(self, score: Score, length_s: float) -> str | None:
        """Return the reasons not to use the intensities of a window of which ``length_s`` have come."""
        networks, sure = self.model.networks, self.model.uncertainty
        if not score.has_input:
            missing = ["no face is seen"] * networks.uses_face + ["nothing is heard"] * networks.uses_voice
            return " and ".join(missing)
        warnings = [f"{length_s:.1f} of {self.window_s:.1f} s so far"] if length_s < FILLED * self.window_s else []
        return "; ".join([*warnings, *(sure.warnings(score, None) if sure else ())]) or None

    def _newest_s(self) -> float | None:
        """Time of the newest frame or sound; None if nothing has come."""
        times_s = [self.samples[-1].time_s if self.samples else None, self.sound.end_s]
        return max((time_s for time_s in times_s if time_s is not None), default=None)

    def _clear(self) -> None:
        self._follower = FaceTracker(self._size_px)
        self._first_s = math.inf  # of the first piece
        self.samples: deque[FaceSample] = deque()
        self.sound = AudioRingBuffer(self.window_s + KEPT_S)

    def _forget(self, time_s: float) -> None:
        """Delete what no later window will contain."""
        needed_s = time_s - self.window_s - KEPT_S
        while self.samples and self.samples[0].time_s < needed_s:
            self.samples.popleft()
        if (self.sound.end_s or needed_s) < needed_s:
            self.sound = AudioRingBuffer(self.sound.kept / SOUND_RATE_HZ)

    def _follow_clock(self, time_s: float) -> None:
        newest_s = self._newest_s()
        if newest_s is not None and time_s < newest_s - self.window_s:
            self._clear()
        self._first_s = min(self._first_s, time_s)


def level_of(waveform: FloatArray | None) -> float | None:
    """Root mean square of the last tenth of a second of (S,) samples, dB relative to full scale; None: silence."""
    last = [] if waveform is None else levels_db(waveform[-round(LEVEL_INTERVAL_S * SOUND_RATE_HZ) :])
    return last[-1] if last else None
