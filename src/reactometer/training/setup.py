"""Build the model and the batches of a training from its configuration and prepared clips."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from reactometer.config import Config
from reactometer.data.cache import PreparedRow, PreparedSet
from reactometer.data.inputs import ClipPart, Item, ItemLoader, split_parts
from reactometer.data.leakage import check_leaks
from reactometer.data.person_norm import FeatureStats, fit_population, fit_step_stats
from reactometer.data.power_transform import Power, fit_powers, transform_item
from reactometer.data.splits import assign_folds, folded_splits
from reactometer.errors import ConfigError, DataError
from reactometer.evaluation.metrics import MIN_CLIPS, varying_labels
from reactometer.inference.checkpoint import sampling_of
from reactometer.inference.inputs import open_source
from reactometer.inference.scoring import person_reader
from reactometer.models.audio_encoders import SpeechEncoder
from reactometer.models.batches import PartDataset, collate
from reactometer.models.heads import CrossModalHead, PrecomputedFeatures, masked_moments
from reactometer.models.model import Pretrained, ReactionModel
from reactometer.models.registry import build_model, load_encoders
from reactometer.models.vision_encoders import ClipEncoder, FrameEncoder
from reactometer.terminal import is_first_process
from reactometer.training.features import open_training_reader
from reactometer.training.module import ReactionData
from reactometer.training.optim import on_gpu
from reactometer.types import FloatArray

MAX_SCALE_CLIPS = 256
"""Maximum number of train clips for the mean and standard deviation of the log-mel spectrogram."""

MAX_POWER_STEPS = 20_000
"""About the maximum number of steps of train clips for the transformation of features from tables."""

MIN_MOMENT_STD = 0.05
"""Minimum standard deviation of a pooled feature over train clips, in standard deviations of its steps."""

MAX_MOMENT_PARTS = 4000
"""About the maximum number of parts of train clips for the scale of pooled features."""


@dataclass(frozen=True)
class TrainingSetup:
    """The model, the batches and the dataset of a training."""

    model: ReactionModel  # complete, for the checkpoint
    trainable: ReactionModel  # the same, without its frozen encoders
    data: ReactionData
    prepared: PreparedSet  # with the train and val split of the configured fold
    training_stats: dict[
        str, FeatureStats
    ]  # of the clips' mean features; empty without normalisation per person


def build_training(config: Config, prepared: PreparedSet, *, progress: bool) -> TrainingSetup:
    """Build the model, compute frozen features, fit the scales that need no labels, and check the splits.

    Raises:
        ConfigError: settings contradict each other.
        DataError: a split is too small, no label varies, or splits share people or stimuli.
        WeightsError: an encoder is not available.
    """
    dataset = prepared
    folds = config.data.folds
    if folds:
        clips = assign_folds(
            [row.clip for row in prepared.rows], folds, config.data.fold, nested=config.data.nested
        )
        rows = [replace(row, clip=clip) for row, clip in zip(prepared.rows, clips, strict=True)]
        dataset = replace(prepared, rows=tuple(rows), is_folded=True)
    folded = folded_splits(config.data.nested) if folds else ()
    clips_in_splits = [row.clip for row in dataset.rows]
    check_leaks(clips_in_splits, folded=folded, origin=str(prepared.folder), allowed=config.data.allow_leak)
    _check_splits(dataset)
    train = tuple(row for row in dataset.split("train") if row.file and row.clip.labels)
    label_mean = np.array([row.clip.labels for row in train]).mean(axis=0).astype(np.float32).tolist()  # (L,)
    encoders = load_encoders(config.model, prepared.feature_sizes, prepared.media)
    model = build_model(config.model, encoders, label_mean)
    if (
        config.model.person_norm
        and not model.frozen
        and any(isinstance(encoder, Pretrained) for encoder in encoders.values())
    ):
        raise ConfigError(
            "model.person_norm needs frozen encoders or features",
            fix="Set model.frozen=true, or train on features",
        )
    sampling = sampling_of(config.model, model.describe_inputs())
    device = "cuda" if on_gpu(config.training) else "cpu"
    load_item = open_training_reader(model, dataset, sampling, device, progress=progress)
    tables = [name for name, encoder in encoders.items() if isinstance(encoder, PrecomputedFeatures)]
    model.powers = _fit_powers(tables, train, load_item)
    trainable = model.head_only()
    fixed = [name for name, encoder in trainable.encoders.items() if not isinstance(encoder, Pretrained)]
    if model.frozen or not sampling.media:
        _fit_scalers(trainable, fixed, train, load_item)
    else:  # of media, only the sound of some clips is read
        media = tuple(name for name in sampling.media if name in fixed)
        source = open_source(dataset, replace(sampling, media=media))

        def load_fixed(row: PreparedRow, part: ClipPart, rng: np.random.Generator | None = None) -> Item:
            return transform_item(source(row, part, rng), model.powers)

        _fit_scalers(trainable, fixed, train[:: len(train) // MAX_SCALE_CLIPS + 1], load_fixed)
    _fit_moment_scales(trainable, train, load_item)
    splits = {"train": PartDataset(train, load_item), "val": PartDataset(dataset.split("val"), load_item)}
    stats: dict[str, FeatureStats] = {}
    if config.model.person_norm:
        stats = fit_population(
            (train[part.index], load_item(train[part.index], part, None)) for part in split_parts(train)
        )
        for split in splits.values():
            split.load_item = person_reader(load_item, split.rows, stats)
    data = ReactionData(**splits, labels=prepared.labels, config=config.training)
    model.train()  # Lightning does not change the mode, and frozen encoders stay in evaluation mode
    trainable.train()
    if config.training.gradient_checkpointing:
        _enable_checkpointing(model)
    return TrainingSetup(model, trainable, data, dataset, stats)


def _check_splits(prepared: PreparedSet) -> None:
    for split in ("train", "val"):
        rows = [row for row in prepared.split(split) if row.clip.labels]
        unreadable = [row for row in rows if not row.file]
        if len(rows) - len(unreadable) < MIN_CLIPS:
            fix = f"Assign more clips to split '{split}', or cross-validate: reactometer crossval CONFIG"
            if prepared.is_folded:
                fix = "Use fewer folds, or add clips"
            if unreadable:
                fix = f"Replace the unreadable files; the first: {unreadable[0].clip.problem}"
            raise DataError(
                f"{prepared.folder}: split '{split}' is too small to train with",
                got=f"{len(rows)} clips with labels, of which {len(unreadable)} are unreadable",
                expected=f"at least {MIN_CLIPS} readable ones",
                fix=fix,
            )
    varied = varying_labels(np.array([row.clip.labels for row in prepared.split("val") if row.clip.labels]))
    constant = [label for label, varies in zip(prepared.labels, varied, strict=True) if not varies]
    if not any(varied):
        raise DataError(
            f"{prepared.folder}: no label varies over split 'val'", fix="Add clips with other labels to val"
        )
    if constant and is_first_process():
        warnings.warn(
            "labels that are constant on val do not count for the selection of the epoch: "
            f"{', '.join(constant)}",
            stacklevel=4,
        )


def _enable_checkpointing(model: ReactionModel) -> None:
    """Recompute activations in the backward pass; raise ConfigError if batch norms would see only chunks."""
    for name, encoder in model.encoders.items():
        if isinstance(encoder, FrameEncoder | ClipEncoder | SpeechEncoder) and name not in model.frozen:
            net: Any = encoder.net
            if any(isinstance(module, _BatchNorm) and module.training for module in encoder.modules()):
                raise ConfigError(
                    "training.gradient_checkpointing needs encoders without batch statistics",
                    got=f"batch norms in '{net.config.model_type}' that train",
                    fix="Use a pretrained encoder with model.freeze_batch_norm=true",
                )
            encoder.checkpointing = True


def _fit_powers(
    names: Sequence[str], rows: Sequence[PreparedRow], load_item: ItemLoader
) -> dict[str, list[Power]]:
    """Fit the transformation of features from tables, on about :data:`MAX_POWER_STEPS` steps of clips."""
    steps: dict[str, list[FloatArray]] = {name: [] for name in names}
    parts = split_parts(rows) if names else []
    for part in parts:
        item = load_item(rows[part.index], part, None)
        for name in names:
            visible = item.streams[name].visible
            steps[name].append(visible[:: len(visible) * len(parts) // MAX_POWER_STEPS + 1])
    return {name: fit_powers(np.concatenate(values)) for name, values in steps.items()}


def _fit_scalers(
    network: ReactionModel, names: Sequence[str], rows: Sequence[PreparedRow], load_item: ItemLoader
) -> None:
    """Set the scalers of some streams, features or log-mel, to mean and standard deviation over clips."""
    if not names:
        return
    stats = fit_step_stats(load_item(rows[part.index], part, None) for part in split_parts(rows))
    for name in stats.keys() & {*names}:
        scale: Any = network.scales[name]
        scale.mean.copy_(torch.from_numpy(stats[name].mean))
        scale.std.copy_(torch.from_numpy(stats[name].std))


@torch.no_grad()
def _fit_moment_scales(network: ReactionModel, train: Sequence[PreparedRow], load_item: ItemLoader) -> None:
    """Set the scales of pooled fixed features to mean and standard deviation over train clips.

    At most :data:`MAX_MOMENT_PARTS` parts of clips are read.
    """
    head = network.head
    fixed = [name for name, encoder in network.encoders.items() if isinstance(encoder, PrecomputedFeatures)]
    if not isinstance(head, CrossModalHead) or not fixed:
        return
    parts = split_parts(train)
    moments: dict[str, list[torch.Tensor]] = {name: [] for name in fixed}
    for part in parts[:: len(parts) // MAX_MOMENT_PARTS + 1]:
        batch = collate([load_item(train[part.index], part, None)], n_labels=0)
        for name, stream in network.streams(batch).items():
            if name in moments and stream.mask.any():
                moments[name].append(torch.cat(masked_moments(stream.values, stream.mask), dim=1))
    for name, rows in moments.items():
        if len(rows) > 1:
            scale: Any = head.moment_scales[name]
            pooled = torch.cat(rows)
            scale.mean.copy_(pooled.mean(dim=0))
            scale.std.copy_(pooled.std(dim=0, correction=0).clamp(min=MIN_MOMENT_STD))
