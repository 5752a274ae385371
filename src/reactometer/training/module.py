"""The Lightning module and data module of a training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import compress
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from reactometer.config import TrainingConfig
from reactometer.evaluation.metrics import Metrics, mean_over_varying, measure
from reactometer.inference.scores import Score, join_parts
from reactometer.models.batches import Batch, PartDataset, TrainingDataset, collate
from reactometer.models.model import ReactionModel
from reactometer.training.augmentation import augment
from reactometer.training.losses import reaction_loss
from reactometer.training.optim import BaseModule, on_gpu
from reactometer.training.trainer import loader_workers


class ReactionModule(BaseModule):
    """The Lightning module: a loss per batch, and one score over the whole validation split."""

    score = "val_mean_ccc"
    """Metric of early stopping and of the best epoch: mean CCC over the labels that vary on validation.

    Not Pearson, which ignores scale: over few validation clips, it is often largest by chance in one of the
    first epochs, when the predictions are almost constant (docs/project/lab-notes.md).
    """
    model: ReactionModel
    config: TrainingConfig

    def __init__(self, model: ReactionModel, config: TrainingConfig, data: ReactionData) -> None:
        super().__init__(model, config)
        self.labels = data.labels
        self.val_parts = data.val.parts
        self.val_targets = {
            index: row.clip.labels for index, row in enumerate(data.val.rows) if row.clip.labels
        }
        self.val_scores: list[tuple[Tensor, Tensor, Tensor]] = []
        self.val_metrics: Metrics | None = None
        self.losses: list[tuple[Tensor, Tensor]] = []  # loss and number of clips per batch of the epoch

    def on_train_epoch_start(self) -> None:
        """Seed the epoch and clear the losses."""
        super().on_train_epoch_start()
        self.losses.clear()

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Compute the loss of one batch over the clips that have labels and input.

        The batches of all processes are joined, because a correlation is not the mean over its parts.
        """
        for name, stream in batch.streams.items():
            if self.config.augment and stream.values.ndim == 5:  # images, not features
                batch.streams[name] = stream._replace(values=augment(stream.values))
        counts = batch.target_mask & self.model.has_input(batch)  # (B,)
        joined = (self._gather_rows(tensor) for tensor in (self.model(batch), batch.targets, counts))
        loss = reaction_loss(*joined, name=self.config.loss)
        self.losses.append((loss.detach(), self._gather_rows(counts).sum()))
        self.log("batch_loss", loss, on_step=True, on_epoch=False)
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        """Keep the scores of one batch for the end of the epoch."""
        self.val_scores.append((batch.clip_index, self.model(batch).float(), self.model.stream_mask(batch)))

    def on_validation_epoch_end(self) -> None:
        """Compute metrics over all validation clips from all devices, each clip once."""
        part_index, intensities, stream_mask = (
            self._gather_rows(torch.cat(column)).cpu().numpy()
            for column in zip(*self.val_scores, strict=True)
        )
        self.val_scores.clear()
        if self.trainer.sanity_checking:
            return
        parts_by_clip: dict[int, list[tuple[float, Score]]] = {}
        for i in np.unique(part_index, return_index=True)[
            1
        ]:  # Lightning repeats parts to fill the last batch
            part = self.val_parts[part_index[i]]
            streams = tuple(compress(self.model.encoders, stream_mask[i].tolist()))
            score = Score(intensities[i], streams)
            parts_by_clip.setdefault(part.index, []).append((part.length_s, score))
        predictions = [join_parts(parts_by_clip[index]).intensities for index in self.val_targets]
        targets = np.array(list(self.val_targets.values()))  # (clips, L)
        self.val_metrics = measure(targets, np.array(predictions), self.labels)
        if self.losses:  # logged here, so that it is on disk before the checkpoint of the epoch
            losses, counts = (torch.stack(column) for column in zip(*self.losses, strict=True))
            self.log("train_loss", (losses * counts).sum() / counts.sum().clamp(min=1))
        for name in ("ccc", "pearson"):
            mean = mean_over_varying(self.val_metrics.by_metric[name], targets)
            self.log(f"val_mean_{name}", mean, prog_bar=True, rank_zero_only=True)
        for label, r in zip(self.labels, self.val_metrics.pearson, strict=True):
            if r is not None:
                self.log(f"val_pearson/{label}", r, rank_zero_only=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the epoch's metrics beside its weights."""
        checkpoint["val_metrics"] = self.val_metrics.as_json() if self.val_metrics else {}

    def _gather_rows(self, rows: Tensor) -> Tensor:
        """Concatenate the rows of all processes; a gradient returns to the process of its row."""
        gathered: Any = self.all_gather(
            rows, sync_grads=rows.requires_grad
        )  # (processes, rows, ...), or unchanged
        joined: Tensor = gathered.reshape(-1, *rows.shape[1:])
        return joined


class ReactionData(LightningDataModule):
    """Batches of the train and val splits; order and jitter follow from the seed and the epoch."""

    def __init__(
        self, train: PartDataset, val: PartDataset, labels: Sequence[str], config: TrainingConfig
    ) -> None:
        super().__init__()
        self.train = train
        self.val = val
        self.labels = tuple(labels)
        self.config = config

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the train split in a new random order; Lightning calls this before each epoch."""
        epoch = self.trainer.current_epoch if self.trainer else 0
        n_processes, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        dataset = TrainingDataset(self.train.rows, self.train.load_item, self.config.seed, epoch, n_processes)
        return self._loader(dataset, DistributedSampler(dataset, n_processes, rank, shuffle=False))

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the val split in order; Lightning distributes it to the processes."""
        return self._loader(self.val)

    def _loader(self, dataset: Any, sampler: DistributedSampler[Any] | None = None) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            self.config.batch_size,
            num_workers=loader_workers(self.config),
            collate_fn=partial(collate, n_labels=len(self.labels)),
            sampler=sampler,
            generator=torch.Generator(),  # not the generator of dropout
            pin_memory=on_gpu(self.config),
        )
