"""A configuration and prepared clips -> a model to be fitted, and the batches to fit it on."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from reactometer.config import Config
from reactometer.data.cache import PreparedRow, PreparedSet
from reactometer.data.inputs import ItemLoader, MediaReader, split_parts
from reactometer.data.leakage import check_leaks
from reactometer.data.person_norm import fit_stream_stats
from reactometer.data.splits import assign_folds
from reactometer.errors import ConfigError, DataError
from reactometer.evaluation.metrics import MIN_CLIPS
from reactometer.inference.checkpoint import sampling_of
from reactometer.inference.scoring import person_reader
from reactometer.models.audio_encoders import LogMelEncoder
from reactometer.models.model import Pretrained, ReactionModel
from reactometer.models.registry import build_model, load_encoders
from reactometer.terminal import is_first_process
from reactometer.training.features import open_training_reader, set_training_stats, training_stats
from reactometer.training.module import ReactionData, SplitData, varying_labels
from reactometer.training.optim import on_gpu

MAX_SCALE_CLIPS = 256
"""Train clips whose sound is measured for the scale of the log-mel spectrogram."""


@dataclass(frozen=True)
class TrainingSetup:
    """What a fit needs."""

    model: ReactionModel  # whole, as it will be kept
    trainable: ReactionModel  # what is fitted: the same, or less its frozen encoders
    data: ReactionData
    prepared: PreparedSet  # with train and val dealt anew where folds are asked for


def build_training(config: Config, prepared: PreparedSet, *, progress: bool) -> TrainingSetup:
    """Build the model, compute frozen features, fit the scales that need no labels, and check the splits.

    Raises:
        ConfigError: settings that do not go together.
        DataError: a split is too small, no label varies, or splits share people or stimuli.
        WeightsError: an encoder cannot be had.
    """
    clips = dealt_clips = [row.clip for row in prepared.rows]
    if config.data.folds:
        dealt_clips = list(assign_folds(clips, config.data.folds, config.data.fold))
    check_leaks(clips, dealt_clips, origin=str(prepared.folder), allowed=config.data.allow_leak)
    rows = [replace(row, clip=clip) for row, clip in zip(prepared.rows, dealt_clips, strict=True)]
    dealt = replace(prepared, rows=tuple(rows))
    _check_splits(dealt)
    train = tuple(row for row in dealt.split("train") if row.file and row.clip.labels)
    label_mean = np.array([row.clip.labels for row in train]).mean(axis=0).astype(np.float32).tolist()  # (L,)
    model = build_model(config.model, load_encoders(config.model, prepared.feature_sizes), label_mean)
    encoders = (model.face_encoder, model.voice_encoder)
    if config.model.person_norm and not model.frozen and any(isinstance(part, Pretrained) for part in encoders):
        raise ConfigError(
            "model.person_norm needs features that stay as they are", fix="Add model.frozen=true, or train on features"
        )
    sampling = sampling_of(config.model, *model.describe_inputs())
    device = "cuda" if on_gpu(config.training) else "cpu"
    read = open_training_reader(model, prepared, sampling, device, progress=progress)
    trained = model.head_only()
    _fit_scales(trained, train, read)
    shown = {name: SplitData(rows, read) for name, rows in (("train", train), ("val", dealt.split("val")))}
    if config.model.person_norm:
        moments = training_stats(trained)
        shown = {name: SplitData(rows, person_reader(read, rows, moments)) for name, (rows, _) in shown.items()}
    data = ReactionData(**shown, labels=prepared.labels, config=config.training)
    model.train()  # Lightning leaves each module in the mode it finds, a frozen encoder in evaluation
    trained.train()
    return TrainingSetup(model, trained, data, dealt)


def _check_splits(prepared: PreparedSet) -> None:
    for split in ("train", "val"):
        usable = [row for row in prepared.split(split) if row.clip.labels and row.file]
        if len(usable) < MIN_CLIPS:
            raise DataError(
                f"{prepared.folder}: split '{split}' is too small to train with",
                got=f"{len(usable)} readable clips with labels",
                expected=f"at least {MIN_CLIPS}",
                fix="Add clips; or leave the split column out, and the clips are split by person",
            )
    varied = varying_labels(np.array([row.clip.labels for row in prepared.split("val") if row.clip.labels]))
    flat = [label for label, varies in zip(prepared.labels, varied, strict=True) if not varies]
    if not any(varied):
        raise DataError(f"{prepared.folder}: no label varies over split 'val'", fix="Add clips to it that differ")
    if flat and is_first_process():
        warnings.warn(
            f"the same for all val clips, so without a say in choosing the epoch: {', '.join(flat)}", stacklevel=4
        )


def _fit_scales(network: ReactionModel, train: Sequence[PreparedRow], read: ItemLoader) -> None:
    """Set the scales of features and of the log-mel spectrogram to mean and spread over train clips.

    An encoder that is trained along has no scale before it; of media, only the sound is read, of so many clips.
    """
    rows = list(train)
    if isinstance(read, MediaReader):
        if not isinstance(network.voice_encoder, LogMelEncoder):
            return
        heard = [row for row in rows if row.has_sound]
        rows, read = heard[:: len(heard) // MAX_SCALE_CLIPS + 1], MediaReader(replace(read.input_spec, uses_face=False))
    set_training_stats(network, fit_stream_stats(read(rows[part.index], part, None) for part in split_parts(rows)))
