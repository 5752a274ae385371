"""How ``make docs`` builds the site. Pages on commands, settings and REST are written from the code first."""

from __future__ import annotations

import re
import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from generate import write_plots, write_reference  # noqa: E402

project, author, version = "reactometer", "The reactometer developers", version_of("reactometer")
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "sphinx_design"]
html_theme, html_title = "furo", f"reactometer {version.partition('.dev')[0]}"
html_show_copyright = html_show_sphinx = False
html_static_path, html_logo, html_favicon = ["_static"], "_static/logo.svg", "_static/logo.svg"
html_css_files = ["site.css"]
smartquotes = False  # else --out-dir gets a dash
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # notebooks are kept with their outputs: running them takes minutes
copybutton_prompt_text = "$ "
OUTSIDE = {  # text of pages as the repository shows them -> as the site shows them
    r"\]\((?:\.\./)*SECURITY\.md\)": "](/project/security.md)",
    r"\]\((?:\.\./)*starter/reactometer_starter/model/README\.md\)": "](/models/starter.md)",
    r"\[(examples/ros2)\]\([^)]*\)": r"`\1`",
    "```csv": "```text",  # no highlighter knows it
}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"


def setup(app: Any) -> None:
    """Lead links to files outside the site to pages of it, write the reference, and draw plots."""
    app.connect("source-read", lambda app, name, content: _lead_inside(content))
    app.connect("include-read", lambda app, path, parent, content: _lead_inside(content))
    app.connect("builder-inited", lambda _: write_reference(HERE / "reference"))
    app.connect("builder-inited", lambda _: write_plots(HERE / "benchmarks"))


def _lead_inside(content: list[str]) -> None:
    for pattern, replacement in OUTSIDE.items():
        content[0] = re.sub(pattern, replacement, content[0])
