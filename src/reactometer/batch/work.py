"""What a process of a run does, on this machine or another: one file -> its result, kept."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import torch

from reactometer.batch.places import Place
from reactometer.batch.result_store import keep_result
from reactometer.inference.predictor import DEFAULT_HOP_S, DEFAULT_WINDOW_S, failed, predict
from reactometer.io import NO_ROOM, system_error
from reactometer.models.folder import LoadedModel, load_model
from reactometer.types import Prediction


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
class Order:
    """What every process of a run has to know."""

    out: Place
    model: Path
    request: Request
    device: str
    engine: str
    detector: str
    threads: int


@dataclass(frozen=True)
class Job:
    """A content to predict: the first file that has it, under its own name."""

    path: str
    place: Place  # where the process finds it
    sha256: str


def predict_one(order: Order, job: Job) -> None:
    """Predict one file, and keep what comes of it, by a model that the process loads once."""
    predict_with(_loaded(order), order, job)


def predict_with(model: LoadedModel, order: Order, job: Job) -> None:
    """Predict one file with a model that is loaded, and keep what comes of it."""
    torch.set_num_threads(order.threads)
    seen = job.path
    try:
        with job.place.on_disk() as file:
            seen = str(file)
            predictions = predict([file], model, **asdict(order.request), progress=False)
    except Exception as error:  # whatever one file brings about, the others go on
        if system_error(error) in NO_ROOM:  # but for a copy of it from a store
            raise
        predictions = [failed(seen, f"{type(error).__name__}: {error}", model)]
    keep_result(
        order.out,
        job.sha256,
        [replace(one, path=job.path, status=one.status.replace(seen, job.path), samples=()) for one in predictions],
    )


def has_died(order: Order, job: Job) -> None:
    """Keep, for a file whose process died again and again, that it failed."""
    reason = "failed: the process that read it died: too little memory, or a fault in a decoder"
    keep_result(order.out, job.sha256, [Prediction(job.path, reason, ())])


def load(order: Order) -> LoadedModel:
    """The run's model with the run's detector, which is settled once for all processes."""
    loaded = load_model(order.model, order.device, order.engine)
    prepare = loaded.config.prepare.model_copy(update={"detector": order.detector})
    return replace(loaded, config=loaded.config.model_copy(update={"prepare": prepare}))


_loaded = cache(load)
