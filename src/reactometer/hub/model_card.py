"""A model folder -> its model card: what it was trained on, how it scored, how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reactometer.io import write_whole
from reactometer.models.backbones import STARTER_NAME
from reactometer.models.folder import LoadedModel, load_model
from reactometer.models.registry import PRETRAINED, SYSTEMS
from reactometer.models.uncertainty import Uncertainty

CARD_FILE = "README.md"
ROLES = {
    "test": "which had no part in training",
    "val": "on which its epoch was chosen",
    "all": "among them those that it was trained on",
}
"""What the clips of a split are to a model."""

MEASURES = {"Pearson": "pearson", "CCC": "ccc", "MAE": "mae"}


def write_card(folder: Path | str, scores: Path, out: Path) -> Path:
    """Write a checkpoint's card from what the checkpoint says of itself and from scores measured after training.

    Args:
        folder: a checkpoint, or an ensemble's.
        scores: ``metrics.json`` of ``evaluate``.
        out: the Markdown file to write.

    Raises:
        ModelError: the checkpoint is incomplete or damaged.
        OutputError: the file cannot be written.
    """
    measured = json.loads(scores.read_text(encoding="utf-8"))
    return write_whole(out, model_card(load_model(folder, "cpu"), Path(folder).resolve().name, measured))


def model_card(model: LoadedModel, name: str, scores: Mapping[str, Any] | None = None) -> str:
    """The card as Markdown behind a YAML header, from what the model says of itself.

    Args:
        model: a model, or an ensemble.
        name: of its repository, ``owner/name``; or of its folder, where it is in none.
        scores: what ``evaluate`` measured after training, as in its ``metrics.json``.
    """
    download = [f"reactometer download {name} --to models"] if "/" in name else []
    header: dict[str, object] = {"library_name": "reactometer", "tags": ["emotional-reaction-intensity"]}
    if bases := list(dict.fromkeys(base for member in model.each for base in _bases(member))):
        header["base_model"] = bases
    yaml = [f"{key}: {json.dumps(value)}" for key, value in header.items()]
    parts = [
        "\n".join(["---", *yaml, "---", "", f"# {name.rpartition('/')[2]}"]),
        f"Estimates how strongly a person in a video reacts: a number in [0, 1] for each of {len(model.labels)} labels "
        f"({', '.join(model.labels)}). Made with reactometer {model.description.get('reactometer', '')}; weights in "
        "safetensors and a description in JSON: loading it runs no code.",
        "\n".join(["```sh", *download, _use(model, name), "```"]),
        f"An ensemble of {len(model.members)} models: their scores are averaged." if model.members else "",
        *(_about(member) for member in model.each),
        _scores(model.labels, scores) if scores else "",
        _sure(model.uncertainty) if model.uncertainty else "",
        "An intensity is what raters or the person reported for clips like those it was trained on. It is no reading "
        "of a mind, no diagnosis, and it carries over to other people, cameras and cultures only as far as measured.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _use(model: LoadedModel, name: str) -> str:
    folder = f"models/{name.replace('/', '--')}" if "/" in name else name
    if model.network.given_sizes:
        return f"reactometer evaluate --model {folder} DATA   # DATA: features as in training, not videos"
    return f"reactometer predict --model {folder} video.mp4"


def _bases(model: LoadedModel) -> list[str]:
    """The well-known encoders that a model started from."""
    config, about = model.config.model, model.description.get("encoders", {})
    names = {"face": config.encoder or SYSTEMS[config.name].encoder, "voice": config.voice_encoder}
    started = [name for modality, name in names.items() if about.get(modality, {}).get("pretrained")]
    return [name for name in started if name in PRETRAINED]


def _about(model: LoadedModel) -> str:
    """System, data and scores of one model."""
    data, metrics, inputs = (model.description.get(key, {}) for key in ("data", "metrics", "encoders"))
    name = model.config.model.name
    kinds = "; ".join(f"{modality}: {_kind(about)}" for modality, about in inputs.items())
    lines = [f"System: {name}. {kinds}; joined by: {SYSTEMS[name].head}."]
    lines += [f"Started from {base}, licence: {PRETRAINED[base].licence}." for base in _bases(model)]
    if model.config.model.encoder == STARTER_NAME:
        lines.append("Started from the expression backbone of reactometer's starter model; its card tells the licence.")
    if "name" in data:
        counts = f"{data.get('n_train_clips', '?')} clips to learn from, {data.get('n_val_clips', '?')} to choose on"
        lines.append(f"Trained on {data['name']}: {counts}. Seed {model.config.training.seed}.")
    own = f"\n\n{_scores(model.labels, metrics)}" if set(MEASURES.values()) <= set(metrics) else ""
    return "\n".join(lines) + own


def _kind(about: Mapping[str, Any]) -> str:
    """What encodes a modality, from its description in ``model.json``."""
    if "given" in about:
        return f"{about['given']} given features a step"
    if "contours" in about:
        return "MFCCs and pitch"
    if "convolution" in about:
        return f"convolutions over {about['convolution']} given features a step"
    return f"{about['config']['model_type']} of transformers" if "config" in about else "log-mel network"


def _scores(labels: Sequence[str], metrics: Mapping[str, Any]) -> str:
    """A table with a row a label; the card says what these clips were to the model."""
    rows = {label: [metrics[key].get(label) for key in MEASURES.values()] for label in labels}
    rows["mean"] = [metrics.get(f"mean_{key}") for key in MEASURES.values()]
    clips = f"{metrics.get('n_clips', '?')} clips of the {metrics.get('split', '?')} split"
    lines = [f"Scores on the {clips}, {ROLES.get(metrics.get('split', ''), ROLES['all'])}:", ""]
    lines += ["| | " + " | ".join(MEASURES) + " |", "| --- " * (len(MEASURES) + 1) + "|"]
    lines += [f"| {label} | " + " | ".join(_shown(value) for value in values) + " |" for label, values in rows.items()]
    return "\n".join(lines)


def _sure(uncertainty: Uncertainty) -> str:
    """How wide its intervals are, and what they were fitted to."""
    own = uncertainty.fitted_on
    widths = "; ".join(
        f"by {name} ± {min(basis.half_widths):.2f} to {max(basis.half_widths):.2f}"
        for name, basis in uncertainty.bases.items()
    )
    mapped = " Predictions go through a monotone curve a label." if uncertainty.recalibration else ""
    return (
        f"Intervals for {uncertainty.coverage:.0%} of labels (split-conformal, fitted on {own.get('n_clips', '?')} "
        f"clips, {own.get('name', '?')}, {own.get('split', '?')}): {widths}.{mapped} They hold for clips like those; "
        "`reactometer calibrate` fits them to yours."
    )


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
