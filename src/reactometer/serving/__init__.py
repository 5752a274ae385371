"""Files and streams from afar -> intensities, over HTTP and WebSocket."""

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
