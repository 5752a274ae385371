"""One training step and one validation of a backbone that learns to tell expressions apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from reactometer.config import ExpressionConfig
from reactometer.data.labelled_faces import FaceDataset, LabelledFaces
from reactometer.models.encoders import FrameEncoder
from reactometer.training.augment import PICTURES, augment, erase
from reactometer.training.engine import loader_workers
from reactometer.training.mixup import draw_mix
from reactometer.training.optimise import FittedTask
from reactometer.training.processes import on_gpu


class ExpressionNetwork(nn.Module):
    """A frame encoder and a linear classifier on its features."""

    def __init__(self, encoder: FrameEncoder, n_classes: int, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(encoder.feature_size, n_classes)

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 255], of any dtype -> (B, classes) float32 logits."""
        logits: Tensor = self.classifier(self.dropout(self.encoder(pictures).float())).float()
        return logits

    def with_mirror(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, classes) probabilities, the mean of those of a picture and of its mirror image."""
        mean: Tensor = torch.stack([self(view).softmax(1) for view in (pictures, pictures.flip(3))]).mean(0)
        return mean


class ExpressionTask(FittedTask):
    """Fits the network with cross-entropy, on smoothed and mixed labels; accuracy on validation chooses the epoch."""

    score = "val_accuracy"
    model: ExpressionNetwork
    config: ExpressionConfig

    def __init__(self, model: ExpressionNetwork, config: ExpressionConfig, n_classes: int) -> None:
        super().__init__(model, config)
        self.n_classes = n_classes
        self.val_correct: list[Tensor] = []
        self.val_metrics: dict[str, float] = {}

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """The loss of one batch of (B, 3, H, W) uint8 pictures and (B,) classes."""
        pictures, classes = batch
        settings = self.config
        if self.model.encoder.pixels.grey:
            pictures = pictures[:, :1]  # (B, 1, H, W): three channels would be changed at three times the cost
        if settings.augment:
            pictures = augment(pictures.unsqueeze(1), PICTURES.times(settings.strength)).squeeze(1)
            pictures = erase(pictures, settings.erasing)
        targets = functional.one_hot(classes, self.n_classes).float()  # (B, classes)
        mix = draw_mix(torch.ones(len(classes), dtype=torch.bool, device=classes.device), settings.mixup)
        if mix:
            pictures = mix(pictures.flatten(1).float()).view(pictures.shape)
            targets = mix(targets)
        logits = self.model(pictures.expand(-1, 3, -1, -1))
        loss = functional.cross_entropy(logits, targets, label_smoothing=settings.label_smoothing)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(classes), sync_dist=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        """Keep which pictures of one batch were recognised."""
        pictures, classes = batch
        self.val_correct.append(self.model.with_mirror(pictures).argmax(1) == classes)

    def on_validation_epoch_end(self) -> None:
        """Accuracy over all validation pictures at once."""
        accuracy = torch.cat(self.val_correct).float().mean()
        self.val_correct.clear()
        self.val_metrics = {"accuracy": float(accuracy)}
        self.log(self.score, accuracy, prog_bar=True, sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the epoch's accuracy beside its weights."""
        checkpoint["val_metrics"] = self.val_metrics


class ExpressionData(LightningDataModule):
    """Batches of labelled faces; their order follows from the seed and the epoch alone."""

    def __init__(self, faces: LabelledFaces, size_px: int, config: ExpressionConfig) -> None:
        super().__init__()
        self.datasets = {name: FaceDataset(split, size_px) for name, split in faces.splits.items()}
        self.config = config

    def train_dataloader(self) -> DataLoader[Any]:
        """The train split, shuffled anew each epoch; a last batch of one picture, too few to normalise, is left out."""
        epoch = self.trainer.current_epoch if self.trainer else 0
        dataset = self.datasets["train"]
        order = np.random.default_rng((self.config.seed, epoch)).permutation(len(dataset)).tolist()
        if len(order) % self.config.batch_size == 1:
            order = order[:-1]
        return self._loader("train", order)

    def val_dataloader(self) -> DataLoader[Any]:
        """The val split, in order."""
        return self.loader("val")

    def loader(self, split: str) -> DataLoader[Any]:
        """A split, in order."""
        return self._loader(split, range(len(self.datasets[split])))

    def _loader(self, split: str, order: Sequence[int]) -> DataLoader[Any]:
        settings, own = self.config, torch.Generator()  # not the generator that dropout draws from
        return DataLoader(
            self.datasets[split],
            settings.batch_size,
            sampler=order,
            num_workers=loader_workers(settings),
            generator=own,
            pin_memory=on_gpu(settings),
        )


@torch.no_grad()
def recognise(model: ExpressionNetwork, loader: DataLoader[Any]) -> np.ndarray:
    """(N, 2, classes) float32 probabilities of each picture: of itself, and with its mirror image averaged in."""
    model.eval()
    device = model.classifier.weight.device
    rows = [
        torch.stack([model(pictures.to(device)).softmax(1), model.with_mirror(pictures.to(device))], dim=1)
        for pictures, _ in loader
    ]
    found: np.ndarray = torch.cat(rows).cpu().numpy()
    return found
