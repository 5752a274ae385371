"""Any number of files -> a folder of results, in processes or on a cluster, to be stopped and gone on with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from reactometer.batch import ray_backend as ray_data
from reactometer.batch.inputs import Source, find_files, hash_files
from reactometer.batch.places import place
from reactometer.batch.result_store import SHARD_FILES, RunFolder, claim_run
from reactometer.batch.work import Job, Order, Request, has_died, predict_one
from reactometer.cluster import connect
from reactometer.inference.predictor import check_timeline, reading_of
from reactometer.io import Paths, sha256_of
from reactometer.models.folder import load_model
from reactometer.paths import STARTER
from reactometer.terminal import progress_bar
from reactometer.workers.pool import default_workers, run_jobs

MODEL_FILES = ("model.json", "*.safetensors", "uncertainty.json")


@dataclass(frozen=True)
class Workers:
    """Where a run's files are predicted, and by how many processes at a time."""

    count: int | None = None  # None: one a processor on which the model runs, one for a GPU; all that a cluster has
    ray: str | None = None  # a Ray cluster, see :func:`reactometer.cluster.connect`; None: this machine's processes
    gpus: float = 0.0  # of a cluster: share of a GPU that each has


@dataclass(frozen=True)
class RunResult:
    """What a run came to."""

    folder: str  # as it was given
    n_files: int
    n_computed: int  # contents, now
    n_before: int  # contents, whose results were there
    failures: dict[str, str]  # reason by path


def predict_folder(
    given: Paths,
    out: Path | str,
    model: Path | str = STARTER,
    request: Request | None = None,
    *,
    device: str = "auto",
    engine: str = "auto",
    workers: Workers | None = None,
    retry_failed: bool = False,
    progress: bool = True,
) -> RunResult:
    """Predict all files that are meant, keep each result as soon as it is there, go on where an earlier call stopped.

    Results are known by the file's content: what is there is not computed again, the same content at several places is
    computed once, and a file that has changed is a new one. ``out`` then holds ``index.parquet`` (a row a file, as
    ``predict`` writes it; ``same_as`` names the file whose result it shares), ``timeline/`` (Parquet shards, a row a
    window, under the first file's name), ``failed.csv`` (path, reason) and ``run.json`` (model, settings, version).

    Args:
        given: files, folders, patterns and lists, see :func:`reactometer.batch.inputs.find_files`.
        out: the run's folder, on a disk or in an object store, see :class:`reactometer.batch.places.Place`. A cluster's
            machines must all reach it, and the files, by the same name.
        model: a model folder.
        request: how each file is predicted.
        device: where.
        engine: by what, see :func:`reactometer.models.folder.load_model`.
        workers: in which processes.
        retry_failed: try again what failed earlier.
        progress: show bars on standard error.

    Raises:
        ConfigError, ModelError: as ``predict`` raises them, before anything is written.
        DataError: nothing is there to be predicted.
        OutputError: ``out`` holds something else, or a run of another model, other settings or another version.
        ClusterError: the cluster cannot be had, or was lost.
    """
    request, workers, paths = request or Request(), workers or Workers(), find_files(given)
    check_timeline(request.window_s, request.hop_s, request.smooth_s, request.baseline)
    stamp, on_gpu = _stamp(Path(model), request, device, engine)
    folder_place = place(out).absolute()
    count = workers.count or (1 if on_gpu else default_workers())
    threads = 1 if workers.ray else max(1, torch.get_num_threads() // count)
    order = Order(folder_place, Path(model), request, device, stamp["engine"], stamp["detector"], threads)
    with ExitStack() as stack:
        if workers.ray:
            stack.enter_context(connect(workers.ray, workers.count))
        folder = stack.enter_context(claim_run(folder_place, stamp, everyone=request.faces == "all"))
        if retry_failed:
            folder.forget_failures()
        sources = _look(paths, folder, ray_data.hash_files if workers.ray else hash_files, progress)
        jobs, past = _jobs(sources), folder.done() | set(folder.failures())
        left = [job for job in jobs if job.sha256 not in past]
        before = len(jobs) - len(left)
        if workers.ray:
            finished: Iterator[object] = ray_data.run_jobs(order, stamp, left, workers.count, workers.gpus)
        else:
            finished = run_jobs(partial(predict_one, order), left, min(count, len(left)), partial(has_died, order))
        _work(folder, finished, len(left), before, progress)
        return RunResult(str(out), len(paths), len(left), before, folder.finish(sources))


def _stamp(model: Path, request: Request, device: str, engine: str) -> tuple[dict[str, Any], bool]:
    """All that a run's numbers come from, and whether they are made on a GPU; refuses what ``predict`` refuses."""
    loaded = load_model(model, device, engine)
    stamp = {
        "reactometer": version("reactometer"),
        "model": model_sha256(model),
        "engine": loaded.engine,
        "detector": reading_of(loaded, request.faces, request.rate_hz).detector,
        **asdict(request),
    }
    return stamp, loaded.network.label_mean.device.type != "cpu"


def _look(paths: Sequence[str], folder: RunFolder, hash_all: Any, progress: bool) -> list[Source]:
    """Each file with its content's hash, which the folder keeps; what it knew already is not read again."""
    known, found = folder.known(), {}
    with progress_bar("looking", len(paths), progress) as advance:
        for source in hash_all([known.get(path, Source(path)) for path in paths]):
            found[source.path] = source
            advance()
    sources = [found[path] for path in paths]
    folder.keep_manifest(sources)
    return sources


def _jobs(sources: Iterable[Source]) -> list[Job]:
    """One job a content: that of the first file that has it."""
    jobs: dict[str, Job] = {}
    for own in sources:
        if own.sha256 and own.sha256 not in jobs:
            jobs[own.sha256] = Job(own.path, place(own.path).absolute(), own.sha256)
    return list(jobs.values())


def _work(folder: RunFolder, finished: Iterator[object], total: int, before: int, progress: bool) -> None:
    """See the jobs done, and make a shard of their results as often as there are enough of them."""
    with progress_bar("predicting", before + total, progress, before) as advance:
        for number, _ in enumerate(finished, start=1):
            advance()
            if number % SHARD_FILES == 0:
                folder.make_shards(SHARD_FILES)
    folder.make_shards(1)


def model_sha256(folder: Path) -> str:
    """Of the files that a model's numbers come from, members' among them; an exported engine's files say theirs."""
    files = sorted({file for kind in MODEL_FILES for file in folder.rglob(kind)})
    told = "\n".join(f"{file.relative_to(folder)} {sha256_of(file)}" for file in files)
    return sha256(told.encode()).hexdigest()
