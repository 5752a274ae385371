"""Measure how often the starter refuses a face or a voice of real people, and of noise, masks and music.

    python benchmarks/screening.py DATA

Prints Markdown: the share of clips whose face or voice is refused. Bars: at most 10% of real people,
at least 90% of each defective input. Nothing was fitted on these clips; RAVDESS actor 01 is in
``real_people``.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pandas as pd

from reactometer.inference.checkpoint import load_model
from reactometer.inference.predictor import PredictOptions, Predictor
from reactometer.inference.scores import Score
from reactometer.media.faces import crop_face, decode_crop, encode_crop, load_detector
from reactometer.media.segments import prepare_clip
from reactometer.synthetic.clip import clip_plan, render_clip
from reactometer.types import SOUND_RATE_HZ, FaceSample, FrameState, PreparedClip

Sound = Callable[[np.random.Generator, np.ndarray], np.ndarray]
"""A sound without speech at these times, (S,) seconds."""


def white(rng: np.random.Generator, times_s: np.ndarray) -> np.ndarray:
    return rng.standard_normal(len(times_s))


def coloured(rng: np.random.Generator, times_s: np.ndarray, slope: float) -> np.ndarray:
    spectrum = np.fft.rfft(rng.standard_normal(len(times_s)))
    sound = np.fft.irfft(spectrum * np.maximum(np.arange(len(spectrum)), 1.0) ** (-slope / 2), len(times_s))
    return sound / np.abs(sound).max()


def humming_room(rng: np.random.Generator, times_s: np.ndarray) -> np.ndarray:
    """Mains hum with harmonics over falling noise."""
    hum = sum(
        rng.uniform(0, 0.5) / k * np.sin(2 * np.pi * rng.choice([50, 60]) * k * times_s) for k in range(1, 8)
    )
    return coloured(rng, times_s, rng.uniform(1, 2.5)) * rng.uniform(0.3, 1.0) + hum


def air_conditioning(rng: np.random.Generator, times_s: np.ndarray) -> np.ndarray:
    """Noise that flutters, and the blades' tone."""
    flutter = 1 + rng.uniform(0, 0.5) * np.sin(2 * np.pi * rng.uniform(2, 12) * times_s)
    blades = rng.uniform(0.05, 0.5) * np.sin(2 * np.pi * rng.uniform(80, 300) * times_s)
    return coloured(rng, times_s, rng.uniform(0.5, 1.5)) * flutter + blades


def note(
    rng: np.random.Generator, times_s: np.ndarray, start_s: float, length_s: float, pitch_hz: float
) -> np.ndarray:
    """Return a struck string of some harmonics."""
    elapsed_s = times_s - start_s
    tone = sum(
        k ** -rng.uniform(0.7, 1.6) * np.sin(2 * np.pi * pitch_hz * k * elapsed_s) for k in range(1, 10)
    )
    envelope = np.exp(-elapsed_s * rng.uniform(1.5, 5)) * np.minimum(1, elapsed_s / 0.005)
    return np.where((elapsed_s > 0) & (elapsed_s < length_s), tone * envelope, 0.0)


def chords(rng: np.random.Generator, times_s: np.ndarray) -> np.ndarray:
    sound = np.zeros(len(times_s))
    for start_s in np.arange(0, times_s[-1], rng.choice([0.5, 1.0, 2.0])):
        root_hz = rng.uniform(60, 330)
        sound += sum(
            note(rng, times_s, start_s, 2.0, root_hz * ratio)
            for ratio in (1, rng.choice([1.19, 1.26]), 1.498)
        )
    return sound


def melody(rng: np.random.Generator, times_s: np.ndarray) -> np.ndarray:
    base_hz, steps = rng.uniform(110, 440), [0, 2, 4, 5, 7, 9, 11, 12]
    starts_s = np.arange(0, times_s[-1], rng.choice([0.2, 0.3, 0.4]))
    return np.sum(
        [note(rng, times_s, s, 0.6, base_hz * 2 ** (rng.choice(steps) / 12)) for s in starts_s], axis=0
    )


def drums(rng: np.random.Generator, times_s: np.ndarray) -> np.ndarray:
    beat_s, sound = 60 / rng.uniform(70, 150), np.zeros(len(times_s))
    for number, start_s in enumerate(np.arange(0, times_s[-1], beat_s / 2)):
        elapsed_s = np.where(times_s >= start_s, times_s - start_s, np.inf)
        hit = (np.sin(2 * np.pi * 50 * np.minimum(elapsed_s, 9)), rng.standard_normal(len(times_s)))[
            number % 2
        ]
        sound += hit * np.exp(-elapsed_s * (12, 25)[number % 2])
    return sound


def band(rng: np.random.Generator, times_s: np.ndarray) -> np.ndarray:
    return chords(rng, times_s) / 4 + drums(rng, times_s) + melody(rng, times_s) / 3


SOUNDS: dict[str, Sound] = {
    "white noise": white,
    "humming room": humming_room,
    "air conditioning": air_conditioning,
    "chords": chords,
    "melody": melody,
    "drums": drums,
    "chords, melody and drums": band,
    "silence": lambda rng, times_s: np.zeros(len(times_s)),
}


def make_sound(name: str, seed: int, length_s: float) -> np.ndarray:
    """Return (S,) float32 at a random level, 16 kHz."""
    rng = np.random.default_rng(seed)
    sound = SOUNDS[name](rng, np.arange(round(length_s * SOUND_RATE_HZ)) / SOUND_RATE_HZ)
    return (sound / max(np.abs(sound).max(), 1e-9) * 10 ** (rng.uniform(-30, -2) / 20)).astype(np.float32)


def noise_picture(rng: np.random.Generator, crop: np.ndarray) -> np.ndarray:
    side = len(crop)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side))) + 1 / side
    noise = np.fft.ifft2(
        np.fft.fft2(rng.standard_normal((side, side))) / frequency ** rng.choice([0, 1, 2])
    ).real
    return np.repeat((255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)[:, :, None], 3, 2)


def hand(rng: np.random.Generator, crop: np.ndarray) -> np.ndarray:
    """Lay a palm and fingers in the tone of the face over mouth and chin."""
    side = len(crop)
    scale, mask = side / 112, np.zeros((side, side), np.uint8)
    tone = np.median(crop[int(0.45 * side) : int(0.6 * side)].reshape(-1, 3), axis=0) * rng.uniform(0.75, 1.2)
    centre = np.array([56 + rng.uniform(-10, 10), 88 + rng.uniform(-4, 8)]) * scale
    axes, angle = rng.uniform((34, 22), (46, 30)) * scale, rng.uniform(-35, 35)
    cv2.ellipse(mask, centre.astype(int).tolist(), axes.astype(int).tolist(), angle, 0, 360, 255, -1)
    for finger in range(rng.integers(3, 5)):
        root = centre + np.array([(finger - 1.5) * 13, -12]) * scale
        direction = np.deg2rad(-90 + rng.uniform(-25, 25) + angle / 2)
        tip = root + rng.uniform(14, 26) * scale * np.array([np.cos(direction), np.sin(direction)])
        cv2.line(
            mask, root.astype(int).tolist(), tip.astype(int).tolist(), 255, int(rng.uniform(10, 13) * scale)
        )
    soft = cv2.GaussianBlur(mask, (0, 0), 0.8 * scale).astype(float)[:, :, None] / 255
    skin = tone * (1 + np.linspace(-0.12, 0.12, side)[:, None, None]) + rng.normal(0, 3, (side, side, 1))
    return (soft * skin + (1 - soft) * crop).clip(0, 255).astype(np.uint8)


def few_pixels(rng: np.random.Generator, crop: np.ndarray) -> np.ndarray:
    small = cv2.resize(crop, (int(rng.integers(8, 20)),) * 2, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, crop.shape[:2], interpolation=cv2.INTER_LINEAR)


def sketch(rng: np.random.Generator, crop: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(float)
    surroundings = cv2.GaussianBlur(grey, (0, 0), rng.uniform(2, 5))
    return np.repeat(
        (255 * grey / np.maximum(surroundings, 1)).clip(0, 255).astype(np.uint8)[:, :, None], 3, 2
    )


FACES = {
    "noise picture": noise_picture,
    "hand over the face": hand,
    "8 to 19 pixels": few_pixels,
    "sketch": sketch,
}


def spoiled(clip: PreparedClip, name: str, seed: int) -> PreparedClip:
    """Spoil every face of a clip in the same way."""

    def spoil(sample: FaceSample) -> FaceSample:
        crop = FACES[name](np.random.default_rng(seed), decode_crop(sample.crop_jpeg or b""))
        return replace(sample, crop_jpeg=encode_crop(crop))

    return replace(
        clip, samples=tuple(spoil(sample) if sample.crop_jpeg else sample for sample in clip.samples)
    )


def still(frames: Iterable[np.ndarray]) -> PreparedClip:
    """Return a clip of frames without sound."""
    detector, samples = load_detector(), []
    for number, frame in enumerate(frames):
        if faces := detector(frame):
            crop = encode_crop(crop_face(frame, faces[0], 112))
            samples.append(FaceSample(number / 5, FrameState.FACE, faces[0].box, faces[0].score, crop))
    return PreparedClip(0.0, max(len(samples), 1) / 5, tuple(samples), None)


def decode(sound: bytes) -> np.ndarray:
    with av.open(io.BytesIO(sound)) as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=SOUND_RATE_HZ)
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
        return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def only_sound(waveform: np.ndarray) -> PreparedClip:
    return PreparedClip(0.0, len(waveform) / SOUND_RATE_HZ, (), waveform)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    model = load_model("starter")
    predictor, detector = Predictor(model, PredictOptions(timeline=False)), load_detector()

    def score(clip: PreparedClip) -> Score:
        predictor.reset()
        return predictor.score([clip])[0]

    def row(name: str, clips: Iterable[PreparedClip]) -> None:
        warnings = [" ".join(score(clip).warnings) for clip in clips]
        shares = (f"{np.mean([modality in text for text in warnings]):.2f}" for modality in ("face", "voice"))
        print(f"| {name} | {len(warnings)} | {' | '.join(shares)} |", flush=True)

    def read(pattern: str, step: int = 1) -> list[PreparedClip]:
        return [
            prepare_clip(path, model.config.prepare, detector) for path in sorted(data.glob(pattern))[::step]
        ]

    print("| | clips | face refused | voice refused |\n| --- | --- | --- | --- |")
    real, test = read("real_people/*/*.mp4"), read("facevoice/test/mp4/*.mp4")
    row("real people (RAVDESS actor 01)", real)
    row("films of real people", [clip for clip in read("clips/*.m*") if clip.face_share])
    audible = [clip for clip in test if clip.waveform is not None and np.abs(clip.waveform).max() > 0.01]
    row("composite, test: new faces and speakers", audible)
    faces = pd.read_parquet(next((data / "fer2013").rglob("*test*.parquet")))["image"][::12]
    images = (cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR_RGB) for image in faces)
    stills = (still([image]) for image in images)
    row("single faces of FER2013's test split", [clip for clip in stills if clip.samples])
    takes = pd.read_parquet(data / "ravdess_voices.parquet", columns=["actor", "audio"])
    row("voices of 21 RAVDESS actors", (only_sound(decode(sound)) for sound in takes["audio"][::6]))
    for name in FACES:
        row(f"real people, {name}", (spoiled(clip, name, seed) for seed, clip in enumerate(real)))
        row(f"composite, {name}", (spoiled(clip, name, seed) for seed, clip in enumerate(test[::2])))
    row("synthetic demo's faces", (still(render_clip(clip_plan(number))[0][::3]) for number in range(60)))
    for name in list(SOUNDS)[:-1]:  # a missing voice, not a refused one
        row(name, (only_sound(make_sound(name, seed, 5.0)) for seed in range(100)))
    print("\n| in place of the voice | largest change from the face's | scores over an empty picture |")
    print("| --- | --- | --- |")
    for name in SOUNDS:
        changes, empty = [], 0
        for seed, clip in enumerate(real + test[::2]):
            sound = make_sound(name, seed, clip.duration_s)
            alone, mixed = score(replace(clip, waveform=None)), score(replace(clip, waveform=sound))
            changes.append(np.abs(alone.intensities - mixed.intensities).max() if alone.has_input else 0.0)
            empty += score(only_sound(sound)).has_input
        print(f"| {name} | {np.max(changes):.3f} | {empty} of {len(changes)} |", flush=True)


if __name__ == "__main__":
    main()
