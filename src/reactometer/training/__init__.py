"""Train a configuration on prepared clips into a checkpoint."""

from __future__ import annotations

from reactometer.errors import require

NETWORKS = ("torch", "lightning", "transformers", "onnx", "onnxscript", "tensorboardX")
require(*NETWORKS, "pandas", "scipy", "matplotlib", "jinja2", extra="train")
