"""WebSocket /v1/live: frames and sound in, the last seconds' intensities out. No frame is stored or logged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from reactometer.errors import ConfigError, ReactometerError
from reactometer.inference.predictor import DEFAULT_WINDOW_S
from reactometer.live.protocol import MOST_MESSAGE_BYTES, LiveScore, score_as_json, unpack
from reactometer.live.scorer import LiveScorer
from reactometer.live.session import PAUSE_S, Inbox
from reactometer.models.folder import LoadedModel
from reactometer.serving.auth import given_key

CLOSED, REFUSED, TOO_LARGE, BUSY = 1000, 1008, 1009, 1013
"""WebSocket's codes that a session ends with."""

CheckKey = Callable[[str | None], object]
"""Raises a ReactometerError where a client with this key, or without one (None), may not use the service."""


@dataclass(frozen=True)
class LiveLimits:
    """What one server bears; our choice."""

    sessions: int = 4
    start_s: float = 10.0  # until the first message
    idle_s: float = 30.0  # between messages
    wrong_pieces: int = 20  # answered by an error each, before the session ends
    longest_window_s: float = 30.0


def live_routes(
    model: LoadedModel,
    check_key: CheckKey,
    count: Callable[[int], object] = lambda _: None,
    limits: LiveLimits | None = None,
) -> APIRouter:
    """The route ``/v1/live``, to be included in an application.

    Args:
        model: that scores; shared by all sessions.
        check_key: gets the key of the first message or of the header ``Authorization: Bearer KEY``.
        count: told the number of sessions whenever it changes.
        limits: on sessions and what they send; default: as :class:`LiveLimits` says.
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
    """The session is over: what to tell the client, if anything, and the code to close with."""

    def __init__(self, told: str = "", code: int = CLOSED) -> None:
        super().__init__(told)
        self.told, self.code = told, code


async def _begin(socket: WebSocket, model: LoadedModel, check_key: CheckKey, limits: LiveLimits) -> _Session:
    """The session that the first message asks for."""
    try:
        message = await asyncio.wait_for(socket.receive(), limits.start_s)
    except TimeoutError as error:
        raise _EndedError("no first message came", REFUSED) from error
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect
    try:
        start = _parse_start(message.get("text"), limits)
        check_key(start.key or given_key(dict(socket.scope["headers"])).decode("utf-8", "replace") or None)
        return await asyncio.to_thread(_Session, socket, model, start, limits)
    except ReactometerError as error:
        raise _EndedError(str(error), REFUSED) from error


@dataclass(frozen=True)
class _Start:
    key: str | None
    window_s: float


def _parse_start(text: str | None, limits: LiveLimits) -> _Start:
    expected = '{"type": "start", "key": …, "window_s": 2.0}'
    try:
        said = json.loads(text or "")
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict) or said.get("type") != "start":
        raise ConfigError("the first message does not start a session", expected=expected)
    window_s, key = said.get("window_s", DEFAULT_WINDOW_S), said.get("key")
    if isinstance(window_s, bool) or not isinstance(window_s, int | float) or not window_s <= limits.longest_window_s:
        got, most = str(window_s)[:40], f"{limits.longest_window_s:g} s at most"
        raise ConfigError("a live window of this length cannot be", got=got, expected=most)
    if not isinstance(key, str | None):
        raise ConfigError("the key is not a text", got=type(key).__name__, expected=expected)
    return _Start(key, float(window_s))


class _Session:
    """One client: a loop that receives into the inbox, and one that scores in a thread and sends."""

    def __init__(self, socket: WebSocket, model: LoadedModel, start: _Start, limits: LiveLimits) -> None:
        self.socket, self.model, self.start, self.limits = socket, model, start, limits
        self.scorer = LiveScorer(model, start.window_s)
        self.scorer.warm_up()
        self.inbox = Inbox(self.scorer.rate_hz)

    async def run(self, pool: ThreadPoolExecutor) -> None:
        """Until the client stops, breaks off, is silent for too long, or sends too much that is wrong."""
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
        wrong = 0
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
                wrong += 1
                if wrong > self.limits.wrong_pieces:
                    raise _EndedError(str(error), REFUSED) from error
                await self._send("error", error=str(error))

    def _take(self, message: Any) -> None:
        content = message.get("bytes")
        if content is not None and len(content) > MOST_MESSAGE_BYTES:
            raise _EndedError(f"a message of {len(content)} bytes is too large", TOO_LARGE)
        if content is not None:
            self.inbox.put(unpack(content))
        elif _is_stop(message.get("text")):
            raise _EndedError
        else:
            raise ConfigError("a message is neither a piece nor a stop", expected='bytes, or {"type": "stop"}')

    async def _score(self, pool: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while True:
            score, over = await loop.run_in_executor(pool, self._next)
            if score is not None:
                said = score_as_json(score, self.model.labels)
                sending = self._send("intensities", **said, dropped=self.inbox.dropped)
                try:
                    await asyncio.wait_for(sending, self.limits.idle_s)
                except TimeoutError as error:
                    raise _EndedError("nobody reads the scores") from error
            if over:
                return

    def _next(self) -> tuple[LiveScore | None, bool]:
        """In a thread: wait for pieces, take them in, score; and whether nothing more will come."""
        over = self.inbox.closed
        pieces = self.inbox.take(PAUSE_S)
        for piece in pieces:
            self.scorer.take(piece)
        return self.scorer.score() if pieces else None, over

    def _about(self) -> dict[str, Any]:
        network, sure = self.model.network, self.model.uncertainty
        return {
            "labels": list(self.model.labels),
            "coverage": sure.coverage if sure else None,
            "window_s": self.start.window_s,
            "rate_hz": self.scorer.rate_hz,
            "looks": network.looks,
            "listens": network.listens,
        }

    async def _send(self, kind: str, **said: Any) -> None:
        await self.socket.send_text(json.dumps({"type": kind, **said}))


def _is_stop(text: str | None) -> bool:
    try:
        said = json.loads(text or "")
    except (ValueError, RecursionError):
        return False
    return isinstance(said, dict) and said.get("type") == "stop"


async def _close(socket: WebSocket, end: _EndedError) -> None:
    """Tell the client why, and close; nothing where it has gone."""
    try:
        if end.told:
            await socket.send_text(json.dumps({"type": "error", "error": end.told}))
        if socket.application_state is not WebSocketState.DISCONNECTED:
            await socket.close(end.code)
    except (RuntimeError, WebSocketDisconnect):
        pass
