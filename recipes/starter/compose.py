"""Compose clips with known intensities from FER2013's faces and the voices of RAVDESS and EmoDB.

    python recipes/starter/compose.py FER2013 RAVDESS_VOICES FACEVOICE --out composites

FER2013 is a folder as of ``labelled_faces.py``. RAVDESS_VOICES is the table ``ravdess_voices.parquet``.
FACEVOICE is a dataset that ``reactometer prepare`` wrote. Its train and val clips are added, and their sound
gives EmoDB's voices. Writes a prepared dataset. No face, actor or clip is in two splits, and test splits are
not read.

A clip has at most two emotions. Most clips show one to three faces, as a film of one person does; the others
show eight. The strength of an emotion is visible in the expressiveness of the stills (the probability of
their class by ``--grader``) and in the share of frames. It is audible in the actor's level: 0.35 to 0.65 is
normal, 0.8 to 1 strong.
"""

from __future__ import annotations

import argparse
import io
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import torch
from image_augmentation import cover
from labelled_faces import FaceDataset, FaceSplit, LabelledFaces, decode_image, read_faces
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from reactometer.data.cache import PreparedRow, PreparedSet, load_clip, open_prepared, write_clip, write_index
from reactometer.io import atomic_folder
from reactometer.labels import BASIC
from reactometer.media.faces import Detector, crop_face, encode_crop, load_detector
from reactometer.models.backbones import load_backbone
from reactometer.models.vision_encoders import FrameEncoder
from reactometer.terminal import progress_bar
from reactometer.types import SOUND_RATE_HZ, Clip, Detection, FaceSample, FrameState, PreparedClip

FIRST_VAL_ACTOR = 21
SHARE_EMODB, SHARE_MUTE, SHARE_COVERED, SHARE_NO_FACE = 0.3, 0.05, 0.1, 0.04
SHARE_CLEAN_SOUND = 0.4
FACE_LABELS = dict(zip(BASIC, ("angry", "disgust", "fear", "happy", "sad", "surprise"), strict=True))
VOICE_LABELS = dict(zip(BASIC, ("angry", "disgust", "fearful", "happy", "sad", "surprised"), strict=True))
GRADING_PX, GRADING_BATCH, GRADING_L2 = 64, 256, 1e-4
CANDIDATES = 12
"""Stills from which the one with the nearest expressiveness is selected."""

Array = np.ndarray


@torch.no_grad()
def grade(encoder: FrameEncoder, faces: LabelledFaces) -> dict[str, Array]:
    """Return the probabilities of the classes of the train and val images, (N, classes) each.

    They are those of logistic regression on the encoder's features of the train images.
    """
    encoder.eval()
    inputs = {}
    for name in ("train", "val"):
        loader = DataLoader(FaceDataset(faces.splits[name], GRADING_PX), GRADING_BATCH)
        inputs[name] = torch.cat([encoder(images) for images, _ in loader])
    mean, std = inputs["train"].mean(0), inputs["train"].std(0) + 1e-6
    inputs = {name: (features - mean) / std for name, features in inputs.items()}
    targets = torch.from_numpy(faces.splits["train"].classes)
    layer = nn.Linear(len(mean), len(faces.labels))
    optimiser = torch.optim.LBFGS(layer.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    @torch.enable_grad()
    def loss() -> float:
        optimiser.zero_grad()
        value: Any = functional.cross_entropy(layer(inputs["train"]), targets)
        value = value + GRADING_L2 * layer.weight.square().sum()
        value.backward()
        return float(value.detach())

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return {name: layer(features).softmax(1).numpy() for name, features in inputs.items()}


class Faces:
    """Stills of one split by class, from the least to the most expressive."""

    def __init__(
        self, split: FaceSplit, labels: tuple[str, ...], probabilities: Array, detector: Detector
    ) -> None:
        self.images, self.detector = split.images, detector
        own = probabilities[np.arange(len(split.classes)), split.classes]  # (N,)
        self.by_class = {
            label: (members := np.flatnonzero(split.classes == number))[own[members].argsort()]
            for number, label in enumerate(labels)
        }

    def crops(
        self, rng: np.random.Generator, label: str, strength: float, count: int, size_px: int
    ) -> list[Array]:
        """Return aligned crops of one still, ``count`` times, each with another small error of alignment."""
        members = self.by_class[label]
        for _ in range(20):
            ranks = rng.integers(len(members), size=CANDIDATES)
            rank = ranks[np.abs(ranks / len(members) - strength).argmin()]
            image = decode_image(self.images[members[rank]])[..., ::-1].copy()
            if faces := self.detector(image):
                return [crop_face(image, _jitter(rng, faces[0]), size_px) for _ in range(count)]
        raise RuntimeError(f"no face found in 20 images of class {label}")


class Voices:
    """Sounds of one split by emotion, with their strengths and people."""

    def __init__(self, table: pd.DataFrame, rows: tuple[PreparedRow, ...]) -> None:
        self.table = table
        self.emodb = [(row, load_clip(row).waveform) for row in rows if row.file and row.has_sound]

    def choose(self, rng: np.random.Generator, emotion: str | None, strength: float) -> tuple[str, Array]:
        """Return a person and a sound with an emotion (``None``: calm or neutral)."""
        if emotion and rng.random() < SHARE_EMODB:
            index = BASIC.index(emotion)
            matches = [
                number
                for number, (row, _) in enumerate(self.emodb)
                if row.clip.labels
                and np.argmax(row.clip.labels) == index
                and abs(row.clip.labels[index] - strength) < 0.15
            ]
            if matches:
                row, sound = self.emodb[rng.choice(matches)]
                return row.clip.clip_id, sound
        names = [VOICE_LABELS[emotion]] if emotion and strength > 0.3 else ["neutral", "calm"]
        table = self.table[self.table["emotion"].isin(names)]
        if emotion and strength > 0.3:
            table = table[table["level"] == (2 if strength > 0.7 else 1)]
        row = table.iloc[rng.integers(len(table))]
        return f"ravdess-{row['actor']:02d}", decode_sound(row["audio"])


def _jitter(rng: np.random.Generator, face: Detection) -> Detection:
    """Move the eyes of a detected face a little, as a detector's errors do."""
    if face.eyes is None:
        return face
    left_x, left_y, right_x, right_y = np.array(face.eyes) + rng.normal(0, 0.012 * face.box[3], 4)
    return replace(face, eyes=(left_x, left_y, right_x, right_y))


def decode_sound(encoded: bytes) -> Array:
    """Return (S,) float32, 16 kHz."""
    with av.open(io.BytesIO(encoded), "r") as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=SOUND_RATE_HZ)
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
        return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def _code(rng: np.random.Generator, sound: Array) -> Array:
    """Compress with Opus or AAC, and decode."""
    file = io.BytesIO()
    name, container, rates_kbit = (("libopus", "ogg", (8, 24)), ("aac", "adts", (24, 64)))[rng.integers(2)]
    with av.open(file, "w", format=container) as out:
        stream: Any = out.add_stream(name, rate=SOUND_RATE_HZ)
        stream.bit_rate, stream.layout = 1000 * int(rng.integers(*rates_kbit)), "mono"
        frame = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), "fltp", "mono")
        frame.rate = SOUND_RATE_HZ
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return np.resize(decode_sound(file.getvalue()), len(sound))


def change_sound(rng: np.random.Generator, sound: Array) -> Array:
    """Put a voice into a room, add noise, limit its band, compress it, and change its level."""
    if rng.random() < 0.35:  # a room: a direct sound, and noise that decays by 60 dB in 0.2 to 0.8 s
        times_s = np.arange(round(0.5 * SOUND_RATE_HZ)) / SOUND_RATE_HZ
        echo = rng.standard_normal(len(times_s)) * 10 ** (-3 * times_s / rng.uniform(0.2, 0.8))
        echo *= rng.uniform(0.2, 0.9) / np.linalg.norm(echo)
        echo[0] += 1.0
        size = len(sound) + len(echo)
        sound = np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(echo, size), size)[: len(sound)]
    rate_hz = np.fft.rfftfreq(len(sound), 1 / SOUND_RATE_HZ)
    if rng.random() < 0.35:  # noise whose power falls with the frequency
        spectrum = np.fft.rfft(rng.standard_normal(len(sound))) * np.maximum(rate_hz, 20.0) ** -rng.uniform(
            0, 1
        )
        noise = np.fft.irfft(spectrum, len(sound))
        sound = sound + noise / noise.std() * sound.std() * 10 ** (-rng.uniform(8, 30) / 20)
    if rng.random() < 0.15:  # a telephone
        sound = np.fft.irfft(np.fft.rfft(sound) * ((rate_hz > 300) & (rate_hz < 3400)), len(sound))
    sound = sound * 10 ** (rng.uniform(-10, 6) / 20)
    sound = np.clip(sound, -1, 1)
    return _code(rng, sound) if rng.random() < 0.4 else sound


def plan(rng: np.random.Generator) -> Array:
    """Return the strengths of the six emotions, (6,)."""
    labels = np.zeros(len(BASIC))
    kind = rng.random()
    if kind < 0.1:
        return labels
    first, second = rng.choice(len(BASIC), 2, replace=False)
    labels[first] = rng.uniform(0.8, 1.0) if kind < 0.5 else rng.uniform(0.35, 0.65)
    if kind > 0.92:
        labels[first] = rng.uniform(0.1, 0.3)
    if rng.random() < 0.2:
        labels[second] = rng.uniform(0.1, 0.6) * labels[first]
    return labels


def show(rng: np.random.Generator, faces: Faces, labels: Array, n_frames: int, size_px: int) -> list[Array]:
    """Return the crops of a clip: stills that fade into each other."""
    n_stills = 8 if rng.random() < 0.3 else int(rng.integers(1, 4))
    strongest = float(labels.max())
    if n_stills == 8:  # the share of the stills is the strength
        kinds = [*BASIC, None]
        chances = np.array([*labels, max(0.0, 1.0 - labels.sum())])
        stills = [kinds[k] for k in rng.choice(len(kinds), n_stills, p=chances / chances.sum())]
        strengths = [rng.random() for _ in stills]
    else:
        second = np.argsort(labels)[-2]
        stills = [BASIC[int(labels.argmax())] if strongest else None] * n_stills
        if n_stills > 1 and labels[second]:
            stills[-1] = BASIC[second]
        strengths = [labels[BASIC.index(e)] if e else rng.random() for e in stills]
        if rng.random() < 0.5:  # begins with a neutral face
            stills, strengths = [None, *stills], [rng.random(), *strengths]
    bounds = np.sort(rng.uniform(0.15, 0.85, len(stills) - 1)) if n_stills < 8 else np.linspace(0, 1, 9)[1:-1]
    starts = np.array([0, *np.rint(bounds * n_frames).astype(int), n_frames])
    frames: list[Array] = []
    for number, (emotion, strength) in enumerate(zip(stills, strengths, strict=True)):
        count = int(starts[number + 1] - starts[number])
        label = FACE_LABELS[emotion] if emotion else "neutral"
        crops = faces.crops(rng, label, strength, max(count, 1), size_px)[:count]
        if frames and count > 1 and n_stills < 8:
            share = rng.uniform(0.3, 0.7)
            crops[0] = (share * crops[0] + (1 - share) * frames[-1]).astype(np.uint8)
        frames += crops
    return frames


def compose(
    rng: np.random.Generator, faces: Faces, voices: Voices, rate_hz: float, size_px: int
) -> tuple[Clip, PreparedClip]:
    """Return a clip, without an identifier, and its prepared form."""
    labels = plan(rng)
    strongest = int(labels.argmax())
    person, sound = voices.choose(rng, BASIC[strongest] if labels.any() else None, float(labels[strongest]))
    if rng.random() >= SHARE_CLEAN_SOUND:
        sound = change_sound(rng, sound)
    duration_s = len(sound) / SOUND_RATE_HZ
    if rng.random() < SHARE_MUTE:
        sound = np.zeros_like(sound)
    crops = show(rng, faces, labels, int(duration_s * rate_hz), size_px)
    if rng.random() < SHARE_COVERED:
        stack = torch.from_numpy(np.concatenate(crops, axis=2).transpose(2, 0, 1)[None].copy())
        crops = np.split(cover(stack, 1.0)[0].numpy().transpose(1, 2, 0), len(crops), axis=2)
    gain, lift = rng.uniform(0.8, 1.2), rng.uniform(-20, 20)
    samples = []
    for number, crop in enumerate(crops):
        lit = (crop * gain + lift).clip(0, 255).astype(np.uint8)
        sample = FaceSample(number / rate_hz, FrameState.NO_FACE)
        if rng.random() >= SHARE_NO_FACE:
            sample = FaceSample(number / rate_hz, FrameState.FACE, (0, 0, 100, 100), 1.0, encode_crop(lit))
        samples.append(sample)
    clip = Clip("", Path(), person=person, labels=tuple(labels.round(3).tolist()))
    return clip, PreparedClip(0.0, duration_s, tuple(samples), sound.astype(np.float32), len(samples))


def main() -> None:
    """Parse the command line, compose the clips and write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("faces", type=Path)
    parser.add_argument("voices", type=Path)
    parser.add_argument("facevoice", type=Path)
    parser.add_argument("--out", type=Path, default=Path("composites"))
    parser.add_argument("--train", type=int, default=1500)
    parser.add_argument("--val", type=int, default=300)
    parser.add_argument("--grader", default="starter", help="encoder that grades the faces")
    options = parser.parse_args()
    labelled, table, facevoice = (
        read_faces(options.faces),
        pd.read_parquet(options.voices),
        open_prepared(options.facevoice),
    )
    settings, detector = facevoice.settings, load_detector()
    encoder = FrameEncoder(load_backbone(options.grader, "images"), GRADING_PX)
    grades = grade(encoder, labelled)
    is_val = table["actor"] >= FIRST_VAL_ACTOR
    rows = []
    with atomic_folder(options.out) as folder:
        (folder / "clips").mkdir()
        for seed, (split, count) in enumerate((("train", options.train), ("val", options.val))):
            own = facevoice.split(split)
            faces = Faces(labelled.splits[split], labelled.labels, grades[split], detector)
            voices = Voices(table[is_val if split == "val" else ~is_val], own)
            rng = np.random.default_rng(seed)
            for row in own:
                if row.file:
                    shutil.copyfile(row.file, folder / "clips" / row.file.name)
                rows.append(replace(row, file=row.file and folder / "clips" / row.file.name))
            with progress_bar(f"composing {split}", count) as advance:
                for number in range(count):
                    clip, prepared = compose(rng, faces, voices, settings.rate_hz, settings.size_px)
                    name = f"{split}-{number:05d}"
                    file = folder / "clips" / f"{name}.npz"
                    counts = write_clip(file, prepared, sha256(f"{name}{clip.labels}".encode()).hexdigest())
                    rows.append(PreparedRow(replace(clip, clip_id=name, split=split), file, **counts))
                    advance()
        write_index(PreparedSet(folder, facevoice.labels, settings, tuple(rows)))


if __name__ == "__main__":
    main()
