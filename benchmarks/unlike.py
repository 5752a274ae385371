"""Does a model know what it has never seen? Shares of clips called "unlike the training data", by two distances.

    python benchmarks/unlike.py MODEL DATA [--clips 60]

Val clips with the face or voice replaced or spoilt. The first distance is the one that is used, of each modality's
features; the second is of the vector before the output layer. Either's limit is what no val clip as it is exceeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from reactometer import load_model
from reactometer.data.batches import collate
from reactometer.data.cache import load_clip
from reactometer.evaluation.evaluate import open_for
from reactometer.media.faces import decode_crop
from reactometer.models.folder import LoadedModel
from reactometer.models.showing import encoded_clips
from reactometer.models.uncertainty import Reference, fit_reference
from reactometer.records import PreparedClip

Vectors = dict[str, np.ndarray]
"""Of one clip: the mean over time of each modality's features, and what the head makes of both."""

SPOILT: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "face: noise": lambda own, rng: rng.integers(0, 255, own.shape, dtype=np.uint8),
    "face: upside down": lambda own, rng: own[::-1].copy(),
    "face: black": lambda own, rng: np.zeros_like(own),
    "face: blurred (8 px)": lambda own, rng: cv2.GaussianBlur(own, (0, 0), 8),
    "voice: noise": lambda own, rng: rng.normal(0, 0.1, own.shape).astype(np.float32),
    "voice: a tone": lambda own, rng: (0.3 * np.sin(np.arange(len(own)) * 2 * np.pi * 440 / 16000)).astype(np.float32),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--clips", type=int, default=60)
    asked = parser.parse_args()
    model = load_model(asked.model)
    prepared = open_for(model, asked.data)
    clips = {split: [load_clip(row) for row in prepared.split(split) if row.file] for split in ("train", "val")}
    vectors = {split: [_vectors(model, clip) for clip in own] for split, own in clips.items()}
    references = {name: fit_reference(_column(vectors["train"], name)) for name in ("face", "voice", "head")}
    limits = {name: max(own.distance(row) for row in _column(vectors["val"], name)) for name, own in references.items()}
    print("| clips of val | face's or voice's features | vector before the output layer |\n| --- | --- | --- |")
    rng = np.random.default_rng(0)
    for name, change in SPOILT.items():
        modality = name.split(":")[0]
        spoilt = [_vectors(model, _spoil(clip, modality, change, rng)) for clip in clips["val"][: asked.clips]]
        shares = [_flagged(_column(spoilt, key), references[key], limits[key]) for key in (modality, "head")]
        print(f"| {name} | {shares[0]:.0%} | {shares[1]:.0%} |")


@torch.inference_mode()
def _vectors(model: LoadedModel, clip: PreparedClip) -> Vectors:
    network = model.network.on_features()
    items = list(encoded_clips(model.network, [clip], replace(model.sampling, draws=1)))
    batch = collate(items, len(model.labels))
    streams = network.streams(batch)
    pairs = zip(("face", "voice"), streams, strict=True)
    found = {name: own.values[own.mask].mean(0).numpy() for name, own in pairs if own is not None and own.mask.any()}
    return {**found, "head": network.head(*streams)[0].numpy()}


def _spoil(
    clip: PreparedClip,
    modality: str,
    change: Callable[[np.ndarray, np.random.Generator], np.ndarray],
    rng: np.random.Generator,
) -> PreparedClip:
    if modality == "voice":
        return clip if clip.waveform is None else replace(clip, waveform=change(clip.waveform, rng))
    samples = []
    for sample in clip.samples:
        if sample.crop_jpeg is None:
            samples.append(sample)
            continue
        jpeg = cv2.imencode(".jpg", change(decode_crop(sample.crop_jpeg), rng)[:, :, ::-1])[1].tobytes()
        samples.append(replace(sample, crop_jpeg=jpeg))
    return replace(clip, samples=tuple(samples))


def _column(vectors: Iterable[Vectors], name: str) -> np.ndarray:
    return np.array([own[name] for own in vectors if name in own])


def _flagged(vectors: np.ndarray, reference: Reference, limit: float) -> float:
    return float(np.mean([reference.distance(row) > limit for row in vectors]))


if __name__ == "__main__":
    main()
