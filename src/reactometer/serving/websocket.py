"""WebSocket /v1/live: frames and sound in, the last seconds' intensities out. No frame is stored or logged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import APIRouter
from prometheus_client import Gauge
from pydantic import BaseModel, Field, ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from reactometer.errors import ConfigError, ReactometerError
from reactometer.inference.checkpoint import LoadedModel
from reactometer.inference.predictor import DEFAULT_WINDOW_S
from reactometer.io import parse_json_object
from reactometer.live.protocol import MAX_MESSAGE_BYTES, score_as_json, unpack
from reactometer.live.scorer import LiveScorer
from reactometer.live.session import FrameQueue, run_session
from reactometer.serving.auth import client_for_key

CLOSED, REFUSED, TOO_LARGE, BUSY = 1000, 1008, 1009, 1013
"""WebSocket's close codes."""


@dataclass(frozen=True)
class LiveLimits:
    """Limits of live sessions."""

    sessions: int = 4
    start_s: float = 10.0  # until the first message
    idle_s: float = 30.0  # between messages


LIMITS = LiveLimits()


def live_routes(model: LoadedModel, keys: Mapping[str, str], running: Gauge, limits: LiveLimits = LIMITS) -> APIRouter:
    """Build the router of ``/v1/live``.

    Args:
        model: scores all sessions.
        keys: of the clients, by name, see :func:`reactometer.serving.auth.client_for_key`.
        running: counts the sessions.
        limits: of sessions.
    """
    router, seats = APIRouter(), asyncio.Semaphore(limits.sessions)
    pool = ThreadPoolExecutor(limits.sessions, thread_name_prefix="live")

    @router.websocket("/v1/live")
    async def live(socket: WebSocket) -> None:
        await socket.accept()
        try:
            session = await _begin(socket, model, keys, limits)
            if seats.locked():
                raise _EndedError(f"{limits.sessions} live sessions are running already. Try again later.", BUSY)
            async with seats:
                with running.track_inprogress():
                    await session.run(pool)
        except _EndedError as end:
            await _close(socket, end)
        except WebSocketDisconnect:
            pass

    return router


class _EndedError(Exception):
    """The session is over, with a message for the client, if any, and the close code."""

    def __init__(self, message: str = "", code: int = CLOSED) -> None:
        super().__init__(message)
        self.message, self.code = message, code


class _Start(BaseModel):
    """The first message."""

    type: Literal["start"]
    key: str | None = None
    window_s: float = Field(DEFAULT_WINDOW_S, le=30.0, allow_inf_nan=False, strict=True)


async def _begin(socket: WebSocket, model: LoadedModel, keys: Mapping[str, str], limits: LiveLimits) -> _Session:
    """Start the session that the first message asks for."""
    try:
        message = await asyncio.wait_for(socket.receive(), limits.start_s)
    except TimeoutError as error:
        raise _EndedError("no first message came", REFUSED) from error
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect
    try:
        start = _parse_start(message.get("text"))
        client_for_key(keys, (start.key or "").encode())
        return await asyncio.to_thread(_Session, socket, model, start.window_s, limits)
    except ReactometerError as error:
        raise _EndedError(str(error), REFUSED) from error


def _parse_start(text: str | None) -> _Start:
    try:
        return _Start.model_validate_json(text or "")
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise ConfigError(
            "the first message does not start a session",
            got=problems.removeprefix(": "),
            expected='{"type": "start", "key": null, "window_s": 2.0}, the window of 30 s at most',
        ) from error


class _Session:
    """One client: a task receives into the inbox, while a thread scores and the scores are sent."""

    def __init__(self, socket: WebSocket, model: LoadedModel, window_s: float, limits: LiveLimits) -> None:
        self.socket, self.model, self.limits = socket, model, limits
        self.scorer = LiveScorer(model, window_s)
        self.scorer.warm_up()
        self.inbox = FrameQueue(self.scorer.rate_hz)

    async def run(self, pool: ThreadPoolExecutor) -> None:
        """Run until the client stops, disconnects, is silent for too long, or sends a malformed message."""
        networks, uncertainty = self.model.networks, self.model.uncertainty
        await self._send(
            "ready",
            labels=self.model.labels,
            coverage=uncertainty.coverage if uncertainty else None,
            window_s=self.scorer.window_s,
            rate_hz=self.scorer.rate_hz,
            looks=networks.uses_face,
            listens=networks.uses_voice,
        )
        receiving = asyncio.create_task(self._receive())
        try:
            await self._score(pool)  # until the inbox is closed and empty
            await receiving
        finally:
            self.inbox.close()
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)

    async def _receive(self) -> None:
        """Put messages into the inbox; close it at the end, which is always an error with its reason."""
        try:
            while True:
                message = await asyncio.wait_for(self.socket.receive(), self.limits.idle_s)
                if message["type"] == "websocket.disconnect":
                    raise WebSocketDisconnect
                self._take(message)
        except TimeoutError as error:
            raise _EndedError(f"nothing came for {self.limits.idle_s:g} s") from error
        except ReactometerError as error:
            raise _EndedError(str(error), REFUSED) from error
        finally:
            self.inbox.close()

    def _take(self, message: Any) -> None:
        content = message.get("bytes")
        if content is None:
            with suppress(ValueError):
                if parse_json_object(message.get("text") or "").get("type") == "stop":
                    raise _EndedError
            raise ConfigError("a message is neither a piece nor a stop", expected='bytes, or {"type": "stop"}')
        if len(content) > MAX_MESSAGE_BYTES:
            raise _EndedError(f"a message of {len(content)} bytes is too large", TOO_LARGE)
        self.inbox.put(unpack(content))

    async def _score(self, pool: ThreadPoolExecutor) -> None:
        loop, scores = asyncio.get_running_loop(), run_session(self.scorer, self.inbox)
        while (timed := await loop.run_in_executor(pool, next, scores, None)) is not None:
            sending = self._send("intensities", **score_as_json(timed, self.model.labels))
            try:
                await asyncio.wait_for(sending, self.limits.idle_s)
            except TimeoutError as error:
                raise _EndedError("the client does not read the scores") from error

    async def _send(self, kind: str, **content: Any) -> None:
        await self.socket.send_text(json.dumps({"type": kind, **content}))


async def _close(socket: WebSocket, end: _EndedError) -> None:
    """Send the reason to the client and close, unless it has gone."""
    with suppress(RuntimeError, WebSocketDisconnect):
        if end.message:
            await socket.send_text(json.dumps({"type": "error", "error": end.message}))
        if socket.application_state is not WebSocketState.DISCONNECTED:
            await socket.close(end.code)
