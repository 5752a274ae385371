"""Predict files into a results folder, in processes of this machine or on a Ray cluster; a stopped run
resumes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reactometer.batch import ray_backend
from reactometer.batch.result_store import (
    FAILED_FILE,
    FILES_TABLE,
    FORMATS,
    SAVED_FILE,
    SETTINGS_FILE,
    ResultStore,
    open_results,
    read_predictions,
)
from reactometer.data.files import InputFile, find_files, hash_files
from reactometer.data.object_store import is_uri, local_copy
from reactometer.errors import ConfigError, DataError, ReactometerError, require
from reactometer.inference.checkpoint import load_model
from reactometer.inference.outputs import PER_VIDEO, check_outputs, unique_names, write_outputs
from reactometer.inference.postprocess import DEFAULT_THRESHOLD
from reactometer.inference.prediction import Prediction
from reactometer.inference.predictor import PredictOptions, Predictor
from reactometer.io import DISK_FULL_ERRNOS, Paths, find_errno, parse_json_object, sha256_of
from reactometer.machine import default_workers
from reactometer.media.speech import detector_sha256
from reactometer.paths import STARTER, find_checkpoint
from reactometer.terminal import progress_bar
from reactometer.workers.pool import run_jobs

if TYPE_CHECKING:
    import pandas as pd

MODEL_FILES = ("model.json", "*.onnx", "uncertainty.json", "screening.safetensors")


@dataclass(frozen=True)
class RunResult:
    """The outcome of a run."""

    folder: str  # the argument ``out``
    n_files: int
    n_computed: int  # contents that this run predicted
    n_before: int  # contents with results in the folder before
    failures: dict[str, str]  # reason by path
    predictions: tuple[Prediction, ...]  # of a run with one file, if it has a result


@dataclass(frozen=True, repr=False)
class Run:
    """The tables of a results folder; the columns are those of the files."""

    files: pd.DataFrame  # one row per file
    timeline: pd.DataFrame | None  # one row per window; None: not saved
    failed: pd.DataFrame  # path and reason of files that could not be read
    settings: dict[str, Any]  # model, options and version, run.json

    def __repr__(self) -> str:
        return f"Run({len(self.files)} files, {len(self.failed)} failed)"

    def _repr_html_(self) -> str:
        table: str = self.files.to_html(max_rows=20, float_format="{:.2f}".format)
        return f"<p>{self!r}</p>{table}"


def read_run(folder: Path | str) -> Run:
    """Read the tables of ``predict --out-dir`` with pandas.

    Raises:
        DataError: the folder is no results folder, or the run has not ended once.
        ReactometerError: pandas is not installed, or pyarrow, for Parquet.
    """
    require("pandas", extra="evaluate")
    import pandas as pd

    folder = Path(folder)

    def read(name: str) -> pd.DataFrame | None:
        if (file := folder / f"{name}.parquet").is_file():
            require("pyarrow", extra="parquet")
            return pd.read_parquet(file)
        return pd.read_csv(file) if (file := folder / f"{name}.csv").is_file() else None

    files, failed = read(FILES_TABLE), read(Path(FAILED_FILE).stem)
    if files is None or failed is None:
        fix = "Name the folder of 'reactometer predict --out-dir', and let the run end"
        raise DataError(f"{folder}: no tables of a run", fix=fix)
    return Run(files, read("timeline"), failed, parse_json_object((folder / SETTINGS_FILE).read_bytes()))


@dataclass(frozen=True)
class FilePredictor:
    """Predictor of single files, which loads its model once per process."""

    model: Path
    options: PredictOptions
    device: str
    detector: str
    n_threads: int

    def __call__(self, path: str) -> list[Prediction]:
        """Return the predictions of a file, or its failure, because an error must not stop the other
        files."""
        predictor = _load(self)
        try:
            predictor.reset()
            with local_copy(path) as file:
                predictions = [
                    ray_backend.with_path(prediction, path) for prediction in predictor.predict_file(file)
                ]
        except Exception as error:
            if find_errno(error) in DISK_FULL_ERRNOS:  # the run stops, and can be resumed
                raise
            predictions = [predictor.failed(path, f"{type(error).__name__}: {error}")]
        return predictions


@dataclass(frozen=True)
class SaveJob:
    """One video whose outputs are written: its result in the journal, its path, and the outputs."""

    journal: Path
    offset: int
    path: str
    name: str  # of the files, without an extension
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class OutputWriter:
    """Writer of the outputs of single videos into a folder."""

    folder: Path
    threshold: float

    def __call__(self, job: SaveJob) -> str:
        """Write outputs; return the reason of a failure, because it must not stop the other videos."""
        logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns if the home folder is read-only
        predictions = read_predictions(job.journal, job.offset)
        try:
            with local_copy(job.path) if "overlay" in job.kinds else nullcontext(job.path) as file:
                people = [ray_backend.with_path(prediction, file) for prediction in predictions]
                write_outputs(people, self.folder, job.name, job.kinds, self.threshold)
        except (ReactometerError, OSError) as error:
            if find_errno(error) in DISK_FULL_ERRNOS:  # the run stops, and can be resumed
                raise
            return str(error)
        return ""


@cache
def _load(predictor: FilePredictor) -> Predictor:
    loaded = load_model(predictor.model, predictor.device, predictor.n_threads)
    prepare = loaded.config.prepare.model_copy(update={"detector": predictor.detector})
    loaded = replace(loaded, config=loaded.config.model_copy(update={"prepare": prepare}))
    return Predictor(loaded, predictor.options)


def predict_folder(  # noqa: PLR0913 - options by keyword
    inputs: Paths,
    out: Path | str,
    model: Path | str = STARTER,
    options: PredictOptions | None = None,
    *,
    device: str = "auto",
    workers: int | None = None,
    ray: str | None = None,
    gpus: float = 0.0,
    save: Sequence[str] = ("timeline",),
    threshold: float = DEFAULT_THRESHOLD,
    ending: str = "csv",
    retry_failed: bool = False,
    fresh: bool = False,
    progress: bool = True,
) -> RunResult:
    """Predict files into a results folder, store each result at once, and resume a stopped call.

    Results belong to a file's content: copies are predicted once, and a changed file is predicted again.
    ``out`` gets ``files.csv`` (one row per file, with the columns of ``predict``; ``same_as`` is the file
    with the same result), the outputs in ``save`` (tables have the path of the first file of a content),
    ``failed.csv`` (path, reason) and ``run.json`` (model, settings, version).

    Args:
        inputs: files, folders, patterns and lists, see :func:`reactometer.data.files.find_files`.
        out: a folder on a disk.
        model: a checkpoint.
        options: how each file is predicted.
        device: name of the device, see :func:`reactometer.inference.checkpoint.load_model`.
        workers: number of processes; default: one per CPU, or one for a GPU; on a cluster, as many as fit.
        ray: a Ray cluster, see :func:`reactometer.batch.ray_backend.connect`; default: this machine.
        gpus: on a cluster, share of a GPU per process.
        save: outputs: "timeline" (one row per window), "events" or "frames", each a table of all files;
            "plot", "elan", "vtt" or "overlay", each a folder with one file per video.
        threshold: minimum intensity of an event.
        ending: format of the tables, "csv" or "parquet".
        retry_failed: predict files again that failed in an earlier call.
        fresh: delete an earlier run in the folder.
        progress: show bars on standard error.

    Raises:
        ConfigError, ModelError: as by ``predict``, before anything is written.
        DataError: there are no files to predict.
        OutputError: ``out`` cannot be written, has other contents, or belongs to a run of another model,
            other settings or another version.
        ClusterError: the cluster is not available, or was lost.
        ReactometerError: a package is not installed: Ray for a cluster, pyarrow for Parquet and object
            stores, matplotlib for plots and overlays.
    """
    options = options or PredictOptions()
    if ray:
        require("ray", extra="ray")
    if ending not in FORMATS:
        raise ConfigError("unknown format of tables", got=f"'{ending}'", expected=" or ".join(FORMATS))
    if ending == "parquet":
        require("pyarrow", extra="parquet")
    check_outputs(save, threshold)
    if is_uri(out):
        fix = "Choose a folder on this machine, and copy it to the store at the end"
        raise ConfigError("results cannot be written into an object store", got=str(out), fix=fix)
    paths = find_files(inputs)
    options.check()
    model = find_checkpoint(model)
    settings, on_gpu = _settings(model, options, device)
    count = workers or (1 if on_gpu else default_workers())
    n_threads = 1 if ray else max(1, default_workers() // count)
    predictor = FilePredictor(model, options, device, settings["detector"], n_threads)
    with ExitStack() as stack:
        if ray:
            stack.enter_context(ray_backend.connect(ray, workers))
        store = stack.enter_context(
            open_results(Path(out), settings, all_faces=options.faces == "all", fresh=fresh)
        )
        if retry_failed:
            store.failures.clear()
        sources: list[InputFile] = []
        contents: dict[str, InputFile] = {}
        with progress_bar("hashing", len(paths), progress) as advance:
            for source in hash_files(paths):
                sources.append(source)
                if source.sha256:
                    contents.setdefault(source.sha256, source)
                advance()
        completed = store.computed.keys() | store.failures.keys()
        pending = [source for sha256, source in contents.items() if sha256 not in completed]
        n_before = len(contents) - len(pending)
        if ray:
            results = ray_backend.predict_on_cluster(pending, predictor, workers, gpus)
        else:
            finished = run_jobs(
                predictor, [source.path for source in pending], min(count, len(pending)), _crashed
            )
            stack.callback(finished.close)  # ends the processes at Ctrl-C
            results = ((pending[index], predictions) for index, predictions in finished)
        with progress_bar("predicting", len(contents), progress, n_before) as advance:
            for source, predictions in results:
                store.append(source.sha256, predictions or _crashed(source.path))
                advance()
        failures = store.write_tables(sources, save, threshold, ending)
        kinds = [kind for kind in save if kind in PER_VIDEO]
        failures |= _save(store, list(contents.values()), kinds, threshold, count, progress)
        only: Sequence[Prediction] = ()
        if len(contents) == 1 and (place := store.computed.get(next(iter(contents)))):
            only = [ray_backend.with_path(one, sources[0].path) for one in read_predictions(*place)]
        return RunResult(str(out), len(paths), len(pending), n_before, failures, tuple(only))


def _save(
    store: ResultStore,
    sources: Sequence[InputFile],
    kinds: Sequence[str],
    threshold: float,
    n_workers: int,
    progress: bool,
) -> dict[str, str]:
    """Write the outputs of single videos that are not written yet; return the failures, reason by path.

    ``saved.txt`` has one line per output: its kind, the threshold, the content and the name.
    """
    file = store.folder / SAVED_FILE
    saved = set(file.read_text(encoding="utf-8").splitlines()) if file.is_file() else set()

    def record(kind: str, sha256: str, name: str) -> str:
        return f"{kind} {threshold:g} {sha256} {name}"

    jobs: list[tuple[str, SaveJob]] = []
    for source, name in zip(sources, unique_names(source.path for source in sources), strict=True):
        missing = tuple(kind for kind in kinds if record(kind, source.sha256, name) not in saved)
        if missing and source.sha256 in store.computed:
            place = store.computed[source.sha256]
            jobs.append((source.sha256, SaveJob(*place, source.path, name, missing)))
    failures: dict[str, str] = {}
    if not jobs:
        return failures
    with ExitStack() as stack:
        writer = OutputWriter(store.folder, threshold)
        finished = run_jobs(writer, [job for _, job in jobs], n_workers, lambda _: "the process died")
        stack.callback(finished.close)  # ends the processes at Ctrl-C
        advance = stack.enter_context(progress_bar("saving", len(jobs), progress))
        stream = stack.enter_context(file.open("a", encoding="utf-8"))
        for index, reason in finished:
            sha256, job = jobs[index]
            if reason:
                failures[job.path] = reason
            else:
                stream.writelines(f"{record(kind, sha256, job.name)}\n" for kind in job.kinds)
                stream.flush()
            advance()
    return failures


def _settings(model: Path, options: PredictOptions, device: str) -> tuple[dict[str, Any], bool]:
    """Return all that the results depend on, and whether a GPU is used; raise the errors of ``predict``."""
    loaded = load_model(model, device)
    settings = {
        "reactometer": version("reactometer"),
        "model": hash_model(model),
        "detector": Predictor(loaded, options).decode_spec.detector,
        "speech_detector": detector_sha256(),
        **asdict(options),
    }
    return settings, loaded.device != "cpu"


def _crashed(path: str) -> list[Prediction]:
    reason = "the decoder process died: too little memory, or a bug in a decoder"
    return [Prediction(path, f"failed: {reason}", ())]


def hash_model(folder: Path) -> str:
    """Return a hash of the files that determine a model's results, including an ensemble's members."""
    files = sorted({file for pattern in MODEL_FILES for file in folder.rglob(pattern)})
    listing = "\n".join(f"{file.relative_to(folder)} {sha256_of(file)}" for file in files)
    return sha256(listing.encode()).hexdigest()
