"""Synthesise speech from given voice parameters.

Source and filter (Fant 1960): glottal pulses with a pitch contour, mixed with breath, pass through the
resonances of five vowels that change with each syllable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reactometer.synthetic.face import Reals
from reactometer.types import SOUND_RATE_HZ, FloatArray

PARAMETERS = ("pitch", "range", "loudness", "rate", "breath", "tremor", "laughter", "tension")
"""Voice parameters: 0 is rest and 1 the maximum; the minimum of ``pitch``, ``loudness`` and ``rate`` is -1.

At 1, the mean pitch is 9 semitones up, a syllable's accent 8 semitones (at rest 2), loudness 12 dB up, the
syllable rate 80% up (at -1 40% down), pulses are replaced by breath noise, pitch and loudness waver at 9 Hz,
laughter fills all time, and the voice is pressed (flatter spectrum, more energy above 1 kHz).
"""

CONTROL_RATE_HZ = 100
"""Rate of the parameters' tracks and of the returned mouth opening, each (K,)."""

_VOWELS_HZ = {
    "a": (730, 1090, 2440, 3400),
    "e": (530, 1840, 2480, 3500),
    "i": (270, 2290, 3010, 3600),
    "o": (570, 840, 2410, 3400),
    "u": (300, 870, 2240, 3300),
}
"""Formants of men's vowels (Peterson & Barney 1952); the fourth ones are set by hand."""

_BANDWIDTHS_HZ = (80, 100, 140, 220)
_OPENNESS = {"a": 1.0, "e": 0.65, "i": 0.35, "o": 0.7, "u": 0.4}
_TREMOR_HZ = 9.0
_LAUGH_S = 0.2

_DECAY_SIZE = 4096
"""Samples until each filter has decayed: a formant of 80 Hz bandwidth by 550 dB."""

_Section = tuple[list[float], list[float]]
"""Coefficients of a filter's input and output, the newest first."""

_HISS: _Section = (
    [0.4898083010035344, -0.9796166020070688, 0.4898083010035344],
    [1.0, -0.6997380282733656, 0.2594951757407719],
)
"""Butterworth high-pass of second order at 2.5 kHz: ``scipy.signal.butter(2, 2500, "high", fs=16000)``."""


@dataclass(frozen=True)
class Voice:
    """One person's voice at rest."""

    pitch_hz: float
    tract: float  # formants relative to ``_VOWELS_HZ``
    rate_hz: float  # syllables per second
    breath: float  # share of breath noise
    tremor_phase: float  # radians


@dataclass(frozen=True)
class _Syllable:
    start_s: float
    duration_s: float
    vowel: str
    accent: float  # of the pitch, -1 to 1
    hiss: float  # of the consonant before it, 0 to 1
    voiced: float  # final share of the duration


def random_voice(rng: np.random.Generator) -> Voice:
    """Sample a voice, from low to high; a higher voice has a shorter vocal tract."""
    height = rng.uniform()
    return Voice(
        pitch_hz=float(95 * 2.2 ** (height + rng.normal(0, 0.06))),
        tract=float(1 + 0.17 * height + rng.normal(0, 0.02)),
        rate_hz=float(rng.uniform(3.6, 4.4)),
        breath=float(rng.uniform(0.02, 0.10)),
        tremor_phase=float(rng.uniform(0, 2 * np.pi)),
    )


def speak(
    voice: Voice, tracks: Mapping[str, FloatArray], rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Synthesise speech with a (K,) track for every name of ``PARAMETERS``.

    Returns the waveform, (S,) float32 in [-1, 1] at ``SOUND_RATE_HZ``, and the mouth's opening, (K,) float32
    in [0, 1].
    """
    envelope, vowels, accent, hiss = _syllable_tracks(_syllables(voice, tracks, rng), len(tracks["pitch"]))
    tremor = np.cos(2 * np.pi * _TREMOR_HZ * np.arange(len(envelope)) / CONTROL_RATE_HZ + voice.tremor_phase)
    source = _source(voice, tracks, accent, tremor, rng)
    filtered = {vowel: _filter(_resonances(vowel, voice.tract), source) for vowel in vowels}
    speech = np.sum([_upsample(share) * filtered[vowel] for vowel, share in vowels.items()], axis=0)
    gain = (
        envelope
        * (1 - 0.85 * tracks["tremor"] * (0.5 - 0.5 * tremor))
        * 10 ** (12 * (tracks["loudness"] - 1) / 20)
    )
    consonants = _filter([_HISS], rng.standard_normal(len(source)))
    sound = 0.35 * _upsample(gain) * _normalise_rms(speech) + 0.035 * _upsample(hiss) * consonants
    sound += 0.0006 * rng.standard_normal(len(source))  # the room
    opening = envelope * np.sum([_OPENNESS[vowel] * share for vowel, share in vowels.items()], axis=0)
    return np.asarray(np.tanh(sound), np.float32), np.asarray(opening, np.float32)


def _syllables(voice: Voice, tracks: Mapping[str, FloatArray], rng: np.random.Generator) -> list[_Syllable]:
    """Sample syllables to the end, with pauses; the laughter track is the share of time with laughter."""
    syllables: list[_Syllable] = []
    time_s = float(rng.uniform(0.05, 0.15))
    laugh_owed_s = 0.0
    breath_after = int(rng.integers(5, 9))
    while (step := int(time_s * CONTROL_RATE_HZ)) < len(tracks["rate"]) - 12:
        faster = float(tracks["rate"][step])
        duration_s = float(rng.uniform(0.88, 1.12)) / (
            voice.rate_hz * (1 + (0.8 if faster > 0 else 0.4) * faster)
        )
        vowel = str(rng.choice(list(_VOWELS_HZ)))
        accent = float(rng.uniform(-1, 1))
        hiss = float(rng.uniform())
        laugh_owed_s += float(tracks["laughter"][step]) * duration_s
        if laugh_owed_s >= _LAUGH_S:
            laugh_owed_s -= _LAUGH_S
            syllables.append(_Syllable(time_s, _LAUGH_S, "a", accent=1.0, hiss=1.0, voiced=0.5))
        else:
            syllables.append(_Syllable(time_s, duration_s, vowel, accent, hiss, voiced=0.82))
        time_s += syllables[-1].duration_s
        if len(syllables) % breath_after == 0:
            time_s += float(rng.uniform(0.12, 0.22))
    return syllables


def _syllable_tracks(syllables: list[_Syllable], steps: int) -> tuple[Reals, dict[str, Reals], Reals, Reals]:
    """Return tracks, (K,): loudness envelope, share of each vowel, pitch accent, and the consonants' hiss."""
    times_s = np.arange(steps) / CONTROL_RATE_HZ
    swell = np.zeros(steps)
    accent = np.zeros(steps)
    hiss = np.zeros(steps)
    vowels = {vowel: np.full(steps, 1e-3) for vowel in _VOWELS_HZ}
    for syllable in syllables:
        position = (times_s - syllable.start_s) / syllable.duration_s
        inside = (position >= 0) & (position < 1)
        sounding = ((position - (1 - syllable.voiced)) / syllable.voiced).clip(0, 1)
        swell += inside * np.sin(np.pi * sounding) ** 0.6
        accent += inside * syllable.accent * np.sin(np.pi * position)
        hiss += inside * (sounding == 0) * syllable.hiss
        vowels[syllable.vowel] += np.exp(-(((position - 0.55) / 0.45) ** 2))
    total = np.sum(list(vowels.values()), axis=0)
    smooth = np.hanning(7)[1:-1] / 3
    shares: dict[str, Reals] = {vowel: weight / total for vowel, weight in vowels.items()}
    return swell.clip(0, 1), shares, np.convolve(accent, smooth, "same"), np.convolve(hiss, smooth, "same")


def _source(
    voice: Voice, tracks: Mapping[str, FloatArray], accent: Reals, tremor: Reals, rng: np.random.Generator
) -> Reals:
    """Synthesise glottal pulses and breath, (S,), before the vocal tract; ``tremor``, (K,), is a sine."""
    steps = len(accent)
    jitter = _filter([([0.04], [1.0, -0.92])], rng.standard_normal(steps))
    semitones = 9 * tracks["pitch"] + (2 + 6 * tracks["range"]) * accent + np.linspace(1, -1, steps) + jitter
    pitch_hz = _upsample(voice.pitch_hz * 2 ** ((semitones + 2.0 * tracks["tremor"] * tremor) / 12))
    phase = np.cumsum(pitch_hz) / SOUND_RATE_HZ % 1
    opening = 0.5 - 0.5 * np.cos(np.pi * phase / 0.42)
    closing = np.cos(np.pi * (phase - 0.42) / 0.36)
    pulses = np.where(phase < 0.42, opening, np.where(phase < 0.60, closing, 0.0))  # as in Rosenberg 1971
    pressed = np.diff(pulses, prepend=0.0) / pitch_hz
    relaxed = _filter([([0.25], [1.0, -0.75])], pressed)
    tension = _upsample(tracks["tension"])
    breath = _upsample((voice.breath + 0.9 * tracks["breath"]).clip(0, 1))
    voiced = (1 - tension) * _normalise_rms(relaxed) + tension * _normalise_rms(pressed)
    breath_noise = rng.standard_normal(len(voiced)) * (0.4 + 0.6 * pulses)
    return np.asarray((1 - breath) * voiced + 0.7 * breath * breath_noise)


def _resonances(vowel: str, tract: float) -> list[_Section]:
    """Return the filters of a vowel's formants, each with gain 1 at 0 Hz (Klatt 1980)."""
    sections = []
    for formant_hz, bandwidth_hz in zip(_VOWELS_HZ[vowel], _BANDWIDTHS_HZ, strict=True):
        radius = np.exp(-np.pi * bandwidth_hz / SOUND_RATE_HZ)
        feedback = [1.0, -2 * radius * np.cos(2 * np.pi * formant_hz * tract / SOUND_RATE_HZ), radius**2]
        sections.append(([sum(feedback)], feedback))
    return sections


def _filter(sections: Sequence[_Section], sound: Reals) -> Reals:
    """Filter a sound, (S,), by recursive filters in series, computed in the frequency domain."""
    size = len(sound) + _DECAY_SIZE
    spectrum = np.fft.rfft(sound, size)
    delay = np.exp(-2j * np.pi * np.fft.rfftfreq(size))
    for forward, feedback in sections:
        spectrum *= np.polyval(forward[::-1], delay) / np.polyval(feedback[::-1], delay)
    return np.asarray(np.fft.irfft(spectrum, size)[: len(sound)])


def _upsample(track: Reals) -> Reals:
    """Resample a control track, (K,), to the sound's rate, (S,)."""
    positions = np.arange(len(track) * SOUND_RATE_HZ // CONTROL_RATE_HZ) * (CONTROL_RATE_HZ / SOUND_RATE_HZ)
    return np.asarray(np.interp(positions, np.arange(len(track)), track))


def _normalise_rms(sound: Reals) -> Reals:
    """Scale a sound to a root mean square of 1."""
    return np.asarray(sound / (np.sqrt(np.mean(np.square(sound))) + 1e-9))
