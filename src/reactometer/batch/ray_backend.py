"""Predict files on a Ray cluster, one task per file.

Source: https://docs.ray.io/en/latest/ray-core/fault_tolerance/tasks.html.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import cv2
from pydantic import TypeAdapter

from reactometer.data.files import InputFile
from reactometer.data.object_store import is_uri
from reactometer.errors import ClusterError
from reactometer.inference.prediction import Prediction
from reactometer.paths import FOLDER_VARIABLE, YUNET_FILE, cache_folder, find_yunet

if TYPE_CHECKING:
    from reactometer.batch.run import FilePredictor

PREDICTIONS = TypeAdapter(list[Prediction])

LOCAL = "local"
OBJECT_STORE_BYTES = 1 << 28  # of a cluster that is started here; it stores only models and rows
CONNECT_TIMEOUT_S = 10.0
QUEUE_PER_CPU = 4  # files that Ray has at a time, so that no CPU waits for one
MAX_RETRIES = 2  # of a file whose process or machine was lost


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
        raise ClusterError("predict does not run through a Ray client", got=address, fix=fix)
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
    sources: Sequence[InputFile], predictor: FilePredictor, n_processes: int | None, n_gpus: float
) -> Iterator[tuple[InputFile, list[Prediction]]]:
    """Predict files of different contents on the connected cluster, in any order.

    A file whose process or machine is lost is predicted again, at most ``MAX_RETRIES`` times; after that it
    has no predictions.

    Args:
        sources: the files, with the same path or URI on all machines.
        predictor: is sent to the processes with its model and the detector's weights.
        n_processes: maximum number of processes; default: as many as the cluster has room for.
        n_gpus: share of a GPU per process.
    """
    import ray
    from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, WorkerCrashedError

    files = _pack(predictor)
    digest = sha256(b"".join(name.encode() + data for name, data in sorted(files.items()))).hexdigest()
    # The files travel in a list, because Ray would fetch a reference itself for every task.
    arguments = predictor, [ray.put(files)], digest, version("reactometer")
    options = {"num_cpus": 1, "num_gpus": n_gpus, "max_retries": MAX_RETRIES}
    # With max_calls=0 processes with a GPU take more than one file, too.
    predict = ray.remote(max_calls=0, **options)(_predict)
    waiting = iter(sources)
    running: dict[Any, InputFile] = {}
    while True:
        limit = n_processes or QUEUE_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
        for source in islice(waiting, limit - len(running)):
            path = source.path if is_uri(source.path) else str(Path(source.path).absolute())
            running[predict.remote(path, *arguments)] = source
        if not running:
            return
        [result], _ = ray.wait(list(running))
        source = running.pop(result)
        try:
            predictions = PREDICTIONS.validate_json(ray.get(result))
        except (NodeDiedError, ObjectLostError, OutOfMemoryError, WorkerCrashedError):
            predictions = []
        yield source, [with_path(prediction, source.path) for prediction in predictions]


def with_path(prediction: Prediction, path: str) -> Prediction:
    """Return a prediction with another path, also in its status."""
    return replace(prediction, path=path, status=prediction.status.replace(prediction.path, path))


def _predict(path: str, predictor: FilePredictor, files: list[Any], digest: str, expected: str) -> bytes:
    """Return the predictions of a file, in a process of the cluster."""
    return PREDICTIONS.dump_json(replace(predictor, model=_unpack(files[0], digest, expected))(path))


@cache
def _unpack(files: Any, digest: str, expected: str) -> Path:
    """Write the run's model and the detector's weights once per machine; return the model's folder.

    Raises:
        ClusterError: another version is installed here.
    """
    import ray

    if (installed := version("reactometer")) != expected:
        problem = f"another version of reactometer on {socket.gethostname()}"
        fix = "Install the same version on all machines"
        raise ClusterError(problem, got=installed, expected=expected, fix=fix)
    cv2.setNumThreads(1)  # a process has one CPU
    root = cache_folder() / "cluster" / digest
    if not root.is_dir():
        root.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=root.parent, ignore_cleanup_errors=True) as new:
            for name, data in ray.get(files).items():
                Path(new, name).parent.mkdir(parents=True, exist_ok=True)
                Path(new, name).write_bytes(data)
            with suppress(OSError):  # another process was faster
                Path(new).rename(root)
    if (root / "weights").is_dir():
        os.environ[FOLDER_VARIABLE] = str(root / "weights")
    return root / "model"


def _pack(predictor: FilePredictor) -> Mapping[str, bytes]:
    """Return the files that the processes need, by path in their folder."""
    model = predictor.model
    files = {
        f"model/{file.relative_to(model).as_posix()}": file for file in model.rglob("*") if file.is_file()
    }
    if predictor.detector == "yunet":
        files[f"weights/{YUNET_FILE}"] = find_yunet()
    return {name: file.read_bytes() for name, file in files.items()}
