"""The service: predictions over HTTP and WebSocket, and the page."""

from __future__ import annotations

from reactometer.errors import require

require(
    "fastapi",
    "uvicorn",
    "python_multipart",
    "websockets",
    "plotly",
    "prometheus_client",
    extra="serve",
)
