"""How the documentation is built: ``make docs``; pages on commands and settings are written from the code
first."""

from __future__ import annotations

import re
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from sphinx.pycode import ModuleAnalyzer
from typer.cli import get_docs_for_click
from typer.main import get_command

project, author, version = "reactometer", "The reactometer developers", version_of("reactometer")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme, html_title = "furo", f"reactometer {version}"
html_show_copyright = html_show_sphinx = False
html_static_path, html_logo, html_favicon = ["_static"], "_static/logo.svg", "_static/logo.svg"
myst_heading_anchors = 4
OUTSIDE = {  # text of pages as the repository shows them -> as the site shows them
    r"\]\((?:\.\./)*SECURITY\.md\)": "](/project/security.md)",
    r"\]\((?:\.\./)*starter/reactometer_starter/model/README\.md\)": "](/models/starter.md)",
    r"\[(examples/ros2)\]\([^)]*\)": r"`\1`",
    "```csv": "```text",  # no highlighter knows it
}
WORDS = {
    str: "text",
    float: "a number",
    int: "a whole number",
    bool: "true or false",
    Path: "a path",
    tuple: "a list",
}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"


def setup(app: Any) -> None:
    """Lead links to files that are no pages to those that are, and write what the code says of itself."""
    app.connect("source-read", lambda app, name, content: _lead_inside(content))
    app.connect("include-read", lambda app, path, parent, content: _lead_inside(content))
    app.connect("builder-inited", lambda _: _write_reference(Path(__file__).parent / "reference"))


def _lead_inside(content: list[str]) -> None:
    for pattern, replacement in OUTSIDE.items():
        content[0] = re.sub(pattern, replacement, content[0])


def _write_reference(folder: Path) -> None:
    from reactometer.cli.app import app
    from reactometer.config import Config

    command = get_command(app)
    context = command.make_context("reactometer", [], resilient_parsing=True)
    told = get_docs_for_click(obj=command, ctx=context, name="reactometer")
    told = re.sub(
        r"\[bold\](Examples)\[/bold\]\n((?:\$ .*(?:\n|$))+)", r"**\1**:\n\n```console\n\2```\n", told
    )
    (folder / "commands.md").write_text(told.replace("# `reactometer`", "# Commands", 1), encoding="utf-8")
    notes = ModuleAnalyzer.for_module("reactometer.config").find_attr_docs()
    lines = [
        "# Settings",
        "",
        "Keys of the TOML files in `configs/`, a section a table; on the command line `training.epochs=5`.",
    ]
    lines += _sections(Config, notes)
    (folder / "settings.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _sections(config: type[BaseModel], notes: dict[tuple[str, str], list[str]]) -> list[str]:
    lines = []
    for name, field in config.model_fields.items():
        section = field.annotation
        assert isinstance(section, type)
        lines += ["", f"## [{name}]", "", section.__doc__ or "", ""]
        lines += ["| key | takes | default | |", "| --- | --- | --- | --- |"]
        for key, own in section.model_fields.items():
            told = notes.get((section.__name__, key), [])
            cells = (
                f"`{key}`",
                _takes(own.annotation),
                _default(own.default),
                " ".join(told).replace("``", "`").strip(),
            )
            lines.append(f"| {' | '.join(cells)} |")
            assert cells[-1], f"{section.__name__}.{key} says nothing of itself"
    return lines


def _default(value: object) -> str:
    """Format a value as TOML does."""
    return "" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _takes(own: Any) -> str:
    """Describe a type in words, without None and without the range of a number."""
    if get_origin(own) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(own))
    if get_origin(own) is not tuple and get_args(own):
        return " or ".join(part for part in map(_takes, get_args(own)) if part)
    return WORDS.get(get_origin(own) or own, "")
