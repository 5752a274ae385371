"""The networks, in PyTorch."""

from __future__ import annotations

from reactometer.errors import require

require("torch", "transformers", extra="train")
