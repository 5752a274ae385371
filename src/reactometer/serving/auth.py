"""Keys, origins, and limits of uploads: the middleware that every request passes."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Mapping
from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reactometer.errors import ConfigError, RequestError
from reactometer.serving.queue import JobQueue

UPLOADS = "/v1/predictions"
MIN_KEY_LENGTH = 16
"""Characters of a key; shorter keys can be guessed."""

HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "connect-src 'self'; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'",
    "permissions-policy": "camera=(self), microphone=(self)",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class RequestGuard:
    """ASGI middleware: origin, key, room in the queue, size and time of uploads; headers and counts of answers."""

    def __init__(self, app: ASGIApp, desk: JobQueue) -> None:
        self.app, self.desk, self.settings = app, desk, desk.settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it on with its ``client`` and ``owner`` in its state."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        is_http = scope["type"] == "http"
        answer = self._counting(scope, send) if is_http else send
        try:
            check_origin(dict(scope["headers"]))
            if is_http and scope["path"].startswith("/v1/"):
                self._let_in(scope)
            if is_http and scope["method"] == "POST" and scope["path"] == UPLOADS:
                await self._upload(scope, receive, answer)
            else:
                await self.app(scope, receive, answer)
        except RequestError as error:
            if is_http:
                await error_response(error)(scope, receive, answer)
            else:
                await send({"type": "websocket.close", "code": 1008, "reason": str(error)[:120]})

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        seat = self.desk.reserve(scope["state"]["client"])
        scope["state"]["seat"] = seat
        try:
            await self.app(scope, self._bounded(scope, receive), send)
        finally:
            self.desk.release(seat)

    def _let_in(self, scope: Scope) -> None:
        authorization = dict(scope["headers"]).get(b"authorization", b"")
        name = client_for_key(self.settings.keys, authorization.removeprefix(b"Bearer ").strip())
        address = scope["client"][0] if scope.get("client") else "unknown"
        scope.setdefault("state", {}).update(owner=name, client=name or address)

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """Limit a body's size and the time that it takes."""
        settings, taken, over = self.settings, 0, False
        until_s = time.monotonic() + settings.upload_s
        _check_size(int(dict(scope["headers"]).get(b"content-length", b"0")), settings.body_bytes)

        async def bounded() -> Message:
            nonlocal taken, over
            try:
                message = await asyncio.wait_for(receive(), None if over else max(0.0, until_s - time.monotonic()))
            except TimeoutError:
                expected = f"{settings.upload_s:.0f} s at most"
                raise RequestError(408, "the upload took too long", expected=expected) from None
            taken += len(message.get("body", b""))
            _check_size(taken, settings.body_bytes)
            over = not message.get("more_body")
            return message

        return bounded

    def _counting(self, scope: Scope, send: Send) -> Send:
        """Add the headers that every answer has, and count its status."""

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                # no-cache: the page's files are always of one version
                headers.setdefault("cache-control", "no-store" if scope["path"].startswith("/v1/") else "no-cache")
                route = getattr(scope.get("route"), "path", "other")
                self.desk.metrics.requests.labels(route, message["status"]).inc()
            await send(message)

        return counting


def check_origin(headers: Mapping[bytes, bytes]) -> None:
    """Refuse requests that a page of another site sends.

    Raises:
        RequestError: 403.
    """
    host, origin = (headers.get(name, b"").decode("latin-1") for name in (b"host", b"origin"))
    if origin and origin.split("://")[-1] != host:
        raise RequestError(403, "pages of other sites are not served", got=origin, expected=f"one of {host}")


def client_for_key(keys: Mapping[str, str], given: bytes) -> str:
    """Return the name of the client with this key; empty if the service has no keys.

    Every key is compared in full and in constant time.

    Raises:
        RequestError: 401, the key is missing or unknown.
    """
    if not keys:
        return ""
    found = [name for name, key in keys.items() if hmac.compare_digest(key.encode(), given)]
    if not found:
        raise RequestError(
            401,
            "this service needs a key" if not given else "the key is unknown",
            expected="a header 'Authorization: Bearer KEY'",
            fix="Ask the operator for one",
        )
    return found[0]


def read_keys(file: Path) -> dict[str, str]:
    """Read keys by client's name from lines of ``NAME KEY``; empty lines and lines with # are skipped.

    Raises:
        ConfigError: the file cannot be read or has a malformed line, or a key is too short or repeated.
    """
    try:
        lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}", expected="lines of NAME KEY") from error
    pairs = [line for line in lines if line and not line[0].startswith("#")]
    names, keys = ({pair[-side] for pair in pairs if len(pair) == 2} for side in (0, 1))
    if not pairs or min(map(len, keys), default=0) < MIN_KEY_LENGTH or not len(names) == len(keys) == len(pairs):
        raise ConfigError(
            f"{file}: malformed keys",
            expected=f"one line 'NAME KEY' per client, each key unique and of {MIN_KEY_LENGTH} characters or more",
            fix="Make one with: python -c 'import secrets; print(secrets.token_urlsafe(24))'",
        )
    return dict(pairs)


def error_response(error: RequestError) -> JSONResponse:
    """Build the answer for an error."""
    headers = {} if error.retry_s is None else {"Retry-After": str(error.retry_s)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": str(error)}, error.status, headers)


def _check_size(size_bytes: int, most_bytes: int) -> None:
    if size_bytes > most_bytes:
        raise RequestError(
            413,
            "the upload is too large",
            got=f"{size_bytes:,} bytes",
            expected=f"{most_bytes:,} bytes at most",
            fix="Cut the clip, or make it smaller",
        )
