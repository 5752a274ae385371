"""What a prepared clip is known by: its file's hash, and small fingerprints of its crops and of its sound."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import cv2
import numpy as np

from reactometer.data.cache import PreparedRow, load_clip
from reactometer.data.leaks import Leak
from reactometer.data.splits import SPLITS
from reactometer.io import sha256_of
from reactometer.media.audio import is_audible
from reactometer.media.faces import decode_crop
from reactometer.media.voice import MEL_BANDS, log_mel
from reactometer.records import FloatArray, PreparedClip

N_PICTURES, SIDE_PX = 8, 12
"""Crops of a fingerprint, evenly spread over those with a face, and the side of each, pixels of grey."""

LEAST_CHANGE = 1.0
"""Standard deviation over a clip's pictures, grey levels; of one that changes less, the fingerprint is mostly noise."""

N_STEPS, N_BANDS = 48, 16
"""Steps of time and bands of the fingerprint of the log-mel."""

ALIKE, PICTURE_ALIKE, SOUND_ALIKE = 0.68, 0.8, 0.95
"""Two clips are the same where the mean of the correlations of their pictures and of their sound is at least this, or
that of the pictures or the sound alone; ``docs/results.md`` has what these miss and what they take for the same."""

LENGTH_S = 0.3
"""Clips of the same frames or sound are of the same length, but for so much."""

ROWS_AT_ONCE = 1024

LEAST_CLIPS = 10
"""Of fewer, the mean fingerprint is too much each one's own."""


@dataclass(frozen=True)
class Trace:
    """What one pass over a prepared clip gives; NaN or ``None`` where there is no face or no sound."""

    brightness: float  # mean grey level of the crops in [0, 1]
    level_db: float  # root mean square of the sound, relative to full scale
    picture: FloatArray | None  # (N_PICTURES * SIDE_PX * SIDE_PX,) float32
    sound: FloatArray | None  # (N_STEPS * N_BANDS,) float32


def trace(row: PreparedRow) -> Trace:
    """Read a prepared clip of media once. A clip that could not be read has no trace."""
    clip = load_clip(row)
    pictures = _pictures(clip)
    heard = clip.waveform if is_audible(clip.waveform) else None
    level = np.nan if heard is None else np.sqrt(np.mean(np.square(heard, dtype=np.float64)))
    return Trace(
        brightness=float(pictures.mean()) / 255.0 if len(pictures) else float("nan"),
        level_db=float(20.0 * np.log10(level)),
        picture=_changes(pictures),
        sound=None if heard is None else _sound(heard),
    )


def _pictures(clip: PreparedClip) -> FloatArray:
    """(N_PICTURES, SIDE_PX, SIDE_PX) float32 grey levels, or none."""
    crops = [sample.crop_jpeg for sample in clip.samples if sample.crop_jpeg]
    if not crops:
        return np.zeros((0, SIDE_PX, SIDE_PX), np.float32)
    chosen = [crops[round(place)] for place in np.linspace(0, len(crops) - 1, N_PICTURES)]
    grey = [cv2.cvtColor(decode_crop(crop), cv2.COLOR_RGB2GRAY) for crop in chosen]
    small = [cv2.resize(picture, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA) for picture in grey]
    return np.asarray(small, dtype=np.float32)


def _changes(pictures: FloatArray) -> FloatArray | None:
    """What changes from picture to picture, (N_PICTURES * SIDE_PX * SIDE_PX,): one face in one light is many clips'."""
    changes = pictures - pictures.mean(axis=0) if len(pictures) else pictures
    return changes.ravel() if len(pictures) and changes.std() > LEAST_CHANGE else None


def _sound(waveform: FloatArray) -> FloatArray:
    """(N_STEPS * N_BANDS,) means of the log-mel over equal stretches of time and groups of bands."""
    mel = log_mel(waveform)  # (N, M)
    bands = mel.reshape(len(mel), N_BANDS, MEL_BANDS // N_BANDS).mean(axis=2)  # (N, N_BANDS)
    edges = np.linspace(0, len(bands), N_STEPS + 1).astype(int)
    steps = [bands[start : max(end, start + 1)].mean(axis=0) for start, end in pairwise(edges)]
    return np.concatenate(steps)


def find_alike(rows: Sequence[PreparedRow], traces: Sequence[Trace | None]) -> list[tuple[int, int]]:
    """Pairs of rows of about the same length that show or sound the same; see ``ALIKE``."""
    pairs = []
    for one, other, picture, sound in correlate(rows, traces):
        both = np.isfinite(picture) & np.isfinite(sound) & ((picture + sound) / 2.0 >= ALIKE)
        same = both | (picture >= PICTURE_ALIKE) | (sound >= SOUND_ALIKE)
        pairs += [*zip(one[same].tolist(), other[same].tolist(), strict=True)]
    return pairs


def correlate(
    rows: Sequence[PreparedRow], traces: Sequence[Trace | None]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """All pairs of clips of about the same length: first and second row, correlation of their pictures, of their sound.

    Fingerprints are compared less the mean fingerprint of all clips: what all faces or all voices have in common makes
    no two clips alike. NaN where one of the two has no such fingerprint.
    """
    pictures = _standard([own.picture if own else None for own in traces])  # (clips, D)
    sounds = _standard([own.sound if own else None for own in traces])
    lengths_s = np.array([row.duration_s for row in rows])
    for start in range(0, len(rows), ROWS_AT_ONCE):
        own = slice(start, start + ROWS_AT_ONCE)
        near = np.abs(lengths_s[own, None] - lengths_s[start:]) <= LENGTH_S
        one, other = np.nonzero(np.triu(near, 1))
        alike = [(prints[own] @ prints[start:].T)[one, other] for prints in (pictures, sounds)]
        yield one + start, other + start, alike[0], alike[1]


def _standard(prints: Sequence[FloatArray | None]) -> FloatArray:
    """(clips, D) of length 1 each, less the mean over clips; NaN where there is none."""
    size = next((len(own) for own in prints if own is not None), 1)
    whole = np.stack([np.full(size, np.nan, np.float32) if own is None else own for own in prints])
    whole -= whole.mean(axis=1, keepdims=True)
    whole /= np.maximum(whole.std(axis=1, keepdims=True), 1e-6)
    known = np.isfinite(whole[:, 0])
    if known.sum() >= LEAST_CLIPS:
        whole -= whole[known].mean(axis=0)
    standard: FloatArray = whole / np.maximum(np.linalg.norm(whole, axis=1, keepdims=True), 1e-6)
    return standard


def find_same_files(rows: Sequence[PreparedRow]) -> list[tuple[int, int]]:
    """Pairs of clips whose media files have the same content; only files of one size are read."""
    by_size: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        if row.clip.path.is_file():
            by_size.setdefault(row.clip.path.stat().st_size, []).append(place)
    by_hash: dict[str, list[int]] = {}
    for own in by_size.values():
        for place in own if len(own) > 1 else ():
            by_hash.setdefault(sha256_of(rows[place].clip.path), []).append(place)
    return [pair for own in by_hash.values() for pair in combinations(own, 2)]


def leaks_of(rows: Sequence[PreparedRow], pairs: Sequence[tuple[int, int]], kind: str) -> list[Leak]:
    """The pairs whose clips are in different splits, by pair of splits."""
    leaks = []
    for splits in combinations(SPLITS, 2):
        held = []
        for one, other in pairs:
            own = (rows[one].clip, rows[other].clip)
            if {own[0].split, own[1].split} == set(splits):
                held.append(own if own[0].split == splits[0] else own[::-1])
        if held:
            n_own, hit = sum(row.clip.split == splits[1] for row in rows), {second.clip_id for _, second in held}
            examples = tuple(f"{first.clip_id} = {second.clip_id}" for first, second in held[:3])
            leaks.append(Leak(kind, splits, len(held), len(hit), len(hit) / n_own, examples))
    return leaks
