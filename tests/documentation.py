"""The code blocks of the documentation's pages, and what they need to run away from their readers' machines."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.io import wavfile

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
                yield re.sub(r"\d?[<>]&?\s*\S+|&$|\)$", "", called[1]).strip()


def lay_out(folder: Path, simulated: Path) -> None:
    """What readers have where they run the blocks: a checkout, a video or two, a table of theirs; rendered, here."""
    shutil.copytree(ROOT / "configs", folder / "configs")
    config = folder / "configs" / "your-own.toml"
    shorter = config.read_text(encoding="utf-8").replace("epochs = 120", "epochs = 3")
    config.write_text(shorter, encoding="utf-8")
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "activate").touch()
    program = folder / "bin" / "reactometer"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m reactometer "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    clips = sorted(simulated.rglob("*.mp4"))
    for name in ("video.mp4", "film.mp4", "new.mp4", "clip.mp4"):
        shutil.copy(clips[0], folder / name)
    # Its layout, without people and stimuli; its test labels are withheld, these are too few for that.
    shutil.copytree(simulated, folder / "hume")
    table = pd.read_csv(folder / "hume" / "data_info.csv", dtype=str)
    table.drop(columns=["Person", "Stimulus"]).to_csv(folder / "hume" / "data_info.csv", index=False)
    rows = ["path,person,Joy,Boredom"]
    (folder / "videos").mkdir()
    for clip in clips[:4]:
        shutil.copy(clip, folder / "videos" / clip.name)
    for place, clip in enumerate(clips[:30]):
        (folder / "session1").mkdir(exist_ok=True)
        shutil.copy(clip, folder / "session1" / f"{place}.mp4")
        rows.append(f"session1/{place}.mp4,person{place % 10},{place % 7 / 7:.2f},{place % 5 / 5:.2f}")
    _lay_out_crema_d(folder / "crema", clips[:30])
    (folder / "videos.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    ratings = [
        f"{place}.mp4,R{rater},{place % 7 + 1},{1 + (place + rater) % 5}" for place in range(9) for rater in (1, 2)
    ]
    (folder / "ratings.csv").write_text("\n".join(("path,rater,Joy,Boredom", *ratings)) + "\n", encoding="utf-8")


def _lay_out_crema_d(folder: Path, clips: list[Path]) -> None:
    """Drawn people under CREMA-D's names: ten actors, three takes each, votes of each kind for all of them."""
    rng = np.random.default_rng(0)
    for media in ("AudioWAV", "VideoMP4"):
        (folder / media).mkdir(parents=True)
    levels = ("Anger", "Disgust", "Fear", "Happy", "Neutral", "Sad")
    rows = [",A,D,F,H,N,S,fileName,numResponses," + ",".join(f"mean{level}Resp" for level in levels)]
    for kind in (1, 2, 3):  # they heard it, saw it, both
        for place, clip in enumerate(clips):
            name = f"{1001 + place % 10}_IEO_HAP_{('LO', 'MD', 'HI')[place // 10]}"
            votes = [place % 3, place % 2, place % 4, place // 10, 1, (place + kind) % 5]
            told = ",".join(str(10 * (place % 9 + 1)) if chosen else "-1.0" for chosen in votes)
            rows.append(f"{kind}{place + 1:05d},{','.join(map(str, votes))},{name},{sum(votes)},{told}")
            if kind == 1:
                noise = rng.normal(0, 0.01 * (1 + place), 24000).astype("float32")
                wavfile.write(folder / "AudioWAV" / f"{name}.wav", 16000, noise)
            elif kind == 3:
                shutil.copy(clip, folder / "VideoMP4" / f"{name}.mp4")
    (folder / "tabulatedVotes.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    people = ['"ActorID","Age","Sex","Race","Ethnicity"']
    people += [f'{1001 + place},{20 + place},"{("Female", "Male")[place % 2]}","Asian",""' for place in range(10)]
    (folder / "VideoDemographics.csv").write_text("\n".join(people) + "\n", encoding="utf-8")
