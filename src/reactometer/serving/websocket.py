"""WebSocket /v1/live: scores frames and sound of a client. No frame is stored or logged."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
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
from reactometer.serving.queue import Settings

CLOSED, REFUSED, TOO_LARGE, BUSY = 1000, 1008, 1009, 1013
"""WebSocket close codes."""


def live_routes(model: LoadedModel, settings: Settings, gauge: Gauge) -> APIRouter:
    """Build the router of ``/v1/live``; the gauge counts open sessions."""
    router = APIRouter()
    slots = asyncio.Semaphore(settings.live_sessions)
    pool = ThreadPoolExecutor(settings.live_sessions, thread_name_prefix="live")

    @router.websocket("/v1/live")
    async def live(socket: WebSocket) -> None:
        await socket.accept()
        try:
            session = await _connect(socket, model, settings)
            if slots.locked():
                problem = f"too many live sessions (limit {settings.live_sessions}). Try again later."
                raise _SessionEndError(problem, BUSY)
            async with slots:
                with gauge.track_inprogress():
                    await session.run(pool)
        except _SessionEndError as end:
            await _close(socket, end)
        except WebSocketDisconnect:
            pass

    return router


class _SessionEndError(Exception):
    """End of a session, with the close code and an optional message for the client."""

    def __init__(self, message: str = "", code: int = CLOSED) -> None:
        super().__init__(message)
        self.message, self.code = message, code


class _StartMessage(BaseModel):
    """First message of a client."""

    type: Literal["start"]
    key: str | None = None
    window_s: float = Field(DEFAULT_WINDOW_S, le=30.0, allow_inf_nan=False, strict=True)


async def _connect(socket: WebSocket, model: LoadedModel, settings: Settings) -> _Session:
    """Start a session from the first message."""
    try:
        message = await asyncio.wait_for(socket.receive(), settings.live_start_s)
    except TimeoutError as error:
        raise _SessionEndError(f"no start message within {settings.live_start_s:g} s", REFUSED) from error
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect
    try:
        start = _StartMessage.model_validate_json(message.get("text") or "")
        client_for_key(settings.keys, (start.key or "").encode())
        return await asyncio.to_thread(_Session, socket, model, start.window_s, settings.live_idle_s)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in error.errors()
        )
        problem = "invalid start message"
        expected = '{"type": "start", "key": null, "window_s": 2.0}, with window_s at most 30'
        refusal = ConfigError(problem, got=problems.removeprefix(": "), expected=expected)
        raise _SessionEndError(str(refusal), REFUSED) from error
    except ReactometerError as error:
        raise _SessionEndError(str(error), REFUSED) from error


class _Session:
    """Session of one client: a task receives frames, a thread scores them."""

    def __init__(self, socket: WebSocket, model: LoadedModel, window_s: float, idle_s: float) -> None:
        self.socket, self.model, self.idle_s = socket, model, idle_s
        self.scorer = LiveScorer(model, window_s)
        self.scorer.warm_up()
        self.frames = FrameQueue(self.scorer.rate_hz)

    async def run(self, pool: ThreadPoolExecutor) -> None:
        """Run until the client stops, disconnects, times out, or sends a malformed message."""
        await self._send(
            "ready",
            labels=self.model.labels,
            window_s=self.scorer.window_s,
            rate_hz=self.scorer.rate_hz,
            uses_face=self.model.uses_face,
            uses_voice=self.model.uses_voice,
        )
        receiving = asyncio.create_task(self._receive())
        try:
            await self._score(pool)  # until the queue of frames is closed and empty
            await receiving
        finally:
            self.frames.close()
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)

    async def _receive(self) -> None:
        """Queue messages until the session ends, always with an exception; then close the queue."""
        try:
            while True:
                message = await asyncio.wait_for(self.socket.receive(), self.idle_s)
                if message["type"] == "websocket.disconnect":
                    raise WebSocketDisconnect
                self._handle_message(message)
        except TimeoutError as error:
            raise _SessionEndError(f"no message for {self.idle_s:g} s") from error
        except ReactometerError as error:
            raise _SessionEndError(str(error), REFUSED) from error
        finally:
            self.frames.close()

    def _handle_message(self, message: Any) -> None:
        content = message.get("bytes")
        if content is None:
            with suppress(ValueError):
                if parse_json_object(message.get("text") or "").get("type") == "stop":
                    raise _SessionEndError
            raise ConfigError("invalid message", expected='bytes, or {"type": "stop"}')
        if len(content) > MAX_MESSAGE_BYTES:
            raise _SessionEndError(f"a message is too large (got {len(content)} bytes)", TOO_LARGE)
        self.frames.put(unpack(content))

    async def _score(self, pool: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        scores = run_session(self.scorer, self.frames)
        while (timed := await loop.run_in_executor(pool, next, scores, None)) is not None:
            sending = self._send("intensities", **score_as_json(timed, self.model.labels))
            try:
                await asyncio.wait_for(sending, self.idle_s)
            except TimeoutError as error:
                raise _SessionEndError("the client does not read the scores") from error

    async def _send(self, message_type: str, **content: Any) -> None:
        await self.socket.send_text(json.dumps({"type": message_type, **content}))


async def _close(socket: WebSocket, end: _SessionEndError) -> None:
    """Send the reason to the client and close the connection."""
    with suppress(RuntimeError, WebSocketDisconnect):
        if end.message:
            await socket.send_text(json.dumps({"type": "error", "error": end.message}))
        if socket.application_state is not WebSocketState.DISCONNECTED:
            await socket.close(end.code)
