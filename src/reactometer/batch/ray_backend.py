"""The same run on a Ray cluster: Ray Data hands the files to actors, each with a loaded model, on any of its machines.

Actors keep their results in the run's folder themselves, so what is done is done whatever happens to a machine; rows
that come back only say which. Source: https://docs.ray.io/en/latest/data/data.html.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import cv2

from reactometer.batch.inputs import Source, hash_file
from reactometer.batch.places import Place, place
from reactometer.batch.result_store import check_stamp, is_kept
from reactometer.batch.work import Job, Order, has_died, load, predict_with
from reactometer.errors import OutputError
from reactometer.paths import YUNET_FILE, cache_folder, find_yunet

if TYPE_CHECKING:
    from ray.data import Dataset

RETRIES = 2  # of a task whose actor or machine was lost
MOST_TASKS, MOST_FILES = 1000, 16
"""A task has one file; of more files than MOST_TASKS, as many more, up to MOST_FILES: a task costs milliseconds."""
WAITED_ROWS = 4  # taken at a time from a stream that runs in the cluster


def hash_files(sources: Sequence[Source]) -> Iterator[Source]:
    """The files with their hashes, in any order, by the cluster; see :func:`reactometer.batch.inputs.hash_file`."""
    left: dict[str, list[Source]] = {}  # a file may have been named in more than one way
    for source in sources:
        left.setdefault(place(source.path).absolute().name, []).append(source)
    rows = [{**vars(own[0]), "path": path} for path, own in left.items()]
    for row in _rows(lambda: _dataset(rows).map(_hash_row)):
        yield from (replace(Source(**row), path=one.path) for one in left.pop(row["path"]))
    yield from map(hash_file, chain.from_iterable(left.values()))  # what the cluster lost


def run_jobs(
    order: Order, stamp: Mapping[str, Any], jobs: Sequence[Job], workers: int | None, gpus: float
) -> Iterator[None]:
    """Do the jobs on the cluster that this process is connected to; yields once for each that is done.

    A job whose actor is lost, with its machine or by the file, is done again by another; the file that lost its actor
    ``1 + RETRIES`` times alone is kept as failed.

    Args:
        order: what every actor has to know; paths in it as the cluster's machines see them.
        stamp: what ``order.out`` must hold on every machine.
        jobs: what is to be done.
        workers: actors at most; default: as many as the cluster has room for.
        gpus: share of a GPU that each actor has.

    Raises:
        OutputError: a machine cannot write into ``order.out``.
    """
    import ray

    parcel = ray.put(_pack(order))
    left = {job.sha256: job for job in jobs}
    for most in (MOST_FILES, 1):
        rows = [{"path": job.path, "place": job.place.name, "sha256": job.sha256} for job in left.values()]
        build = _Predicting(rows, most, (order, dict(stamp), parcel), workers, gpus)
        for row in _rows(build) if rows else ():
            if row["problem"]:
                fix = "See to it; the same command goes on"
                raise OutputError(f"{order.out.name}: a machine cannot write there: {row['problem']}", fix=fix)
            if left.pop(row["sha256"], None):
                yield
    for job in left.values():
        has_died(order, job)
        yield


class _Predicting:
    """Makes the dataset of predicted rows where it runs: here, or in the cluster."""

    def __init__(
        self, rows: list[dict[str, str]], most: int, given: tuple[Any, ...], workers: int | None, gpus: float
    ) -> None:
        self.rows, self.most, self.given, self.workers, self.gpus = rows, most, given, workers, gpus

    def __call__(self) -> Dataset:
        from ray.data import ActorPoolStrategy

        return _dataset(self.rows, self.most).map(
            _Actor,
            fn_constructor_args=self.given,
            compute=ActorPoolStrategy(min_size=1, max_size=self.workers),
            num_cpus=1,
            num_gpus=self.gpus,
            max_task_retries=RETRIES,
        )


class _Actor:
    """A process somewhere in the cluster with the run's model."""

    def __init__(self, order: Order, stamp: Mapping[str, Any], parcel: Any) -> None:
        import ray

        try:
            check_stamp(order.out, {**stamp, "reactometer": version("reactometer")})
        except FileNotFoundError as error:
            what = f"{order.out.name}: the machine {socket.gethostname()} does not see the run there"
            raise OutputError(what, fix="Name a folder that all machines share, or an object store") from error
        cv2.setNumThreads(1)  # it has one processor
        with _unpacked(ray.get(parcel) if isinstance(parcel, ray.ObjectRef) else parcel) as folder:
            self.model = load(replace(order, model=folder))
        self.order = order

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        job = Job(row["path"], Place(row["place"]), row["sha256"])
        problem = ""
        try:
            if not is_kept(self.order.out, job.sha256):  # else this is a second try, after a later file's loss
                predict_with(self.model, self.order, job)
        except (OSError, OutputError) as error:
            problem = f"{socket.gethostname()}: {error}"
        return {"sha256": job.sha256, "problem": problem}


def _pack(order: Order) -> dict[str, bytes]:
    """The model's files by name and the detector's weights: nodes need nothing but this package and a way to OUT."""
    files = {str(file.relative_to(order.model)): file for file in order.model.rglob("*") if file.is_file()}
    weights = {"": find_yunet()} if order.detector == "yunet" else {}
    return {name: file.read_bytes() for name, file in {**files, **weights}.items()}


@contextmanager
def _unpacked(parcel: Mapping[str, bytes]) -> Iterator[Path]:
    """The model's folder for as long as it takes to load it; the detector's weights go where a download puts them."""
    with TemporaryDirectory(prefix="reactometer-") as folder:
        for name, data in parcel.items():
            file = Path(folder) / name if name else cache_folder() / "weights" / YUNET_FILE
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.is_file():
                place(file).write(data)
        yield Path(folder)


def _hash_row(row: dict[str, Any]) -> dict[str, Any]:
    return vars(hash_file(Source(**row)))


def _dataset(rows: list[dict[str, Any]], most: int = MOST_FILES) -> Dataset:
    """A dataset of rows, in blocks that become tasks; what a task loses costs no other its result."""
    import ray

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1  # whoever reads the rows sees which are not there
    size = min(most, files_a_task(len(rows)))
    return ray.data.from_items(rows, override_num_blocks=-(-len(rows) // size))


def files_a_task(files: int) -> int:
    """How many files a task has, of so many."""
    return min(MOST_FILES, 1 + files // MOST_TASKS)


def _rows(build: Callable[[], Dataset]) -> Iterator[dict[str, Any]]:
    """The rows of a dataset as they come, in any order.

    It runs in an actor beside this process, or at the cluster's head: Ray Data does not run in a ``ray://`` client, and
    elsewhere it writes to standard error what nobody can act on.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    stream = ray.remote(num_cpus=0, scheduling_strategy=here)(_Stream).remote(build)
    while rows := ray.get(stream.take.remote()):
        yield from rows


class _Stream:
    def __init__(self, build: Callable[[], Dataset]) -> None:
        self.rows = iter(build().iter_rows())

    def take(self) -> list[dict[str, Any]]:
        """The next row and those that are there with it; none at the end."""
        return list(islice(self.rows, WAITED_ROWS))
