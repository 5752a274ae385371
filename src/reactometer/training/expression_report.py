"""How well a backbone tells expressions apart: figures, a card, and a picture of what it takes for what."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reactometer.config import PretrainConfig
from reactometer.data.labelled_faces import LabelledFaces
from reactometer.io import write_picture, write_whole

REPORT_FILE, CARD_FILE, PICTURE_FILE = "expressions.json", "README.md", "confusion.png"
LEVEL = 0.95


@dataclass(frozen=True)
class Recognition:
    """Scores of one split; all but ``without_mirror`` with the mirror image averaged in."""

    labels: tuple[str, ...]
    accuracy: float
    low: float  # ends of the interval of the accuracy
    high: float
    without_mirror: float  # accuracy from the picture alone
    confusion: np.ndarray  # (classes, classes) int64: pictures by true and by found class

    @property
    def n_pictures(self) -> int:
        """How many were scored."""
        return int(self.confusion.sum())

    @property
    def recall(self) -> np.ndarray:
        """(classes,) share of each class that was found; not a number for a class that is not there."""
        with np.errstate(invalid="ignore"):
            shares: np.ndarray = self.confusion.diagonal() / self.confusion.sum(1)
        return shares

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall over the classes that are there."""
        return float(np.nanmean(self.recall))


def measure_recognition(classes: np.ndarray, probabilities: np.ndarray, labels: Sequence[str]) -> Recognition:
    """Score a split.

    Args:
        classes: (N,) true classes.
        probabilities: (N, 2, classes), as :func:`~reactometer.training.expressions.recognise` gives them.
        labels: names of the classes.

    Returns:
        Accuracy with its Wilson interval (Wilson 1927, as SciPy's ``binomtest`` has it), and the confusion matrix.
    """
    from scipy.stats import binomtest

    alone, mirrored = probabilities.argmax(2).T  # (N,) each
    correct = int((mirrored == classes).sum())
    interval = binomtest(correct, len(classes)).proportion_ci(LEVEL, method="wilson")
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(confusion, (classes, mirrored), 1)
    return Recognition(
        tuple(labels),
        correct / len(classes),
        float(interval.low),
        float(interval.high),
        float((alone == classes).mean()),
        confusion,
    )


def write_report(
    folder: Path, config: PretrainConfig, faces: LabelledFaces, scores: Mapping[str, Recognition], *, epoch: int
) -> None:
    """Write ``expressions.json``, the card ``README.md`` and ``confusion.png`` into a backbone's folder."""
    counts = {name: len(split.pictures) for name, split in faces.splits.items()}
    about: dict[str, Any] = {
        "labels": list(faces.labels),
        "data": {"name": faces.name, "pictures": counts, "unreadable": len(faces.unreadable), "grey": faces.grey},
        "config": config.model_dump(mode="json"),
        "epoch": epoch,
        "scores": {split: _as_json(score) for split, score in scores.items()},
    }
    write_whole(folder / REPORT_FILE, json.dumps(about, indent=2) + "\n")
    write_whole(folder / CARD_FILE, _card(config, faces, scores, epoch))
    _draw(list(scores.items())[-1], folder / PICTURE_FILE)


def read_scores(folder: Path) -> dict[str, dict[str, Any]]:
    """What ``expressions.json`` says of each split that was scored."""
    scores: dict[str, dict[str, Any]] = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))["scores"]
    return scores


def _as_json(score: Recognition) -> dict[str, Any]:
    return {
        "pictures": score.n_pictures,
        "accuracy": score.accuracy,
        "interval": [score.low, score.high],
        "level": LEVEL,
        "without_mirror": score.without_mirror,
        "balanced_accuracy": score.balanced_accuracy,
        "recall": {
            label: None if np.isnan(share) else float(share)
            for label, share in zip(score.labels, score.recall, strict=True)
        },
        "confusion": score.confusion.tolist(),
    }


def _card(config: PretrainConfig, faces: LabelledFaces, scores: Mapping[str, Recognition], epoch: int) -> str:
    counts = ", ".join(f"{len(split.pictures)} {name}" for name, split in faces.splits.items())
    head = [
        "---",
        "library_name: transformers",
        "tags: [facial-expression-recognition]",
        "---",
        "",
        f"# A frame encoder that tells {len(faces.labels)} expressions apart",
        "",
        f"`{config.backbone.encoder}` at {config.backbone.size_px} x {config.backbone.size_px} px"
        f"{', grey' if faces.grey else ''}, taught with `reactometer pretrain` on `{faces.name}` ({counts} pictures); "
        f"epoch {epoch} of {config.training.epochs}, chosen by accuracy on val. Use it with "
        "`reactometer train CONFIG model.encoder=THIS_FOLDER`, or with transformers' `AutoModel`.",
        "",
        "It knows posed or found pictures and the classes they were given, not what a person feels. Whether it may be "
        "used, and for what, follows from the terms of the pictures and of the weights it started from.",
        "",
        "| split | pictures | accuracy | 95 % interval | without mirror image | balanced | "
        + " | ".join(faces.labels)
        + " |",
        "| --- " * (6 + len(faces.labels)) + "|",
    ]
    rows = [
        f"| {split} | {score.n_pictures} | **{score.accuracy:.3f}** | {score.low:.3f} to {score.high:.3f} | "
        f"{score.without_mirror:.3f} | {score.balanced_accuracy:.3f} | "
        + " | ".join("" if np.isnan(share) else f"{share:.3f}" for share in score.recall)
        + " |"
        for split, score in scores.items()
    ]
    notes = [
        "",
        "Accuracy: the class with the largest mean probability of a picture and its mirror image; interval: Wilson's; "
        "balanced: mean of the recalls, which are given by class.",
        "",
    ]
    return "\n".join([*head, *rows, *notes])


def _draw(named: tuple[str, Recognition], path: Path) -> None:
    from matplotlib.figure import Figure

    split, score = named
    shares = score.confusion / np.maximum(score.confusion.sum(1, keepdims=True), 1)
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*shares.shape):
        color = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, f"{shares[row, column]:.2f}", ha="center", va="center", color=color, fontsize=8)
    places = range(len(score.labels))
    axes.set_xticks(places, score.labels, rotation=45, ha="right")
    axes.set_yticks(places, score.labels)
    axes.set(xlabel="found", ylabel="true", title=f"{split}: accuracy {score.accuracy:.3f} of {score.n_pictures}")
    write_picture(figure, path, dpi=120)
