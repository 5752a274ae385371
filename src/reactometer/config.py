"""The typed configuration with all defaults, read from a TOML file and ``section.key=value`` overrides."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from reactometer.errors import ConfigError, suggestion

FOLDER = Path(__file__).with_name("configs")
"""Folder of the packaged configurations."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]
STREAM_NAME = r"^[a-z][a-z0-9_]*$"
"""Names of streams, as a regular expression."""

Positive = Annotated[float, Field(gt=0.0)]


class _Section(BaseModel):
    """Frozen settings that refuse unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PrepareConfig(_Section):
    """Settings for decoding files into face crops and sound. A cache made with other settings is stale."""

    detector: Literal["auto", "yunet", "haar"] = "auto"
    """Face detector. "auto": YuNet if its weights are available, else Haar."""
    rate_hz: Annotated[float, Field(gt=0.0, le=240.0)] = 6.0
    """Frames sampled per second of video; 6 gives 32 frames of an 11 s clip, with room for jitter."""
    size_px: Annotated[int, Field(ge=16, le=1024)] = 224
    """Side of the square face crops, pixels."""


class DataConfig(_Section):
    """Settings for the dataset, its labels, and the folder of its prepared clips."""

    path: Path | None = None
    """Dataset (folder or CSV), or a folder written by ``reactometer prepare``."""
    cache: Path | None = None
    """Folder for prepared clips if ``path`` is not prepared yet; default: in the user's cache folder."""
    labels: str | tuple[str, ...] | None = None
    """Label set ("hume-reaction", "emi", "basic"), or a list of column names; default: detected from the
    table."""
    features: dict[Annotated[str, Field(pattern=STREAM_NAME)], str] = {}
    """Streams of features by name, as patterns of columns of the table: ``face = "AU*"`` (several with
    commas)."""
    votes: Literal["both", "face", "voice"] = "both"
    """CREMA-D only: use the votes of raters who saw and heard the clip, only saw it, or only heard it."""
    folds: Annotated[int, Field(ge=0)] = 0
    """Number of person-disjoint folds of train and val for cross-validation; 0: keep the splits."""
    fold: Annotated[int, Field(ge=0)] = 0
    """Index of the fold to validate on, from 0."""
    nested: bool = False
    """Hold out the fold as test, and choose the epoch on the next folds (nested cross-validation)."""
    allow_leak: bool = False
    """Train even if splits share people or stimuli."""


class ModelConfig(_Section):
    """Settings for the network; the default is a pretrained ResNet50 over the frames."""

    name: str = "resnet50"
    """Architecture: "resnet50", "resnet50-gru", "vit-transformer", "videomae" (face), "multimodal" (face and
    voice)."""
    encoder: str | None = None
    """Face encoder: "starter" (the starter model's backbone), a Hugging Face name, a folder, a file (an ONNX
    graph, or weights with the names of torchvision or timm; see Backbones), or "random:NAME" for random
    weights; default: the architecture's encoder."""
    voice_encoder: str = "log-mel"
    """Voice encoder: "log-mel" (a small network, no download), "contours" (MFCCs and pitch, no weights: for
    few clips, with ``frozen``), a HuBERT or wav2vec 2.0 by name, folder or "random:NAME", or "convolution"
    for feature tables."""
    modalities: str | tuple[str, ...] = "all"
    """Streams that a multimodal model uses, in training and prediction: "all", or a name or list of names
    ("face", "voice", and those of ``data.features``)."""
    pooling: Literal["network", "grid"] = "network"
    """Pooling of the face encoder's feature map: the encoder's own, or a 4 x 4 grid of cells."""
    frozen: bool = False
    """Keep the pretrained encoders fixed: features are computed once, and the head trains in seconds."""
    freeze_batch_norm: bool = False
    """Keep pretrained encoders' batch norms at the statistics of their training; for batches of few clips."""
    person_norm: bool = False
    """Move each person's mean features to the training set's, as far as the clips vary; needs frozen encoders
    or feature tables."""
    times: Literal["none", "seconds"] = "none"
    """Times of the steps in the head's input: "none", or "seconds", which reveal the length of the clip, and
    with it the stimulus if both are equally long."""
    n_frames: Annotated[int, Field(ge=1, le=1024)] = 32
    """Number of input frames per clip, evenly spaced."""
    size_px: Annotated[int, Field(ge=16, le=1024)] = 224
    """Side of the face encoder's input, pixels; crops are resized to it."""
    crop_share: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Centre crop of the prepared face crop, as a share of its side; below 1 for encoders trained on tight
    crops."""
    hidden: Annotated[int, Field(ge=1, le=8192)] = 128
    """Width of the GRU, the transformers (a multiple of 4) and the fusion of face and voice."""
    layers: Annotated[int, Field(ge=0, le=24)] = 2
    """Number of transformer layers; 0, only in a multimodal model: no transformer."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    """Dropout probability inside the head."""
    input_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Dropout probability on feature tables and frozen encoders' features, only in a multimodal model."""
    modality_dropout: Share = 0.2
    """Probability of masking one stream of a training clip that has several."""


class TrainingConfig(_Section):
    """Settings for fitting a model."""

    out: Path | None = None
    """Output folder; default: runs/<name of the configuration file>."""
    epochs: Annotated[int, Field(ge=1)] = 20
    """Maximum number of epochs; the best on val is kept."""
    batch_size: Annotated[int, Field(ge=1)] = 8
    """Clips per batch."""
    accumulate: Annotated[int, Field(ge=1)] = 2
    """Batches per optimiser step (gradient accumulation)."""
    learning_rate: Positive = 1e-3
    """Peak learning rate of the head, and of all other weights that start at random."""
    encoder_learning_rate: Positive = 1e-4
    """Peak learning rate of pretrained encoders."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.05
    """Weight decay of AdamW."""
    warmup_share: Share = 0.1
    """Share of all steps for the linear warm-up of the learning rate; cosine decay follows."""
    gradient_checkpointing: bool = False
    """Recompute the encoders' activations in the backward pass: less memory, more time, the same result."""
    gradient_clip: Annotated[float, Field(ge=0.0)] = 1.0
    """Maximum norm of the gradient; 0: no clipping."""
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    """Decay of the exponential moving average of the weights, which is saved; 0: no averaging."""
    patience: Annotated[int, Field(ge=1)] = 5
    """Number of epochs without a better validation score before training stops early."""
    augment: bool = True
    """Augment crops by random mirroring, shift, scale and brightness, the same for all frames of a clip."""
    seed: int = 0
    """Random seed of weights, order and augmentation; the same seed on the same machine gives the same model.
    """
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Number of processes that decode crops; "auto": 0 on a CPU, up to 8 on a GPU."""
    accelerator: str = "auto"
    """Accelerator of Lightning: "auto", "cpu", "gpu", "mps"."""
    devices: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Number of GPUs, or of CPU processes; "auto": all GPUs, or one process. torchrun overrides it."""
    store: Literal["float32", "float16"] = "float32"
    """Precision of the saved weights; "float16" halves their size and keeps 3 digits of each."""
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    """Precision of training in Lightning's terms; "bf16-mixed" needs a GPU that supports it."""
    loss: Literal["mse", "mse+pearson", "ccc"] = "mse"
    """Loss: mean squared error, mean squared error + (1 - Pearson), or 1 - CCC, over the batch."""


class Config(_Section):
    """The whole configuration: one section per table of the TOML file."""

    data: DataConfig = DataConfig()
    prepare: PrepareConfig = PrepareConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Read a TOML file, apply ``section.key=value`` overrides, and validate the result.

    Args:
        path: a TOML file, or the name of a packaged configuration, such as ``resnet50``.
        overrides: ``section.key=value`` each; the last one of a key wins.

    Raises:
        ConfigError: the file is missing or not TOML, a key is unknown, or a value is out of range.
    """
    path = find_config(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: not a TOML file: {error}", fix="Fix the line that the message names"
        ) from error
    for override in overrides:
        apply_override(table, override)
    config = parse_config(table, str(path))
    if config.training.out is None:
        training = config.training.model_copy(update={"out": Path("runs") / path.stem})
        config = config.model_copy(update={"training": training})
    return config


def find_config(name: Path | str) -> Path:
    """Return the TOML file at a path, or the packaged configuration of that name, such as ``small/resnet50``.

    Raise ConfigError if neither exists.
    """
    if (path := Path(name)).is_file():
        return path
    files = {
        file.relative_to(FOLDER).with_suffix("").as_posix(): file for file in sorted(FOLDER.rglob("*.toml"))
    }
    if (packaged := files.get(path.as_posix())) is None:
        fix = f"Name a TOML file, or a packaged configuration. {suggestion(path.stem, files)}"
        raise ConfigError(f"{path}: no such configuration file", fix=fix)
    return packaged


def parse_config(table: Mapping[str, Any], origin: str = "configuration") -> Config:
    """Validate a nested dictionary, as read from TOML or JSON. Raise ConfigError for an unknown key or wrong
    value."""
    try:
        return Config.model_validate(table)
    except pydantic.ValidationError as error:
        raise _explain(error, origin) from None


def apply_override(table: dict[str, Any], override: str) -> None:
    """Set ``section.key=value`` in a nested dictionary; a value that is not TOML is a string. Raise
    ConfigError."""
    key, equals, text = override.partition("=")
    *sections, name = key.strip().split(".")
    if not equals or not sections or not all((*sections, name)):
        raise ConfigError(
            "invalid override", got=f"'{override}'", expected="section.key=value, e.g. training.epochs=5"
        )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word or a path
    section = table
    for part in sections:
        section = section.setdefault(part, {})
        if not isinstance(section, dict):
            raise ConfigError(f"'{part}' is not a section", fix="Write its keys under [section]")
    section[name] = value


def change_settings(config: Config, settings: Mapping[str, object]) -> Config:
    """Change keys of a configuration by their names, without the section.

    Raises:
        ConfigError: an unknown key, a key of two sections (``size_px``), or a wrong value.
    """
    table = config.model_dump(mode="json")
    for key, value in settings.items():
        sections = [section for section, keys in table.items() if key in keys]
        if not sections:
            raise ConfigError(
                f"unknown setting '{key}'",
                fix=suggestion(key, [key for keys in table.values() for key in keys]),
            )
        if len(sections) > 1:
            names = " or ".join(f'"{section}.{key}=…"' for section in sections)
            raise ConfigError(f"'{key}' is a key of two sections", fix=f"Use overrides=[{names}]")
        table[sections[0]][key] = str(value) if isinstance(value, Path) else value
    return parse_config(table)


def _explain(error: pydantic.ValidationError, origin: str) -> ConfigError:
    first = error.errors()[0]
    names = [str(part) for part in first["loc"]]
    key = ".".join(names)
    if first["type"] == "extra_forbidden":
        fields: Mapping[str, Any] = Config.model_fields
        if len(names) > 1:
            fields = fields[names[0]].annotation.model_fields
        return ConfigError(f"{origin}: unknown key '{key}'", fix=suggestion(names[-1], fields))
    return ConfigError(
        f"{origin}: invalid value for {key}",
        got=repr(first["input"]),
        expected=first["msg"].removeprefix("Input should be "),
    )
