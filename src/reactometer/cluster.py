"""A Ray cluster to run or train on: one that is there, or one that is started here. Ray is an extra."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from reactometer.errors import ClusterError

LOCAL = "local"
OBJECT_STORE_BYTES = 1 << 28  # of a cluster that is started here: models and rows are all that is in it
KNOCK_S = 10.0


@contextmanager
def connect(address: str, processors: int | None = None) -> Iterator[None]:
    """Be connected to a cluster, or to one that is started here and ends with this.

    Args:
        address: "local" starts one on this machine; "auto" is the one that runs on it, or that ``$RAY_ADDRESS`` names;
            ``HOST:PORT`` and ``ray://HOST:PORT`` name one.
        processors: what a cluster started here has; default: all of the machine.

    Raises:
        ClusterError: Ray is not installed, or the cluster does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data  # the minimal Ray lacks what it needs
    except ImportError as error:
        raise ClusterError("Ray is not installed", fix="pip install 'reactometer[ray]'") from error
    own = {"num_cpus": processors, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    try:
        _knock(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **own if address == LOCAL else {})
    except (ValueError, RuntimeError, OSError, ray.exceptions.RayError) as error:
        what = f"{address}: no Ray cluster answers: {_cause(error)}"
        fix = "Start one with 'ray start --head', correct the address, or take --ray local"
        raise ClusterError(what, fix=f"{fix}. Where one has a token, set RAY_AUTH_MODE=token") from error
    try:
        yield
    except ray.exceptions.RayError as error:
        fix = "Look after the cluster; the same command goes on"
        raise ClusterError(f"{address}: the cluster gave up: {_cause(error)}", fix=fix) from error
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError where nobody listens; Ray itself would try for two minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), KNOCK_S).close()


def _cause(error: BaseException) -> str:
    """The last line of what Ray says: the error itself, below the calls that led to it."""
    return re.sub(r"^[\w.]*Error: ", "", str(error).strip().rpartition("\n")[2].strip())
