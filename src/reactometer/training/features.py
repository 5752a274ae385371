"""Compute features of frozen encoders before training."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from hashlib import sha256

import numpy as np
import torch

from reactometer.data.cache import PreparedRow, PreparedSet
from reactometer.data.inputs import ClipPart, InputSpec, Item, ItemLoader, MediaReader, Steps
from reactometer.data.power_transform import transform_item
from reactometer.inference.inputs import encode_split, open_source
from reactometer.inference.runtime import encode_contours
from reactometer.models.audio_encoders import ContourEncoder, SpeechEncoder
from reactometer.models.batches import Stream, collate
from reactometer.models.heads import encode_stream
from reactometer.models.model import ReactionModel
from reactometer.models.registry import describe_encoders


def open_training_reader(
    model: ReactionModel, prepared: PreparedSet, sampling: InputSpec, device: str, *, progress: bool
) -> ItemLoader:
    """Return the loader of train and val items.

    Features of frozen encoders are computed once, on ``device``, and cached in the folder of the prepared
    clips.
    """
    names = tuple(model.encoders)
    media: ItemLoader | None = None
    if model.frozen:
        sampling = replace(sampling, media=prepared.media)
        sizes = {
            name: stream.feature_size for name, stream in model.describe_inputs().items() if stream.medium
        }
        read_media = MediaReader(sampling, encode=partial(encode_inputs, model))
        digest = _digest(model, sampling)
        model.eval().to(device)
        store = encode_split(read_media, prepared, "train", sizes, digest, progress=progress)
        media = store | encode_split(read_media, prepared, "val", sizes, digest, progress=progress)
        model.to("cpu")
    source = open_source(prepared, sampling, media)

    def read(row: PreparedRow, part: ClipPart, rng: np.random.Generator | None = None) -> Item:
        item = source(row, part, rng)
        item = replace(item, streams={name: item.streams[name] for name in names})
        return transform_item(item, model.powers)

    return read


@torch.inference_mode()
def encode_inputs(model: ReactionModel, item: Item, *, all_encoders: bool = False) -> Item:
    """Replace the images and the waveform of an item by features of the frozen encoders, or of all encoders.

    Log-mel is unchanged. Contours are always computed, and features from tables transformed.
    """
    batch = collate([item], n_labels=0)
    device = model.label_mean.device
    streams = {}
    for name, encoder in model.encoders.items():
        steps = item.streams.get(name)
        if steps is None:
            continue
        if isinstance(encoder, ContourEncoder):
            steps = encode_contours(steps)
        elif steps.values.ndim > 2 or (
            isinstance(encoder, SpeechEncoder) and (all_encoders or name in model.frozen)
        ):
            stream = Stream._make(tensor.to(device) for tensor in batch.streams[name])
            encoded = encode_stream(encoder, stream, batch.face_indices.to(device))
            values, mask, times_s = (tensor[0].cpu().numpy() for tensor in encoded)
            steps = Steps(values.astype(np.float32), mask, times_s)
        streams[name] = steps
    return transform_item(replace(item, streams=streams), model.powers)


def _digest(model: ReactionModel, sampling: InputSpec) -> str:
    """Compute the cache key of the features from the encoders' weights and the sampling."""
    digest = sha256(
        json.dumps([repr(sampling), repr(model.describe_inputs()), describe_encoders(model)]).encode()
    )
    for stream in model.frozen:
        for name, tensor in sorted(model.encoders[stream].state_dict().items()):
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
