"""The service as one application: routes, page, health, metrics, what every error looks like."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, FastAPI, Header, Response
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles

from reactometer.batch.run import model_sha256
from reactometer.errors import OutputError, ReactometerError, RequestError
from reactometer.io import NO_ROOM, system_error
from reactometer.models.folder import LoadedModel
from reactometer.serving import routes
from reactometer.serving.auth import Gate, name_of, refusal
from reactometer.serving.job_store import logger, no_room
from reactometer.serving.limits import Settings
from reactometer.serving.metrics import Metrics
from reactometer.serving.queue import Desk
from reactometer.serving.routes import service_of
from reactometer.serving.service import Service
from reactometer.serving.websocket import live_routes

PAGE = Path(__file__).parent / "page"
DESCRIPTION = """Videos of people, face and voice, in; the intensity of several emotions, in [0, 1], out: of the whole
clip with intervals, and over time. A clip that takes long is answered by `202` and a `Location` to be asked again.
Every error is `{"error": "what, got, expected, what to do"}`; `429` and `503` say in `Retry-After` when to come
again."""
router = APIRouter()


@router.get("/healthz", include_in_schema=False)
def health() -> dict[str, str]:
    """The process is alive."""
    return {"status": "ok"}


@router.get("/readyz", include_in_schema=False)
def ready(request: HttpRequest) -> dict[str, str]:
    """The service takes clips, and its database answers."""
    desk = service_of(request).desk
    if not desk.is_open:
        raise RequestError(503, "the service is ending", retry_s=30)
    desk.table.check()
    return {"status": "ready"}


@router.get("/metrics", include_in_schema=False)
def metrics(request: HttpRequest) -> Response:
    """What was counted, for Prometheus."""
    return Response(service_of(request).desk.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/", include_in_schema=False)
def page() -> Response:
    """The page."""
    return Response((PAGE / "index.html").read_bytes(), media_type="text/html")


@router.get("/page/plotly.min.js", include_in_schema=False)
def plotly(accept_encoding: Annotated[str, Header()] = "") -> Response:
    """The page's chart library, from the Python package."""
    headers = {"Cache-Control": "public, max-age=86400", "Vary": "Accept-Encoding"}
    if "gzip" in accept_encoding:
        return Response(_plotly_gzip(), headers=headers | {"Content-Encoding": "gzip"}, media_type="text/javascript")
    return Response(gzip.decompress(_plotly_gzip()), headers=headers, media_type="text/javascript")


def build_app(model: LoadedModel, folder: Path, settings: Settings) -> FastAPI:
    """The service as an ASGI application; it takes clips from now on, until its lifespan ends.

    Args:
        model: loaded from ``folder``, with its detector settled.
        folder: the model folder.
        settings: how it is run.

    Raises:
        ConfigError: another service has the folder, or its database cannot be opened.
        ModelError: a model that takes no media.
    """
    desk = Desk(model, settings, Metrics(model))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(desk.close)

    app = FastAPI(
        title="reactometer",
        version=version("reactometer"),
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = Service(model, folder, model_sha256(folder), settings, desk)
    app.include_router(routes.router)
    app.include_router(router)
    app.include_router(
        live_routes(model, lambda key: name_of(settings.keys, (key or "").encode()), desk.metrics.live.set)
    )
    app.mount("/page", StaticFiles(directory=PAGE, check_dir=False), name="page")
    app.add_middleware(GZipMiddleware, minimum_size=2000)
    app.add_middleware(Gate, settings=settings, desk=desk)
    app.add_exception_handler(ReactometerError, _on_error)
    app.add_exception_handler(OSError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    return app


@cache
def _plotly_gzip() -> bytes:
    from plotly.offline import get_plotlyjs

    return gzip.compress(get_plotlyjs().encode())


def _on_error(request: HttpRequest, error: Exception) -> Response:
    if isinstance(error, RequestError):
        return refusal(error)
    number = system_error(error)
    if number and isinstance(error, OSError | OutputError):
        logger.warning("%s", error)
        fix = "Ask again when its operator has seen to it"
        away = RequestError(503, "the service cannot write its files", retry_s=60, fix=fix)
        return refusal(no_room() if number in NO_ROOM else away)
    return refusal(RequestError(400, str(error)))


def _on_invalid(request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    told = "; ".join(f"{one['loc'][-1]}: {one['msg']}" for one in error.errors())
    return refusal(RequestError(400, f"a setting is wrong: {told}", fix="See /openapi.json"))


def _on_http(request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    cause = error.__cause__
    if isinstance(cause, RequestError | OSError):
        return _on_error(request, cause)
    return refusal(RequestError(error.status_code, str(error.detail)))
