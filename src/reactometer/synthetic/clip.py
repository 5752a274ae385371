"""Plan and render one clip of the synthetic demo dataset.

``FACE`` and ``VOICE`` map emotions to actions. They are invented for testing, and make no claim about human
expression.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from reactometer.labels import HUME_REACTION
from reactometer.synthetic.face import ACTIONS, Appearance, Pose, build_scene, draw_frame, random_appearance
from reactometer.synthetic.voice import CONTROL_RATE_HZ, PARAMETERS, Voice, random_voice, speak
from reactometer.types import ByteArray, FloatArray

FACE: dict[str, dict[str, float]] = {
    "Adoration": {"AU1": 0.5, "AU6": 1.0, "AU12": 0.7},
    "Amusement": {"AU2": 0.2, "AU12": 0.5, "AU26": 0.4},
    "Anxiety": {"AU4": 0.2, "AU20": 0.15},
    "Disgust": {"AU4": 0.35, "AU9": 1.0, "AU10": 0.8},
    "Empathic-Pain": {"AU1": 0.25, "AU15": 0.35},
    "Fear": {"AU1": 0.35, "AU4": 0.3, "AU5": 0.5, "AU20": 0.6},
    "Surprise": {"AU1": 0.6, "AU2": 1.0, "AU5": 0.7, "AU26": 0.6},
}
"""Facial actions (``face.ACTIONS``) at intensity 1; the actions of several emotions add up.

The actions follow EMFACS (Ekman, Friesen & Hager 2002) for its emotions (Amusement as happiness,
Empathic-Pain as sadness). Anxiety and Empathic-Pain are faint on purpose, so that models need the voice.
"""

VOICE: dict[str, dict[str, float]] = {
    "Adoration": {"range": 0.15},
    "Amusement": {"laughter": 0.8, "range": 0.2},
    "Anxiety": {"tremor": 1.0, "pitch": 0.2},
    "Disgust": {"pitch": -0.15},
    "Empathic-Pain": {"breath": 0.9, "pitch": -0.25, "loudness": -0.6, "rate": -0.9},
    "Fear": {"pitch": 0.6, "tension": 0.8, "rate": 0.7, "loudness": 0.2},
    "Surprise": {"range": 0.3, "pitch": 0.1},
}
"""Voice parameters (``voice.PARAMETERS``) at intensity 1; those of several emotions add up.

Pitch, rate and loudness follow Scherer (2003, Speech Communication 40) for fear (higher, faster) and sadness
(lower, slower, softer). Adoration, Disgust and Surprise are faint on purpose, so that models need the face.
"""

SPLIT_SHARES = {"train": 0.60, "val": 0.15, "test": 0.25}
_MIN_PERSONS = {"train": 8, "val": 2, "test": 3}
_CLIPS_PER_PERSON, _CLIPS_PER_STIMULUS = 6, 3
_COUNTRIES = ("United States", "South Africa")
_PERSON, _STIMULUS, _ORDER, _CLIP, _RENDER = range(5)  # kinds of random streams


@dataclass(frozen=True, eq=False)
class ClipPlan:
    """Plan of one clip with T frames at ``rate_hz``."""

    clip_id: str
    split: str  # "train", "val", "test"
    person: str
    stimulus: str
    age: int
    country: str
    labels: tuple[float, ...]  # (7,) in [0, 1], in the order of HUME_REACTION
    sound: Literal["voice", "silent", "absent"]  # "silent": a track of zeros; "absent": no track
    appearance: Appearance
    voice: Voice
    expressiveness: float  # scale of the person's actions
    onset_s: float  # start of the expression's rise
    offset_s: float  # start of the expression's fall
    poses: tuple[Pose, ...]  # T
    face_visible: tuple[bool, ...]  # T; False if the head is turned away or outside the frame
    duration_s: float
    rate_hz: float
    size_px: int
    render_key: tuple[int, int]  # seed and index, for speech, blinks and camera noise

    def envelope(self, times_s: FloatArray) -> FloatArray:
        """Return the strength of the expression at ``times_s``, (K,): 0 at the onset, 1 at the apex."""
        rise = ((times_s - self.onset_s) / (0.12 * self.duration_s)).clip(0, 1)
        fall = ((times_s - self.offset_s) / (0.15 * self.duration_s)).clip(0, 1)
        return np.asarray((0.5 - 0.5 * np.cos(np.pi * rise)) * (0.6 + 0.4 * np.cos(np.pi * fall)), np.float32)


def clip_plan(
    index: int,
    *,
    n_clips: int = 480,
    seed: int = 0,
    duration_s: float = 3.0,
    rate_hz: float = 10.0,
    size_px: int = 160,
) -> ClipPlan:
    """Plan clip ``index`` (from 0) of the dataset with these settings, independently of the other clips."""
    split, person, stimulus = _assign_clip(index, n_clips, seed)
    person_rng = _random_stream(seed, _PERSON, person)
    rng = _random_stream(seed, _CLIP, index)
    poses = _random_poses(rng, round(duration_s * rate_hz), rate_hz)
    sounds: tuple[Literal["voice", "silent", "absent"], ...] = ("voice", "silent", "absent")
    return ClipPlan(
        clip_id=f"{index:05d}",
        split=split,
        person=f"P{person:03d}",
        stimulus=f"S{stimulus:03d}",
        age=int(person_rng.integers(18, 66)),
        country=_COUNTRIES[int(person_rng.integers(len(_COUNTRIES)))],
        labels=_labels(stimulus, seed),
        sound=sounds[int(rng.choice(3, p=[0.95, 0.025, 0.025]))],
        appearance=random_appearance(person_rng),
        voice=random_voice(person_rng),
        expressiveness=float(person_rng.uniform(0.9, 1.1)),
        onset_s=float(rng.uniform(0, 0.08)) * duration_s,
        offset_s=float(rng.uniform(0.78, 0.9)) * duration_s,
        poses=poses,
        face_visible=tuple(abs(pose.yaw) < 0.6 and 0.25 < pose.x < 0.75 for pose in poses),
        duration_s=duration_s,
        rate_hz=rate_hz,
        size_px=size_px,
        render_key=(seed, index),
    )


def render_clip(plan: ClipPlan) -> tuple[ByteArray, FloatArray]:
    """Render frames, (T, H, W, 3) uint8 RGB, and sound, (S,) float32 in [-1, 1] at 16 kHz, zero for silent
    clips."""
    rng = _random_stream(plan.render_key[0], _RENDER, plan.render_key[1])
    strengths = plan.expressiveness * np.array(plan.labels, np.float32)  # (7,)
    control_s = np.arange(round(plan.duration_s * CONTROL_RATE_HZ), dtype=np.float32) / np.float32(
        CONTROL_RATE_HZ
    )
    parameters = _sum_tracks(VOICE, PARAMETERS, plan.envelope(control_s)[:, None] * strengths, lowest=-1)
    waveform, opening = speak(plan.voice, parameters, rng)
    times_s = np.arange(len(plan.poses), dtype=np.float32) / np.float32(plan.rate_hz)
    actions = _sum_tracks(FACE, ACTIONS, plan.envelope(times_s)[:, None] * strengths, lowest=0)
    actions["AU26"] = (actions["AU26"] + 0.28 * np.interp(times_s, control_s, opening)).clip(0, 1)
    actions["AU45"] = _blinks(rng, times_s)
    scene = build_scene(plan.appearance, plan.size_px)
    blur_px, noise_level = rng.uniform(0, 0.7), rng.uniform(1, 4)
    frames = []
    for i, pose in enumerate(plan.poses):
        noise = noise_level * rng.standard_normal((plan.size_px, plan.size_px, 1), np.float32)
        frame_actions = {name: float(track[i]) for name, track in actions.items()}
        frames.append(draw_frame(scene, pose, frame_actions, blur_px * plan.size_px / 160, noise))
    return np.stack(frames), waveform if plan.sound == "voice" else np.zeros_like(waveform)


def _assign_clip(index: int, n_clips: int, seed: int) -> tuple[str, int, int]:
    """Return split, person and stimulus of a clip; splits share no person and no stimulus."""
    sizes = {split: max(1, round(share * n_clips)) for split, share in SPLIT_SHARES.items()}
    sizes["train"] = n_clips - sizes["val"] - sizes["test"]
    first_clip = first_person = first_stimulus = 0
    for split, size in sizes.items():
        persons = max(_MIN_PERSONS[split], round(size / _CLIPS_PER_PERSON))
        stimuli = max(1, round(size / _CLIPS_PER_STIMULUS))
        position = index - first_clip
        if 0 <= position < size:
            order = _random_stream(seed, _ORDER, first_person + position // persons).permutation(persons)
            return (
                split,
                first_person + int(order[position % persons]),
                first_stimulus + position * stimuli // size,
            )
        first_clip += size
        first_person += persons
        first_stimulus += stimuli
    raise IndexError(f"clip {index} of {n_clips}")


def _labels(stimulus: int, seed: int) -> tuple[float, ...]:
    """Sample one to three emotions; Anxiety and Fear often co-occur, Amusement and Fear rarely."""
    rng = _random_stream(seed, _STIMULUS, stimulus)
    names = list(HUME_REACTION)
    main = names.pop(stimulus % len(names))
    bias = {
        ("Anxiety", "Fear"): 4.0,
        ("Fear", "Anxiety"): 4.0,
        ("Fear", "Amusement"): 0.1,
        ("Amusement", "Fear"): 0.1,
    }
    weights = np.array([bias.get((main, name), 1.0) for name in names])
    companions = rng.choice(names, size=rng.integers(0, 3), replace=False, p=weights / weights.sum())
    strength = rng.uniform(0.3, 1.0)
    labels = {main: strength} | {str(name): strength * rng.uniform(0.3, 0.95) for name in companions}
    return tuple(round(float(labels.get(name, 0.0)), 4) for name in HUME_REACTION)


def _random_poses(rng: np.random.Generator, n_frames: int, rate_hz: float) -> tuple[Pose, ...]:
    """Sample small head motion; in 8% of the clips the head turns away for a while, in 4% it leaves the
    frame."""
    times_s = np.arange(n_frames) / rate_hz
    progress = np.linspace(0, 1, n_frames)

    def sway(size: float) -> FloatArray:
        speed_hz = rng.uniform(0.2, 0.6)
        phase = rng.uniform(0, 2 * np.pi)
        return np.asarray(
            rng.normal(0, size) + size * np.sin(2 * np.pi * speed_hz * times_s + phase), np.float32
        )

    start, length = rng.uniform(0.1, 0.5), rng.uniform(0.3, 0.45)
    away = rng.choice([-1, 1]) * (np.minimum(progress - start, start + length - progress) / 0.1).clip(0, 1)
    event = rng.uniform()
    yaw = sway(0.06) + away * rng.uniform(1.0, 1.3) * (event < 0.08)
    x = rng.uniform(0.44, 0.56) + sway(0.008) + away * 0.85 * (0.08 <= event < 0.12)
    y = rng.uniform(0.43, 0.49) + sway(0.006)
    scale = rng.uniform(0.19, 0.23) + sway(0.002)
    tracks = zip(x, y, scale, yaw, sway(0.04), sway(0.04), sway(0.3), strict=True)
    return tuple(Pose(*(float(value) for value in values)) for values in tracks)


def _blinks(rng: np.random.Generator, times_s: FloatArray) -> FloatArray:
    """Sample blinks of about 0.25 s; return the closure of the eyes at each time, (T,) in [0, 1]."""
    moments_s = np.cumsum(rng.uniform(0.8, 3.5, size=int(times_s[-1] / 0.8) + 1))
    distance_s = np.abs(times_s[:, None] - moments_s).min(axis=1)
    return np.asarray((1 - distance_s / 0.12).clip(0, 1), np.float32)


def _sum_tracks(
    table: Mapping[str, Mapping[str, float]], names: Sequence[str], strengths: FloatArray, lowest: float
) -> dict[str, FloatArray]:
    """Return each name's track, (K,) in [``lowest``, 1], from the emotions' ``strengths``, (K, 7)."""
    weights = np.array(
        [[table[emotion].get(name, 0.0) for name in names] for emotion in HUME_REACTION], np.float32
    )
    return dict(zip(names, (strengths @ weights).clip(lowest, 1).T, strict=True))


def _random_stream(seed: int, *key: int) -> np.random.Generator:
    """Return the random generator for one purpose, independent of all others."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
