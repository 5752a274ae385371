"""The routes: predictions and the model under /v1; the page, health and metrics."""

from __future__ import annotations

import asyncio
import re
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from fastapi import APIRouter, File, Form, Header, Query, Response, UploadFile
from fastapi import Request as HttpRequest
from fastapi.responses import FileResponse, JSONResponse
from starlette.concurrency import run_in_threadpool

from reactometer.errors import RequestError
from reactometer.inference.events import DEFAULT_THRESHOLD, check_threshold
from reactometer.inference.predictor import DEFAULT_HOP_S, DEFAULT_WINDOW_S, PredictOptions, Predictor
from reactometer.inference.tables import rounded
from reactometer.serving.job_store import DONE, FAILED, QUEUED, RUNNING, Job
from reactometer.serving.queue import JobQueue
from reactometer.serving.renderers import FORMATS, Format, file_name
from reactometer.serving.schemas import Document, as_moment, describe

PAGE = Path(__file__).parent / "page"
LONGEST_NAME = 200
"""Characters of a file's name that are kept."""

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": what, "content": {"application/json": {"example": {"error": f"{what}."}}}}
    for status, what in (
        (400, "A setting is wrong"),
        (401, "A key is wanted"),
        (404, "There is no such prediction, or it is another client's"),
        (409, "It is not done yet"),
        (413, "The upload is too large"),
        (422, "The clip cannot be read"),
        (429, "Too many clips wait"),
        (503, "The service ends, or cannot write its files"),
        (507, "The service has no room left on its disk"),
    )
}
_DOCUMENT: dict[int | str, dict[str, Any]] = {
    200: {"description": "Done.", "content": {form.media_type: {} for form in FORMATS.values()}}
}
_LATER: dict[int | str, dict[str, Any]] = {202: {"model": Document, "description": "Under way; ask at `Location`."}}

FormatQuery = Annotated[Literal["json", "csv", "elan"], Query(description="Format of the answer.")]
FramesQuery = Annotated[bool, Query(description="With each frame looked at, and the face's box.")]
router = APIRouter()


@dataclass(frozen=True)
class Service:
    """What the routes share."""

    desk: JobQueue
    folder: Path  # the model's
    sha256: str

    def document(self, job: Job, *, frames: bool = False) -> Document:
        """Build a job's document as its client sees it."""
        model, work, done = self.desk.model, self.desk.work(job.id), job.status == DONE
        about, progress = (work.about, round(work.progress, 3)) if work else (job.about, 0.0)
        threshold = float(job.request["threshold"])
        return Document(
            id=job.id,
            status=RUNNING if job.status == QUEUED and work and work.is_running else job.status,
            progress=1.0 if done else progress,
            name=job.name,
            created=as_moment(job.created_s) or "",
            finished=as_moment(job.finished_s),
            error=job.error,
            labels=list(model.labels),
            coverage=model.uncertainty.coverage if model.uncertainty else None,
            model_sha256=self.sha256,
            width_px=about.get("width_px"),
            height_px=about.get("height_px"),
            duration_s=rounded(about.get("duration_s")),
            voice_level=about.get("voice_level") if done else None,
            predictions=[describe(each, threshold, frames=frames) for each in job.predictions] if done else None,
        )

    def job(self, job_id: str, owner: str) -> Job:
        """Find a client's job.

        Raises:
            RequestError: 404, there is none, or it is another client's.
        """
        job = self.desk.store.read(job_id)
        if job is None or job.owner != owner:
            raise RequestError(404, "there is no such prediction", fix="It may have been deleted; send the clip again")
        return job


def service_of(request: HttpRequest) -> Service:
    """Return the service that a request came to."""
    return request.app.state.service  # type: ignore[no-any-return]


@router.post("/v1/predictions", response_model=Document, responses={**_DOCUMENT, **_LATER, **_ERRORS})
async def create_prediction(  # noqa: PLR0913 - one per field of the form
    request: HttpRequest,
    file: Annotated[UploadFile, File(description="A video, or sound.")],
    window_s: Annotated[float, Form(description="Length of the timeline's windows.")] = DEFAULT_WINDOW_S,
    hop_s: Annotated[float, Form(description="From one window to the next.")] = DEFAULT_HOP_S,
    rate_hz: Annotated[float | None, Form(description="Frames looked at per second; default: as in training.")] = None,
    faces: Annotated[str, Form(description="one person, or all.")] = "one",
    smooth_s: Annotated[float, Form(description="Smooth the timeline over so many seconds.")] = 0.0,
    baseline: Annotated[str | None, Form(description="Subtract a stretch at rest, 0-3s, or running.")] = None,
    threshold: Annotated[float, Form(description="Intensity of an event.")] = DEFAULT_THRESHOLD,
    frames: FramesQuery = False,
    format: FormatQuery = "json",  # noqa: A002
    prefer: Annotated[str, Header(description="respond-async: do not wait for the answer.")] = "",
) -> Response:
    """Predict the intensities of a clip. A clip that takes more than 30 s is answered by 202 and a Location."""
    service, form = service_of(request), FORMATS.get(format)
    order = PredictOptions(window_s, hop_s, rate_hz, faces, smooth_s, baseline or None)
    Predictor(service.desk.model, order)  # refuses the settings that predict refuses
    check_threshold(threshold)
    job_id = service.desk.store.new_id()
    place = service.desk.store.upload(job_id)
    name = _clean(file.filename or "clip")
    job = Job(job_id, request.state.owner, name, {**asdict(order), "threshold": threshold})
    try:
        with place.open("wb") as out:
            await run_in_threadpool(shutil.copyfileobj, file.file, out, 2**20)
        work = await run_in_threadpool(service.desk.add, job, request.state.seat)
    except BaseException:
        place.unlink(missing_ok=True)
        raise
    if "respond-async" not in prefer:
        with suppress(TimeoutError):
            told = asyncio.shield(asyncio.wrap_future(work.told))
            await asyncio.wait_for(told, service.desk.settings.wait_s)
    job = await run_in_threadpool(service.job, job_id, request.state.owner)
    if job.status == FAILED:
        return _failure(job)
    if job.status == DONE:
        return await run_in_threadpool(_answer, service, job, form, frames)
    later = {"Location": f"/v1/predictions/{job_id}", "Retry-After": "1"}
    return Response(service.document(job).model_dump_json(), 202, later, media_type="application/json")


@router.get("/v1/predictions/{prediction_id}", response_model=Document, responses={**_DOCUMENT, **_ERRORS})
def read_prediction(
    request: HttpRequest,
    prediction_id: str,
    frames: FramesQuery = False,
    format: FormatQuery = "json",  # noqa: A002
) -> Response:
    """Read a clip's progress and predictions as JSON, CSV or for ELAN."""
    service, form = service_of(request), FORMATS.get(format)
    job = service.job(prediction_id, request.state.owner)
    if form is not None and job.status == QUEUED:
        raise RequestError(409, "it is not done yet", retry_s=1, fix="JSON says how far it is")
    return _answer(service, job, form, frames)


@router.delete("/v1/predictions/{prediction_id}", status_code=204, responses={404: _ERRORS[404]})
def delete_prediction(request: HttpRequest, prediction_id: str) -> Response:
    """Stop a clip, and delete its predictions."""
    service = service_of(request)
    service.desk.delete(service.job(prediction_id, request.state.owner).id)
    return Response(status_code=204)


@router.get("/v1/model")
def read_model(request: HttpRequest) -> dict[str, Any]:
    """Describe the model and the limits of this service."""
    service = service_of(request)
    model, settings = service.desk.model, service.desk.settings
    card = service.folder / "README.md"
    return {
        "reactometer": version("reactometer"),
        "labels": list(model.labels),
        "coverage": model.uncertainty.coverage if model.uncertainty else None,
        "looks": model.networks.uses_face,
        "listens": model.networks.uses_voice,
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
    """Answer while clips are accepted."""
    if not service_of(request).desk.is_open:
        raise RequestError(503, "the service is ending", retry_s=30)
    return {"status": "ready"}


@router.get("/metrics", include_in_schema=False)
def metrics(request: HttpRequest) -> Response:
    """Return the metrics in Prometheus' format."""
    return Response(service_of(request).desk.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/", include_in_schema=False)
def page() -> Response:
    """Return the page."""
    return Response((PAGE / "index.html").read_bytes(), media_type="text/html")


@router.get("/page/plotly.min.js", include_in_schema=False)
def plotly() -> Response:
    """Return the page's chart library, from the Python package."""
    file = str(files("plotly") / "package_data" / "plotly.min.js")
    return FileResponse(file, headers={"Cache-Control": "public, max-age=86400"}, media_type="text/javascript")


def _clean(name: str) -> str:
    """Remove folders and control characters from a file's name."""
    own = PurePosixPath(name.replace("\\", "/")).name
    return re.sub(r"[\x00-\x1f\x7f]", "", own)[-LONGEST_NAME:] or "clip"


def _failure(job: Job) -> Response:
    return JSONResponse({"error": job.error, "id": job.id}, 422)


def _answer(service: Service, job: Job, form: Format | None, frames: bool) -> Response:
    """Answer with a job's document, or with the predictions in another format."""
    if form is None:
        return Response(service.document(job, frames=frames).model_dump_json(), media_type="application/json")
    if job.status == FAILED:
        return _failure(job)
    content = form.render(job.predictions, float(job.request["threshold"]))
    disposition = f'attachment; filename="{file_name(form, job.name)}"'
    return Response(content, headers={"Content-Disposition": disposition}, media_type=form.media_type)
