"""The routes: predictions and the model under /v1, in several formats; the page, health and metrics."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Annotated, Any, Literal

from fastapi import APIRouter, File, Form, Header, Query, Response, UploadFile
from fastapi import Request as HttpRequest
from fastapi.responses import FileResponse, JSONResponse
from prometheus_client import generate_latest
from starlette.concurrency import run_in_threadpool

from reactometer.errors import RequestError
from reactometer.inference.elan_vtt import write_elan, write_subtitles
from reactometer.inference.postprocess import DEFAULT_THRESHOLD, check_threshold
from reactometer.inference.prediction import Prediction
from reactometer.inference.predictor import DEFAULT_HOP_S, DEFAULT_WINDOW_S, PredictOptions, Predictor
from reactometer.inference.tables import (
    EVENT_COLUMNS,
    FRAME_COLUMNS,
    event_rows,
    frame_rows,
    rounded,
    timeline_columns,
    timeline_rows,
    with_face,
)
from reactometer.io import format_csv
from reactometer.labels import colours_of
from reactometer.serving.job_store import DONE, FAILED, QUEUED, RUNNING, Job
from reactometer.serving.queue import JobQueue
from reactometer.serving.schemas import Document, build_prediction, format_timestamp
from reactometer.synthetic.example import write_example

DOWNLOADS = {
    "csv": ("text/csv", "-timeline.csv"),
    "events": ("text/csv", "-events.csv"),
    "frames": ("text/csv", "-frames.csv"),
    "elan": ("text/x-eaf+xml", ".eaf"),
    "vtt": ("text/vtt", ".vtt"),
}
"""Media type and suffix of the file name by the value of the query parameter ``format``."""


def render_download(predictions: Sequence[Prediction], output_format: str, threshold: float) -> bytes:
    """Render the predictions of a clip in a format of :data:`DOWNLOADS`.

    Raises:
        RequestError: 400, subtitles of several people.
    """
    if output_format in ("elan", "vtt"):
        with TemporaryDirectory() as folder:
            file = Path(folder) / "clip"
            if output_format == "elan":
                return write_elan(predictions, threshold, file, local=False).read_bytes()
            if len(predictions) > 1:
                raise RequestError(400, "subtitles are of one person", fix="Send the clip with faces=one")
            return write_subtitles(predictions[0], file).read_bytes()
    columns: Sequence[str]
    people = [replace(prediction, path=_escape_formula(prediction.path)) for prediction in predictions]
    if output_format == "events":
        columns, rows = EVENT_COLUMNS, event_rows(people, threshold)
    elif output_format == "frames":
        columns, rows = FRAME_COLUMNS, frame_rows(people)
    else:
        columns, rows = timeline_columns(people[0]), timeline_rows(people)
    if any(prediction.face is not None for prediction in people):
        columns = with_face(columns)
    return format_csv([columns, *(map(row.get, columns) for row in rows)]).encode()


def file_name(name: str, suffix: str) -> str:
    """Return the file name of a download, in characters that are safe in a header."""
    stem = re.sub(r"[^A-Za-z0-9._ -]", "_", PurePosixPath(name).stem)[:100].strip(". ")
    return f"{stem or 'clip'}{suffix}"


def _escape_formula(name: str) -> str:
    """Quote a name that a spreadsheet would run as a formula."""
    return f"'{name}" if name[:1] in ("=", "+", "-", "@", "\t") else name


PAGE = Path(__file__).parent / "page"
MAX_NAME_LENGTH = 200
"""Maximum length of a clip's name, characters."""

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": description,
        "content": {"application/json": {"example": {"error": f"{description}."}}},
    }
    for status, description in (
        (400, "Invalid request"),
        (401, "The key is missing or unknown"),
        (404, "No prediction of this client has this id"),
        (409, "The prediction is not done"),
        (413, "The upload is too large"),
        (422, "The clip cannot be decoded"),
        (429, "Too many clips in the queue"),
        (503, "The service is shutting down or cannot write its files"),
        (507, "The disk of the service is full"),
    )
}
_OK: dict[int | str, dict[str, Any]] = {
    200: {"description": "Done.", "content": {media_type: {} for media_type, _ in DOWNLOADS.values()}}
}
_ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {"model": Document, "description": "Queued or running; poll `Location`."}
}

FormatQuery = Annotated[
    Literal["json", "csv", "events", "frames", "elan", "vtt"],
    Query(description="Format of the response; `csv` is the timeline, `vtt` is of one person."),
]
FramesQuery = Annotated[bool, Query(description="Include the sampled frames with face boxes.")]
router = APIRouter()
_RENDERING = Lock()  # one request renders the example clip


@dataclass(frozen=True)
class Service:
    """State shared by the routes."""

    queue: JobQueue
    folder: Path  # checkpoint
    sha256: str  # of the checkpoint

    def document(self, job: Job, *, frames: bool = False) -> Document:
        """Build the JSON document of a job."""
        model = self.queue.model
        active = self.queue.active.get(job.id)
        done = job.status == DONE
        media, progress = (active.media, round(active.progress, 3)) if active else (job.media, 0.0)
        threshold = float(job.request["threshold"])
        predictions = [
            build_prediction(prediction, threshold, frames=frames) for prediction in job.predictions
        ]
        return Document(
            id=job.id,
            status=RUNNING if job.status == QUEUED and active and active.is_running else job.status,
            progress=1.0 if done else progress,
            name=job.name,
            created=format_timestamp(job.created_s) or "",
            finished=format_timestamp(job.finished_s),
            error=job.error,
            options=job.request,
            labels=list(model.labels),
            coverage=model.uncertainty.coverage if model.uncertainty else None,
            model_sha256=self.sha256,
            width_px=media.get("width_px"),
            height_px=media.get("height_px"),
            duration_s=rounded(media.get("duration_s")),
            voice_level=media.get("voice_level") if done else None,
            predictions=predictions if done else None,
        )

    def job(self, job_id: str, owner: str) -> Job:
        """Return a job of this client.

        Raises:
            RequestError: 404, no job of this client has this id.
        """
        job = self.queue.store.read(job_id)
        if job is None or job.owner != owner:
            raise RequestError(404, "no prediction has this id", fix="Send the clip again if it was deleted")
        return job


def service_of(request: HttpRequest) -> Service:
    """Return the service of a request."""
    return request.app.state.service  # type: ignore[no-any-return]


@router.post("/v1/predictions", response_model=Document, responses={**_OK, **_ACCEPTED, **_ERRORS})
async def create_prediction(  # noqa: PLR0913 - one per field of the form
    request: HttpRequest,
    file: Annotated[UploadFile, File(description="Video or audio file.")],
    window_s: Annotated[
        float, Form(description="Length of a window of the timeline, seconds.")
    ] = DEFAULT_WINDOW_S,
    hop_s: Annotated[float, Form(description="Time between window starts, seconds.")] = DEFAULT_HOP_S,
    rate_hz: Annotated[
        float | None, Form(description="Sampled frames per second; default: as in training.")
    ] = None,
    faces: Annotated[str, Form(description="`one` or `all`.")] = "one",
    smooth_s: Annotated[float, Form(description="Length of the smoothing window, seconds.")] = 0.0,
    baseline: Annotated[
        str | None, Form(description="Subtract the mean at rest (0-3s), or a running mean.")
    ] = None,
    summary: Annotated[str, Form(description="Value per clip: `model`, `mean`, `max` or `p90`.")] = "model",
    threshold: Annotated[float, Form(description="Minimum intensity of an event.")] = DEFAULT_THRESHOLD,
    frames: FramesQuery = False,
    format: FormatQuery = "json",  # noqa: A002
    prefer: Annotated[str, Header(description="`respond-async`: return 202 immediately.")] = "",
) -> Response:
    """Predict the intensities of a clip. A clip that takes more than 30 s is answered by 202 with a
    Location."""
    service = service_of(request)
    options = PredictOptions(window_s, hop_s, rate_hz, faces, smooth_s, baseline or None, summary=summary)
    Predictor(service.queue.model, options)  # raises on invalid options
    check_threshold(threshold)
    name = _clean_name(file.filename or "clip")
    fields = {option: value for option, value in asdict(options).items() if option != "timeline"}
    job = Job(request.state.owner, name, {**fields, "threshold": threshold})
    upload = service.queue.store.upload(job.id)
    try:
        with upload.open("wb") as out:
            await run_in_threadpool(shutil.copyfileobj, file.file, out, 2**20)
        active = await run_in_threadpool(service.queue.add, job, request.state.reservation)
    except BaseException:
        upload.unlink(missing_ok=True)
        raise
    if "respond-async" not in prefer:
        with suppress(TimeoutError):
            completion = asyncio.shield(asyncio.wrap_future(active.completion))
            await asyncio.wait_for(completion, service.queue.settings.wait_s)
    job = await run_in_threadpool(service.job, job.id, request.state.owner)
    if job.status == FAILED:
        return _failure(job)
    if job.status == DONE:
        return await run_in_threadpool(_response, service, job, format, frames)
    headers = {"Location": f"/v1/predictions/{job.id}", "Retry-After": "1"}
    return Response(service.document(job).model_dump_json(), 202, headers, media_type="application/json")


@router.get("/v1/predictions/{prediction_id}", response_model=Document, responses={**_OK, **_ERRORS})
def read_prediction(
    request: HttpRequest,
    prediction_id: str,
    frames: FramesQuery = False,
    format: FormatQuery = "json",  # noqa: A002
) -> Response:
    """Return the progress and predictions of a clip as JSON, CSV, ELAN or WebVTT."""
    service = service_of(request)
    job = service.job(prediction_id, request.state.owner)
    if format in DOWNLOADS and job.status == QUEUED:
        raise RequestError(
            409, "the prediction is not done", retry_s=1, fix="Request the progress with format=json"
        )
    return _response(service, job, format, frames)


@router.delete("/v1/predictions/{prediction_id}", status_code=204, responses={404: _ERRORS[404]})
def delete_prediction(request: HttpRequest, prediction_id: str) -> Response:
    """Stop a clip, and delete its predictions."""
    service = service_of(request)
    service.queue.delete(service.job(prediction_id, request.state.owner).id)
    return Response(status_code=204)


@router.get("/v1/model")
def read_model(request: HttpRequest) -> dict[str, Any]:
    """Describe the model and the limits of this service."""
    service = service_of(request)
    model, settings = service.queue.model, service.queue.settings
    card = service.folder / "README.md"
    return {
        "reactometer": version("reactometer"),
        "labels": list(model.labels),
        "colours": {
            label: {"light": light, "dark": dark}
            for label, light, dark in zip(
                model.labels, colours_of(model.labels), colours_of(model.labels, on_dark=True), strict=True
            )
        },
        "coverage": model.uncertainty.coverage if model.uncertainty else None,
        "uses_face": model.uses_face,
        "uses_voice": model.uses_voice,
        "rate_hz": model.config.prepare.rate_hz,
        "detector": model.config.prepare.detector,
        "device": model.device,
        "sha256": service.sha256,
        "card": card.read_text(encoding="utf-8") if card.is_file() else None,
        "limits": {
            "bytes": settings.body_bytes,
            "seconds": settings.bounds.duration_s,
            "kept_s": settings.keep_s,
        },
    }


@router.get("/readyz", include_in_schema=False)
def ready(request: HttpRequest) -> dict[str, str]:
    """Return 200 if the service accepts clips."""
    if not service_of(request).queue.is_open:
        raise RequestError(503, "the service is ending", retry_s=30)
    return {"status": "ready"}


@router.get("/metrics", include_in_schema=False)
def metrics(request: HttpRequest) -> Response:
    """Return the metrics in Prometheus' format."""
    content = generate_latest(service_of(request).queue.metrics.registry)
    return Response(content, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/", include_in_schema=False)
def page() -> Response:
    """Return the page."""
    return Response((PAGE / "index.html").read_bytes(), media_type="text/html")


@router.get("/page/example.mp4", include_in_schema=False)
def example(request: HttpRequest) -> Response:
    """Return the example clip, rendered at the first request."""
    file = service_of(request).queue.settings.folder / "example.mp4"
    with _RENDERING:
        if not file.is_file():
            write_example(file)
    return FileResponse(file, media_type="video/mp4")


@router.get("/page/plotly.min.js", include_in_schema=False)
def plotly() -> Response:
    """Return the page's chart library, from the Python package."""
    file = str(files("plotly") / "package_data" / "plotly.min.js")
    return FileResponse(
        file, headers={"Cache-Control": "public, max-age=86400"}, media_type="text/javascript"
    )


def _clean_name(name: str) -> str:
    """Remove folders and control characters from a file name."""
    base_name = PurePosixPath(name.replace("\\", "/")).name
    return re.sub(r"[\x00-\x1f\x7f]", "", base_name)[-MAX_NAME_LENGTH:] or "clip"


def _failure(job: Job) -> Response:
    return JSONResponse({"error": job.error, "id": job.id}, 422)


def _response(service: Service, job: Job, output_format: str, frames: bool) -> Response:
    """Build the response: the document of a job, or its predictions in another format."""
    if output_format not in DOWNLOADS:
        return Response(service.document(job, frames=frames).model_dump_json(), media_type="application/json")
    if job.status == FAILED:
        return _failure(job)
    media_type, suffix = DOWNLOADS[output_format]
    content = render_download(job.predictions, output_format, float(job.request["threshold"]))
    disposition = f'attachment; filename="{file_name(job.name, suffix)}"'
    return Response(content, headers={"Content-Disposition": disposition}, media_type=media_type)
