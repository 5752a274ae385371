"""Documents, messages and names use plain English and the words of the field."""

from __future__ import annotations

import ast
import html
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from typer.main import get_command

from reactometer.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(
        ROOT / name
        for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "SUPPORT.md", "CODE_OF_CONDUCT.md")
    ),
    *sorted((ROOT / "docs").rglob("*.md")),
]
PAGES = [page for page in PAGES if page.name not in ("commands.md", "rest.md", "settings.md")]  # generated
MODULES = sorted((ROOT / "src").rglob("*.py"))
PAGE_FILES = sorted((ROOT / "src" / "reactometer" / "serving" / "page").glob("*.[hj]*"))
MAX_MEAN_WORDS, MAX_WORDS = 16, 35
MAX_README_LINES, MAX_README_MEAN_WORDS = 130, 14
SITE = "https://reactometer.readthedocs.io/en/latest/"
SOURCES = (
    "https://github.com/OWNER/reactometer/blob/main/",
    "https://raw.githubusercontent.com/OWNER/reactometer/main/",
)
THINGS = "row|line|strip|bar|clip|file|frame|image|look|time|label|number|piece|rater"
UNITS = "second|minute|run|row|clip|file|window|client|person|people|emotion|label"
PHRASES = {
    rf"\b(?:{THINGS})s? an? (?:{UNITS})\b": "per",
    r"\bgo(?:es)? by\b": "uses",
    r"\btold\b|\btells? (?:of|how|what|its)\b": "reports",
    r"\bmend(?:s|ed)?\b|\bremed(?:y|ies)\b": "fix",
    r"\b(?:is|are|to be) had\b": "is available",
    r"\b(?:goes|gone|go) on (?:with|where)\b": "resumes",
    r"\bprocessors?\b": "CPU",
    r"\bdata sets?\b|\bembedded data\b": "dataset; synthetic demo dataset",
    r"\b(?:drawn (?:people|person|face|faces)|people drawn)\b": "synthetic faces",
    r"\bmodel folders?\b": "checkpoint",
    r"\babstains?\b|\bdoubts?\b|\bbetter not use": "warning",
    r"\bwhere there (?:is|are)\b|\bwhere (?:none|no)\b": "if there is no",
    r"\bnothing to go\b|\bnothing (?:seen|heard)\b": "no usable face or voice",
    r"\bwhoever\b|\bsomebody\b|\bas one (?:likes|would)\b": "you; a person",
    r"\b(?:wants|hears|says)\b": "expects; uses; reports",
    r"\bour choice\b": "a row of docs/project/decisions.md",
    r"\bpictures?\b": "plot, image",
    r"\bstrips?\b|\bstretch(?:es)?\b": "row; window",
    r"\balone\b": "only",
    r"(?<![\w.*/:%])[-+±]?\.\d": "a zero before the decimal point",
    r"\d %": "95%",
}
NAMES = re.compile(
    "(?:is_|_)*(?:own|told|said|held|heard|saw|apart|sure|whose|what|which|given|found|asked|kept|known|shown|truth|guess"
    "|goes_by|looks|listens|abstain|doubts?)|_?(?:MOST|LEAST)_.*|.*_AT_ONCE"
)
QUESTION = re.compile(r"(?:What|Where|How|Whether|Of|Who|Which|Whose)\b")


def sentences(text: str) -> list[str]:
    """Split Markdown into sentences, without code blocks, headings, tables, images and addresses of links."""
    text = re.sub(
        r"^```.*?^```|<!--.*?-->|<img[^>]*>|!\[[^\]]*\]\([^)]*\)",
        "\n\n",
        text,
        flags=re.DOTALL | re.MULTILINE,
    )
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"^(?:\||#|:\w+:).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"`[^`]*`|https?://\S+", "CODE", text)
    blocks = [" ".join(block.split()) for block in re.split(r"\n\s*\n|\n\s*(?=[*-] |\d+\. )", text)]
    return [
        part
        for block in blocks
        for part in re.split(r"(?<=[.!?:])[*)\"]*\s+(?=[A-Z\"*(\d\[])", block)
        if part
    ]


def count_words(sentence: str) -> int:
    """Count the words of a sentence."""
    return sum(bool(re.search(r"\w", word)) for word in sentence.split())


def banned_phrases(text: str) -> list[str]:
    """List the banned phrases in a text, each with its replacement."""
    matches = [
        (match[0], word)
        for phrase, word in PHRASES.items()
        for match in re.finditer(phrase, text, re.IGNORECASE)
    ]
    return [f"{phrase!r} -> {word}" for phrase, word in matches]


def test_the_checker_finds_the_old_dialect() -> None:
    old = (
        "`index.parquet` has a row a file, and whoever asks is told of clips with nothing to go by.",
        "Of what was drawn none is claimed where there is none; the embedded data set scores .89 on a "
        "processor.",
        "A model that mends 90 % of the faults goes on where it was stopped, for as long as the data allow "
        "it, and is "
        "not to be had by those who did not ask for it before the pictures of the second strip were drawn by "
        "somebody.",
    )
    assert [len(banned_phrases(sentence)) for sentence in old] == [5, 4, 7]
    assert [QUESTION.match(sentence) is not None for sentence in old] == [False, True, False]
    assert count_words(sentences(old[2])[0]) > MAX_WORDS
    assert all(NAMES.fullmatch(name) for name in ("own", "_told", "doubts", "MOST_TOLD", "FACES_AT_ONCE"))
    assert not any(NAMES.fullmatch(name) for name in ("owner", "almost", "MAX_PIXELS", "unknown"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_documents_are_plain(page: Path) -> None:
    parts = sentences(page.read_text(encoding="utf-8"))
    lengths = [count_words(part) for part in parts]
    assert [part for part, length in zip(parts, lengths, strict=True) if length > MAX_WORDS] == []
    assert len(lengths) < 10 or mean(lengths) <= MAX_MEAN_WORDS
    assert [(part, banned_phrases(part)) for part in parts if banned_phrases(part)] == []
    assert [part for part in parts if QUESTION.match(part) and not part.endswith("?")] == []


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_README_LINES
    assert mean(map(count_words, sentences(text))) <= MAX_README_MEAN_WORDS


def test_links_of_the_readme_lead_to_files() -> None:
    """They are absolute, because the package index shows the page, too."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = set(re.findall(r"\]\((.*?)\)", text))
    assert all(link.startswith("https://") for link in links)
    pages = {link.partition("#")[0] for link in links if link.startswith(SITE)}
    files = {link.removeprefix(prefix) for link in links for prefix in SOURCES if link.startswith(prefix)}
    assert len(pages) > 8
    missing = [
        page for page in pages if not (ROOT / "docs" / page[len(SITE) :].replace(".html", ".md")).is_file()
    ]
    assert missing + [file for file in files if not (ROOT / file).is_file()] == []


def _helps(command: Any, path: str) -> Iterator[tuple[str, str]]:
    yield path, command.help or ""
    for parameter in command.params:
        yield f"{path} {parameter.name}", getattr(parameter, "help", None) or ""
    for name, inner in getattr(command, "commands", {}).items():
        yield from _helps(inner, f"{path} {name}")


def test_help_texts_are_plain() -> None:
    texts = list(_helps(get_command(app), "reactometer"))
    assert len(texts) > 100
    assert [(place, banned_phrases(text)) for place, text in texts if banned_phrases(text)] == []


def _literals(node: ast.AST) -> Iterator[str]:
    """Yield the string literals below a node, except docstrings and the formats of f-strings."""
    for child in ast.iter_child_nodes(node):
        is_docstring = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
        if isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield child.value
        elif isinstance(child, ast.FormattedValue):
            yield from _literals(ast.Expression(child.value))
        elif not is_docstring:
            yield from _literals(child)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(ROOT / "src")))
def test_modules_are_plain(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    messages = [text for text in _literals(tree) if " " in text]
    assert [(text, banned_phrases(text)) for text in messages if banned_phrases(text)] == []
    assert sorted({name for name in _names(tree) if NAMES.fullmatch(name)}) == []
    documented = [
        node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
    ]
    assert [
        text
        for node in documented
        if QUESTION.match(text := ast.get_docstring(node) or "") and "?" not in text
    ] == []


def _names(tree: ast.AST) -> Iterator[str]:
    """Yield the names that a module defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.arg):
            yield node.arg


@pytest.mark.parametrize("file", PAGE_FILES, ids=lambda file: file.name)
def test_page_texts_are_plain(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".html":
        texts = [html.unescape(part) for part in re.split(r"<[^>]*>", text)]
        texts += re.findall(r'(?:aria-label|placeholder|alt)="([^"]*)"', text)
    else:
        texts = re.findall(r'"[^"\n]*"|`[^`]*`|//[^\n]*', re.sub(r"\$\{[^{}`]*\}", "VALUE", text))
    texts = [part for part in texts if " " in part]
    assert [(part, banned_phrases(part)) for part in texts if banned_phrases(part)] == []
    assert not re.search(r"\b(?:told|said|given|own|whose|MOST_\w+|LEAST_\w+)\b", text)
