"""The service as an ASGI application: routes, WebSocket, page, middleware and error answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI, Response
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.staticfiles import StaticFiles

from reactometer.batch.run import model_sha256
from reactometer.errors import OutputError, ReactometerError, RequestError
from reactometer.inference.checkpoint import LoadedModel
from reactometer.io import DISK_FULL_ERRNOS, find_errno
from reactometer.serving.auth import RequestGuard, error_response
from reactometer.serving.metrics import Metrics
from reactometer.serving.queue import JobQueue, Settings, logger
from reactometer.serving.routes import PAGE, Service, router
from reactometer.serving.websocket import live_routes

DESCRIPTION = """Videos of people, face and voice, in; the intensity of several emotions, in [0, 1], out: of the whole
clip with intervals, and over time. A clip that takes long is answered by `202` and a `Location` to be asked again.
Every error is `{"error": "what, got, expected, what to do"}`; `429` and `503` say in `Retry-After` when to come
again."""


def build_app(model: LoadedModel, folder: Path, settings: Settings) -> FastAPI:
    """Build the service; it accepts clips until its lifespan ends.

    Args:
        model: loaded from ``folder``, with its detector settled.
        folder: the checkpoint.
        settings: of the service.

    Raises:
        ConfigError: another service has the folder.
        ModelError: the model takes no media.
    """
    desk = JobQueue(model, settings, Metrics())

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
    app.state.service = Service(desk, folder, model_sha256(folder))
    app.include_router(router)
    app.include_router(live_routes(model, settings.keys, desk.metrics.live))
    app.mount("/page", StaticFiles(directory=PAGE, check_dir=False), name="page")
    app.add_middleware(GZipMiddleware, minimum_size=2000)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=settings.hosts, www_redirect=False)
    app.add_middleware(RequestGuard, desk=desk)
    app.add_exception_handler(ReactometerError, _on_error)
    app.add_exception_handler(OSError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    return app


def _on_error(request: HttpRequest, error: Exception) -> Response:
    if isinstance(error, RequestError):
        return error_response(error)
    number = find_errno(error)
    if number and isinstance(error, OSError | OutputError):
        logger.warning("%s", error)
        status, what = 503, "the service cannot write its files"
        if number in DISK_FULL_ERRNOS:
            status, what = 507, "the service has no room left on its disk"
        return error_response(RequestError(status, what, retry_s=60, fix="Ask again when its operator has seen to it"))
    return error_response(RequestError(400, str(error)))


def _on_invalid(request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    told = "; ".join(f"{one['loc'][-1]}: {one['msg']}" for one in error.errors())
    return error_response(RequestError(400, f"a setting is wrong: {told}", fix="See /openapi.json"))


def _on_http(request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    cause = error.__cause__
    if isinstance(cause, RequestError | OSError):
        return _on_error(request, cause)
    return error_response(RequestError(error.status_code, str(error.detail)))
