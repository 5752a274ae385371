"""Any number of files -> a folder of results, in processes, to be stopped and gone on with at any moment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from reactometer.console import progress_bar
from reactometer.data.pool import default_workers, run_jobs
from reactometer.files import sha256_of
from reactometer.inference.predictor import DEFAULT_HOP_S, DEFAULT_WINDOW_S, check_timeline, predict, reading_of
from reactometer.models.folder import LoadedModel, load_model
from reactometer.records import Prediction
from reactometer.runs.sources import Source, find_files, hash_files
from reactometer.runs.store import SHARD_FILES, RunFolder, claim_run, keep_result
from reactometer.weights import STARTER

MODEL_FILES = ("model.json", "*.safetensors", "uncertainty.json")


@dataclass(frozen=True)
class Request:
    """How every file of a run is predicted; see :func:`reactometer.inference.predictor.predict`."""

    window_s: float = DEFAULT_WINDOW_S
    hop_s: float = DEFAULT_HOP_S
    rate_hz: float | None = None
    faces: str = "one"
    smooth_s: float = 0.0
    baseline: str | None = None


@dataclass(frozen=True)
class RunResult:
    """What a run came to."""

    folder: Path
    n_files: int
    n_computed: int  # contents, now
    n_before: int  # contents, whose results were there
    failures: dict[str, str]  # reason by path


def predict_folder(
    given: Sequence[Path | str],
    out: Path | str,
    model: Path | str = STARTER,
    request: Request | None = None,
    *,
    device: str = "auto",
    engine: str = "auto",
    workers: int | None = None,
    retry_failed: bool = False,
    progress: bool = True,
) -> RunResult:
    """Predict all files that are meant, keep each result as soon as it is there, go on where an earlier call stopped.

    Results are known by the file's content: what is there is not computed again, the same content at several places is
    computed once, and a file that has changed is a new one. ``out`` then holds ``index.parquet`` (a row a file, as
    ``predict`` writes it; ``same_as`` names the file whose result it shares), ``timeline/`` (Parquet shards, a row a
    window, under the first file's name), ``failed.csv`` (path, reason) and ``run.json`` (model, settings, version).

    Args:
        given: files, folders, patterns and lists, see :func:`reactometer.runs.sources.find_files`.
        out: the run's folder.
        model: a model folder.
        request: how each file is predicted.
        device: where.
        engine: by what, see :func:`reactometer.models.folder.load_model`.
        workers: processes; default: one a processor on which the model runs, one for a GPU.
        retry_failed: try again what failed earlier.
        progress: show bars on standard error.

    Raises:
        ConfigError, ModelError: as ``predict`` raises them, before anything is written.
        DataError: nothing is there to be predicted.
        OutputError: ``out`` holds something else, or a run of another model, other settings or another version.
    """
    request, paths = request or Request(), find_files(given)
    check_timeline(request.window_s, request.hop_s, request.smooth_s, request.baseline)
    stamp, on_gpu = _stamp(Path(model), request, device, engine)
    count = workers or (1 if on_gpu else default_workers())
    threads = max(1, torch.get_num_threads() // count)
    with claim_run(Path(out), stamp, everyone=request.faces == "all") as folder:
        if retry_failed:
            folder.forget_failures()
        with progress_bar("looking", len(paths), progress) as advance:
            sources = hash_files(paths, folder.known(), advance)
        folder.keep_manifest(sources)
        jobs = _jobs(
            sources,
            partial(_Job, folder.path, Path(model), request, device, stamp["engine"], stamp["detector"], threads),
        )
        past = folder.done() | set(folder.failures())
        left = [job for sha256, job in jobs.items() if sha256 not in past]
        before = len(jobs) - len(left)
        _work(folder, left, count, before, progress)
        return RunResult(folder.path, len(paths), len(left), before, folder.finish(sources))


def _stamp(model: Path, request: Request, device: str, engine: str) -> tuple[dict[str, Any], bool]:
    """All that a run's numbers come from, and whether they are made on a GPU; refuses what ``predict`` refuses."""
    loaded = load_model(model, device, engine)
    stamp = {
        "reactometer": version("reactometer"),
        "model": _model_sha256(model),
        "engine": loaded.engine,
        "detector": reading_of(loaded, request.faces, request.rate_hz).detector,
        **asdict(request),
    }
    return stamp, loaded.network.label_mean.device.type != "cpu"


@dataclass(frozen=True)
class _Job:
    folder: Path
    model: Path
    request: Request
    device: str
    engine: str
    detector: str
    threads: int
    path: str
    sha256: str


def _jobs(sources: Iterable[Source], job: Any) -> dict[str, _Job]:
    """One job a content, by its hash: that of the first file that has it."""
    jobs: dict[str, _Job] = {}
    for own in sources:
        if own.sha256 and own.sha256 not in jobs:
            jobs[own.sha256] = job(own.path, own.sha256)
    return jobs


def _work(folder: RunFolder, jobs: Sequence[_Job], workers: int, before: int, progress: bool) -> None:
    """Do the jobs, and make a shard of their results as often as there are enough of them."""
    with progress_bar("predicting", before + len(jobs), progress, before) as advance:
        for number, _ in enumerate(run_jobs(_predict_one, jobs, min(workers, len(jobs)), _died), start=1):
            advance()
            if number % SHARD_FILES == 0:
                folder.make_shards(SHARD_FILES)
    folder.make_shards(1)


def _predict_one(job: _Job) -> None:
    """Predict one file in a process of the pool, and keep what comes of it."""
    torch.set_num_threads(job.threads)
    loaded = _model(job.model, job.device, job.engine, job.detector)
    try:
        predictions = predict([job.path], loaded, **asdict(job.request), progress=False)
    except Exception as error:  # whatever one file brings about, the others go on
        predictions = [Prediction(job.path, f"failed: {type(error).__name__}: {error}", loaded.labels)]
    keep_result(job.folder, job.sha256, [replace(one, samples=()) for one in predictions])


@cache
def _model(path: Path, device: str, engine: str, detector: str) -> LoadedModel:
    """The run's model with the run's detector, which is settled once for all processes."""
    loaded = load_model(path, device, engine)
    prepare = loaded.config.prepare.model_copy(update={"detector": detector})
    return replace(loaded, config=loaded.config.model_copy(update={"prepare": prepare}))


def _died(job: _Job) -> None:
    reason = "failed: the process that read it died: too little memory, or a fault in a decoder"
    keep_result(job.folder, job.sha256, [Prediction(job.path, reason, ())])


def _model_sha256(folder: Path) -> str:
    """Of the files that a model's numbers come from, members' among them; an exported engine's files say theirs."""
    files = sorted({file for kind in MODEL_FILES for file in folder.rglob(kind)})
    told = "\n".join(f"{file.relative_to(folder)} {sha256_of(file)}" for file in files)
    return sha256(told.encode()).hexdigest()
