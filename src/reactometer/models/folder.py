"""A model folder: ``weights.safetensors`` and ``model.json``; it explains itself and can run no code."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from reactometer.config import Config, ModelConfig
from reactometer.data.batches import Sampling
from reactometer.errors import ModelError, ReactometerError
from reactometer.io import appearing, decoding, format_json, parse_json_object, sha256_of
from reactometer.models.engines import attach_engine, choose_engine, engine_folder
from reactometer.models.network import ReactionModel
from reactometer.models.scores import Score
from reactometer.models.strangers import check_fields, check_settings, check_shapes, checked_labels, make
from reactometer.models.uncertainty import REFERENCES_FILE, UNCERTAINTY_FILE, Uncertainty, load_uncertainty
from reactometer.models.zoo import Encoders, build_model, rebuild_encoders, sampling_of
from reactometer.records import FloatArray

FORMAT = 2
WEIGHTS_FILE, DESCRIPTION_FILE = "weights.safetensors", "model.json"
DEGRADATION_FILES = ("degradation.json", "degradation.png")
FILES = (DESCRIPTION_FILE, WEIGHTS_FILE, UNCERTAINTY_FILE, REFERENCES_FILE, *DEGRADATION_FILES)
"""All that a model folder may hold for this package, besides its card; only the first two are needed."""


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to score, with what it must be shown and what it says of itself; or an ensemble of such."""

    network: ReactionModel  # of an ensemble, its first member's
    labels: tuple[str, ...]
    sampling: Sampling
    config: Config
    description: Mapping[str, Any] = field(default_factory=dict)
    members: tuple[LoadedModel, ...] = ()  # of an ensemble: their scores are averaged
    uncertainty: Uncertainty | None = None  # what its predictions are worth; None: it was never calibrated
    engine: str = "torch"  # what runs its encoders

    @property
    def each(self) -> tuple[LoadedModel, ...]:
        """The members of an ensemble, or the model itself."""
        return self.members or (self,)

    def intensities_of(self, score: Score) -> FloatArray:
        """(L,) what a score says in the end: on the labels' scale where the model was recalibrated."""
        return self.uncertainty.recalibrate(score) if self.uncertainty else score.intensities


def save_model(
    folder: Path,
    network: ReactionModel,
    labels: Sequence[str],
    config: Config,
    *,
    data: Mapping[str, Any],
    metrics: Mapping[str, Any],
    finish: Callable[[Path], None] = lambda folder: None,
) -> Path:
    """Write a model folder; it appears whole or not at all.

    Args:
        folder: must not exist yet.
        network: the trained network.
        labels: L names, in the order of its outputs.
        config: everything it was made with.
        data: what it was trained on, as JSON can hold it.
        metrics: what it scored in training, as JSON can hold it.
        finish: adds to the folder before it appears.

    Raises:
        OutputError: the folder exists.
    """
    with appearing(folder) as partial:
        save_file(_as_kept(network, config.training.store), partial / WEIGHTS_FILE)
        (partial / WEIGHTS_FILE).chmod(0o644)
        about = {
            "config": config.model_dump(mode="json"),
            "encoders": Encoders(network.face_encoder, network.voice_encoder).describe(),
            "data": data,
            "metrics": metrics,
            "sha256": {WEIGHTS_FILE: sha256_of(partial / WEIGHTS_FILE)},
        }
        _write_description(partial, labels, about)
        finish(partial)
    return folder


def _as_kept(network: ReactionModel, store: str) -> dict[str, torch.Tensor]:
    """Every tensor as it is written; in half precision only matrices and kernels are, nearly all of a model."""
    halved = {name for name, weights in network.named_parameters() if store == "float16" and weights.ndim > 1}
    state = network.state_dict()
    return {name: (tensor.half() if name in halved else tensor).contiguous() for name, tensor in state.items()}


def _write_description(folder: Path, labels: Sequence[str], about: Mapping[str, Any]) -> None:
    head = {"format": FORMAT, "reactometer": version("reactometer"), "labels": list(labels)}
    (folder / DESCRIPTION_FILE).write_text(format_json({**head, **about}), encoding="utf-8")


def join_models(folders: Sequence[Path | str], out: Path | str) -> Path:
    """Write an ensemble: a model folder that holds copies of others and averages their scores.

    Args:
        folders: at least two model folders with the same labels, that are shown clips in the same way.
        out: must not exist yet.

    Raises:
        ModelError: fewer than two, or they do not go together.
        OutputError: ``out`` exists.
    """
    out = Path(out)
    if len(folders) < 2:
        raise ModelError("an ensemble needs several models", got=len(folders), expected="at least 2 model folders")
    members = [load_model(folder, "cpu") for folder in folders]
    for folder, member in zip(folders, members, strict=True):
        _check_same(member, members[0], folder, folders[0])
    with appearing(out) as partial:
        for number, folder in enumerate(folders):
            shutil.copytree(folder, partial / f"{number:02d}")
        names = [f"{number:02d}" for number in range(len(folders))]
        _write_description(partial, members[0].labels, {"members": names})
    return out


def load_model(folder: Path | str, device: str = "auto", engine: str = "torch") -> LoadedModel:
    """Read a model folder, check it, and put the network on a device in evaluation mode; needs no network.

    Args:
        folder: written by :func:`save_model` or :func:`join_models`.
        device: "auto" (a GPU if there is one), or a torch device such as "cpu" or "cuda:1".
        engine: what runs the encoders, one of :data:`~reactometer.models.engines.ENGINES`; "auto" is the fastest that
            the folder holds and this machine can run.

    Raises:
        ModelError: not a model folder, or a damaged one, or one that asks for code from elsewhere; no such engine.
    """
    folder = Path(folder)
    description = _read_description(folder)
    if "members" in description:
        names = description["members"]
        if not isinstance(names, list) or not names or not all(str(name).isdecimal() for name in names):
            raise ModelError(f"{folder}: an ensemble without members", fix="Copy it again from where it was made")
        if any("members" in _read_description(folder / str(name)) for name in names):
            raise ModelError(f"{folder}: an ensemble of ensembles", fix="Join the members themselves")
        members = tuple(load_model(folder / str(name), device, engine) for name in names)
        return replace(members[0], description=description, members=members, uncertainty=load_uncertainty(folder))
    try:
        check_fields(description)
        config = Config.model_validate(description["config"])
        labels, about = checked_labels(description["labels"]), description["encoders"]
        check_settings(about)
        network = _rebuild(folder / WEIGHTS_FILE, config.model, about, len(labels))
        weights = load_file(folder / WEIGHTS_FILE)
        if wrong := [name for name, own in weights.items() if not torch.isfinite(own).all()]:
            raise ValueError(f"weights that are no numbers, in {wrong[0]}")
        network.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError, ReactometerError) as error:
        raise ModelError(
            f"{folder}: damaged model folder: {str(error).splitlines()[0]}", fix="Copy it again from where it was made"
        ) from error
    place = choose_device(device)
    network.eval().to(place)
    chosen = choose_engine(folder, engine, place)
    attach_engine(network, chosen, engine_folder(folder, chosen), description["sha256"][WEIGHTS_FILE])
    sampling, sure = sampling_of(config.model, network), load_uncertainty(folder)
    return LoadedModel(network, labels, sampling, config, description, uncertainty=sure, engine=chosen)


def _rebuild(weights: Path, config: ModelConfig, about: Mapping[str, Any], n_labels: int) -> ReactionModel:
    """The network whose weights a file holds, which are still to be filled in.

    Encoders are made first, since the rest depends on how many features they give, which a picture tells that goes
    through them.
    """
    check_shapes(weights, lambda: nn.ModuleDict(_modules(rebuild_encoders(config, about, measured=False))), whole=False)
    encoders = make(lambda: rebuild_encoders(config, about))
    build = partial(build_model, config, encoders, [0.5] * n_labels)
    check_shapes(weights, build)
    return make(build)


def _modules(encoders: Encoders) -> dict[str, nn.Module]:
    """By the names they have in a model."""
    named = {"face_encoder": encoders.face, "voice_encoder": encoders.voice}
    return {name: encoder for name, encoder in named.items() if encoder is not None}


def choose_device(name: str) -> torch.device:
    """The device of a name: "auto" (a GPU if there is one), or one of torch's such as "cpu" or "cuda:1".

    Raises:
        ModelError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"device '{name}' cannot be used: {str(error).splitlines()[0]}", fix="Use 'auto' or 'cpu'"
        ) from error


def _check_same(member: LoadedModel, first: LoadedModel, folder: Path | str, first_folder: Path | str) -> None:
    if member.members:
        raise ModelError(f"{folder}: an ensemble already", fix="Name its members instead")
    for what, own, others in (
        ("labels", member.labels, first.labels),
        ("sampling", member.sampling, first.sampling),
        ("preparation", member.config.prepare, first.config.prepare),
        ("kind of features", _features(member), _features(first)),
    ):
        if own != others:
            raise ModelError(f"{folder}: another {what} than {first_folder}", got=str(own), expected=str(others))


def _features(model: LoadedModel) -> tuple[object, ...]:
    """What a model is given instead of media, and where its data have it from."""
    return model.network.given_sizes, model.config.data.face_features, model.config.data.voice_features


def _read_description(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ModelError(
            f"{folder}: no such model folder", fix="Give the folder that 'reactometer train' named at its end"
        )
    if not (folder / DESCRIPTION_FILE).is_file():
        inside = folder / "model"
        found = (inside / DESCRIPTION_FILE).is_file()
        fix = f"Give {inside}" if found else "Give the folder that 'reactometer train' named"
        raise ModelError(f"{folder}: not a model folder: no {DESCRIPTION_FILE}", fix=fix)
    with decoding(folder / DESCRIPTION_FILE, ModelError, "Copy the model again"):
        description = parse_json_object((folder / DESCRIPTION_FILE).read_bytes())
    if description.get("format") != FORMAT:
        raise ModelError(
            f"{folder}: another format of model folder",
            expected=f"format {FORMAT}",
            fix="Use the version of reactometer that wrote it",
        )
    if "members" in description:
        return description
    if not (folder / WEIGHTS_FILE).is_file():
        raise ModelError(f"{folder}: not a model folder: no {WEIGHTS_FILE}", fix="Copy the model again")
    with decoding(folder / DESCRIPTION_FILE, ModelError, "Copy the model again"):
        expected, got = description["sha256"].get(WEIGHTS_FILE), sha256_of(folder / WEIGHTS_FILE)
    if got != expected:
        raise ModelError(
            f"{folder / WEIGHTS_FILE}: not the weights that {DESCRIPTION_FILE} names",
            got=f"SHA-256 {got[:12]}…",
            expected=f"{str(expected)[:12]}…",
            fix="Copy the model again",
        )
    return description
