"""Middleware for all requests: keys, origins, upload limits, headers."""

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

UPLOAD_PATH = "/v1/predictions"
MIN_KEY_LENGTH = 16
"""Minimum number of characters of a key; shorter keys can be guessed."""

HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "connect-src 'self'; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'",
    "permissions-policy": "camera=(self), microphone=(self)",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class RequestGuard:
    """ASGI middleware that checks origin, key, queue and upload limits, and adds headers to all responses."""

    def __init__(self, app: ASGIApp, queue: JobQueue) -> None:
        self.app = app
        self.queue = queue
        self.settings = queue.settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or set ``client`` and ``owner`` in its state and forward it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        is_http = scope["type"] == "http"
        send_response = self._add_headers(scope, send) if is_http else send
        try:
            check_origin(dict(scope["headers"]))
            if is_http and scope["path"].startswith("/v1/"):
                self._authenticate(scope)
            if is_http and scope["method"] == "POST" and scope["path"] == UPLOAD_PATH:
                with self.queue.reserve(scope["state"]["client"]) as reservation:
                    scope["state"]["reservation"] = reservation
                    await self.app(scope, self._limit_body(scope, receive), send_response)
            else:
                await self.app(scope, receive, send_response)
        except RequestError as error:
            if is_http:
                await error_response(error)(scope, receive, send_response)
            else:
                await send({"type": "websocket.close", "code": 1008, "reason": str(error)[:120]})

    def _authenticate(self, scope: Scope) -> None:
        authorization = dict(scope["headers"]).get(b"authorization", b"")
        name = client_for_key(self.settings.keys, authorization.removeprefix(b"Bearer ").strip())
        address = scope["client"][0] if scope.get("client") else "unknown"
        scope.setdefault("state", {}).update(owner=name, client=name or address)

    def _limit_body(self, scope: Scope, receive: Receive) -> Receive:
        """Limit the size of a request body and the time of its upload."""
        settings = self.settings
        received_bytes = 0
        is_complete = False
        deadline = time.monotonic() + settings.upload_s
        _check_size(int(dict(scope["headers"]).get(b"content-length", b"0")), settings.body_bytes)

        async def limited_receive() -> Message:
            nonlocal received_bytes, is_complete
            timeout_s = None if is_complete else max(0.0, deadline - time.monotonic())
            try:
                message = await asyncio.wait_for(receive(), timeout_s)
            except TimeoutError:
                expected = f"at most {settings.upload_s:.0f} s"
                raise RequestError(408, "the upload took too long", expected=expected) from None
            received_bytes += len(message.get("body", b""))
            _check_size(received_bytes, settings.body_bytes)
            is_complete = not message.get("more_body")
            return message

        return limited_receive

    def _add_headers(self, scope: Scope, send: Send) -> Send:
        """Add the common headers to responses, and count them by status."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                # no-cache: the files of the page must be of one version
                headers.setdefault(
                    "cache-control", "no-store" if scope["path"].startswith("/v1/") else "no-cache"
                )
                route = getattr(scope.get("route"), "path", "other")
                self.queue.metrics.requests.labels(route, message["status"]).inc()
            await send(message)

        return send_with_headers


def check_origin(headers: Mapping[bytes, bytes]) -> None:
    """Refuse a request sent by a page of another site.

    Raises:
        RequestError: 403.
    """
    host, origin = (headers.get(name, b"").decode("latin-1") for name in (b"host", b"origin"))
    if origin and origin.split("://")[-1] != host:
        raise RequestError(
            403, "requests from pages of other sites are refused", got=origin, expected=f"one of {host}"
        )


def client_for_key(keys: Mapping[str, str], key_bytes: bytes) -> str:
    """Return the name of the client with this key, or "" if the service has no keys.

    Each key is compared in constant time.

    Raises:
        RequestError: 401, the key is missing or unknown.
    """
    if not keys:
        return ""
    names = [name for name, key in keys.items() if hmac.compare_digest(key.encode(), key_bytes)]
    if not names:
        raise RequestError(
            401,
            "the key is unknown" if key_bytes else "this service requires a key",
            expected="a header 'Authorization: Bearer KEY'",
            fix="Ask the operator for a key",
        )
    return names[0]


def read_keys(file: Path) -> dict[str, str]:
    """Read keys by client name from lines of ``NAME KEY``; skip empty lines and comments (#).

    Raises:
        ConfigError: the file cannot be read or has a malformed line, or a key is too short or repeated.
    """
    try:
        lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}", expected="lines of NAME KEY") from error
    pairs = [line for line in lines if line and not line[0].startswith("#")]
    names, keys = ({pair[-side] for pair in pairs if len(pair) == 2} for side in (0, 1))
    if (
        not pairs
        or min(map(len, keys), default=0) < MIN_KEY_LENGTH
        or not len(names) == len(keys) == len(pairs)
    ):
        raise ConfigError(
            f"{file}: malformed keys",
            expected=f"one line 'NAME KEY' per client, each key unique and of {MIN_KEY_LENGTH} characters or "
            "more",
            fix="Generate a key: python -c 'import secrets; print(secrets.token_urlsafe(24))'",
        )
    return dict(pairs)


def error_response(error: RequestError) -> JSONResponse:
    """Build the JSON response for an error."""
    headers = {} if error.retry_s is None else {"Retry-After": str(error.retry_s)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": str(error)}, error.status, headers)


def _check_size(size_bytes: int, max_bytes: int) -> None:
    if size_bytes > max_bytes:
        raise RequestError(
            413,
            "the upload is too large",
            got=f"{size_bytes:,} bytes",
            expected=f"at most {max_bytes:,} bytes",
            fix="Shorten or compress the clip",
        )
