"""The house's own rules: imports point one way, files stay small, the public names are the ones promised."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from pathlib import Path

import pytest

import reactometer

SOURCE = Path(reactometer.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

GROUND = {
    *("errors", "cluster", "io", "seals", "labels", "records", "presets", "config", "console", "memory", "paths"),
}
ALLOWED = {
    "media": {*GROUND, "media"},
    "data": {*GROUND, "media", "data"},
    "models": {*GROUND, "media", "data", "models"},
    "evaluation": {*GROUND, "media", "data", "models", "evaluation"},
    "training": {*GROUND, "media", "data", "models", "evaluation.metrics", "training"},
    "inference": {*GROUND, "media", "data", "models", "inference"},
    "walkthrough": {*GROUND, "media", "data", "models", "training", "evaluation", "inference"},
    "comparison": {*GROUND, "data", "models", "training", "evaluation", "tables"},
    "exporting": {*GROUND, "media", "data", "models", "evaluation"},
    "runs": {*GROUND, "media", "data", "models", "inference", "runs"},
    "serving": {*GROUND, "media", "data", "models", "inference", "runs", "serving"},
    "tables": {*GROUND, "evaluation"},
    "printing": {*GROUND, "data", "models", "training", "evaluation", "inference", "walkthrough", "tables", "runs"},
    "printing_evaluate": {*GROUND, "data", "models", "evaluation", "printing"},
    "printing_search": {*GROUND, "training", "printing"},
    "printing_weights": {*GROUND, "models", "printing", "exporting"},
    "cli_evaluate": {*GROUND, "data", "models", "evaluation", "printing_evaluate"},
    "cli_predict": {*GROUND, "data", "models", "inference", "runs", "printing", "cli_evaluate"},
    "printing_live": {*GROUND, "inference", "printing"},
    "cli_live": {
        *GROUND,
        *("media", "models", "inference", "serving", "printing", "printing_live", "cli_evaluate"),
    },
    "printing_serve": {*GROUND, "serving"},
    "cli_serve": {*GROUND, "data", "models", "inference", "serving", "printing_serve", "cli_evaluate"},
    "cli_explain": {*GROUND, "models", "inference", "printing", "printing_evaluate", "cli_evaluate"},
    "doctor": {*GROUND, "data", "models", "inference"},
    "cli_doctor": {*GROUND, "doctor"},
    "cli_weights": {*GROUND, "models", "exporting", "printing_weights", "cli_evaluate"},
    "cli": {
        *GROUND,
        *("data", "models", "training", "evaluation", "inference"),
        *(
            "walkthrough",
            "comparison",
            "printing",
            "printing_search",
            "cli_doctor",
            "cli_evaluate",
            "cli_explain",
            "cli_live",
            "cli_predict",
            "cli_serve",
            "cli_weights",
        ),
    },
}


def _room(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def _imported(file: Path) -> set[str]:
    """Modules of this package that a file imports, anywhere in it, without the package's name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "reactometer"}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.removeprefix("reactometer.") for name in names if name.startswith("reactometer.")}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_point_one_way(file: Path) -> None:
    room = _room(file)
    if room in ("__init__", "__main__"):
        return
    allowed = ALLOWED.get(room, GROUND)
    for name in _imported(file):
        parts = name.split(".")
        assert any(".".join(parts[:count]) in allowed for count in range(1, len(parts) + 1)), (
            f"{room} must not import {name}"
        )


def test_imports_make_no_circle() -> None:
    """The package can be imported anew from its last file to its first."""
    names = [".".join(("reactometer", *file.relative_to(SOURCE).with_suffix("").parts)) for file in FILES]
    names = [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]
    own = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "reactometer"}
    try:
        for name in own:
            del sys.modules[name]
        for name in reversed(names):  # against the order they are used in
            importlib.import_module(name)
    finally:
        for name in names:
            sys.modules.pop(name, None)
        sys.modules |= own


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_files_are_small_and_say_their_job(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    assert ast.get_docstring(ast.parse(text))


def test_functions_are_short() -> None:
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.end_lineno:
                docstring = ast.get_docstring(node, clean=False) or ""
                lines = node.end_lineno - node.body[0].lineno + 1 - len(docstring.splitlines())
                assert lines <= 40, f"{file.name}:{node.name} has {lines} lines"


def test_public_names() -> None:
    assert set(reactometer.__all__) == {
        "Config",
        "ReactometerError",
        "compare",
        "demo",
        "ensemble",
        "evaluate",
        "load_config",
        "load_model",
        "predict",
        "prepare",
        "pretrain",
        "submission",
        "train",
    }
    for name in reactometer.__all__:
        assert callable(getattr(reactometer, name))
    with pytest.raises(AttributeError, match="no attribute 'retrain'"):
        _ = reactometer.retrain


def test_labels_are_spelt_in_one_file() -> None:
    for file in FILES:
        if file.name != "labels.py":
            text = file.read_text(encoding="utf-8")
            assert '"Adoration", "Amusement"' not in text


def test_the_tree_in_the_readme_is_the_tree() -> None:
    readme = SOURCE.parents[1] / "README.md"
    tree = readme.read_text(encoding="utf-8").split("src/reactometer/\n", 1)[1].split("```", 1)[0]
    told = set(re.findall(r"\w+\.py", tree))
    assert told == {file.name for file in FILES if file.name != "__init__.py"} | {"__init__.py"}
