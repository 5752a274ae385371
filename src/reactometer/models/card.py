"""A model folder -> its model card: what it was trained on, how it scored, how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reactometer.errors import OutputError
from reactometer.io import write_whole
from reactometer.models.backbones import STARTER_NAME
from reactometer.models.folder import LoadedModel, load_model
from reactometer.models.pretrained import PRETRAINED
from reactometer.models.uncertainty import Uncertainty
from reactometer.models.zoo import SYSTEMS

CARD_FILE = "README.md"
ROLES = {
    "test": "which had no part in training",
    "val": "on which its epoch was chosen",
    "all": "among them those that it was trained on",
}
"""What the clips of a split are to a model."""

MEASURES = {"Pearson": "pearson", "CCC": "ccc", "MAE": "mae"}


def write_card(folder: Path, model: LoadedModel, name: str, scores: Mapping[str, Any] | None = None) -> bool:
    """Write a model folder's README.md, unless it has one; returns whether it was written.

    Raises:
        OutputError: the folder cannot be written into.
    """
    if (folder / CARD_FILE).exists():
        return False
    write_whole(folder / CARD_FILE, model_card(model, name, scores))
    return True


def card(folder: Path | str, scores: Path | str | None = None) -> Path:
    """Write a model folder's card, README.md, from what the model says of itself and what it scored.

    Args:
        folder: a model folder, or an ensemble's.
        scores: ``metrics.json`` of ``evaluate``, or the folder that it is in.

    Raises:
        ModelError: not a whole model folder.
        OutputError: it has a card, the folder cannot be written into, or these are no scores.
    """
    folder = Path(folder)
    model = load_model(folder, "cpu")
    measured = None if scores is None else _read_scores(Path(scores), model.labels)
    if not write_card(folder, model, folder.resolve().name, measured):
        raise OutputError(f"{folder / CARD_FILE}: is there already", fix="Move it away to have it written anew")
    return folder / CARD_FILE


def model_card(model: LoadedModel, name: str, scores: Mapping[str, Any] | None = None) -> str:
    """The card as Markdown behind a YAML header, from what the model says of itself.

    Args:
        model: a model, or an ensemble.
        name: of its repository, ``owner/name``; or of its folder, where it is in none.
        scores: what ``evaluate`` measured after training, as in its ``metrics.json``.
    """
    pull = [f"reactometer pull {name} model"] if "/" in name else []
    header: dict[str, object] = {"library_name": "reactometer", "tags": ["emotional-reaction-intensity"]}
    if bases := list(dict.fromkeys(base for member in model.each for base in _bases(member))):
        header["base_model"] = bases
    yaml = [f"{key}: {json.dumps(value)}" for key, value in header.items()]
    parts = [
        "\n".join(["---", *yaml, "---", "", f"# {name.rpartition('/')[2]}"]),
        f"Estimates how strongly a person in a video reacts: a number in [0, 1] for each of {len(model.labels)} labels "
        f"({', '.join(model.labels)}). Made with reactometer {model.description.get('reactometer', '')}; weights in "
        "safetensors and a description in JSON: loading it runs no code.",
        "\n".join(["```sh", *pull, _use(model), "```"]),
        f"An ensemble of {len(model.members)} models: their scores are averaged." if model.members else "",
        *(_about(member) for member in model.each),
        _scores(model.labels, scores) if scores else "",
        _sure(model.uncertainty) if model.uncertainty else "",
        "An intensity is what raters or the person reported for clips like those it was trained on. It is no reading "
        "of a mind, no diagnosis, and it carries over to other people, cameras and cultures only as far as measured.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _use(model: LoadedModel) -> str:
    if model.network.given_sizes:
        return "reactometer evaluate --model model DATA   # with the features that it was trained on, not with videos"
    return "reactometer predict --model model video.mp4"


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


def _read_scores(path: Path, labels: Sequence[str]) -> dict[str, Any]:
    file = path / "metrics.json" if path.is_dir() else path
    try:
        scores: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        known = set(scores["pearson"]) == set(labels)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{file}: no scores: {error}", fix="Give the folder that 'reactometer evaluate --out FOLDER' wrote"
        ) from error
    if not known:
        raise OutputError(f"{file}: scores of another model", expected=f"labels {', '.join(labels)}")
    return scores


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
