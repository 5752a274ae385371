"""One training step and one validation, as Lightning runs them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from reactometer.config import TrainingConfig
from reactometer.data.cache import PreparedRow
from reactometer.data.inputs import ItemLoader
from reactometer.evaluation.metrics import MIN_STD, Metrics, measure
from reactometer.inference.scores import Score, join_parts
from reactometer.models.batches import Batch, PartDataset, TrainingDataset, collate
from reactometer.models.model import ReactionModel
from reactometer.training.augmentation import augment
from reactometer.training.losses import reaction_loss
from reactometer.training.optim import BaseModule, on_gpu
from reactometer.training.trainer import loader_workers

SCORE = "val_mean_pearson"
"""What early stopping and the best epoch go by: :func:`selection_score`."""


class SplitData(NamedTuple):
    """Clips of one split, and what reads them."""

    rows: tuple[PreparedRow, ...]
    read: ItemLoader


class ReactionModule(BaseModule):
    """Fits intensities and scores them over the whole validation split at once."""

    score = SCORE
    model: ReactionModel
    config: TrainingConfig

    def __init__(self, model: ReactionModel, config: TrainingConfig, data: ReactionData) -> None:
        super().__init__(model, config)
        self.labels = data.labels
        self.val_parts = data.val_dataset.parts
        self.val_targets = {index: row.clip.labels for index, row in enumerate(data.val_rows) if row.clip.labels}
        self.val_scores: list[tuple[Tensor, Tensor, Tensor]] = []
        self.val_metrics: Metrics | None = None
        self.losses: list[tuple[Tensor, Tensor]] = []  # of the epoch: of each batch, and of how many clips

    def on_train_epoch_start(self) -> None:
        """Forget the losses of the epoch before."""
        super().on_train_epoch_start()
        self.losses.clear()

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """The loss of one batch, over the clips that have labels and show or say something.

        Where several processes train, the batch is that of all of them: a correlation, or a mean over the clips that
        count, is not the mean of its parts.
        """
        if self.config.augment and batch.frames.ndim == 5:  # pictures, not features
            batch = batch._replace(frames=augment(batch.frames))
        counts = batch.target_mask & self.model.has_input(batch)  # (B,)
        everyone = (
            self._gather_rows(tensor) for tensor in (self.model(batch), batch.targets, counts)
        )  # (B, L), (B, L), (B,)
        loss = reaction_loss(*everyone, kind=self.config.loss)
        self.losses.append((loss.detach(), self._gather_rows(counts).sum()))
        self.log("batch_loss", loss, on_step=True, on_epoch=False)
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        """Keep the scores of one batch for the end of the epoch."""
        self.val_scores.append((batch.clip_index, self.model(batch).float(), self.model.modality_mask(batch)))

    def on_validation_epoch_end(self) -> None:
        """Metrics over all validation clips at once, from all devices, each clip once."""
        number, intensities, modality_mask = (
            self._gather_rows(torch.cat(column)).cpu().numpy() for column in zip(*self.val_scores, strict=True)
        )
        self.val_scores.clear()
        if self.trainer.sanity_checking:
            return
        scores = {
            int(place): Score(
                int(place),
                intensities[row],
                has_face=bool(modality_mask[row, 0]),
                has_voice=bool(modality_mask[row, 1]),
            )
            for row, place in enumerate(number)
        }
        self.val_metrics = self._measure(scores)
        score = selection_score(self.val_metrics, np.array(list(self.val_targets.values())))
        if self.losses:  # logged here, so that all of an epoch is on the disk before its checkpoint is
            losses, counts = (torch.stack(column) for column in zip(*self.losses, strict=True))
            self.log("train_loss", (losses * counts).sum() / counts.sum().clamp(min=1))
        self.log(SCORE, score, prog_bar=True, rank_zero_only=True)
        for label, r in zip(self.labels, self.val_metrics.pearson, strict=True):
            if r is not None:
                self.log(f"val_pearson/{label}", r, rank_zero_only=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the epoch's metrics beside its weights."""
        checkpoint["val_metrics"] = self.val_metrics.as_json() if self.val_metrics else {}

    def _gather_rows(self, own: Tensor) -> Tensor:
        """The rows of all processes, one after the other; a gradient goes back to the process that each came from."""
        gathered: Any = self.all_gather(own, sync_grads=own.requires_grad)  # (processes, rows, ...), or as it was
        rows: Tensor = gathered.reshape(-1, *own.shape[1:])
        return rows

    def _measure(self, scores: dict[int, Score]) -> Metrics:
        clips: dict[int, list[tuple[float, Score]]] = {}
        for place, score in scores.items():
            clips.setdefault(self.val_parts[place].index, []).append((self.val_parts[place].length_s, score))
        known = [index for index in sorted(clips) if index in self.val_targets]
        predictions = np.array([join_parts(index, clips[index]).intensities for index in known])
        return measure([self.val_targets[index] for index in known], predictions, self.labels)


class ReactionData(LightningDataModule):
    """Batches of the train and val splits; order and jitter follow from the seed and the epoch alone."""

    def __init__(self, train: SplitData, val: SplitData, labels: Sequence[str], config: TrainingConfig) -> None:
        super().__init__()
        self.train_rows, self.read = train
        self.val_rows, read_val = val
        self.labels = tuple(labels)
        self.config = config
        self.val_dataset = PartDataset(self.val_rows, read_val)

    def train_dataloader(self) -> DataLoader[Any]:
        """The train split, shuffled anew each epoch (Lightning asks again before each)."""
        epoch = self.trainer.current_epoch if self.trainer else 0
        everyone, own = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        dataset = TrainingDataset(self.train_rows, self.read, self.config.seed, epoch, everyone)
        return self._loader(dataset, DistributedSampler(dataset, everyone, own, shuffle=False))

    def val_dataloader(self) -> DataLoader[Any]:
        """The val split, in order; Lightning deals it to the processes."""
        return self._loader(self.val_dataset)

    def _loader(self, dataset: Any, sampler: DistributedSampler[Any] | None = None) -> DataLoader[Any]:
        merge = partial(collate, n_labels=len(self.labels))
        own = torch.Generator()  # else each iterator would draw from the generator that dropout draws from
        return DataLoader(
            dataset,
            self.config.batch_size,
            num_workers=loader_workers(self.config),
            collate_fn=merge,
            sampler=sampler,
            generator=own,
            pin_memory=on_gpu(self.config),
        )


def selection_score(metrics: Metrics, targets: np.ndarray) -> float:
    """Mean Pearson over the labels that vary on validation, a constant prediction counting as 0.

    Unlike the score that is reported, it is never undefined: a label that a small validation split happens not to
    show must not keep an epoch from being chosen.

    Args:
        metrics: of all validation clips.
        targets: (clips, L) in [0, 1], at least one label of which varies.
    """
    varied = varying_labels(targets)
    return float(np.mean([r or 0.0 for r, varies in zip(metrics.pearson, varied, strict=True) if varies]))


def varying_labels(targets: np.ndarray) -> list[bool]:
    """(L,) which labels are not the same for all clips; a constant one has no correlation with anything."""
    return [bool(spread > MIN_STD) for spread in np.ptp(targets, axis=0)]
