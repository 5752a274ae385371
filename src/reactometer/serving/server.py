"""Run the service with uvicorn, and shut it down in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn

from reactometer.errors import ConfigError
from reactometer.inference.checkpoint import LoadedModel
from reactometer.serving.app import build_app
from reactometer.serving.queue import Settings
from reactometer.serving.routes import Service

OnReady = Callable[[Service, str], None]
"""Callback with the service and its address, called when it listens."""


def run(
    model: LoadedModel, folder: Path, settings: Settings, host: str, port: int, on_ready: OnReady
) -> None:
    """Serve until Ctrl-C or SIGTERM; running clips then finish, and queued clips resume at the next start.

    Raises:
        ConfigError: as :func:`reactometer.serving.app.build_app`, or the address is not available.
    """
    app = build_app(model, folder, settings)
    service: Service = app.state.service
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=round(settings.drain_s) + 1,
        ws_max_size=4 * 2**20,
    )
    try:
        asyncio.run(_Server(config, service, on_ready).serve())
    except SystemExit as error:  # uvicorn could not bind
        raise ConfigError(f"cannot listen at {host}:{port}", fix="Choose another --port or --host") from error
    except KeyboardInterrupt:  # the shutdown is complete
        pass
    finally:
        service.queue.close()


class _Server(uvicorn.Server):
    """Uvicorn server that reports its address and refuses clips after the first signal."""

    def __init__(self, config: uvicorn.Config, service: Service, on_ready: OnReady) -> None:
        super().__init__(config)
        self.service, self.on_ready = service, on_ready

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        for server in self.servers:
            for socket in server.sockets:
                host, port = socket.getsockname()[:2]
                self.on_ready(self.service, f"http://{f'[{host}]' if ':' in host else host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.service.queue.stop_accepting()
        super().handle_exit(sig, frame)
