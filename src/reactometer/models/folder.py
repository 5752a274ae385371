"""A model folder: ``weights.safetensors`` and ``model.json``; it explains itself and can run no code."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from threading import get_ident
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.functional_validators import AfterValidator
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from reactometer.config import Config, ModelConfig
from reactometer.data.batches import Sampling
from reactometer.errors import ModelError
from reactometer.io import appearing, decoding, format_json, parse_json_object, sha256_of
from reactometer.models.engines import attach_engine, choose_engine, engine_folder
from reactometer.models.model import ReactionModel
from reactometer.models.registry import Encoders, build_model, rebuild_encoders, sampling_of
from reactometer.models.scores import Score
from reactometer.models.uncertainty import REFERENCES_FILE, UNCERTAINTY_FILE, Uncertainty, load_uncertainty
from reactometer.types import FloatArray

FORMAT = 3
WEIGHTS_FILE, DESCRIPTION_FILE = "weights.safetensors", "model.json"
DEGRADATION_FILES = ("degradation.json", "degradation.png")
FILES = (DESCRIPTION_FILE, WEIGHTS_FILE, UNCERTAINTY_FILE, REFERENCES_FILE, *DEGRADATION_FILES)
"""All that a model folder may hold for this package, besides its card; only the first two are needed."""

AGAIN = "Copy it again from where it was made"

MAX_DESCRIPTION_BYTES, MAX_LABEL_CHARACTERS = 2**24, 100
MAX_NUMBER, MAX_PATCHES = 2**20, 2**16
"""Of an encoder's settings: the largest whole number, and the most patches of all its frames; our choice."""

SIDES, FRAMES = ("image_size", "crop_size"), ("num_frames", "frames_per_clip")
USUAL_SIDE_PX, USUAL_PATCH_PX = 224, 16  # where the settings leave it to the network


def _check_label(label: str) -> str:
    """Refuse names that a terminal or a spreadsheet would act on."""
    if not (label.isprintable() and 0 < len(label) <= MAX_LABEL_CHARACTERS and label[0] not in "=+-@"):
        raise ValueError(f"a label that is no name: {label[:40]!r}")
    return label


def _check_unique(labels: list[str]) -> list[str]:
    if len(set(labels)) < len(labels):
        raise ValueError("a label is named twice")
    return labels


class _Strict(BaseModel):
    """A part of ``model.json``: no unknown field, no conversion of values."""

    model_config = ConfigDict(extra="forbid", strict=True)


class _EncoderDescription(_Strict):
    """An encoder of given features, of contours, of steps, of a log-mel spectrogram (no field), or of transformers."""

    given: int | None = None
    contours: int | None = None
    convolution: int | None = None
    config: dict[str, Any] | None = None
    settings: dict[str, Any] | None = None
    has_pooler: bool | None = None
    pretrained: bool | None = None
    pooling: Literal["network", "grid"] = "network"


class _Head(_Strict):
    """The description that models and ensembles share."""

    format: int
    reactometer: str
    labels: Annotated[
        list[Annotated[str, AfterValidator(_check_label)]], Field(min_length=1), AfterValidator(_check_unique)
    ]


class _Description(_Head):
    """The description of one model."""

    config: Config
    encoders: dict[Literal["face", "voice"], _EncoderDescription]
    data: dict[str, Any]
    metrics: dict[str, Any]
    sha256: dict[str, str]


class _EnsembleDescription(_Head):
    """The description of an ensemble; its members lie in folders inside its own."""

    members: Annotated[list[Annotated[str, StringConstraints(pattern=r"^[0-9]+$")]], Field(min_length=1)]


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
    """Write a model folder; it appears whole or not at all, after ``finish`` has added to it.

    ``data`` and ``metrics`` describe the training data and the validation scores, as JSON can hold them.

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

    Raises:
        ModelError: there are fewer than two folders, or their models differ in labels, inputs or preparation.
        OutputError: ``out`` exists.
    """
    out = Path(out)
    if len(folders) < 2:
        raise ModelError("an ensemble needs several models", got=len(folders), expected="at least 2 model folders")
    members = [load_model(folder, "cpu") for folder in folders]
    for folder, member in zip(folders, members, strict=True):
        if member.members:
            raise ModelError(f"{folder}: an ensemble already", fix="Name its members instead")
        for (trait, got), expected in zip(_traits(member).items(), _traits(members[0]).values(), strict=True):
            if got != expected:
                raise ModelError(f"{folder}: another {trait} than {folders[0]}", got=str(got), expected=str(expected))
    names = [f"{number:02d}" for number in range(len(folders))]
    with appearing(out) as partial:
        for name, folder in zip(names, folders, strict=True):
            shutil.copytree(folder, partial / name)
        _write_description(partial, members[0].labels, {"members": names})
    return out


def load_model(folder: Path | str, device: str = "auto", engine: str = "torch") -> LoadedModel:
    """Read a model folder, check it, and put the network on a device in evaluation mode; needs no network.

    Args:
        folder: written by :func:`save_model` or :func:`join_models`.
        device: "auto" (a GPU if there is one), or a torch device such as "cpu" or "cuda:1".
        engine: what runs the encoders, one of :data:`~reactometer.models.engines.ENGINES`; "auto" runs exported graphs
            if the folder has them.

    Raises:
        ModelError: not a model folder, or a damaged one, or one that asks for code from elsewhere; no such engine.
    """
    folder = Path(folder)
    description = _read_description(folder)
    if "members" in description:
        names = description["members"]
        if any("members" in _read_description(folder / name) for name in names):
            raise ModelError(f"{folder}: an ensemble of ensembles", fix="Join the members themselves")
        members = tuple(load_model(folder / name, device, engine) for name in names)
        return replace(members[0], description=description, members=members, uncertainty=load_uncertainty(folder))
    config, labels = Config.model_validate(description["config"]), tuple(description["labels"])
    try:
        network = _rebuild(folder / WEIGHTS_FILE, config.model, description["encoders"], len(labels))
        weights = load_file(folder / WEIGHTS_FILE)
        if wrong := [name for name, own in weights.items() if not torch.isfinite(own).all()]:
            raise ValueError(f"weights that are no numbers, in {wrong[0]}")
        network.load_state_dict(weights)
    except Exception as error:  # of settings that make no sense, networks raise any class
        reason = (str(error).splitlines() or [""])[0]
        reason = reason if isinstance(error, ValueError) else f"{type(error).__name__}: {reason}"
        raise ModelError(f"{folder}: damaged model folder: {reason}", fix=AGAIN) from error
    place = choose_device(device)
    network.eval().to(place)
    chosen = choose_engine(folder, engine, place)
    attach_engine(network, chosen, engine_folder(folder, chosen), description["sha256"][WEIGHTS_FILE])
    sampling, sure = sampling_of(config.model, network), load_uncertainty(folder)
    return LoadedModel(network, labels, sampling, config, description, uncertainty=sure, engine=chosen)


def _rebuild(weights: Path, config: ModelConfig, about: Mapping[str, Any], n_labels: int) -> ReactionModel:
    """Build the network that a file holds the weights of, once its settings and sizes are known to be harmless."""
    _check_settings(about)
    with safe_open(weights, framework="pt") as file:
        shapes = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    features = (shapes.get("face_scale.mean") or [0])[0]  # a forward pass would have to be made to measure them
    finish = partial(build_model, config, label_mean=[0.5] * n_labels)
    _check_shapes(shapes, lambda: finish(rebuild_encoders(config, about, face_feature_size=features)))
    encoders = rebuild_encoders(config, about)
    if encoders.face is not None and encoders.face.feature_size != features:
        raise ValueError(f"weights of another shape than its settings name: face_scale.mean, [{features}]")
    return finish(encoders)


def _check_shapes(shapes: Mapping[str, list[int]], build: Callable[[], nn.Module]) -> None:
    """Raise ValueError if a network has other tensors than a file of weights, before any of them is allocated.

    PyTorch's device without memory ("meta") builds the network, and stops when there are more parameters than weights.
    Nothing may be computed there: for that, PyTorch imports its compiler, which takes a second.
    """
    thread, left = get_ident(), 2 * len(shapes) + 100  # some parameters are replaced, or left out again

    def count(module: nn.Module, name: str, parameter: object) -> None:
        nonlocal left
        left -= get_ident() == thread
        if left < 0:
            raise ValueError("its settings name more layers than there are weights")

    counting = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            expected = {name: list(tensor.shape) for name, tensor in build().state_dict().items()}
    finally:
        counting.remove()
    for name in [*expected, *shapes]:
        if expected.get(name) != shapes.get(name):
            raise ValueError(f"weights of another shape than its settings name: {name}, {shapes.get(name, 'none')}")


def _check_settings(settings: object) -> None:
    """Refuse encoder settings that name code of the Hub, which would be fetched, or that are beyond reason.

    The latter bounds what networks compute in lists and loops of Python while they are built: numbers of layers and of
    patches. :func:`_check_shapes` bounds the tensors.
    """
    for table in _tables_in(settings):
        for key, value in table.items():
            is_kernel = "implementation" in key and value not in (None, True, False, "eager", "sdpa")
            if is_kernel or (key == "architecture" and ":" in str(value)):
                raise ValueError(f"its encoder asks for code or a network from elsewhere: {key} = {value!r}")
            if any(abs(number) > MAX_NUMBER for number in _numbers([value])):
                raise ValueError(f"its encoder's settings are beyond reason: {key} = {str(value)[:60]}")
        side_px = max(_numbers([table.get(name) for name in SIDES]), default=USUAL_SIDE_PX)
        frames = max(_numbers([table.get(name) for name in FRAMES]), default=1)
        patch_px = max(1, min(_numbers([table.get("patch_size")]), default=USUAL_PATCH_PX))
        if (side_px / patch_px) ** 2 * frames > MAX_PATCHES:
            shape = f"{frames} frames of {side_px} px in patches of {patch_px} px"
            raise ValueError(f"its encoder's settings are beyond reason: {shape}; {MAX_PATCHES} patches at most")


def _tables_in(settings: object) -> Iterator[Mapping[str, Any]]:
    """Yield every object of parsed JSON, at any depth."""
    if isinstance(settings, dict):
        yield settings
    inner = settings.values() if isinstance(settings, dict) else settings if isinstance(settings, list) else ()
    for value in inner:
        yield from _tables_in(value)


def _numbers(values: Sequence[object]) -> list[float]:
    """Return the numbers among values and in the lists among them."""
    found: list[float] = []
    for value in values:
        if isinstance(value, list):
            found += _numbers(value)
        elif isinstance(value, int | float):
            found.append(value)
    return found


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


def _traits(model: LoadedModel) -> dict[str, object]:
    """Return what all members of an ensemble must have in common."""
    data = model.config.data
    return {
        "labels": model.labels,
        "sampling": model.sampling,
        "preparation": model.config.prepare,
        "kind of features": (model.network.given_sizes, data.face_features, data.voice_features),
    }


def _read_description(folder: Path) -> dict[str, Any]:
    file, inside = folder / DESCRIPTION_FILE, folder / "model"
    if not file.is_file():
        found = (inside / DESCRIPTION_FILE).is_file()
        fix = f"Give {inside}" if found else "Give the folder that 'reactometer train' named"
        problem = f"not a model folder: no {DESCRIPTION_FILE}" if folder.is_dir() else "no such model folder"
        raise ModelError(f"{folder}: {problem}", fix=fix)
    with decoding(file, ModelError, AGAIN):
        if (n_bytes := file.stat().st_size) > MAX_DESCRIPTION_BYTES:
            raise ValueError(f"{n_bytes} bytes, more than {MAX_DESCRIPTION_BYTES}")
        text = file.read_bytes()
        description = parse_json_object(text)
    if description.get("format") != FORMAT:
        raise ModelError(
            f"{folder}: another format of model folder",
            expected=f"format {FORMAT}",
            fix="Use the version of reactometer that wrote it",
        )
    is_ensemble = "members" in description
    try:
        (_EnsembleDescription if is_ensemble else _Description).model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{DESCRIPTION_FILE}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise ModelError(f"{folder}: damaged model folder: {reason}", fix=AGAIN) from error
    if is_ensemble:
        return description
    if not (folder / WEIGHTS_FILE).is_file():
        raise ModelError(f"{folder}: not a model folder: no {WEIGHTS_FILE}", fix=AGAIN)
    expected, got = description["sha256"].get(WEIGHTS_FILE), sha256_of(folder / WEIGHTS_FILE)
    if got != expected:
        raise ModelError(
            f"{folder / WEIGHTS_FILE}: not the weights that {DESCRIPTION_FILE} names",
            got=f"SHA-256 {got[:12]}…",
            expected=f"{str(expected)[:12]}…",
            fix=AGAIN,
        )
    return description
