"""A real service for the tests, in a separate process on a free port."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

if TYPE_CHECKING:
    from reactometer.inference.checkpoint import LoadedModel
    from reactometer.serving.queue import ServiceMetrics, Settings

LONGEST_S = 120.0


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@dataclass(frozen=True)
class Server:
    """A running service."""

    address: str
    process: subprocess.Popen[str]
    client: httpx.Client
    folder: Path

    def post(self, clip: Path | bytes, name: str = "clip.mp4", **details: Any) -> httpx.Response:
        """Send a clip; pass details to httpx."""
        content = clip if isinstance(clip, bytes) else clip.read_bytes()
        return self.client.post("/v1/predictions", files={"file": (name, content)}, **details)

    def wait(self, answer: httpx.Response) -> Any:
        """Poll until the clip is done or failed; return the document."""
        document, deadline = answer.json(), time.monotonic() + LONGEST_S
        while document["status"] in ("queued", "running"):
            assert time.monotonic() < deadline, document
            time.sleep(0.05)
            document = self.client.get(f"/v1/predictions/{document['id']}").json()
        return document

    def wait_for_no_uploads(self) -> None:
        """Wait until all uploads are deleted."""
        deadline = time.monotonic() + LONGEST_S
        while uploads := list((self.folder / "uploads").iterdir()):
            assert time.monotonic() < deadline, uploads
            time.sleep(0.05)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and wait for the end."""
        self.process.send_signal(number)
        return self.process.wait(LONGEST_S)


Serving = Callable[..., Any]


@pytest.fixture(scope="session")
def serving() -> Serving:
    """Return a context manager ``serving(folder, *options)`` that yields a Server and stops it."""

    @contextmanager
    def serving(folder: Path, *options: str, **environment: str) -> Iterator[Server]:
        command = [
            sys.executable,
            "-m",
            "reactometer",
            "serve",
            "--port",
            "0",
            "--jobs",
            str(folder),
            *options,
        ]
        log_file = folder.parent / f"{folder.name}.log"
        folder.mkdir(parents=True, exist_ok=True)
        with log_file.open("w") as log:
            process = subprocess.Popen(
                command, stderr=log, stdout=log, text=True, env={**os.environ, **environment}
            )
        try:
            address, deadline = "", time.monotonic() + LONGEST_S
            while not address:
                assert process.poll() is None, log_file.read_text()
                assert time.monotonic() < deadline, log_file.read_text()
                time.sleep(0.05)
                address = next(
                    (
                        line.split()[0]
                        for line in log_file.read_text().splitlines()
                        if line.startswith("http")
                    ),
                    "",
                )
            with httpx.Client(base_url=address, timeout=LONGEST_S) as client:
                yield Server(address, process, client, folder)
        finally:
            process.kill()
            process.wait()

    return serving


@pytest.fixture(scope="session")
def starter() -> LoadedModel:
    """Load the starter model on the CPU."""
    from reactometer.inference.checkpoint import load_model
    from reactometer.paths import STARTER

    return load_model(STARTER, "cpu")


@contextmanager
def live_route(model: LoadedModel, settings: Settings, metrics: ServiceMetrics) -> Iterator[str]:
    """Serve only the route /v1/live in a thread; yield its address."""
    import uvicorn
    from fastapi import FastAPI

    from reactometer.serving.websocket import live_routes

    application = FastAPI()
    application.include_router(live_routes(model, settings, metrics.live))
    running = uvicorn.Server(uvicorn.Config(application, port=0, log_level="warning", ws_max_size=4 * 2**20))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.02)
    yield f"ws://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}/v1/live"
    running.should_exit = True
    thread.join(timeout=10)


@pytest.fixture(scope="session")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Return a function that renders a talking face, in repetitions of three seconds."""
    from reactometer.synthetic.clip import clip_plan, render_clip
    from reactometer.synthetic.dataset import write_video

    folder = tmp_path_factory.mktemp("talking")

    def talking(turns: int) -> Path:
        file = folder / f"{turns}.mp4"
        if not file.is_file():
            frames, waveform = render_clip(clip_plan(0))
            write_video(
                file, np.tile(frames, (turns, 1, 1, 1)), clip_plan(0).rate_hz, np.tile(waveform, turns)
            )
        return file

    return talking
