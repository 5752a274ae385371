"""Write the reference pages whose facts are in the code (commands, settings, REST), and plot the benchmarks'
tables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from fastapi import FastAPI
from matplotlib.figure import Figure
from pydantic import BaseModel
from sphinx.pycode import ModuleAnalyzer
from typer.cli import get_docs_for_click
from typer.main import get_command

from reactometer.cli.app import PANELS, app
from reactometer.config import Config
from reactometer.serving.app import DESCRIPTION
from reactometer.serving.routes import router

WORDS = {
    str: "text",
    float: "number",
    int: "whole number",
    bool: "true or false",
    Path: "path",
    tuple: "list",
}
TYPES = {  # Typer's names -> ours
    "list[str]": "one or more",
    "str": "text",
    "float": "number",
    "float range": "number",
    "int": "whole number",
    "int range": "whole number",
}
PLOTS = {  # page -> columns of its first table: name, value, interval
    "architectures": ("architecture", "test: r", "95% interval"),
    "backbones": ("encoder", "test", ""),
    "ravdess": ("test", "r", "95% interval"),
    "starter": ("", "mean Pearson", "95% interval"),
}


def write_plots(folder: Path) -> None:
    """Draw ``PAGE.svg`` from the first table of each page in :data:`PLOTS`."""
    for page, columns in PLOTS.items():
        header, *rows = _first_table((folder / f"{page}.md").read_text(encoding="utf-8"))
        name, value, interval = (header.index(column) if column in header else -1 for column in columns)
        rows = [row for row in reversed(rows) if re.fullmatch(r"-?\d\.\d+", row[value])]
        figure = Figure(figsize=(8, 0.7 + 0.3 * len(rows)), layout="constrained")
        axes = figure.subplots()
        axes.plot([float(row[value]) for row in rows], range(len(rows)), "o", color="#0072B2")
        for i, row in enumerate(rows):
            if interval >= 0 and row[interval]:
                axes.plot([*map(float, row[interval].split("–"))], [i, i], color="#0072B2", linewidth=2)
        axes.set_yticks(range(len(rows)), [row[name] for row in rows])
        axes.set(xlim=(min(-0.02, *(float(row[value]) - 0.02 for row in rows)), 1), xlabel=columns[1])
        axes.grid(axis="x", alpha=0.3)
        figure.savefig(folder / f"{page}.svg", metadata={"Date": None})


def _first_table(text: str) -> list[list[str]]:
    """Return the cells of the first Markdown table, without bold, and without the line below the header."""
    lines = dropwhile(lambda line: not line.startswith("|"), text.splitlines())
    rows = [
        [cell.strip(" *") for cell in line[1:-1].split("|")]
        for line in takewhile(lambda line: line.startswith("|"), lines)
    ]
    return [rows[0], *rows[2:]]


def write_reference(folder: Path) -> None:
    """Write ``commands.md``, ``settings.md`` and ``rest.md``."""
    for name, lines in (("commands", commands()), ("settings", settings()), ("rest", rest())):
        (folder / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def table(header: str, rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    """Yield a Markdown table; header cells are separated by commas."""
    columns = header.split(",")
    for cells in (columns, ["---"] * len(columns), *rows):
        yield f"| {' | '.join(' '.join(cell.split()) for cell in cells)} |"
    yield ""


def commands() -> Iterator[str]:
    """Yield the page of commands: a table per panel of the help text, then each command."""
    root: Any = get_command(app)
    context = root.make_context("reactometer", [], resilient_parsing=True)
    by_panel = {panel: [root.commands[name] for name in root.list_commands(context)] for panel in PANELS}
    by_panel = {
        panel: [command for command in group if command.rich_help_panel == panel]
        for panel, group in by_panel.items()
    }
    yield from ("# Commands", "", "`reactometer COMMAND -h` shows the same texts in the terminal.", "")
    for panel, group in by_panel.items():
        yield from (f"## {panel}", "")
        for command in group:
            yield _command(command, context)


def _command(command: Any, context: Any) -> str:
    text = get_docs_for_click(
        obj=command, ctx=context, indent=2, name=command.name, call_prefix="reactometer"
    )
    text = re.sub(r"(?m)^### `reactometer (.*)`$", r"### `\1`", text)
    text = re.sub(
        r"\[bold\](Examples)\[/bold\]\n((?:\$ .*(?:\n|$))+)", r"**\1**:\n\n```console\n\2```\n", text
    )
    text = re.sub(r"(?m)^\* `-h, --help`.*\n", "", text)
    text = re.sub(
        r"(?m)^(\* `.*) <([^>]*)>`", lambda match: f"{match[1]}` ({TYPES.get(match[2], match[2])})", text
    )
    return re.sub(r"(?ms)^Exit status: .*?command\.\n", "", text)


def settings() -> Iterator[str]:
    """Yield the page of settings: a table per section of the TOML files."""
    notes = ModuleAnalyzer.for_module("reactometer.config").find_attr_docs()
    yield from ("# Settings", "", "Keys of the TOML files in `configs/`, by table.")
    yield from ("A key can also be set on the command line: `training.epochs=5`.", "")
    for name, field in Config.model_fields.items():
        section = field.annotation
        assert isinstance(section, type)
        assert issubclass(section, BaseModel)
        yield from (f"## [{name}]", "", section.__doc__ or "", "")
        rows = [
            (
                f"`{key}`",
                _describe_type(value.annotation),
                _as_toml(value.default),
                " ".join(notes[section.__name__, key]).replace("``", "`"),
            )
            for key, value in section.model_fields.items()
        ]
        yield from table("key,type,default,", iter(rows))


def _as_toml(value: object) -> str:
    return "" if value in (None, "") else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _describe_type(annotation: Any) -> str:
    """Describe a type in words, without None and without the range of a number."""
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) is dict:
        return f"{_describe_type(get_args(annotation)[1])} by name"
    if get_origin(annotation) is not tuple and get_args(annotation):
        return " or ".join(part for part in map(_describe_type, get_args(annotation)) if part)
    return WORDS.get(get_origin(annotation) or annotation, "")


def rest() -> Iterator[str]:
    """Yield the page of the REST interface, from its OpenAPI description."""
    api = FastAPI(title="reactometer")
    api.include_router(router)
    described = api.openapi()
    schemas = described["components"]["schemas"]
    yield from (
        "# REST",
        "",
        "`reactometer serve` describes this interface at `/openapi.json`, too; any OpenAPI",
    )
    yield from ("generator makes a client from it. [The service](/guides/serve.md) has examples.", "")
    yield from (DESCRIPTION, "")
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            yield from _operation(f"{method.upper()} {path}", operation, schemas)
    yield from ("## Documents", "")
    for name, schema in schemas.items():
        if not name.startswith(("Body_", "HTTPValidation", "Validation")):
            yield from (f"### {name}", "", schema.get("description", ""), "")
            yield from _fields(schema)


def _operation(title: str, operation: dict[str, Any], schemas: dict[str, Any]) -> Iterator[str]:
    yield from (f"## `{title}`", "", operation["description"], "")
    if parameters := operation.get("parameters"):
        yield from table(
            "parameter,in,type,default,",
            (
                (
                    f"`{one['name']}`",
                    one["in"],
                    _schema(one["schema"]),
                    _as_toml(one["schema"].get("default")),
                    one.get("description", ""),
                )
                for one in parameters
            ),
        )
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        yield from (f"Body: `{media_type}`", "")
        yield from _fields(schemas[content["schema"]["$ref"].rpartition("/")[2]])
    yield from table(
        "status,,content",
        (
            (
                f"`{status}`",
                answer["description"],
                ", ".join(
                    _schema(content["schema"]) if "schema" in content else _example(content, media_type)
                    for media_type, content in answer.get("content", {}).items()
                ),
            )
            for status, answer in operation["responses"].items()
        ),
    )


def _example(content: dict[str, Any], media_type: str) -> str:
    return f"`{json.dumps(content['example'])}`" if "example" in content else f"`{media_type}`"


def _fields(schema: dict[str, Any]) -> Iterator[str]:
    yield from table(
        "field,type,default,",
        (
            (
                f"`{name}`",
                _schema(field),
                "required" if name in schema.get("required", ()) else _as_toml(field.get("default")),
                field.get("description", ""),
            )
            for name, field in schema["properties"].items()
        ),
    )


def _schema(schema: dict[str, Any]) -> str:
    """Describe a JSON schema in words; a document is a link."""
    kind = schema.get("type")
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        words = "error" if name == "HTTPValidationError" else f"[{name}](#{name.lower()})"
    elif options := [f"`{value}`" for value in schema.get("enum", ())] or [
        *map(_schema, schema.get("anyOf", ()))
    ]:
        words = " or ".join(options)
    elif kind == "array":
        words = f"list of {_schema(schema['items'])}"
    elif isinstance(values := schema.get("additionalProperties"), dict):
        words = f"{_schema(values)} by emotion"
    elif "contentMediaType" in schema or schema.get("format") == "binary":
        words = "file"
    else:
        words = {"boolean": "true or false", "string": "text", "integer": "whole number"}.get(kind, kind)
    return words
