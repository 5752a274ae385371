"""The other end of WebSocket /v1/live: pieces to a server, its scores back."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from websockets.exceptions import ConnectionClosed, InvalidURI, WebSocketException
from websockets.sync.client import connect

from reactometer.errors import ConfigError
from reactometer.inference.inbox import Inbox
from reactometer.inference.live_features import FeatureMaker
from reactometer.inference.live_rows import score_from_json
from reactometer.inference.live_session import PAUSE_S, Arrivals, Told
from reactometer.serving.pieces import pack

ANSWER_S = 10.0
ROUTE = "/v1/live"


class RemoteScorer:
    """A session with a server.

    Args:
        address: ws:// or wss:// (http:// and https:// do), host and port.
        key: where the server asks for one.
        window_s: length of the window, seconds.
        maker: makes features here, so that neither pictures nor sound leave this machine.

    Raises:
        ConfigError: nobody answers there, the server refuses, or has another model than the maker.
    """

    def __init__(
        self, address: str, key: str | None = None, window_s: float = 2.0, maker: FeatureMaker | None = None
    ) -> None:
        self.maker = maker
        start = {"type": "start", "key": key, "window_s": window_s, "mode": "features" if maker else "media"}
        try:
            self.connection = connect(as_route(address), compression=None, open_timeout=ANSWER_S)
            self.connection.send(json.dumps(start))
            ready = self._receive(ANSWER_S)
        except (OSError, InvalidURI, WebSocketException, TimeoutError) as error:
            raise ConfigError(
                f"no live service answers at {address}", got=error, fix="Start one with 'reactometer serve'"
            ) from error
        self.labels, self.rate_hz = tuple(map(str, ready["labels"])), float(ready["rate_hz"])
        self.coverage: float | None = ready["coverage"]
        if maker is not None and maker.model.labels != self.labels:
            self.close()
            raise ConfigError("the server has another model than this one", fix="Name the same model on both sides")

    def scores(self, inbox: Inbox) -> Iterator[Told]:
        """Send what comes into the inbox and give the scores, until the inbox is closed and the last one is here."""
        inbox.rate_hz = min(inbox.rate_hz, self.rate_hz)
        arrivals, dropped_here = Arrivals(), 0
        sender = threading.Thread(target=self._send, args=(inbox, arrivals), daemon=True)
        sender.start()
        try:
            while True:
                said = self._receive(None)
                score, dropped_here = score_from_json(said, self.labels), inbox.dropped
                if self.maker is not None:
                    newest = self.maker.newest
                    score = replace(score, level_db=self.maker.level_db, face=newest.box if newest else None)
                yield Told(score, arrivals.latency_s(score), int(said["dropped"]) + dropped_here)
        except ConnectionClosed as error:
            if not inbox.closed:
                raise ConfigError("the server has ended the session", got=error) from error
        finally:
            inbox.close()
            sender.join(timeout=ANSWER_S)
            self.close()

    def close(self) -> None:
        """Break off."""
        self.connection.close()

    def _send(self, inbox: Inbox, arrivals: Arrivals) -> None:
        try:
            over = False
            while not over:
                over = inbox.closed
                pieces = inbox.take(PAUSE_S)
                for piece in pieces:
                    arrivals.note(piece)
                for piece in self.maker.make(pieces) if self.maker and pieces else pieces:
                    if message := pack(piece):
                        self.connection.send(message)
            self.connection.send('{"type": "stop"}')
        except ConnectionClosed:
            return  # told of where scores are received

    def _receive(self, timeout_s: float | None) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(self.connection.recv(timeout_s))
        if said["type"] == "error":
            self.close()
            raise ConfigError(f"the server says: {said['error']}")
        return said


def as_route(address: str) -> str:
    """The address of the service's live route."""
    parts = urlsplit(address if "://" in address else f"ws://{address}")
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    return urlunsplit((scheme, parts.netloc, parts.path if parts.path.strip("/") else ROUTE, "", ""))
