"""Compute a checkpoint's inputs: features of face crops and sound, cached in memory or beside the prepared
clips."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256

import numpy as np

from reactometer.data.cache import FEATURES, PreparedRow, PreparedSet
from reactometer.data.feature_store import FeatureStore, open_store, write_store
from reactometer.data.inputs import (
    ClipPart,
    InputSpec,
    Item,
    ItemLoader,
    MediaReader,
    decode_frame,
    face_height,
    pick_samples,
    to_item,
)
from reactometer.inference.checkpoint import LoadedModel
from reactometer.inference.runtime import Networks
from reactometer.inference.screening import Screening, hide
from reactometer.types import FaceSample, FloatArray, PreparedClip

MAX_CACHED_CROPS = 512
"""Number of face crops whose features are cached: a minute at the usual rates, and several windows at any
rate."""


class FaceFeatureCache:
    """Features of one file's face crops, so that crops in several windows are encoded once.

    The cache holds the crops of the current windows and the last :data:`MAX_CACHED_CROPS` before them.
    """

    def __init__(self, networks: Networks, sampling: InputSpec) -> None:
        self.networks, self.sampling = networks, sampling
        self.feature_size = networks.face.feature_size if networks.face else 0
        self.features: dict[bytes, FloatArray] = {}  # (D,) by the crop's JPEG, the oldest first

    def encode_new(self, samples: Iterable[FaceSample]) -> None:
        """Encode the samples' crops that are not cached, in batches; delete the oldest cached crops first."""
        crops = dict.fromkeys(sample.crop_jpeg for sample in samples if sample.crop_jpeg)
        for crop in [crop for crop in self.features if crop not in crops][:-MAX_CACHED_CROPS]:
            del self.features[crop]
        if new := [crop for crop in crops if crop not in self.features]:
            images = np.stack([decode_frame(crop, self.sampling) for crop in new])  # (K, 3, H, W)
            self.features |= zip(new, self.networks.encode_frames(images), strict=True)

    def item(self, clip: PreparedClip) -> Item:
        """Return the model's input for a clip whose crops are cached, with features instead of images."""
        samples = pick_samples(clip, self.sampling)
        features = np.zeros((len(samples), self.feature_size), np.float32)  # (T, D)
        for index, sample in enumerate(samples):
            if sample.crop_jpeg:
                features[index] = self.features[sample.crop_jpeg]
        item = to_item(clip, replace(self.sampling, uses_face=False))
        face_mask = np.array([bool(sample.crop_jpeg) for sample in samples], bool)
        return replace(item, frames=features, face_mask=face_mask, face_px=face_height(samples))


def encoded_clips(
    model: LoadedModel, clips: Sequence[PreparedClip], cache: FaceFeatureCache | None = None
) -> Iterator[Item]:
    """Yield the features of every clip for a single model; with a cache, each face crop is encoded once."""
    if cache is not None:
        cache.encode_new(sample for clip in clips for sample in pick_samples(clip, model.sampling))
    for clip in clips:
        yield model.encode(to_item(clip, model.sampling) if cache is None else cache.item(clip))


def open_reader(
    model: LoadedModel, prepared: PreparedSet, split: str, sampling: InputSpec, *, progress: bool
) -> ItemLoader:
    """Return a reader of the features of a split's clips.

    Features of frozen encoders are computed once and stored beside the prepared clips. Unusable faces and
    voices are masked.
    """
    if prepared.feature_sizes is not None:
        return masking_reader(open_store(prepared.folder / FEATURES), sampling, model.screening)
    if not model.is_frozen:
        return MediaReader(sampling, encode=model.encode)
    whole = replace(sampling, uses_face=model.networks.uses_face, uses_voice=model.networks.uses_voice)
    digest = sha256(
        json.dumps([repr(whole), repr(model.networks.voice), dict(model.networks.digests)]).encode()
    )
    sizes = {name: stream.feature_size if stream else 0 for name, stream in model.networks.streams.items()}
    reader = MediaReader(whole, encode=model.networks.encode)
    store = encode_split(reader, prepared, split, sizes, digest.hexdigest()[:16], progress=progress)
    return masking_reader(store, sampling, model.screening)


def encode_split(
    read: ItemLoader,
    prepared: PreparedSet,
    split: str,
    sizes: Mapping[str, int],
    digest: str,
    *,
    progress: bool,
) -> FeatureStore:
    """Compute the features of a split's clips and store them in a folder beside the prepared clips.

    ``sizes`` has the number of features per step, by stream. ``digest``, a hash of everything that the
    features depend on besides the clips, names the folder.
    """
    if prepared.is_folded:  # all folds share one store
        split = "all"
    rows = prepared.split(split)
    folder = prepared.folder / FEATURES / digest / split
    return write_store(folder, rows, read, sizes, f"encoding {split}" if progress else "")


def masking_reader(
    store: FeatureStore, sampling: InputSpec, screening: Screening | None = None
) -> ItemLoader:
    """Return a reader of stored features that masks unused modalities, and unusable faces and voices."""

    def read(row: PreparedRow, part: ClipPart, rng: np.random.Generator | None = None) -> Item:
        item = hide(store(row, part, rng), face=not sampling.uses_face, voice=not sampling.uses_voice)
        return screening(item) if screening else item

    return read
