"""Train a frame encoder to classify expressions, and write it as a folder that ``model.encoder`` takes.

python recipes/starter/pretrain.py recipes/starter/resnet-small.toml --faces FER2013 [KEY=VALUE ...]

Writes ``<training.out>/backbone``: the network in transformers' format, the normalisation of its input, and
``expressions.json`` with the accuracy on val (with ``--test``, on test too: once, when everything is selected
on val).
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from expressions import ExpressionData, ExpressionNetwork, ExpressionTask, ImageConfig, classify
from labelled_faces import read_faces
from lightning.pytorch import seed_everything
from pydantic import BaseModel, ConfigDict

from reactometer.config import TrainingConfig, apply_override
from reactometer.errors import DataError
from reactometer.io import atomic_folder, write_atomic
from reactometer.models.backbones import load_backbone
from reactometer.models.vision_encoders import FrameEncoder
from reactometer.terminal import is_first_process
from reactometer.training.trainer import delete_run, fit, load_best, prepare_run_dir

BACKBONE = "backbone"
GREY_MEAN, GREY_STD = 0.5, 0.25
"""Normalisation of a network with random weights, as shares of the range; our choice."""


class BackboneConfig(BaseModel):
    """Settings of the trained network."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoder: str
    """A Hugging Face name, a folder, or "random:NAME" for random weights."""
    size_px: int
    """Side of its input, pixels."""
    dropout: float = 0.2
    """Dropout probability between the encoder and the classifier."""


class PretrainingConfig(BaseModel):
    """All settings; ``training.loss`` has no effect, because the loss is cross-entropy."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backbone: BackboneConfig
    images: ImageConfig = ImageConfig()
    training: TrainingConfig = TrainingConfig()


def pretrain(
    config: PretrainingConfig, faces_folder: Path, *, fresh: bool, test: bool
) -> tuple[Path, dict[str, dict[str, Any]]]:
    """Train, save the encoder of the best epoch, and return its folder and its scores by split."""
    out = config.training.out or Path("runs/backbone")
    finished = not fresh and (out / BACKBONE).exists()
    resume = prepare_run_dir(out, fresh=fresh)
    faces = read_faces(faces_folder)
    if test and "test" not in faces.splits:
        raise DataError(f"{faces_folder}: no split 'test'", fix="Leave --test out")
    seed_everything(config.training.seed, workers=True, verbose=False)
    net = load_backbone(config.backbone.encoder, "images")
    settings = dict(net.settings) or {"image_mean": [GREY_MEAN] * 3, "image_std": [GREY_STD] * 3}
    encoder = FrameEncoder(
        replace(net, settings={**settings, "do_grayscale": faces.grey}), config.backbone.size_px
    )
    network = ExpressionNetwork(encoder, len(faces.labels), config.backbone.dropout)
    task = ExpressionTask(network, config.training, config.images, faces.labels)
    data = ExpressionData(faces, config.backbone.size_px, config.training)
    if not finished:
        if fresh and is_first_process():
            delete_run(out, BACKBONE)
        fit(task, data, config.training, out, resume=resume, progress=True)
    if not is_first_process():  # of several processes that train, one scores and writes
        return out / BACKBONE, {}
    best, scores = load_best(task, out), {}
    for split in ("val", *(["test"] if test else [])):
        targets = faces.splits[split].classes
        scores[split] = measure(targets, classify(network, data.loader(split)), faces.labels)
    about = {
        "labels": faces.labels,
        "config": config.model_dump(mode="json"),
        "epoch": best["epoch"],
        "scores": scores,
    }
    with nullcontext(out / BACKBONE) if finished else atomic_folder(out / BACKBONE) as folder:
        if not finished:
            save(folder, network.encoder, config.backbone.size_px)
        write_atomic(folder / "expressions.json", json.dumps(about, indent=2) + "\n")
    return out / BACKBONE, scores


def measure(targets: np.ndarray, predictions: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """Return accuracy with Wilson's 95% interval, recall per class, and the confusion matrix (targets in
    rows)."""
    from scipy.stats import binomtest

    confusion = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(confusion, (targets, predictions), 1)
    correct = int(confusion.trace())
    interval = binomtest(correct, len(targets)).proportion_ci(0.95, method="wilson")
    recall = confusion.diagonal() / np.maximum(confusion.sum(1), 1)
    return {
        "images": len(targets),
        "accuracy": correct / len(targets),
        "interval": [float(interval.low), float(interval.high)],
        "recall": dict(zip(labels, recall.tolist(), strict=True)),
        "confusion": confusion.tolist(),
    }


def save(folder: Path, encoder: FrameEncoder, size_px: int) -> None:
    """Write the network and the normalisation of its input, as transformers reads them."""
    net: Any = encoder.net
    net.save_pretrained(folder)
    prepared = {**encoder.settings, "size": {"height": size_px, "width": size_px}}
    (folder / "preprocessor_config.json").write_text(json.dumps(prepared, indent=2) + "\n", encoding="utf-8")
    for file in folder.iterdir():
        file.chmod(0o644)


def main() -> None:
    """Parse the command line, train, and print the scores."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="a TOML file")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="overrides, e.g. training.epochs=5")
    parser.add_argument(
        "--faces", type=Path, required=True, help="folder of labelled faces, see labelled_faces.py"
    )
    parser.add_argument("--fresh", action="store_true", help="delete an earlier run in the same folder")
    parser.add_argument("--test", action="store_true", help="score the test split too")
    options = parser.parse_args()
    table = tomllib.loads(options.config.read_text(encoding="utf-8"))
    table.setdefault("training", {}).setdefault("out", f"runs/{options.config.stem}")
    for override in options.overrides:
        apply_override(table, override)
    config = PretrainingConfig.model_validate(table)
    folder, scores = pretrain(config, options.faces, fresh=options.fresh, test=options.test)
    for split, score in scores.items():
        low, high = score["interval"]
        print(
            f"{split}: accuracy {score['accuracy']:.4f} of {score['images']} images, 95% {low:.3f} to "
            f"{high:.3f}"
        )
    print(f"next: reactometer train recipes/starter/starter.toml model.encoder={folder}")


if __name__ == "__main__":
    main()
