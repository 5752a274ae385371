"""How strongly did a person react? Emotional reaction intensity from face and voice.

``load_model("starter").predict("video.mp4")`` is a good start. Other functions are commands of the same name.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from reactometer.errors import ReactometerError

os.environ.setdefault(
    "ORT_DISABLE_TELEMETRY", "1"
)  # else ONNX Runtime keeps a device ID, and sends usage data

if TYPE_CHECKING:
    from reactometer.attribution.occlusion import explain as explain
    from reactometer.batch.run import read_run as read_run
    from reactometer.cli.demo import demo as demo
    from reactometer.config import Config as Config
    from reactometer.config import load_config as load_config
    from reactometer.data.prepare import prepare as prepare
    from reactometer.data.splits import split as split
    from reactometer.evaluation.audit import audit as audit
    from reactometer.evaluation.evaluate import evaluate as evaluate
    from reactometer.evaluation.evaluate import submission as submission
    from reactometer.evaluation.report import report as report
    from reactometer.inference.checkpoint import load_model as load_model
    from reactometer.training.compare import compare as compare
    from reactometer.training.crossval import crossval as crossval
    from reactometer.training.train import ensemble as ensemble
    from reactometer.training.train import train as train

_MODULES = {
    "Config": "config",
    "load_config": "config",
    "prepare": "data.prepare",
    "train": "training.train",
    "compare": "training.compare",
    "crossval": "training.crossval",
    "ensemble": "training.train",
    "submission": "evaluation.evaluate",
    "evaluate": "evaluation.evaluate",
    "report": "evaluation.report",
    "audit": "evaluation.audit",
    "split": "data.splits",
    "explain": "attribution.occlusion",
    "read_run": "batch.run",
    "load_model": "inference.checkpoint",
    "demo": "cli.demo",
}

__all__ = ["ReactometerError", *_MODULES]  # noqa: PLE0604  # all keys are strings


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that light ones do not import PyTorch."""
    if name in _MODULES:
        return getattr(import_module(f"reactometer.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'reactometer' has no attribute '{name}'")
