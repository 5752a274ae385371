"""A model and a data set -> what it is worth."""

from __future__ import annotations

from reactometer.errors import require

require("pandas", "scipy", "matplotlib", "jinja2", extra="evaluate")
