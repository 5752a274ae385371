"""Run every code block of the documentation with Sybil: page by page, in order, each page in another folder.

A block below ``<!-- not run: reason -->`` is skipped. The commands of all blocks, skipped ones too, must
parse.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest import SkipTest

import numpy as np
import pandas as pd
import pytest
from scipy.io import wavfile
from sybil import Document, Example, Region, Sybil
from sybil.parsers.markdown import CodeBlockParser, SkipParser
from typer.main import get_command

from fixtures_of_serving import Serving, free_port
from reactometer.cli.app import app
from warm_program import warm_program

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = Path(sys.executable).parent
GENERATED = ("commands.md", "rest.md", "settings.md")
PAGES = [
    *(
        ROOT / name
        for name in (
            "README.md",
            "CONTRIBUTING.md",
            "SECURITY.md",
            "starter/reactometer_starter/model/README.md",
        )
    ),
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if page.name not in GENERATED),
]
REPLACED = {  # text of a page -> what a test has the time for, or can do
    "make demo ": "true ",  # CI's first step
    "make test ": "true ",  # it is what runs this
    "-o comparison": "-o comparison --seeds 1",
    "configs/resnet50.toml": "configs/resnet50.toml model.encoder=random:resnet-tiny model.size_px=64 "
    "model.n_frames=4 training.epochs=1",
    "training.precision=bf16-mixed": "",
    "-o clean.csv": "--disjoint labels -o clean.csv",  # forty clips are too few to drop any
    "pip install ": "true ",
    "reactometer model push": "reactometer model push --help #",  # tests of push use a local server
    "http://127.0.0.1:8000": "$SERVICE",
    "--port 8000": "--port $PORT",
    "6379": str(free_port()),
}


class NotRun(SkipParser):
    """Reads ``<!-- not run: reason -->`` as Sybil's ``skip: next``."""

    directive = "not run"

    def __call__(self, document: Document) -> Iterable[Region]:
        """Yield one region per comment."""
        for directive in self.lexers(document):
            reason = directive.lexemes["arguments"].strip()
            assert len(reason) > 10, f"{document.path}: a block that is not run needs a reason"
            yield Region(directive.start, directive.end, ("next", repr(reason)), self.skipper)


def _run(language: str, example: Example) -> None:
    """Run a block in the page's folder; a Python block continues the blocks before it."""
    folder, service = example.namespace["folder"], example.namespace["service"]
    code = str(example.parsed)
    for text, replacement in REPLACED.items():
        code = code.replace(
            text, replacement.replace("$SERVICE", service).replace("$PORT", service.rpartition(":")[2])
        )
    if language == "python":
        code = example.namespace["python"] = (
            example.namespace.get("python", f"service = {service!r}\n") + code
        )
        command = [sys.executable, "-c", code]
    elif language == "r":
        if not (program := shutil.which("Rscript")):
            raise SkipTest("no R here")
        command = [program, "-e", code]
    else:
        command = ["bash", "-euo", "pipefail", "-c", code]
    path = os.pathsep.join((str(folder / "bin"), str(PROGRAMS), os.environ["PATH"]))
    environment = {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    where = f"{example.path}:{example.line}"
    assert done.returncode == 0, f"{where}\n{code}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


SYBIL = Sybil(
    [NotRun(), *(CodeBlockParser(language, partial(_run, language)) for language in ("sh", "python", "r"))]
)


def _blocks(page: Path) -> list[str]:
    """Return the code of all blocks of a page, skipped ones too."""
    return [
        str(example.parsed)
        for example in SYBIL.parse(page).examples()
        if not isinstance(example.parsed, tuple)
    ]


def _commands(code: str) -> Iterator[list[str]]:
    """Yield the arguments of each call of ``reactometer``, without comments and redirections."""
    for line in code.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|;|\||\$\(", re.sub(r"\s#.*", "", line)):
            if called := re.match(r"\s*(?:\w+=\S*\s+|.*-m )*(reactometer .*)", part):
                yield shlex.split(re.sub(r"\d?[<>]&?\s*\S+|&$|\)$", "", called[1]))[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_parse(page: Path) -> None:
    """An unknown command or option raises."""
    for arguments in (arguments for code in _blocks(page) for arguments in _commands(code)):
        command: Any = get_command(app)
        context, left = command.make_context("reactometer", [], resilient_parsing=True), list(arguments)
        while hasattr(command, "commands") and left and not left[0].startswith("-"):
            assert left[0] in command.commands, arguments
            command = command.commands[left.pop(0)]
        command.make_context("reactometer", left, parent=context)


def _page(page: Path) -> Any:
    needs_ray = any("ray start" in code for code in _blocks(page))
    marks = [pytest.mark.slow(60), *([pytest.mark.cluster] if needs_ray else [])]
    return pytest.param(page, id=str(page.relative_to(ROOT)), marks=marks)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the text of a program that runs ``reactometer``."""
    with warm_program(tmp_path_factory.mktemp("warm")) as program:
        yield program


@pytest.mark.parametrize("page", [_page(page) for page in PAGES if _blocks(page)])
def test_blocks_run(page: Path, program: str, simulated: Path, tmp_path: Path, serving: Serving) -> None:
    """Start a service for a page whose blocks use a service without starting it."""
    _lay_out(tmp_path, simulated, program)
    document, code = SYBIL.parse(page), "\n".join(_blocks(page))
    with ExitStack() as stack:
        stack.callback(_end_leftovers, code, tmp_path)
        service = f"http://127.0.0.1:{free_port()}"
        if "http://127.0.0.1:8000/" in code and "serve.pid" not in code:
            service = stack.enter_context(serving(tmp_path / "service")).address
        document.namespace.update(folder=tmp_path, service=service)
        for example in document.examples():
            with suppress(SkipTest):
                example.evaluate()


def _end_leftovers(code: str, folder: Path) -> None:
    """Pages end what they start, but not if a block fails."""
    with suppress(OSError):
        os.kill(int((folder / "serve.pid").read_text()), signal.SIGTERM)
    if "ray start" in code:
        subprocess.run([PROGRAMS / "ray", "stop", "--force"], capture_output=True, check=True)


def _lay_out(folder: Path, simulated: Path, program: str) -> None:
    """Write what a reader has: configurations, videos, datasets in several layouts, tables of labels and
    ratings."""
    shutil.copytree(ROOT / "configs", folder / "configs")
    config = folder / "configs" / "your-own.toml"
    shorter = config.read_text(encoding="utf-8").replace("epochs = 120", "epochs = 3")
    config.write_text(shorter, encoding="utf-8")
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "activate").touch()
    (folder / "bin").mkdir()
    (folder / "bin" / "reactometer").write_text(program, encoding="utf-8")
    (folder / "bin" / "reactometer").chmod(0o755)
    clips = sorted(simulated.rglob("*.mp4"))
    for name in ("video.mp4", "film.mp4", "new.mp4", "clip.mp4"):
        shutil.copy(clips[0], folder / name)
    shutil.copytree(simulated, folder / "hume")
    table = pd.read_csv(folder / "hume" / "data_info.csv", dtype=str)
    table.drop(columns=["Person", "Stimulus"]).to_csv(folder / "hume" / "data_info.csv", index=False)
    rows = ["path,person,Joy,Boredom"]
    (folder / "videos").mkdir()
    for clip in clips[:4]:
        shutil.copy(clip, folder / "videos" / clip.name)
    for i, clip in enumerate(clips[:30]):
        (folder / "session1").mkdir(exist_ok=True)
        shutil.copy(clip, folder / "session1" / f"{i}.mp4")
        rows.append(f"session1/{i}.mp4,person{i % 10},{i % 7 / 7:.2f},{i % 5 / 5:.2f}")
    _lay_out_crema_d(folder / "crema", clips[:30])
    _lay_out_features(folder, [f"{i}.mp4" for i in range(30)] + ["new.mp4"])
    (folder / "videos.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    ratings = [f"{i}.mp4,R{rater},{i % 7 + 1},{1 + (i + rater) % 5}" for i in range(9) for rater in (1, 2)]
    (folder / "ratings.csv").write_text(
        "\n".join(("path,rater,Joy,Boredom", *ratings)) + "\n", encoding="utf-8"
    )


def _lay_out_crema_d(folder: Path, clips: list[Path]) -> None:
    """Write synthetic faces under CREMA-D's names: ten actors, three takes each, with all kinds of votes."""
    rng = np.random.default_rng(0)
    for media in ("AudioWAV", "VideoMP4"):
        (folder / media).mkdir(parents=True)
    levels = ("Anger", "Disgust", "Fear", "Happy", "Neutral", "Sad")
    rows = [",A,D,F,H,N,S,fileName,numResponses," + ",".join(f"mean{level}Resp" for level in levels)]
    for kind in (1, 2, 3):  # they heard it, saw it, both
        for i, clip in enumerate(clips):
            name = f"{1001 + i % 10}_IEO_HAP_{('LO', 'MD', 'HI')[i // 10]}"
            votes = [i % 3, i % 2, i % 4, i // 10, 1, (i + kind) % 5]
            levels_text = ",".join(str(10 * (i % 9 + 1)) if chosen else "-1.0" for chosen in votes)
            rows.append(f"{kind}{i + 1:05d},{','.join(map(str, votes))},{name},{sum(votes)},{levels_text}")
            if kind == 1:
                noise = rng.normal(0, 0.01 * (1 + i), 24000).astype("float32")
                wavfile.write(folder / "AudioWAV" / f"{name}.wav", 16000, noise)
            elif kind == 3:
                shutil.copy(clip, folder / "VideoMP4" / f"{name}.mp4")
    (folder / "tabulatedVotes.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    people = ['"ActorID","Age","Sex","Race","Ethnicity"']
    people += [f'{1001 + i},{20 + i},"{("Female", "Male")[i % 2]}","Asian",""' for i in range(10)]
    (folder / "VideoDemographics.csv").write_text("\n".join(people) + "\n", encoding="utf-8")


def _lay_out_features(folder: Path, names: list[str]) -> None:
    """Write random action units in the columns of OpenFace 2.2 (a table per clip) and of py-feat 0.7 (a
    table)."""
    rng = np.random.default_rng(0)
    (folder / "openface").mkdir()
    tables = []
    for name in names:
        frames = np.arange(25)
        units = {f"AU{unit:02d}": rng.uniform(0, 1, 25).round(2) for unit in (1, 2, 4, 6, 9, 12, 25)}
        table = {
            "frame": frames + 1,
            " face_id": 0,
            " timestamp": frames / 25,
            " confidence": 0.98,
            " success": 1,
        }
        table |= {" gaze_0_x": 0.1, " pose_Tx": 0.2, " pose_Rx": 0.1}
        table |= {f" {unit}_r": 5 * values for unit, values in units.items()}
        table |= {f" {unit}_c": (values > 0.5).astype(int) for unit, values in units.items()}
        pd.DataFrame(table).to_csv(folder / "openface" / f"{Path(name).stem}.csv", index=False)
        box = {"frame": frames, "FaceRectX": 50.0, "FaceScore": 0.99, "Pitch": 0.1}
        ends = {"happiness": 0.5, "neutral": 0.5, "input": f"/videos/{name}", "approx_time": "00:00"}
        tables.append(pd.DataFrame({**box, **units, **ends}))
    pd.concat(tables).to_csv(folder / "fex.csv", index=False)
