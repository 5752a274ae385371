"""Write a model card: the data a model was trained on, its scores, and how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from reactometer.inference.checkpoint import LoadedModel
from reactometer.models.architectures import ARCHITECTURES, ENCODER_LICENCES
from reactometer.paths import STARTER
from reactometer.terminal import format_score

CARD_FILE = "README.md"
MEASURES = {"Pearson": "pearson", "CCC": "ccc", "MAE": "mae"}


def model_card(model: LoadedModel, name: str, scores: Mapping[str, Any] | None = None) -> str:
    """Format a card as Markdown behind a YAML header.

    Args:
        model: a model, or an ensemble.
        name: its repository, ``owner/name``, or its folder.
        scores: ``metrics.json`` of ``evaluate``, measured after training.
    """
    command = f"reactometer predict video.mp4 -m {name}"
    if not (model.uses_face or model.uses_voice):
        command = f"reactometer evaluate DATA -m {name}   # DATA: features as in training, not videos"
    bases = sorted({base for member in model.members for base in _bases(member)})
    parts = [
        "---\nlibrary_name: reactometer\ntags: [emotional-reaction-intensity]\n"
        + (f"base_model: {json.dumps(bases)}\n" if bases else "")
        + f"---\n\n# {name.rpartition('/')[2]}",
        "Estimates how strongly a person in a video reacts: a number in [0, 1] for each of "
        f"{len(model.labels)} labels "
        f"({', '.join(model.labels)}). Made with reactometer {model.description.get('reactometer', '')}.",
        f"```sh\n{command}\n```",
        f"An ensemble of {len(model.ensemble)} models: their scores are averaged." if model.ensemble else "",
        *(_about(member) for member in model.members),
        _score_table(model.labels, scores) if scores else "",
        f"Predictions have {model.uncertainty.coverage:.0%} intervals (split-conformal), valid for clips "
        "like the "
        "calibration clips; `reactometer calibrate` fits them to yours."
        if model.uncertainty
        else "",
        "An intensity is what raters or the person reported for clips like the training clips. It is no "
        "reading of a "
        "mind and no diagnosis. It carries over to other people, cameras and cultures only as far as "
        "measured.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _bases(model: LoadedModel) -> list[str]:
    """Return the names of the known pretrained encoders that a model started from."""
    config = model.config.model
    encoders = model.description.get("encoders", {})
    names = {"face": config.encoder or ARCHITECTURES[config.name].encoder, "voice": config.voice_encoder}
    started = [name for modality, name in names.items() if encoders.get(modality, {}).get("pretrained")]
    return [name for name in started if name in ENCODER_LICENCES]


def _about(model: LoadedModel) -> str:
    """Describe the architecture, training data and validation scores of one model."""
    data = model.description.get("data", {})
    metrics = model.description.get("metrics", {})
    config = model.config
    lines = [f"Architecture: {config.model.name}."]
    lines += [f"Started from {base}, licence: {ENCODER_LICENCES[base]}." for base in _bases(model)]
    for modality, encoder in model.description.get("encoders", {}).items():
        if digest := encoder["settings"].get("sha256"):  # loaded from a file
            origin = "{file}, licence: {licence}, source: {source}".format_map(encoder["settings"])
            lines.append(f"Encoder of the {modality}: {origin}, SHA-256 {digest}.")
    if config.model.encoder == STARTER.name:
        lines.append("Started from the backbone of reactometer's starter model; its card states the licence.")
    if "name" in data:
        n_train = data.get("n_train_clips", "?")
        n_val = data.get("n_val_clips", "?")
        counts = f"{n_train} training clips, {n_val} validation clips"
        lines.append(f"Trained on {data['name']}: {counts}. Seed {config.training.seed}.")
    table = f"\n\n{_score_table(model.labels, metrics)}" if set(MEASURES.values()) <= set(metrics) else ""
    return "\n".join(lines) + table


def _score_table(labels: Sequence[str], metrics: Mapping[str, Any]) -> str:
    """Format one row per label, and their mean."""
    rows = {label: [metrics[key].get(label) for key in MEASURES.values()] for label in labels}
    rows["mean"] = [metrics.get(f"mean_{key}") for key in MEASURES.values()]
    split = metrics.get("split", "?")
    n_clips = metrics.get("n_clips", "?")
    overlap = metrics.get("training_overlap", {"note": "they chose the epoch" if split == "val" else ""})
    note = f" ({overlap['note']})" if overlap["note"] else ""
    lines = [f"Scores on the {n_clips} clips of the {split} split{note}:", ""]
    lines += [f"| | {' | '.join(MEASURES)} |", "| --- " * (len(MEASURES) + 1) + "|"]
    for label, values in rows.items():
        lines.append(f"| {label} | {' | '.join(map(format_score, values))} |")
    return "\n".join(lines)
