"""Predict files on a Ray cluster with Ray Data's actor pool.

Source: https://docs.ray.io/en/latest/data/data.html.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import cv2
from pydantic import TypeAdapter

from reactometer.data.files import InputFile
from reactometer.data.object_store import is_uri
from reactometer.errors import ClusterError
from reactometer.inference.prediction import Prediction
from reactometer.paths import FOLDER_VARIABLE, YUNET_FILE, find_yunet

if TYPE_CHECKING:
    from reactometer.batch.run import FilePredictor

PREDICTIONS = TypeAdapter(list[Prediction])

LOCAL = "local"
OBJECT_STORE_BYTES = 1 << 28  # of a cluster that is started here; it stores only models and rows
CONNECT_TIMEOUT_S = 10.0
N_PASSES = 2
"""A lost machine loses results that were not yet sent; their files are predicted again."""

MAX_RETRIES = 2  # of a file whose actor or machine was lost


@contextmanager
def connect(address: str, n_cpus: int | None = None) -> Iterator[None]:
    """Connect to a Ray cluster, or start one that ends with this context.

    Args:
        address: "local" starts a cluster on this machine; "auto" connects to this machine's or
            ``$RAY_ADDRESS``; ``HOST:PORT`` is the address of this machine's cluster.
        n_cpus: of a cluster that is started here; default: all.

    Raises:
        ClusterError: the cluster does not answer, or is lost.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if address.startswith("ray://"):
        fix = "Run the command on a machine of the cluster, for example by 'ray job submit', with --ray auto"
        raise ClusterError("Ray Data does not run through a Ray client", got=address, fix=fix)
    options = {"num_cpus": n_cpus, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    try:
        host, _, port = address.rpartition(":")
        if host and port.isdecimal():  # Ray itself would try for two minutes
            socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()
        ray.init(
            address, log_to_driver=False, logging_level=logging.ERROR, **options if address == LOCAL else {}
        )
    except Exception as error:  # Ray raises Exception itself when a node does not start in time
        problem = f"{address}: no Ray cluster answers: {_cause(error)}"
        fix = "Start one with 'ray start --head', correct the address, or add --ray local"
        raise ClusterError(
            problem, fix=f"{fix}. If the cluster has a token, set RAY_AUTH_MODE=token"
        ) from error
    try:
        yield
    except ray.exceptions.RayError as error:
        fix = "Check the cluster; the same command resumes the run"
        raise ClusterError(f"{address}: the cluster failed: {_cause(error)}", fix=fix) from error
    finally:
        ray.shutdown()


def _cause(error: BaseException) -> str:
    """Return the last line of Ray's message: the error itself, below the calls that led to it."""
    return re.sub(r"^[\w.]*Error: ", "", str(error).strip().rpartition("\n")[2].strip())


def predict_on_cluster(
    sources: Sequence[InputFile], predictor: FilePredictor, n_actors: int | None, n_gpus: float
) -> Iterator[tuple[InputFile, list[Prediction]]]:
    """Predict files of different contents on the connected cluster, in any order.

    A file whose actor is lost is predicted by another actor. A file that loses its actor ``1 + MAX_RETRIES``
    times in each of ``N_PASSES`` passes has no predictions.

    Args:
        sources: the files, with the same path or URI on all machines.
        predictor: is sent to the actors with its model and the detector's weights.
        n_actors: maximum number of actors; default: as many as the cluster has room for.
        n_gpus: share of a GPU per actor.
    """
    if not sources:
        return
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    pending = {source.sha256: source for source in sources}
    paths = {one.sha256: one.path if is_uri(one.path) else str(Path(one.path).absolute()) for one in sources}
    arguments = predictor, ray.put(_pack(predictor)), version("reactometer")
    # Ray Data runs in a separate process on this machine, because it logs to standard error.
    this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    stream = ray.remote(num_cpus=0, scheduling_strategy=this_node, max_retries=0)(_predict_rows)
    for _ in range(N_PASSES):
        rows = [{"path": paths[sha256], "sha256": sha256} for sha256 in pending]
        for result in stream.remote(rows, arguments, n_actors, n_gpus) if rows else ():
            row = ray.get(result)
            if source := pending.pop(row["sha256"], None):
                predictions = PREDICTIONS.validate_json(row["predictions"])
                yield source, [with_path(prediction, source.path) for prediction in predictions]
    yield from ((source, []) for source in pending.values())


def with_path(prediction: Prediction, path: str) -> Prediction:
    """Return a prediction with another path, also in its status."""
    return replace(prediction, path=path, status=prediction.status.replace(prediction.path, path))


def _predict_rows(
    rows: list[dict[str, Any]], arguments: tuple[Any, ...], n_actors: int | None, n_gpus: float
) -> Iterator[dict[str, Any]]:
    """Yield the predictions of rows in any order; rows whose actors were lost are missing."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1
    # One task per row and one per actor at a time, so that a lost actor costs no other row its result.
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        _Actor,
        fn_constructor_args=arguments,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=n_actors, max_tasks_in_flight_per_actor=1),
        num_cpus=1,
        num_gpus=n_gpus,
        max_task_retries=MAX_RETRIES,
    )
    yield from dataset.iter_rows()


class _Actor:
    """Actor on the cluster with the run's model and the detector's weights."""

    def __init__(self, predictor: FilePredictor, files: Any, expected: str) -> None:
        import ray

        if (installed := version("reactometer")) != expected:
            problem = f"another version of reactometer on {socket.gethostname()}"
            fix = "Install the same version on all machines"
            raise ClusterError(problem, got=installed, expected=expected, fix=fix)
        cv2.setNumThreads(1)  # an actor has one CPU
        self.folder = TemporaryDirectory(prefix="reactometer-")
        root = Path(self.folder.name)
        for name, data in (ray.get(files) if isinstance(files, ray.ObjectRef) else files).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        if (root / "weights").is_dir():
            os.environ[FOLDER_VARIABLE] = str(root / "weights")
        self.predict = replace(predictor, model=root / "model")

    def __call__(self, row: dict[str, str]) -> dict[str, Any]:
        return {**row, "predictions": PREDICTIONS.dump_json(self.predict(row["path"]))}


def _pack(predictor: FilePredictor) -> Mapping[str, bytes]:
    """Return the files that actors need, by path in their folder."""
    model = predictor.model
    files = {
        f"model/{file.relative_to(model).as_posix()}": file for file in model.rglob("*") if file.is_file()
    }
    if predictor.detector == "yunet":
        files[f"weights/{YUNET_FILE}"] = find_yunet()
    return {name: file.read_bytes() for name, file in files.items()}
