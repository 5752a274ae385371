"""The typed configuration: every default lives here; a TOML file is read into it and ``key=value`` goes on top."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from reactometer.errors import ConfigError, suggestion

FOLDER = Path(__file__).with_name("configs")
"""The configurations that come with the package."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]


class _Section(BaseModel):
    """Settings: no unknown key, no change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PrepareConfig(_Section):
    """How a file becomes face crops and sound; part of what makes a cache fresh or stale."""

    detector: Literal["auto", "yunet", "haar"] = "auto"
    """YuNet where its weights are had, else Haar; or the one named."""
    rate_hz: Annotated[float, Field(gt=0.0, le=240.0)] = 6.0
    """Frames looked at per second of video; 32 frames of an 11 s clip with room for jitter."""
    size_px: Annotated[int, Field(ge=16, le=1024)] = 224
    """Side of the square face crops, pixels."""


class DataConfig(_Section):
    """Which data set to read, and where its prepared clips are kept."""

    path: Path | None = None
    """A data set (folder or CSV), or a folder written by ``reactometer prepare``."""
    cache: Path | None = None
    """Where prepared clips are kept when ``path`` is not prepared yet; default: in the user's cache folder."""
    labels: str | tuple[str, ...] | None = None
    """A label set ("hume-reaction", "emi", "basic"), a list of column names, or nothing: found in the table."""
    face_features: str | None = None
    """Features instead of media: columns of the table ("AU*", several with commas)."""
    voice_features: str | None = None
    """The same for the voice ("voice_*")."""
    votes: Literal["both", "face", "voice"] = "both"
    """CREMA-D: the raters' votes to learn, of those who had seen and heard the clip, seen it, or heard it."""
    folds: Annotated[int, Field(ge=0)] = 0
    """Train and val together cut into so many folds, nobody in two of them; 0: the splits as they are."""
    fold: Annotated[int, Field(ge=0)] = 0
    """The fold to validate on, from 0."""
    allow_leak: bool = False
    """Train although people or stimuli are in more than one split."""


class ModelConfig(_Section):
    """Which network; the defaults are the headline system, a pre-trained ResNet50 over the frames."""

    name: str = "resnet50"
    """A system: "resnet50", "resnet50-gru", "vit-transformer", "videomae" (face) or "multimodal" (face and voice)."""
    encoder: str | None = None
    """Of the face: "starter" (the backbone inside the package), a Hugging Face name, a folder, or "random:NAME" for
    random weights; default: the system's own."""
    voice_encoder: str = "log-mel"
    """"log-mel" (a small network, no download), "contours" (MFCCs and pitch, nothing learned: for few clips, with
    ``frozen``), a HuBERT or wav2vec 2.0 by name, folder or "random:NAME"; "convolution": over given features."""
    modalities: Literal["both", "face", "voice"] = "both"
    """What a model of face and voice is given, in training and after."""
    pooling: Literal["network", "grid"] = "network"
    """How a map becomes a vector: the encoder's own way, or 4 x 4 places kept apart (of a clip, each over time)."""
    frozen: bool = False
    """Leave the pre-trained encoders as they came: their features are computed once, and the head trains in seconds."""
    person_norm: bool = False
    """Normalise each feature by its person's own mean and spread, without labels; needs frozen encoders or features."""
    n_frames: Annotated[int, Field(ge=1, le=1024)] = 32
    """Frames of a clip that the model is shown, evenly spaced."""
    size_px: Annotated[int, Field(ge=16, le=1024)] = 224
    """Side of the encoder's input, pixels; crops are resized to it."""
    crop_share: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of the prepared crop's side that the encoder sees, its middle; less for one trained on tight crops."""
    hidden: Annotated[int, Field(ge=1, le=8192)] = 128
    """Width of the GRU, the transformers and the joint of face and voice."""
    layers: Annotated[int, Field(ge=0, le=24)] = 2
    """Of the transformers; 0, in the model of face and voice: none."""
    attention_heads: Annotated[int, Field(ge=1)] = 4
    """Of the transformers; divides ``hidden``."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    """Inside the head."""
    input_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Of features that are given or come from a frozen encoder, in the model of face and voice."""
    modality_dropout: Share = 0.2
    """Chance in training that a clip with face and voice loses one of the two."""


class TrainingConfig(_Section):
    """How a model is fitted."""

    out: Path | None = None
    """The run's folder; default: runs/<name of the configuration file>."""
    epochs: Annotated[int, Field(ge=1)] = 20
    """At most; the best by val is kept."""
    batch_size: Annotated[int, Field(ge=1)] = 8
    """Clips of a batch."""
    accumulate: Annotated[int, Field(ge=1)] = 2
    """Batches per step of the optimiser."""
    learning_rate: Positive = 1e-3
    """Peak rate of the head (and of everything that starts from random weights)."""
    encoder_learning_rate: Positive = 1e-4
    """Peak rate of a pre-trained encoder."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.05
    """Of AdamW."""
    warmup_share: Share = 0.1
    """Share of all steps over which the rate rises to its peak; then it falls as a cosine."""
    gradient_clip: Annotated[float, Field(ge=0.0)] = 1.0
    """Largest norm of the gradient; 0 for no limit."""
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    """Decay of the averaged weights, which are the ones kept; 0 for none."""
    patience: Annotated[int, Field(ge=1)] = 5
    """Epochs without a better validation score before training stops."""
    augment: bool = True
    """Mirror, shift, scale and light the crops at random, the same way for all frames of a clip."""
    seed: int = 0
    """Of weights, order, augmentation: the same seed on the same machine gives the same model."""
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Processes that decode crops beside the training; 0: none. "auto": none on a CPU, up to 8 on a GPU."""
    accelerator: str = "auto"
    """As Lightning has it: "auto", "cpu", "gpu", "mps"."""
    devices: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Number of GPUs, or of processes on the CPU; "auto": all GPUs, or one process. torchrun's number wins."""
    store: Literal["float32", "float16"] = "float32"
    """How the weights of the finished model are kept; "float16" takes half the room, and 3 digits of each remain."""
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    """As Lightning has it; "bf16-mixed" on a GPU that knows it."""
    loss: Literal["mse", "mse+pearson", "ccc"] = "mse"
    """Mean squared error, the same with 1 - Pearson over the batch, or 1 - CCC over the batch."""


class Config(_Section):
    """All of it: one section a table of the TOML file."""

    data: DataConfig = DataConfig()
    prepare: PrepareConfig = PrepareConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Read a TOML file, put ``section.key=value`` overrides on top, and check it all.

    Args:
        path: the file, or the name of one that comes with the package, e.g. ``resnet50``.
        overrides: later ones win.

    Raises:
        ConfigError: the file is missing or no TOML, a key is unknown, or a value is out of its range.
    """
    path = find_config(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a TOML file: {error}", fix="Mend the line named") from error
    for override in overrides:
        apply_override(table, override)
    config = parse_config(table, str(path))
    if config.training.out is None:
        training = config.training.model_copy(update={"out": Path("runs") / path.stem})
        config = config.model_copy(update={"training": training})
    return config


def find_config(name: Path | str) -> Path:
    """Return the TOML file of this path, or else the packaged one of this name: ``resnet50``, ``small/resnet50``.

    Raises:
        ConfigError: neither exists.
    """
    if (path := Path(name)).is_file():
        return path
    known = {file.relative_to(FOLDER).with_suffix("").as_posix(): file for file in sorted(FOLDER.rglob("*.toml"))}
    if (packaged := known.get(path.as_posix())) is None:
        fix = f"Give the path of a TOML file, or the name of one inside the package. {suggestion(path.stem, known)}"
        raise ConfigError(f"{path}: no such configuration file", fix=fix)
    return packaged


def parse_config(table: Mapping[str, Any], origin: str = "configuration") -> Config:
    """Check a nested dictionary (as TOML or JSON gives it) and type it.

    Raises:
        ConfigError: the first problem, in one line, with a suggestion where a name is nearly right.
    """
    try:
        return Config.model_validate(table)
    except pydantic.ValidationError as error:
        raise _explain(error, origin) from None


def apply_override(table: dict[str, Any], override: str) -> None:
    """Put ``section.key=value`` into a nested dictionary; the value is TOML, or else a bare word or path.

    Raises:
        ConfigError: not of this form.
    """
    key, equals, text = override.partition("=")
    sections = key.strip().split(".")
    if not equals or len(sections) != 2 or not all(sections):
        raise ConfigError("not an override", got=f"'{override}'", expected="section.key=value, e.g. training.epochs=5")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word or a path
    section = table.setdefault(sections[0], {})
    if not isinstance(section, dict):
        raise ConfigError(f"'{sections[0]}' is not a section", fix="Write its keys under [section]")
    section[sections[1]] = value


def _explain(error: pydantic.ValidationError, origin: str) -> ConfigError:
    first = error.errors()[0]
    names = [str(part) for part in first["loc"]]
    key = ".".join(names)
    if first["type"] == "extra_forbidden":
        fields: Mapping[str, Any] = Config.model_fields
        if len(names) > 1:
            fields = fields[names[0]].annotation.model_fields
        return ConfigError(f"{origin}: unknown key '{key}'", fix=suggestion(names[-1], fields))
    return ConfigError(f"{origin}: {key} cannot be used", got=repr(first["input"]), expected=first["msg"])
