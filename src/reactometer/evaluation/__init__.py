"""Evaluate models: metrics, intervals, calibration, subgroups, robustness and reports."""

from __future__ import annotations

from reactometer.errors import require

require("pandas", "scipy", "matplotlib", "jinja2", extra="evaluate")
