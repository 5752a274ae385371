"""Configuration and prepared clips -> a model folder."""

from __future__ import annotations

from reactometer.errors import require

require("torch", "lightning", "transformers", "tensorboardX", "pandas", "scipy", "matplotlib", "jinja2", extra="train")
