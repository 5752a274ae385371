"""Compute a checkpoint's inputs: features of face crops and sound, cached in memory or beside the prepared
clips."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
    Steps,
    decode_frame,
    face_height,
    face_steps,
    pick_samples,
    to_item,
)
from reactometer.inference.checkpoint import LoadedModel
from reactometer.inference.runtime import Networks
from reactometer.inference.screening import hide
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
        features = np.zeros((len(samples), self.networks.inputs["face"].feature_size), np.float32)  # (T, D)
        for row, sample in zip(features, samples, strict=True):
            if sample.crop_jpeg:
                row[:] = self.features[sample.crop_jpeg]
        item = to_item(clip, replace(self.sampling, media=tuple({*self.sampling.media} - {"face"})))
        item = item.with_steps({"face": face_steps(clip, samples, features)})
        return replace(item, face_px=face_height(samples))


def encoded_clips(
    model: LoadedModel,
    clips: Sequence[PreparedClip],
    cache: FaceFeatureCache | None = None,
    features: Mapping[str, Steps] = {},
) -> Iterator[Item]:
    """Yield the features of every clip for a single model, before its screening.

    With a cache, each face crop is encoded once. ``features`` of the clips' file come from a table, by
    stream.
    """
    if cache is not None:
        cache.encode_new(sample for clip in clips for sample in pick_samples(clip, model.sampling))
    for clip in clips:
        item = to_item(clip, model.sampling) if cache is None else cache.item(clip)
        spans = {name: steps.between(clip.start_s, clip.end_s) for name, steps in features.items()}
        yield model.networks.encode(item.with_steps(spans))


def _no_streams(row: PreparedRow, part: ClipPart, rng: np.random.Generator | None = None) -> Item:
    return Item({})


def open_source(prepared: PreparedSet, sampling: InputSpec, media: ItemLoader | None = None) -> ItemLoader:
    """Return a reader of the streams of a dataset: media, not encoded, and features from tables.

    Args:
        prepared: the dataset.
        sampling: of the media.
        media: reads the media; default: a new :class:`~reactometer.data.inputs.MediaReader`.
    """
    names = tuple(name for name in sampling.media if name in prepared.media)
    if names and media is None:
        media = MediaReader(replace(sampling, media=names))
    if not prepared.features:
        return media or _no_streams
    tables = open_store(prepared.folder / FEATURES / prepared.tables)
    if not names or media is None:
        return tables
    read_media = media

    def read(row: PreparedRow, part: ClipPart, rng: np.random.Generator | None = None) -> Item:
        return read_media(row, part, rng).with_steps(tables(row, part, rng).streams)

    return read


def open_reader(
    model: LoadedModel,
    prepared: PreparedSet,
    split: str,
    hidden: Collection[str] = (),
    *,
    progress: bool,
) -> ItemLoader:
    """Return a reader of the features of a split's clips, without the streams in ``hidden``.

    Features of frozen encoders are computed once and stored beside the prepared clips. Unusable faces and
    voices are masked.
    """
    networks, finish = model.networks, model.networks.encode
    media: ItemLoader | None = None
    if model.is_frozen and prepared.has_media:
        inputs = {name: networks.inputs[name] for name in networks.media}
        digest = sha256(json.dumps([repr(model.sampling), repr(inputs), dict(networks.digests)]).encode())
        sizes = {name: stream.feature_size for name, stream in inputs.items()}
        reader = MediaReader(model.sampling, encode=networks.encode)
        media = encode_split(reader, prepared, split, sizes, digest.hexdigest()[:16], progress=progress)
        finish = networks.complete
    source = open_source(prepared, model.sampling, media)

    def read(row: PreparedRow, part: ClipPart, rng: np.random.Generator | None = None) -> Item:
        item = finish(hide(source(row, part, rng), *hidden))
        return model.screening(item) if model.screening else item

    return read


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
