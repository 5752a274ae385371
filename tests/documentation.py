"""The code blocks of the documentation's pages, and what they need to run away from their readers' machines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GENERATED = ("commands.md", "settings.md")
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "src/reactometer/starter/README.md")),
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if page.name not in GENERATED),
]
CODE = ("sh", "python", "r")
"""Languages of blocks that a reader runs."""

ABSENT = {"FER2013": "it needs FER2013, which its owners give out"}
"""What a block may name that no test has: a reason where a page, such as a model's card, has no room for one."""

SHOWN = ("text", "csv", "json", "{eval-rst}", "{image}", "{include}", "{toctree}")
"""What other blocks are: what a file or an answer looks like, or parts of a page."""

_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<why>[^\n]+) -->\n\n?)?^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```", re.M | re.S
)


FENCE = re.compile(r"^ *(?:```|~~~) *(\S*)", re.M)


@dataclass(frozen=True)
class Block:
    """One code block of a page."""

    page: Path
    line: int  # of the page, where it begins
    language: str
    code: str
    why_not: str | None  # it is not run

    @property
    def name(self) -> str:
        """The page and the line, for people."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """Every block of a page that a reader runs, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, found.start("code")) + 1,
            found["language"],
            found["code"],
            found["why"] or next((why for name, why in ABSENT.items() if name in found["code"]), None),
        )
        for found in _BLOCK.finditer(text)
        if found["language"] in CODE
    ]


def commands_of(block: Block) -> Iterator[str]:
    """Its calls of ``reactometer``, each on one line, without comments and what is done with the output."""
    for line in block.code.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|;|\||\$\(", re.sub(r"\s#.*", "", line)):
            if called := re.match(r"\s*(?:\w+=\S*\s+|.*-m )*(reactometer .*)", part):
                yield re.sub(r"[<>]\s*\S+|\)$", "", called[1]).strip()
