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

from reactometer.batch.run import hash_model
from reactometer.errors import OutputError, ReactometerError, RequestError
from reactometer.inference.checkpoint import LoadedModel
from reactometer.io import DISK_FULL_ERRNOS, find_errno
from reactometer.serving.auth import RequestGuard, error_response
from reactometer.serving.queue import JobQueue, ServiceMetrics, Settings, logger
from reactometer.serving.routes import PAGE, Service, router
from reactometer.serving.websocket import live_routes

DESCRIPTION = """Estimates the intensity of several emotions, in [0, 1], from videos of people: for the whole
clip, with intervals, and over time. A long clip is answered by `202` with a `Location` to poll. Every
error is `{"error": "problem (got ...; expected ...). hint"}`. `429`, `503` and `507` set `Retry-After`, in
seconds."""


def build_app(model: LoadedModel, folder: Path, settings: Settings) -> FastAPI:
    """Build the ASGI application; it accepts clips until its lifespan ends.

    Args:
        model: loaded from ``folder``, with its detector resolved.
        folder: the checkpoint.
        settings: limits and folder of the service.

    Raises:
        ConfigError: another service has the folder.
        ModelError: the model has no input of frames or sound.
    """
    queue = JobQueue(model, settings, ServiceMetrics())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(queue.close)

    app = FastAPI(
        title="reactometer",
        version=version("reactometer"),
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = Service(queue, folder, hash_model(folder))
    app.include_router(router)
    app.include_router(live_routes(model, settings, queue.metrics.live))
    app.mount("/page", StaticFiles(directory=PAGE, check_dir=False), name="page")
    app.add_middleware(GZipMiddleware, minimum_size=2000)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=settings.hosts, www_redirect=False)
    app.add_middleware(RequestGuard, queue=queue)
    for error_class in (ReactometerError, OSError, RequestValidationError, HTTPException):
        app.add_exception_handler(error_class, _on_error)
    return app


def _on_error(request: HttpRequest, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        if not isinstance(error.__cause__, RequestError | OSError):
            return error_response(RequestError(error.status_code, str(error.detail)))
        error = error.__cause__
    if isinstance(error, RequestError):
        return error_response(error)
    if isinstance(error, RequestValidationError):
        problems = "; ".join(f"{detail['loc'][-1]}: {detail['msg']}" for detail in error.errors())
        return error_response(RequestError(400, f"invalid request: {problems}", fix="See /openapi.json"))
    errno = find_errno(error)
    if errno and isinstance(error, OSError | OutputError):
        logger.warning("%s", error)
        status, problem = 503, "the service cannot write its files"
        if errno in DISK_FULL_ERRNOS:
            status, problem = 507, "the disk of the service is full"
        return error_response(
            RequestError(status, problem, retry_s=60, fix="Try again later, or tell the operator")
        )
    return error_response(RequestError(400, str(error)))
