"""What every request passes first: is it let in, is there room for it, is it too large; and what is counted of it."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reactometer.errors import ConfigError, RequestError
from reactometer.serving.limits import Settings
from reactometer.serving.queue import Desk

UPLOADS = "/v1/predictions"
LEAST_KEY = 16
"""Letters of a key; shorter ones can be guessed."""

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""What requests are counted by."""

HEADERS = {
    b"content-security-policy": b"default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    b"connect-src 'self'; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; "
    b"form-action 'none'",
    b"permissions-policy": b"camera=(self), microphone=(self)",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
}


class Gate:
    """ASGI middleware of one service."""

    def __init__(self, app: ASGIApp, settings: Settings, desk: Desk) -> None:
        self.app, self.settings, self.desk = app, settings, desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that is refused, else pass it on, its ``client`` and ``owner`` in its state."""
        if scope["type"] == "websocket":
            await self._pass_socket(scope, receive, send)
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        counted = self._counting(scope, send)
        try:
            check_names(self.settings.hosts, dict(scope["headers"]))
            if scope["path"].startswith("/v1/"):
                self._let_in(scope)
            if scope["method"] == "POST" and scope["path"] == UPLOADS:
                await self._upload(scope, receive, counted)
            else:
                await self.app(scope, receive, counted)
        except RequestError as error:
            await refusal(error)(scope, receive, counted)

    async def _pass_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            check_names(self.settings.hosts, dict(scope["headers"]))
        except RequestError as error:
            await send({"type": "websocket.close", "code": 1008, "reason": str(error)[:120]})
            return
        await self.app(scope, receive, send)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        seat = self.desk.reserve(scope["state"]["client"])
        scope["state"]["seat"] = seat
        try:
            await self.app(scope, self._bounded(scope, receive), send)
        finally:
            self.desk.release(seat)

    def _let_in(self, scope: Scope) -> None:
        name = name_of(self.settings.keys, given_key(dict(scope["headers"])))
        address = scope["client"][0] if scope.get("client") else "unknown"
        scope.setdefault("state", {}).update(owner=name, client=name or address)

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """The same, but for bodies that are too large or too slow."""
        limits, taken, over = self.settings.limits, 0, False
        until_s = time.monotonic() + limits.upload_s
        _check_size(int(dict(scope["headers"]).get(b"content-length", b"0")), limits.body_bytes)

        async def bounded() -> Message:
            nonlocal taken, over
            try:
                message = await asyncio.wait_for(receive(), None if over else max(0.0, until_s - time.monotonic()))
            except TimeoutError:
                expected = f"{limits.upload_s:.0f} s at most"
                raise RequestError(408, "the upload took too long", expected=expected) from None
            taken += len(message.get("body", b""))
            _check_size(taken, limits.body_bytes)
            over = not message.get("more_body")
            return message

        return bounded

    def _counting(self, scope: Scope, send: Send) -> Send:
        """The same, with the headers that every answer has, and its status counted."""

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = dict(HEADERS)
                if scope["path"].startswith("/v1/"):
                    own[b"cache-control"] = b"no-store"
                elif not any(name == b"cache-control" for name, _ in message["headers"]):
                    own[b"cache-control"] = b"no-cache"  # a page whose parts are of one version
                message["headers"] = [*message["headers"], *own.items()]
                route = getattr(scope.get("route"), "path", "other")
                method = scope["method"] if scope["method"] in METHODS else "other"  # anybody can invent one
                self.desk.metrics.requests.labels(route, method, message["status"]).inc()
            await send(message)

        return counting


def check_names(hosts: Sequence[str], headers: Mapping[bytes, bytes]) -> None:
    """Refuse what a page of another site sends, or one whose name was made to lead here (DNS rebinding).

    Raises:
        RequestError: 403.
    """
    host, origin = (headers.get(name, b"").decode("latin-1") for name in (b"host", b"origin"))
    name = (host.rsplit(":", 1)[0] if not host.endswith("]") else host).strip("[]").lower()
    if "*" not in hosts and name not in map(str.lower, hosts):
        fix = "Call it so, or let the operator start it with --name"
        raise RequestError(403, "the service has another name", got=name, expected=" or ".join(hosts), fix=fix)
    if origin and origin.split("://")[-1] != host:
        raise RequestError(403, "pages of other sites are not served", got=origin, expected=f"one of {host}")


def given_key(headers: Mapping[bytes, bytes]) -> bytes:
    """The key that a request brings; empty where it brings none."""
    return headers.get(b"authorization", b"").removeprefix(b"Bearer ").strip() or headers.get(b"x-api-key", b"")


def name_of(keys: Mapping[str, str], given: bytes) -> str:
    """Whose key it is; empty where the service has no keys.

    Every key is compared in full, so that the time taken tells nothing of any.

    Raises:
        RequestError: 401, none, or nobody's.
    """
    if not keys:
        return ""
    found = [name for name, key in keys.items() if hmac.compare_digest(key.encode(), given)]
    if not found:
        raise RequestError(
            401,
            "this service wants a key" if not given else "nobody has this key",
            expected="a header 'Authorization: Bearer KEY'",
            fix="Ask the operator for one",
        )
    return found[0]


def read_keys(file: Path) -> dict[str, str]:
    """Keys by their clients' names, from lines of ``NAME KEY``; those that are empty or begin with # are passed over.

    Raises:
        ConfigError: no such file, or a line that is none; a key that is too short, or given twice.
    """
    try:
        lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}", expected="lines of NAME KEY") from error
    pairs = [line for line in lines if line and not line[0].startswith("#")]
    names, keys = ({pair[-side] for pair in pairs if len(pair) == 2} for side in (0, 1))
    if not pairs or min(map(len, keys), default=0) < LEAST_KEY or not len(names) == len(keys) == len(pairs):
        raise ConfigError(
            f"{file}: these are no keys",
            expected=f"a line 'NAME KEY' for each client, each with its own key of {LEAST_KEY} letters or more",
            fix="Make one with: python -c 'import secrets; print(secrets.token_urlsafe(24))'",
        )
    return dict(pairs)


def refusal(error: RequestError) -> JSONResponse:
    """The answer that an error gives."""
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
