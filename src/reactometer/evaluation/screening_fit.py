"""Fit the limits of usable input: clear against spoiled training faces, and the share of speech."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np

from reactometer.data.cache import PreparedSet
from reactometer.data.inputs import InputSpec, Item, MediaReader, split_parts, to_item
from reactometer.inference.checkpoint import LoadedModel
from reactometer.inference.screening import DEFECTS, Screening
from reactometer.media.faces import crop_face, encode_crop
from reactometer.paths import INSTALL_STARTER
from reactometer.synthetic.clip import clip_plan, render_clip
from reactometer.types import ByteArray, Detection, FaceSample, FloatArray, FrameState, PreparedClip

MAX_CLIPS = 500
"""Maximum number of clips that the limits are fitted on."""

MAX_FRAMES = 1500
"""About the number of clear faces, and of faces with each defect."""

FALSE_ALARM_SHARES = {"noise": 0.01, "covered": 0.01, "blurred": 0.01, "sketched": 0.03, "rendered": 0.003}
"""Share of the val clips' images above the limit of each defect; chosen so that benchmarks/screening.py meets
its bars."""

MIN_FOUND_SHARE = 0.3
"""A defect is not looked for if less than this share of spoiled val images is above its limit: the encoder
does not see it."""

QUIET_SHARE = 0.05
"""Share of the clips whose sound has less than the minimum share of speech."""

MAX_SPOILED_CLIPS = 40
"""About the maximum number of val clips that are spoiled to check which defects the encoder sees."""

MAX_MIN_SPEECH = 0.1
"""Largest minimum share of speech: more speech always counts as a voice."""

L2 = 3e-4
"""Weight of the squared coefficients."""

MAX_PEOPLE, FACES_PER_PERSON = 200, 8
"""Maximum number of rendered people; number of clear faces for each of them."""

CLIP_S, FIRST_SEED, CROP_PX = 0.5, 1, 112
"""Length, first seed and side of the crops of rendered clips."""

Defect = Callable[[np.random.Generator, ByteArray], ByteArray]
"""Spoils one image, (H, W, 3) uint8 RGB."""


def fit_screening(loaded: LoadedModel, prepared: PreparedSet) -> Screening:
    """Fit the limits of usable input of one model to its train clips, and the false alarms to its val clips.

    Train faces are spoiled in known ways (noise, a cover, few pixels, a sketch), and multinomial logistic
    regression on the encoder's features separates them from clear faces: outlier exposure (Hendrycks et al.,
    ICLR 2019). Gaussian densities of the features do not see a covered face (docs/project/lab-notes.md).
    Without the detector of speech, any sound counts as a voice, with a warning.
    """
    train, val = (_items(loaded, prepared, split) for split in ("train", "val"))
    speech = np.array([item.speech_share for item in (*train, *val) if item.has("voice")])
    if np.isnan(speech).any():
        speech = speech[:0]
        warnings.warn(
            "speech is not detected, because its detector comes with the starter model, which is not "
            f"installed. This model will use any sound as a voice. hint: {INSTALL_STARTER}",
            stacklevel=3,
        )
    min_speech = min(MAX_MIN_SPEECH, float(np.quantile(speech, QUIET_SHARE))) if len(speech) else 0.0
    faces = [item for item in train if item.has("face")]
    if not faces:
        return Screening(
            min_speech, np.zeros((0, len(DEFECTS)), np.float32), np.zeros(len(DEFECTS), np.float32)
        )
    weights, bias = _fit_log_odds(_encode_groups(loaded, faces, seed=0))
    screening = Screening(min_speech, weights, bias)
    held_out = [item for item in val if item.has("face")] or faces
    clear = screening.excess(_encode(loaded, held_out))  # (n, K)
    checked = held_out[:: len(held_out) // MAX_SPOILED_CLIPS + 1]
    _, *spoiled = map(screening.excess, _encode_groups(loaded, checked, seed=1))
    limits = []
    for index, name in enumerate(DEFECTS):
        limit = float(np.quantile(clear[:, index], 1.0 - FALSE_ALARM_SHARES[name]))
        limit = max(limit, -math.log(len(DEFECTS)))  # at least as likely spoiled as clear
        found_share = float((spoiled[index][:, index] > limit).mean())
        limits.append(limit if found_share >= MIN_FOUND_SHARE else math.inf)
    return replace(screening, bias=(bias - limits).astype(np.float32))


def _items(loaded: LoadedModel, prepared: PreparedSet, split: str) -> list[Item]:
    """Return items of at most MAX_CLIPS clips of a split, not encoded, with a few frames each."""
    rows = [row for row in prepared.split(split) if row.file]
    rows = rows[:: len(rows) // MAX_CLIPS + 1]
    if not prepared.has_media:
        return []
    n_frames = min(loaded.sampling.n_frames, -(-MAX_FRAMES // max(len(rows), 1)))
    read = MediaReader(replace(loaded.sampling, n_frames=n_frames))
    parts = {part.index: part for part in reversed(split_parts(rows))}  # the first part of each clip
    return [read(rows[index], part) for index, part in sorted(parts.items())]


def _encode_groups(loaded: LoadedModel, faces: list[Item], seed: int) -> list[FloatArray]:
    """Return features (n, D) of clear faces and, in the order of DEFECTS, of spoiled and rendered ones."""
    groups = [[_spoil(item, (seed, number), defect) for number, item in enumerate(faces)] for defect in SPOIL]
    n_faces = sum(int(item.streams["face"].mask.sum()) for item in faces)
    rendered = _rendered_items(loaded.sampling, min(MAX_PEOPLE, n_faces // FACES_PER_PERSON + 1), seed)
    return [_encode(loaded, group) for group in (faces, *groups, rendered)]


def _encode(loaded: LoadedModel, items: list[Item]) -> FloatArray:
    """Return the face encoder's features (n, D) of all visible faces."""
    encoded = [loaded.networks.encode(Item({"face": item.streams["face"]})) for item in items]
    return np.concatenate([item.streams["face"].visible for item in encoded])


def _spoil(item: Item, seed: tuple[int, int], defect: Defect) -> Item:
    """Spoil all faces of an item in the same way."""
    face = item.streams["face"]
    frames = face.values.copy()
    for index in np.flatnonzero(face.mask):
        spoiled = defect(np.random.default_rng(seed), frames[index].transpose(1, 2, 0).copy())
        frames[index] = spoiled.transpose(2, 0, 1)
    return item.with_steps({"face": face._replace(values=frames)})


def _rendered_items(sampling: InputSpec, n_people: int, seed: int) -> list[Item]:
    """Return one item per rendered person of the synthetic demo dataset, not encoded."""
    items = []
    for index in range(n_people):
        plan = clip_plan(index, n_clips=10 * MAX_PEOPLE, seed=FIRST_SEED + seed, duration_s=CLIP_S)
        samples = list[FaceSample]()
        for frame, pose, is_visible in zip(render_clip(plan)[0], plan.poses, plan.face_visible, strict=True):
            reach = plan.appearance.eye_u * pose.scale
            eyes = np.array([pose.x - reach, pose.y, pose.x + reach, pose.y]) * plan.size_px
            face = Detection((0.0, 0.0, 0.0, 0.0), 1.0, tuple(eyes.tolist()))
            crop = encode_crop(crop_face(frame, face, CROP_PX)) if is_visible else None
            samples.append(FaceSample(len(samples) / plan.rate_hz, FrameState.FACE, crop_jpeg=crop))
        items.append(to_item(PreparedClip(0.0, CLIP_S, tuple(samples), None), sampling))
    return items


def _noise(rng: np.random.Generator, image: ByteArray) -> ByteArray:
    """Return grey or coloured noise whose power falls with frequency to a random exponent."""
    side = len(image)
    frequency = (
        np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))[:, :, None] + 1 / side
    )  # (H, W, 1)
    planes = rng.standard_normal((side, side, int(rng.choice([1, 3]))))
    noise = np.fft.ifft2(np.fft.fft2(planes, axes=(0, 1)) / frequency ** rng.uniform(0, 2), axes=(0, 1)).real
    noise = (noise - noise.min()) / np.ptp(noise)
    return np.asarray(np.broadcast_to(255 * noise, image.shape), np.uint8)


def _cover(rng: np.random.Generator, image: ByteArray) -> ByteArray:
    """Cover a part of the face by a smooth blob, mostly in a tone of the face, shaded and textured."""
    side = len(image)
    mouth, left, right = (0.5, 0.76), (0.27, 0.54), (0.73, 0.54)
    centre = np.array([mouth, mouth, left, right])[rng.integers(4)] + rng.uniform(-0.08, 0.08, 2)
    angles, radii = np.linspace(0, 2 * np.pi, 8, endpoint=False), rng.uniform(0.2, 0.43, 8)
    outline = centre + np.stack([radii * np.cos(angles), 0.75 * radii * np.sin(angles)], axis=1)  # (8, 2)
    mask = cv2.fillPoly(np.zeros((side, side)), [np.rint(outline * side).astype(np.int32)], 1.0)
    mask = cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.005, 0.02) * side)[:, :, None]
    cheeks = image[int(0.36 * side) : int(0.67 * side), int(0.18 * side) : int(0.8 * side)].reshape(-1, 3)
    tone = np.median(cheeks, axis=0) * rng.uniform(0.6, 1.3) if rng.random() < 0.7 else rng.uniform(0, 255, 3)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    shade = 1 + rng.uniform(-0.25, 0.25) * y + rng.uniform(-0.25, 0.25) * x
    texture = cv2.GaussianBlur(rng.standard_normal((side, side)), (0, 0), rng.uniform(0.005, 0.05) * side)
    texture *= rng.uniform(0, 14) / texture.std()
    cover = tone * shade[:, :, None] + texture[:, :, None]
    return np.asarray((mask * cover + (1 - mask) * image).clip(0, 255), np.uint8)


def _blur(rng: np.random.Generator, image: ByteArray) -> ByteArray:
    """Show the face in 7 to 18 pixels."""
    small = cv2.resize(image, (int(rng.integers(7, 19)),) * 2, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, image.shape[:2], interpolation=cv2.INTER_LINEAR), np.uint8)


def _sketch(rng: np.random.Generator, image: ByteArray) -> ByteArray:
    """Turn the face into a pencil sketch: each grey level relative to its surroundings."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(float)
    surroundings = cv2.GaussianBlur(grey, (0, 0), rng.uniform(0.01, 0.05) * len(image))
    sketch = 255 * grey / np.maximum(surroundings, 1)
    return np.asarray(np.broadcast_to(sketch.clip(0, 255)[:, :, None], image.shape), np.uint8)


SPOIL: tuple[Defect, ...] = (_noise, _cover, _blur, _sketch)
"""In the order of :data:`~reactometer.inference.screening.DEFECTS`, whose last one is rendered."""


def _fit_log_odds(groups: list[FloatArray]) -> tuple[FloatArray, FloatArray]:
    """Fit multinomial logistic regression; return the log-odds of each later group against the first one.

    Args:
        groups: features (n, D) of clear faces, then of each defect. Clear faces weigh as much as all defects
            together.

    Returns:
        Weights (D, K) and bias (K,).
    """
    from scipy.optimize import minimize

    features = np.concatenate(groups).astype(np.float64)
    group = np.repeat(np.arange(len(groups)), [len(values) for values in groups])
    mean, std = groups[0].mean(axis=0), groups[0].std(axis=0) + 1e-6
    inputs = np.column_stack([(features - mean) / std, np.ones(len(features))])  # (n, D + 1)
    share = np.array([0.5, *[0.5 / (len(groups) - 1)] * (len(groups) - 1)])
    weight = (share / np.bincount(group))[group]  # (n,)
    targets = np.eye(len(groups))[group]  # (n, K + 1)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        coefficients = flat.reshape(-1, len(groups))  # (D + 1, K + 1)
        scores = inputs @ coefficients
        log_shares = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
        penalty = L2 * np.vstack([coefficients[:-1], np.zeros(len(groups))])
        gradient = inputs.T @ (weight[:, None] * (np.exp(log_shares) - targets)) + 2 * penalty
        value = -(weight @ (log_shares * targets).sum(axis=1)) + (penalty * coefficients).sum()
        return float(value), gradient.ravel()

    start = np.zeros(inputs.shape[1] * len(groups))
    best = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 300}).x.reshape(
        -1, len(groups)
    )
    odds = best[:, 1:] - best[:, :1]  # (D + 1, K)
    weights = odds[:-1] / std[:, None]
    return weights.astype(np.float32), (odds[-1] - mean @ weights).astype(np.float32)
