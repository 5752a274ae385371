"""A checkpoint: a folder with ONNX graphs and a readable sidecar, ``model.json``; it can run no code."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from multiprocessing import parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Unpack, get_args, overload

import numpy.typing as npt
from pydantic import BaseModel, Field, StringConstraints, ValidationError, model_validator
from pydantic.functional_validators import AfterValidator

from reactometer.config import STREAM_NAME, Config, ModelConfig
from reactometer.data.files import LIST_ENDINGS, find_files
from reactometer.data.inputs import InputSpec, Item
from reactometer.errors import ConfigError, MediaError, ModelError, missing_path_hint
from reactometer.inference.conformal import UNCERTAINTY_FILE, Uncertainty, load_uncertainty
from reactometer.inference.prediction import Batch, Prediction
from reactometer.inference.runtime import (
    DEVICES,
    HEAD_GRAPH,
    Graph,
    Networks,
    StreamInput,
    open_graph,
    signatures_of,
)
from reactometer.inference.scores import Score, join_names
from reactometer.inference.screening import SCREENING_FILE, Screening, load_screening
from reactometer.io import Paths, atomic_folder, format_json, parse_json_object, sha256_of, wrap_decode_errors
from reactometer.media.arrays import check_arrays
from reactometer.media.speech import detector_sha256
from reactometer.paths import INSTALL_STARTER, find_checkpoint
from reactometer.types import SOUND_RATE_HZ, FloatArray

if TYPE_CHECKING:
    from reactometer.inference.predictor import PredictSettings

FORMAT = 5
WEIGHTS_FILE, DESCRIPTION_FILE = "weights.safetensors", "model.json"
ROBUSTNESS_FILES = ("robustness.json", "robustness.png")
FILES = (
    *(DESCRIPTION_FILE, "face.onnx", "voice.onnx", HEAD_GRAPH, WEIGHTS_FILE),
    *(UNCERTAINTY_FILE, SCREENING_FILE, *ROBUSTNESS_FILES),
)
"""All files of a checkpoint, except its card; only the description and the graphs are required."""

StreamName = Annotated[str, StringConstraints(pattern=STREAM_NAME)]

MEMBER = r"^[0-9]+$"
"""Names of the folders of an ensemble's members, as a regular expression."""

COPY_AGAIN = "Copy the checkpoint again from its source"

MAX_DESCRIPTION_BYTES, MAX_LABEL_CHARACTERS = 2**24, 100


def _check_labels(labels: list[str]) -> list[str]:
    """Refuse labels that a terminal or a spreadsheet would interpret."""
    for label in labels:
        if not (label.isprintable() and 0 < len(label) <= MAX_LABEL_CHARACTERS and label[0] not in "=+-@"):
            raise ValueError(f"invalid label: {label[:40]!r}")
    if len(set(labels)) < len(labels):
        raise ValueError("duplicate label")
    return labels


def _check_media(inputs: dict[str, StreamInput]) -> dict[str, StreamInput]:
    """Refuse images under another name than "face", and sound under another name than "voice"."""
    for name, stream in inputs.items():
        if stream.medium not in (None, name):
            raise ValueError(f"stream '{name}' of {stream.kind}")
    return inputs


class _Head(BaseModel, extra="forbid", strict=True):
    """Fields that the descriptions of models and ensembles share; unknown fields are refused."""

    format: int
    reactometer: str
    labels: Annotated[list[str], Field(min_length=1), AfterValidator(_check_labels)]


class _Description(_Head):
    """The description of one model."""

    config: Config
    inputs: Annotated[dict[StreamName, StreamInput], Field(min_length=1), AfterValidator(_check_media)]
    precision: Literal["float32", "int8"]
    n_parameters: int
    encoders: dict[StreamName, dict[str, Any]]  # arguments that build them in PyTorch, for fine-tuning
    data: dict[str, Any]
    metrics: dict[str, Any]
    proof: dict[str, Any]
    sha256: dict[str, str]

    @model_validator(mode="after")
    def _check_encoders(self) -> Self:
        if unknown := self.encoders.keys() - self.inputs.keys():
            raise ValueError(f"encoder of an unknown stream: {min(unknown)}")
        return self


class _EnsembleDescription(_Head):
    """The description of an ensemble; its members are in subfolders."""

    members: Annotated[list[Annotated[str, StringConstraints(pattern=MEMBER)]], Field(min_length=1)]


OnError = Literal["raise", "collect"]


@dataclass(frozen=True, repr=False)
class LoadedModel:
    """A checkpoint ready to score, or an ensemble of checkpoints."""

    networks: Networks  # of an ensemble: those of the first member that uses the face, or of the first member
    labels: tuple[str, ...]
    sampling: InputSpec
    config: Config
    description: Mapping[str, Any] = field(default_factory=dict)
    ensemble: tuple[LoadedModel, ...] = ()  # of an ensemble: their scores are averaged
    uncertainty: Uncertainty | None = None  # None: the model was never calibrated
    screening: Screening | None = None  # of a single model; None: no face and no voice is refused

    @property
    def members(self) -> tuple[LoadedModel, ...]:
        """The members of an ensemble, or the model itself."""
        return self.ensemble or (self,)

    @property
    def streams(self) -> dict[str, StreamInput]:
        """The streams that the model uses, or any member of an ensemble."""
        return {name: stream for member in self.members for name, stream in member.networks.inputs.items()}

    @property
    def uses_face(self) -> bool:
        """True if intensities depend on the face in the video."""
        return any(stream.medium == "face" for stream in self.streams.values())

    @property
    def uses_voice(self) -> bool:
        """True if intensities depend on the sound."""
        return any(stream.medium == "voice" for stream in self.streams.values())

    @property
    def is_frozen(self) -> bool:
        """True if the encoders were not trained, so that models can share their features."""
        kinds = {stream.kind for stream in self.networks.inputs.values()}
        return self.config.model.frozen and bool(kinds & {"frames", "clips", "waveform", "contours"})

    @property
    def features_key(self) -> str:
        """Key of the encoders and their input; members of an ensemble with equal keys share features."""
        networks = self.networks
        return repr((self.sampling, networks.inputs, sorted(networks.digests.items())))

    @property
    def device(self) -> str:
        """The device that runs the graphs, such as "cpu" or "cuda"."""
        provider = self.networks.head.session.get_providers()[0]
        return next((name for name, value in DEVICES.items() if value == provider), provider)

    @property
    def precision(self) -> str:
        """Data type of the encoders' weights: "float32" or "int8"."""
        return str(self.members[0].description.get("precision", "float32"))

    def encode(self, item: Item) -> Item:
        """Encode images and waveform of an item with a single model; mask an unusable face or voice."""
        return self.screen(self.networks.encode(item))

    def screen(self, item: Item) -> Item:
        """Mask an unusable face or voice of an encoded item with a single model."""
        return self.screening(item) if self.screening else item

    @overload
    def predict(  # type: ignore[overload-overlap]  # a str is a sequence, too
        self,
        files: Path | str,
        *,
        on_error: OnError | None = None,
        progress: bool = True,
        **options: Unpack[PredictSettings],
    ) -> Prediction: ...
    @overload
    def predict(
        self,
        files: Sequence[Path | str],
        *,
        on_error: OnError | None = None,
        progress: bool = True,
        **options: Unpack[PredictSettings],
    ) -> Batch: ...
    def predict(
        self,
        files: Paths,
        *,
        on_error: OnError | None = None,
        progress: bool = True,
        **options: Unpack[PredictSettings],
    ) -> Prediction | Batch:
        """Estimate intensities of video or sound files, each as a whole and in windows over time.

        Args:
            files: one file; or several: a list, a folder, or a pattern such as ``clips/*.mp4``. For type
                checkers, put a folder or pattern into a list.
            on_error: of files that cannot be read: "raise" an error, or "collect" their reasons in
                ``status``. Default: "raise" for one file, "collect" for several.
            progress: show a bar for several files.
            options: of :func:`~reactometer.inference.predictor.predict_files`, such as ``window_s=1.0``.

        Returns:
            The prediction of one file; or of several files, in their order. ``faces="all"`` always returns
            several, one per person.

        Raises:
            ConfigError: an option is unknown or out of range.
            DataError: a file does not exist, or a folder or pattern has no files.
            MediaError: a file cannot be read, with ``on_error="raise"``.
        """
        from reactometer.inference.predictor import predict_files

        if on_error not in (None, *get_args(OnError)):
            raise ConfigError("unknown on_error", got=repr(on_error), expected=" or ".join(get_args(OnError)))
        is_one = isinstance(files, str | Path) and Path(files).is_file() and options.get("faces") != "all"
        is_one &= Path(str(files)).suffix.lower() not in LIST_ENDINGS
        predictions = predict_files(find_files(files), self, progress=progress and not is_one, **options)
        failed = [prediction for prediction in predictions if prediction.failed]
        if failed and (on_error == "raise" or (is_one and on_error is None)):
            raise MediaError(failed[0].status.removeprefix("failed: "))
        return predictions[0] if is_one else Batch(predictions)

    def predict_arrays(
        self,
        frames: npt.ArrayLike | None = None,
        *,
        frames_per_s: float | None = None,
        times_s: npt.ArrayLike | None = None,
        sound: npt.ArrayLike | None = None,
        sound_rate_hz: int = SOUND_RATE_HZ,
        name: str = "arrays",
        **options: Any,
    ) -> Prediction:
        """Estimate intensities of frames, sound, or both, from memory.

        Args:
            frames: (T, H, W, 3) uint8, RGB, upright.
            frames_per_s: rate of the frames; or give ``times_s``.
            times_s: (T,) time of each frame in seconds, increasing, from 0 on.
            sound: (S,) or (S, channels), float in [-1, 1] or int16; it starts at 0 s.
            sound_rate_hz: samples of ``sound`` per second.
            name: ``path`` of the prediction.
            options: of :class:`~reactometer.inference.predictor.PredictOptions`, such as ``window_s=1.0``.

        Raises:
            ConfigError: an option is unknown or out of range.
            DataError: an array has another shape, data type or range.
        """
        from reactometer.inference.predictor import PredictOptions, Predictor

        media = check_arrays(frames, frames_per_s, times_s, sound, sound_rate_hz, name)
        predictor = Predictor(self, PredictOptions(**options))
        return predictor.predict_arrays(media)[0]

    def __repr__(self) -> str:
        inputs = join_names(sorted(self.streams))
        ensemble = f"ensemble of {len(self.ensemble)}, " if self.ensemble else ""
        intervals = ", with intervals" if self.uncertainty else ""
        return f"LoadedModel({ensemble}{inputs}: {', '.join(self.labels)}{intervals})"

    def intensities_of(self, score: Score) -> FloatArray:
        """Return intensities (L,) of a score, recalibrated if the model was."""
        return self.uncertainty.recalibrate(score) if self.uncertainty else score.intensities


def sampling_of(config: ModelConfig, inputs: Mapping[str, StreamInput]) -> InputSpec:
    """Return the frames and sound that a model samples from a clip."""
    return InputSpec(
        config.n_frames,
        config.size_px,
        crop_share=config.crop_share,
        media=tuple(sorted({stream.medium for stream in inputs.values() if stream.medium})),
        audio_input="log-mel" if any(stream.kind == "log-mel" for stream in inputs.values()) else "samples",
    )


def load_model(
    folder: Path | str, device: str = "auto", threads: int = 0, *, wait: bool = True
) -> LoadedModel:
    """Load a checkpoint: check it and open its graphs; needs no network.

    Args:
        folder: written by ``train``, ``model join`` or ``model export``; or "starter", the starter model.
        device: device that runs the graphs, see :data:`~reactometer.inference.runtime.DEVICES`; "auto": CUDA
            if it is available, else the CPU.
        threads: CPU threads; 0: ``OMP_NUM_THREADS``, or one per core that this process may use.
        wait: if False, return while the graphs are still being opened; the first score waits for them.

    Raises:
        ModelError: the folder is not a checkpoint, it is damaged, or the device is not available.
        WeightsError: the starter model is not installed.
    """
    folder, opened = find_checkpoint(folder), dict[str, Graph]()
    about = read_description(folder)
    if isinstance(about, _EnsembleDescription):
        members = []
        for name in about.members:
            member = read_description(folder / name)
            if isinstance(member, _EnsembleDescription):
                raise ModelError(
                    f"{folder}: an ensemble of ensembles", fix="Build the ensemble from single models"
                )
            members.append(_load(folder / name, member, device, threads, opened))
        loaded = replace(
            next((member for member in members if member.uses_face), members[0]),
            config=_join_configs(members),
            description=about.model_dump(mode="json"),
            ensemble=tuple(members),
            uncertainty=load_uncertainty(folder),
        )
    else:
        loaded = _load(folder, about, device, threads, opened)
    for graph in opened.values() if wait else ():
        graph.opening.result()
    needs_speech = any(member.screening and member.screening.min_speech for member in loaded.members)
    if needs_speech and not detector_sha256() and not parent_process():
        warnings.warn(
            "speech is not detected, because its detector comes with the starter model, which is not "
            "installed. Any sound is used as a voice, and this model was trained to ignore sounds without "
            f"speech. hint: {INSTALL_STARTER}",
            stacklevel=2,
        )
    return loaded


def _load(
    folder: Path, about: _Description, device: str, threads: int, opened: dict[str, Graph]
) -> LoadedModel:
    """Load one model; members of an ensemble share ``opened`` graphs by SHA-256, inputs and outputs."""
    config, inputs = about.config, about.inputs
    graphs = dict[str, Graph]()
    for name, signature in signatures_of(inputs, config.model.size_px, len(about.labels)).items():
        check_digest(folder / name, about.sha256.get(name))
        key = str((about.sha256[name], signature))
        if key not in opened:
            opened[key] = open_graph(folder / name, *signature, device, threads)
        graphs[name.removesuffix(".onnx")] = opened[key]
    head = graphs.pop("head")
    networks = Networks(inputs, head, graphs, {name: about.sha256[f"{name}.onnx"] for name in graphs})
    return LoadedModel(
        networks,
        tuple(about.labels),
        sampling_of(config.model, inputs),
        config,
        about.model_dump(mode="json", exclude_unset=True),
        uncertainty=load_uncertainty(folder),
        screening=load_screening(folder, inputs["face"].feature_size if "face" in inputs else 0),
    )


def write_description(folder: Path, labels: Sequence[str], about: Mapping[str, Any]) -> Path:
    """Write ``model.json`` of a checkpoint or an ensemble; return the folder."""
    head = {"format": FORMAT, "reactometer": version("reactometer"), "labels": list(labels)}
    (folder / DESCRIPTION_FILE).write_text(format_json({**head, **about}), encoding="utf-8")
    return folder


def join_models(folders: Sequence[Path | str], out: Path | str) -> Path:
    """Write an ensemble: a checkpoint that contains copies of others and averages their scores.

    The models may use different streams. A clip's score is the mean over the models with a usable stream.

    Raises:
        ModelError: fewer than two folders, or the models differ in labels, in preparation, or in a stream of
            the same name.
        OutputError: ``out`` exists.
    """
    out = Path(out)
    if len(folders) < 2:
        raise ModelError(
            "an ensemble needs several models", got=len(folders), expected="at least 2 checkpoints"
        )
    members = [load_model(folder, "cpu") for folder in folders]
    for number, (folder, member) in enumerate(zip(folders, members, strict=True)):
        if member.ensemble:
            raise ModelError(f"{folder}: already an ensemble", fix="Name the folders of its members instead")
        for first, other in zip(folders[:number], members[:number], strict=True):
            traits = _traits(other)
            for trait, got in _traits(member).items():
                if got != traits.get(trait, got):
                    raise ModelError(
                        f"{folder}: {trait} differ from {first}", got=str(got), expected=str(traits[trait])
                    )
    names = [f"{number:02d}" for number in range(len(folders))]
    with atomic_folder(out) as partial:
        for name, folder in zip(names, folders, strict=True):
            shutil.copytree(folder, partial / name)
        write_description(partial, members[0].labels, {"members": names})
    return out


def _traits(model: LoadedModel) -> dict[str, object]:
    """Return the properties that the members of an ensemble share, if they have them."""
    traits: dict[str, object] = {"labels": model.labels}
    if model.networks.media:
        traits["preparation settings"] = model.config.prepare
    for name, stream in model.networks.inputs.items():
        features = (stream.columns, model.config.data.features.get(name))
        traits[f"inputs of stream '{name}'"] = stream.medium or features
    return traits


def _join_configs(members: Sequence[LoadedModel]) -> Config:
    """Return the configuration of the first member with media, with the features of all members."""
    config = next((member for member in members if member.networks.media), members[0]).config
    features = {name: text for member in members for name, text in member.config.data.features.items()}
    return config.model_copy(update={"data": config.data.model_copy(update={"features": features})})


def read_description(folder: Path) -> _Description | _EnsembleDescription:
    """Read and check ``model.json``.

    Raises:
        ModelError: the folder is not a checkpoint, it is damaged, or it has another format.
    """
    file = folder / DESCRIPTION_FILE
    if not file.is_file():
        fix = "Use the folder that 'reactometer train' printed"
        if not folder.exists() and "Did you mean" in (hint := missing_path_hint(folder)):
            fix = hint
        for near in (folder / "model", folder.parent):  # the run's folder, or a file of the checkpoint
            if (near / DESCRIPTION_FILE).is_file():
                fix = f"Use {near}"
        reason = f"no {DESCRIPTION_FILE}" if folder.is_dir() else "it is a file"
        problem = f"not a checkpoint: {reason}" if folder.exists() else "no such checkpoint"
        raise ModelError(f"{folder}: {problem}", fix=fix)
    with wrap_decode_errors(file, ModelError, COPY_AGAIN):
        if (n_bytes := file.stat().st_size) > MAX_DESCRIPTION_BYTES:
            raise ValueError(f"{n_bytes} bytes, more than {MAX_DESCRIPTION_BYTES}")
        text = file.read_bytes()
        description = parse_json_object(text)
    if description.get("format") != FORMAT:
        got = f"format {description.get('format')}"
        expected = f"format {FORMAT}"
        fix = "Train again with this version, or install the version of reactometer that wrote the checkpoint"
        raise ModelError(f"{folder}: another format of checkpoint", got=got, expected=expected, fix=fix)
    try:
        schema = _EnsembleDescription if "members" in description else _Description
        return schema.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{DESCRIPTION_FILE}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise ModelError(f"{folder}: damaged checkpoint: {reason}", fix=COPY_AGAIN) from error


def check_digest(file: Path, expected: str | None) -> None:
    """Check that a file of a checkpoint has the SHA-256 that ``model.json`` lists.

    Raises:
        ModelError: the file is missing or changed.
    """
    if not file.is_file():
        fix = COPY_AGAIN
        if file.suffix == ".onnx" and (file.parent / WEIGHTS_FILE).is_file():
            fix += f", or export its weights: reactometer model export DATA -m {file.parent} -o FOLDER"
        raise ModelError(f"{file.parent}: damaged checkpoint: no {file.name}", fix=fix)
    if (got := sha256_of(file)) != expected:
        raise ModelError(
            f"{file}: not the file that {DESCRIPTION_FILE} names",
            got=f"SHA-256 {got[:12]}…",
            expected=f"{str(expected)[:12]}…",
            fix=COPY_AGAIN,
        )
