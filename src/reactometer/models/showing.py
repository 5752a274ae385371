"""How clips reach a model: as pictures and sound, as features of its frozen encoders, or as features of a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np
import torch

from reactometer.data.batches import (
    Change,
    Item,
    MediaReader,
    Part,
    Reader,
    Sampling,
    collate,
    parts_of,
    pick_samples,
    picture_of,
    to_item,
)
from reactometer.data.cache import FEATURES, PreparedRow, PreparedSet
from reactometer.data.feature_store import FeatureStore, open_store, write_store
from reactometer.data.person_norm import Moments, PersonReader, measure_people
from reactometer.media.audio_features import MEL_BANDS
from reactometer.models.audio_encoders import StepConvolution, VoiceEncoder
from reactometer.models.heads import Standardise, face_stream, voice_stream
from reactometer.models.model import ReactionModel
from reactometer.models.vision_encoders import FrameEncoder
from reactometer.terminal import progress_bar
from reactometer.types import FaceSample, FloatArray, PreparedClip

MOST_REMEMBERED = 512
"""Face crops whose features are kept: a minute at the usual rates, and several windows at any; our choice."""

PICTURES_AT_ONCE = 32


@dataclass(frozen=True)
class Showing:
    """The network to run (less its frozen encoders, where their features are shown), and what reads its items."""

    network: ReactionModel
    read: Reader


def show(
    model: ReactionModel, prepared: PreparedSet, splits: Sequence[str], sampling: Sampling, *, progress: bool
) -> Showing:
    """Get ready to show the clips of some splits to a model.

    With frozen encoders their features are computed here, once, and kept beside the prepared clips.
    """
    if prepared.feature_sizes is not None:
        return Showing(model, _Hidden(open_store(prepared.folder / FEATURES), sampling))
    if not model.frozen:
        return Showing(model, MediaReader(sampling))
    whole = replace(sampling, looks=model.looks, listens=model.listens)
    store = _encode_split(model, prepared, splits[0], whole, progress)
    for split in splits[1:]:
        store |= _encode_split(model, prepared, split, whole, progress)
    return Showing(model.on_features(), _Hidden(store, sampling))


def changed(showing: Showing, model: ReactionModel, sampling: Sampling, change: Change) -> Showing:
    """Return the same network with clips that are changed before they are encoded; their features are not stored."""
    read = MediaReader(sampling, change)
    return replace(showing, read=_Encoded(model, read) if model.frozen else read)


def by_person(showing: Showing, rows: Sequence[PreparedRow]) -> PersonReader:
    """What reads the same items normalised per person, fitted on all clips of ``rows``, without their labels."""
    parts = parts_of(rows)
    people = measure_people(
        (rows[part.index].clip.person, showing.read(rows[part.index], part, None)) for part in parts
    )
    return PersonReader(showing.read, people, population(showing.network))


def population(model: ReactionModel) -> dict[str, Moments]:
    """Mean and spread of the features over the training set, by stream, as the model keeps them."""
    return {
        stream: Moments(scale.mean.cpu().numpy(), scale.std.cpu().numpy()) for stream, scale in _scales(model).items()
    }


def set_population(model: ReactionModel, moments: Mapping[str, Moments]) -> None:
    """Put mean and spread of the training set's features where the model keeps them."""
    for stream, scale in _scales(model).items():
        if stream in moments:
            scale.mean.copy_(torch.from_numpy(moments[stream].mean))
            scale.std.copy_(torch.from_numpy(moments[stream].std))


def _scales(model: ReactionModel) -> dict[str, Standardise | VoiceEncoder | StepConvolution]:
    """Where the model keeps each stream's mean and spread: before a network of its own over the steps, or behind."""
    own = model.voice_encoder if isinstance(model.voice_encoder, VoiceEncoder | StepConvolution) else model.voice_scale
    return {stream: scale for stream, scale in (("face", model.face_scale), ("voice", own)) if scale is not None}


@torch.inference_mode()
def encode_item(model: ReactionModel, item: Item, *, every: bool = False) -> Item:
    """The item with features of the encoders in the place of pictures and waveform; features of frames stay.

    Log-mel stays as it is, unless ``every`` encoder is asked for, not the frozen ones alone.
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
    if model.voice_encoder is not None and (every or model.voice_encoder in model.frozen):
        values, mask, voice_at_s = (tensor[0].cpu().numpy() for tensor in voice_stream(model.voice_encoder, batch))
        voice, voice_times_s = values[mask], voice_at_s[mask]
    return replace(
        item, frames=frames.astype(np.float32), seen=seen, times_s=times_s, voice=voice, voice_times_s=voice_times_s
    )


class FaceMemory:
    """What a model's frame encoder makes of one file's face crops: each is encoded once, whatever windows show it.

    ``most`` crops are remembered, and those of the windows at hand.
    """

    def __init__(
        self, encoder: FrameEncoder, sampling: Sampling, device: torch.device, most: int = MOST_REMEMBERED
    ) -> None:
        self.encoder, self.sampling, self.device, self.most = encoder, sampling, device, most
        self.known: dict[bytes, FloatArray] = {}  # (D,) by the crop's JPEG, the oldest first

    @torch.inference_mode()
    def learn(self, samples: Iterable[FaceSample]) -> None:
        """Forget all crops but the latest, and encode those of the samples that are not known, in batches."""
        for crop in list(self.known)[: -self.most]:
            del self.known[crop]
        crops = dict.fromkeys(sample.crop_jpeg for sample in samples if sample.crop_jpeg)
        new = [crop for crop in crops if crop not in self.known]
        for start in range(0, len(new), PICTURES_AT_ONCE):
            batch = new[start : start + PICTURES_AT_ONCE]
            pictures = torch.from_numpy(np.stack([picture_of(crop, self.sampling) for crop in batch]))  # (K, 3, H, W)
            features = self.encoder(pictures.to(self.device)).float().cpu().numpy()  # (K, D)
            self.known |= zip(batch, features, strict=True)

    def item(self, clip: PreparedClip) -> Item:
        """What a model is shown of a clip whose samples were learnt, with features in the place of pictures."""
        samples = pick_samples(clip, self.sampling)
        features = np.zeros((len(samples), self.encoder.feature_size), np.float32)  # (T, D)
        for place, sample in enumerate(samples):
            if sample.crop_jpeg:
                features[place] = self.known[sample.crop_jpeg]
        item = to_item(clip, replace(self.sampling, looks=False))
        return replace(item, frames=features, seen=np.array([bool(sample.crop_jpeg) for sample in samples], bool))


def encoded_clips(
    model: ReactionModel, clips: Sequence[PreparedClip], sampling: Sampling, memory: FaceMemory | None = None
) -> Iterator[Item]:
    """Yield every clip as the model's input; features of its frozen encoders if it has any.

    With a memory, features of all its encoders, frozen or not.
    """
    if memory is not None:
        memory.learn(sample for clip in clips for sample in pick_samples(clip, sampling))
    for number, clip in enumerate(clips):
        item = to_item(clip, sampling) if memory is None else memory.item(clip)
        if model.frozen or memory is not None:
            item = encode_item(model, item, every=not model.frozen)
        yield replace(item, number=number)


@dataclass(frozen=True)
class _Hidden:
    """Reads features, less the modality that the model is not to be shown."""

    store: FeatureStore
    sampling: Sampling

    def __call__(self, row: PreparedRow, part: Part, rng: np.random.Generator | None = None) -> Item:
        item = self.store(row, part, rng)
        if not self.sampling.looks:
            item = replace(item, seen=np.zeros_like(item.seen), frames=np.zeros_like(item.frames))
        if not self.sampling.listens:
            item = replace(item, voice=item.voice[:0], voice_times_s=item.voice_times_s[:0])
        return item


@dataclass(frozen=True)
class _Encoded:
    """Reads images and sound, and returns features of the frozen encoders."""

    model: ReactionModel
    read: Reader

    def __call__(self, row: PreparedRow, part: Part, rng: np.random.Generator | None = None) -> Item:
        return encode_item(self.model, self.read(row, part, rng))


def _encode_split(
    model: ReactionModel, prepared: PreparedSet, split: str, sampling: Sampling, progress: bool
) -> FeatureStore:
    rows = prepared.split(split)
    parts = parts_of(rows)
    read = _Encoded(model, MediaReader(sampling))
    sizes = {
        "face": model.face_encoder.feature_size if model.face_encoder else 0,
        "voice": model.voice_encoder.feature_size if model.voice_encoder in model.frozen else MEL_BANDS,
    }
    training = model.training
    model.eval()
    folder = prepared.folder / FEATURES / _digest(model, sampling) / split
    with progress_bar(f"encoding {split}", len(parts), progress) as advance:
        items = lambda own: (read(rows[part.index], part) for part in own)  # noqa: E731
        store = write_store(folder, rows, parts, items, sizes, advance)
    model.train(training)
    return store


def _digest(model: ReactionModel, sampling: Sampling) -> str:
    """Names the features: what follows from other weights, or other sampling, is kept elsewhere."""
    digest = sha256(json.dumps([repr(sampling), [encoder.describe() for encoder in model.frozen]]).encode())
    for encoder in model.frozen:
        engine = getattr(encoder, "engine", None)
        digest.update(engine.digest.encode() if engine else b"")
        for name, tensor in sorted(encoder.state_dict().items()):
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
