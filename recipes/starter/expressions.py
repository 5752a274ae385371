"""The Lightning module and batches of a frame encoder that learns to classify expressions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from image_augmentation import change, erase, mix
from labelled_faces import FaceDataset, LabelledFaces
from lightning.pytorch import LightningDataModule
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from reactometer.config import TrainingConfig
from reactometer.models.vision_encoders import FrameEncoder
from reactometer.training.optim import BaseModule, on_gpu
from reactometer.training.trainer import loader_workers


class ImageConfig(BaseModel):
    """Regularisation of the images and their labels."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    strength: float = 1.0
    """Strength of the random changes (zoom, shift, rotation, light); 1: up to
    ``image_augmentation.MAX_CHANGES``."""
    erasing: float = 0.25
    """Probability that a rectangle of an image is filled with grey."""
    mixup: float = 0.0
    """Alpha of the Beta distribution of the shares by which two images are mixed; 0: none."""
    label_smoothing: float = 0.1
    """Share of each label that is spread over all classes (Szegedy et al., arXiv 1512.00567)."""


class ExpressionNetwork(nn.Module):
    """A frame encoder and a linear classifier of its features."""

    def __init__(self, encoder: FrameEncoder, n_classes: int, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(encoder.feature_size, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 255], of any dtype -> (B, classes) float32 logits."""
        logits: Tensor = self.classifier(self.dropout(self.encoder(images).float())).float()
        return logits

    def with_mirror(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, classes) probabilities, the mean over an image and its mirror image."""
        mean: Tensor = torch.stack([self(view).softmax(1) for view in (images, images.flip(3))]).mean(0)
        return mean


class ExpressionTask(BaseModule):
    """Fit the network with cross-entropy; accuracy on validation selects the epoch."""

    score = "val_accuracy"
    model: ExpressionNetwork

    def __init__(
        self, model: ExpressionNetwork, config: TrainingConfig, images: ImageConfig, labels: Sequence[str]
    ) -> None:
        super().__init__(model, config)
        self.images = images
        self.n_classes = len(labels)
        self.val_correct: list[Tensor] = []
        self.val_metrics: dict[str, float] = {}

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """Return the loss of one batch of (B, 3, H, W) uint8 images and (B,) classes."""
        images, classes = batch
        if self.model.encoder.pixels.grey:
            images = images[
                :, :1
            ]  # (B, 1, H, W): changing three equal channels would cost three times as much
        if self.config.augment:
            images = erase(change(images, self.images.strength), self.images.erasing)
        targets = functional.one_hot(classes, self.n_classes).float()  # (B, classes)
        images, targets = mix(images, targets, self.images.mixup)
        logits = self.model(images.expand(-1, 3, -1, -1))
        loss = functional.cross_entropy(logits, targets, label_smoothing=self.images.label_smoothing)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(classes), sync_dist=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        """Keep which images of one batch are classified correctly."""
        images, classes = batch
        self.val_correct.append(self.model.with_mirror(images).argmax(1) == classes)

    def on_validation_epoch_end(self) -> None:
        """Log the accuracy over all validation images."""
        accuracy = torch.cat(self.val_correct).float().mean()
        self.val_correct.clear()
        self.val_metrics = {"accuracy": float(accuracy)}
        self.log(self.score, accuracy, prog_bar=True, sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the epoch's accuracy beside its weights."""
        checkpoint["val_metrics"] = self.val_metrics


class ExpressionData(LightningDataModule):
    """Batches of labelled faces; their order follows from the seed and the epoch alone."""

    def __init__(self, faces: LabelledFaces, size_px: int, config: TrainingConfig) -> None:
        super().__init__()
        self.datasets = {name: FaceDataset(split, size_px) for name, split in faces.splits.items()}
        self.config = config

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the train split, shuffled in each epoch, less a last batch of one image: batch norm needs
        two."""
        epoch = self.trainer.current_epoch if self.trainer else 0
        dataset = self.datasets["train"]
        order = np.random.default_rng((self.config.seed, epoch)).permutation(len(dataset)).tolist()
        if len(order) % self.config.batch_size == 1:
            order = order[:-1]
        return self._loader("train", order)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the val split, in order."""
        return self.loader("val")

    def loader(self, split: str) -> DataLoader[Any]:
        """Return a split, in order."""
        return self._loader(split, range(len(self.datasets[split])))

    def _loader(self, split: str, order: Sequence[int]) -> DataLoader[Any]:
        return DataLoader(
            self.datasets[split],
            self.config.batch_size,
            sampler=order,
            num_workers=loader_workers(self.config),
            generator=torch.Generator(),  # not the generator of dropout
            pin_memory=on_gpu(self.config),
        )


@torch.no_grad()
def classify(model: ExpressionNetwork, loader: DataLoader[Any]) -> np.ndarray:
    """Return the class of each image, (N,) int64."""
    model.eval()
    device = model.classifier.weight.device
    classes: np.ndarray = torch.cat(
        [model.with_mirror(images.to(device)).argmax(1) for images, _ in loader]
    ).numpy(force=True)
    return classes
