"""WebSocket /v1/live: frames and sound in, the last seconds' intensities out. No frame is stored or logged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field, ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from reactometer.errors import ConfigError, ReactometerError
from reactometer.inference.checkpoint import LoadedModel
from reactometer.inference.predictor import DEFAULT_WINDOW_S
from reactometer.live.protocol import MOST_MESSAGE_BYTES, score_as_json, unpack
from reactometer.live.scorer import LiveScorer
from reactometer.live.session import Inbox, score_here

CLOSED, REFUSED, TOO_LARGE, BUSY = 1000, 1008, 1009, 1013
"""WebSocket's close codes."""

CheckKey = Callable[[str | None], object]
"""Raises a ReactometerError if a client with this key, or without one (None), may not use the service."""


@dataclass(frozen=True)
class LiveLimits:
    """Limits of live sessions."""

    sessions: int = 4
    start_s: float = 10.0  # until the first message
    idle_s: float = 30.0  # between messages


def live_routes(
    model: LoadedModel,
    check_key: CheckKey,
    count: Callable[[int], object] = lambda _: None,
    limits: LiveLimits | None = None,
) -> APIRouter:
    """Build the router of ``/v1/live``.

    Args:
        model: that scores; shared by all sessions.
        check_key: gets the key of the first message.
        count: called with the number of sessions whenever it changes.
        limits: of sessions; default: :class:`LiveLimits`.
    """
    router, bounds = APIRouter(), limits or LiveLimits()
    pool = ThreadPoolExecutor(bounds.sessions, thread_name_prefix="live")
    running: set[_Session] = set()

    @router.websocket("/v1/live")
    async def live(socket: WebSocket) -> None:
        await socket.accept()
        try:
            session = await _begin(socket, model, check_key, bounds)
            if len(running) >= bounds.sessions:
                raise _EndedError(f"{bounds.sessions} live sessions are running already. Try again later.", BUSY)
            running.add(session)
            count(len(running))
            try:
                await session.run(pool)
            finally:
                running.discard(session)
                count(len(running))
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


async def _begin(socket: WebSocket, model: LoadedModel, check_key: CheckKey, limits: LiveLimits) -> _Session:
    """Start the session that the first message asks for."""
    try:
        message = await asyncio.wait_for(socket.receive(), limits.start_s)
    except TimeoutError as error:
        raise _EndedError("no first message came", REFUSED) from error
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect
    try:
        start = _parse_start(message.get("text"))
        check_key(start.key)
        return await asyncio.to_thread(_Session, socket, model, start, limits)
    except ReactometerError as error:
        raise _EndedError(str(error), REFUSED) from error


class _Start(BaseModel):
    """The first message."""

    type: Literal["start"]
    key: str | None = None
    window_s: float = Field(DEFAULT_WINDOW_S, le=30.0, allow_inf_nan=False, strict=True)


class _Stop(BaseModel):
    """The last message."""

    type: Literal["stop"]


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
    """One client: a loop that receives into the inbox, and one that scores in a thread and sends."""

    def __init__(self, socket: WebSocket, model: LoadedModel, start: _Start, limits: LiveLimits) -> None:
        self.socket, self.model, self.start, self.limits = socket, model, start, limits
        self.scorer = LiveScorer(model, start.window_s)
        self.scorer.warm_up()
        self.inbox = Inbox(self.scorer.rate_hz)

    async def run(self, pool: ThreadPoolExecutor) -> None:
        """Run until the client stops, disconnects, is silent for too long, or sends a malformed message."""
        await self._send("ready", **self._about())
        loops = [asyncio.create_task(self._receive()), asyncio.create_task(self._score(pool))]
        try:
            done, _ = await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
            self.inbox.close()
            if loops[0] in done and isinstance(end := loops[0].exception(), _EndedError) and end.code == CLOSED:
                await asyncio.wait([loops[1]], timeout=self.limits.start_s)  # what is left is scored
            for loop in done:
                loop.result()
        finally:
            self.inbox.close()
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)

    async def _receive(self) -> None:
        while True:
            try:
                message = await asyncio.wait_for(self.socket.receive(), self.limits.idle_s)
            except TimeoutError as error:
                raise _EndedError(f"nothing came for {self.limits.idle_s:g} s") from error
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect
            try:
                self._take(message)
            except ReactometerError as error:
                raise _EndedError(str(error), REFUSED) from error

    def _take(self, message: Any) -> None:
        content = message.get("bytes")
        if content is None:
            with suppress(ValidationError):
                _Stop.model_validate_json(message.get("text") or "")
                raise _EndedError
            raise ConfigError("a message is neither a piece nor a stop", expected='bytes, or {"type": "stop"}')
        if len(content) > MOST_MESSAGE_BYTES:
            raise _EndedError(f"a message of {len(content)} bytes is too large", TOO_LARGE)
        self.inbox.put(unpack(content))

    async def _score(self, pool: ThreadPoolExecutor) -> None:
        loop, scores = asyncio.get_running_loop(), score_here(self.scorer, self.inbox)
        while (timed := await loop.run_in_executor(pool, next, scores, None)) is not None:
            answer = score_as_json(timed.score, self.model.labels)
            sending = self._send("intensities", **answer, dropped=timed.dropped)
            try:
                await asyncio.wait_for(sending, self.limits.idle_s)
            except TimeoutError as error:
                raise _EndedError("the client does not read the scores") from error

    def _about(self) -> dict[str, Any]:
        networks, sure = self.model.networks, self.model.uncertainty
        return {
            "labels": list(self.model.labels),
            "coverage": sure.coverage if sure else None,
            "window_s": self.start.window_s,
            "rate_hz": self.scorer.rate_hz,
            "looks": networks.uses_face,
            "listens": networks.uses_voice,
        }

    async def _send(self, kind: str, **said: Any) -> None:
        await self.socket.send_text(json.dumps({"type": kind, **said}))


async def _close(socket: WebSocket, end: _EndedError) -> None:
    """Send the reason to the client and close, unless it has gone."""
    try:
        if end.message:
            await socket.send_text(json.dumps({"type": "error", "error": end.message}))
        if socket.application_state is not WebSocketState.DISCONNECTED:
            await socket.close(end.code)
    except (RuntimeError, WebSocketDisconnect):
        pass
