"""Compute features of frozen encoders before training."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from hashlib import sha256

import numpy as np
import torch

from reactometer.data.cache import FEATURES, PreparedSet
from reactometer.data.feature_store import open_store
from reactometer.data.inputs import InputSpec, Item, ItemLoader, MediaReader
from reactometer.inference.inputs import encode_split, masking_reader
from reactometer.inference.runtime import encode_contours
from reactometer.media.audio_features import MEL_BANDS
from reactometer.models.audio_encoders import ContourEncoder, SpeechEncoder
from reactometer.models.batches import Batch, collate
from reactometer.models.heads import encode_face, encode_voice
from reactometer.models.model import ReactionModel
from reactometer.models.registry import describe_encoders


def open_training_reader(
    model: ReactionModel, prepared: PreparedSet, sampling: InputSpec, device: str, *, progress: bool
) -> ItemLoader:
    """Return the loader of train and val items.

    Features of frozen encoders are computed once, on ``device``, and cached in the folder of the prepared
    clips.
    """
    if prepared.feature_sizes is not None:
        return masking_reader(open_store(prepared.folder / FEATURES), sampling)
    if not model.frozen:
        return MediaReader(sampling)
    sizes = {
        "face": model.face_encoder.feature_size if model.face_encoder else 0,
        "voice": model.voice_encoder.feature_size if model.voice_encoder in model.frozen else MEL_BANDS,
    }
    input_spec = replace(sampling, uses_face=model.uses_face, uses_voice=model.uses_voice)
    read = MediaReader(input_spec, encode=partial(encode_inputs, model))
    digest = _digest(model, input_spec)
    model.eval().to(device)
    store = encode_split(read, prepared, "train", sizes, digest, progress=progress)
    store |= encode_split(read, prepared, "val", sizes, digest, progress=progress)
    model.to("cpu")
    return masking_reader(store, sampling)


@torch.inference_mode()
def encode_inputs(model: ReactionModel, item: Item, *, all_encoders: bool = False) -> Item:
    """Replace the images and the waveform of an item by features of the frozen encoders, or of all encoders.

    Log-mel and precomputed features are unchanged. Contours are always computed.
    """
    if isinstance(model.voice_encoder, ContourEncoder):
        item = encode_contours(item)
    batch = Batch._make(tensor.to(model.label_mean.device) for tensor in collate([item], n_labels=0))
    frames = np.zeros((0, 0), np.float32)
    face_mask = np.zeros(0, bool)
    times_s = np.zeros(0, np.float32)
    voice, voice_times_s = item.voice, item.voice_times_s
    if item.frames.ndim == 2:
        frames = item.frames
        face_mask = item.face_mask
        times_s = item.times_s
    elif model.face_encoder is not None:
        stream = encode_face(model.face_encoder, batch)
        frames, face_mask, times_s = (tensor[0].cpu().numpy() for tensor in stream)  # (T, D), (T,), (T,)
    encoder = model.voice_encoder
    if isinstance(encoder, SpeechEncoder) and (all_encoders or encoder in model.frozen):
        values, mask, step_times_s = (tensor[0].cpu().numpy() for tensor in encode_voice(encoder, batch))
        voice, voice_times_s = values[mask], step_times_s[mask]
    return replace(
        item,
        frames=frames.astype(np.float32),
        face_mask=face_mask,
        times_s=times_s,
        voice=voice,
        voice_times_s=voice_times_s,
    )


def _digest(model: ReactionModel, sampling: InputSpec) -> str:
    """Compute the cache key of the features from the encoders' weights and the sampling."""
    digest = sha256(
        json.dumps([repr(sampling), repr(model.describe_inputs()), describe_encoders(model)]).encode()
    )
    for encoder in model.frozen:
        for name, tensor in sorted(encoder.state_dict().items()):
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
