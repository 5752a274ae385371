"""Features of a model's frozen encoders, computed by PyTorch before training, and their scale over the train split."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256

import numpy as np
import torch

from reactometer.data.cache import FEATURES, PreparedSet
from reactometer.data.feature_store import open_store
from reactometer.data.inputs import Item, MediaReader, Reader, Sampling
from reactometer.data.person_norm import Moments
from reactometer.inference.inputs import EncodingReader, HidingReader, encode_split
from reactometer.media.audio_features import MEL_BANDS
from reactometer.models.audio_encoders import StepConvolution, VoiceEncoder
from reactometer.models.batches import collate
from reactometer.models.heads import Standardise, face_stream, voice_stream
from reactometer.models.model import Pretrained, ReactionModel


def open_training_reader(model: ReactionModel, prepared: PreparedSet, sampling: Sampling, *, progress: bool) -> Reader:
    """Return what reads the clips of train and val as the model is trained on them.

    With frozen encoders, their features are computed here, once, and kept beside the prepared clips.
    """
    if prepared.feature_sizes is not None:
        return HidingReader(open_store(prepared.folder / FEATURES), sampling)
    if not model.frozen:
        return MediaReader(sampling)
    sizes = {
        "face": model.face_encoder.feature_size if model.face_encoder else 0,
        "voice": model.voice_encoder.feature_size if model.voice_encoder in model.frozen else MEL_BANDS,
    }
    whole = replace(sampling, looks=model.looks, listens=model.listens)
    read, digest = EncodingReader(lambda item: encode_item(model, item), MediaReader(whole)), _digest(model, whole)
    training = model.training
    model.eval()
    store = encode_split(read, prepared, "train", sizes, digest, progress=progress)
    store |= encode_split(read, prepared, "val", sizes, digest, progress=progress)
    model.train(training)
    return HidingReader(store, sampling)


@torch.inference_mode()
def encode_item(model: ReactionModel, item: Item, *, every: bool = False) -> Item:
    """Replace images and waveform of an item by features of the frozen encoders, or with ``every`` of all of them.

    Log-mel and given features stay as they are.
    """
    batch = collate([item], n_labels=0)
    batch = batch._replace(
        **{name: getattr(batch, name).to(model.label_mean.device) for name in batch._fields if name != "number"}
    )
    frames, seen, times_s = np.zeros((0, 0), np.float32), np.zeros(0, bool), np.zeros(0, np.float32)
    voice, voice_times_s = item.voice, item.voice_times_s
    if item.frames.ndim == 2:
        frames, seen, times_s = item.frames, item.seen, item.times_s
    elif model.face_encoder is not None:
        stream = face_stream(model.face_encoder, batch)
        frames, seen, times_s = (tensor[0].cpu().numpy() for tensor in stream)  # (T, D), (T,), (T,)
    encoder = model.voice_encoder
    if encoder is not None and (encoder in model.frozen or (every and isinstance(encoder, Pretrained))):
        values, mask, voice_at_s = (tensor[0].cpu().numpy() for tensor in voice_stream(encoder, batch))
        voice, voice_times_s = values[mask], voice_at_s[mask]
    return replace(
        item, frames=frames.astype(np.float32), seen=seen, times_s=times_s, voice=voice, voice_times_s=voice_times_s
    )


def population(model: ReactionModel) -> dict[str, Moments]:
    """Return the mean and spread of the features over the training set, by stream, as the model keeps them."""
    return {
        stream: Moments(scale.mean.cpu().numpy(), scale.std.cpu().numpy()) for stream, scale in _scales(model).items()
    }


def set_population(model: ReactionModel, moments: Mapping[str, Moments]) -> None:
    """Set the mean and spread of the features over the training set in the model."""
    for stream, scale in _scales(model).items():
        if stream in moments:
            scale.mean.copy_(torch.from_numpy(moments[stream].mean))
            scale.std.copy_(torch.from_numpy(moments[stream].std))


def _scales(model: ReactionModel) -> dict[str, Standardise | VoiceEncoder | StepConvolution]:
    """Return the module that keeps each stream's mean and spread: a network over the steps itself, or its successor."""
    own = model.voice_encoder if isinstance(model.voice_encoder, VoiceEncoder | StepConvolution) else model.voice_scale
    return {stream: scale for stream, scale in (("face", model.face_scale), ("voice", own)) if scale is not None}


def _digest(model: ReactionModel, sampling: Sampling) -> str:
    """Name the features: other weights or another sampling give another name."""
    digest = sha256(json.dumps([repr(sampling), [encoder.describe() for encoder in model.frozen]]).encode())
    for encoder in model.frozen:
        for name, tensor in sorted(encoder.state_dict().items()):
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
