"""Every code block of the documentation runs, or says above it why not; every command in it is one that there is."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from documentation import CODE, FENCE, PAGES, ROOT, SHOWN, Block, blocks_of, commands_of, lay_out
from fixtures_of_serving import Serving, free_port
from reactometer.cli import app

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
RUN = sorted({block.page for block in BLOCKS if block.why_not is None})
PROGRAMS = Path(sys.executable).parent

SMALLER = {  # what a page says -> what a test has the time for, or can do
    "make demo ": "true ",  # CI's first step
    "make test ": "true ",  # it is what runs this
    "--out comparison": "--out comparison --seeds 1",
    "configs/resnet50.toml": "configs/resnet50.toml model.encoder=random:resnet-tiny training.epochs=1",
    "training.precision=bf16-mixed": "",
    "pip install ": "true ",
    "reactometer push": "reactometer push --help #",  # its own tests push, to a server of theirs
    "http://127.0.0.1:8000": "$SERVICE",
    "--port 8000": "--port $PORT",
    "6379": str(free_port()),
}


def _named(block: Block) -> str:
    return block.name


@pytest.mark.parametrize("block", BLOCKS, ids=_named)
def test_every_command_is_one_that_there_is(block: Block) -> None:
    for command in commands_of(block):
        _parse(shlex.split(command)[1:])


def _parse(arguments: list[str]) -> None:
    """As the command line would, without doing it: an unknown command or option raises."""
    command: Any = get_command(app)
    context = command.make_context("reactometer", [], resilient_parsing=True)
    path = list(arguments)
    while hasattr(command, "commands") and path and not path[0].startswith("-"):
        assert path[0] in command.commands, arguments
        command = command.commands[path.pop(0)]
    command.make_context("reactometer", path, parent=context)


@pytest.mark.parametrize("code", ["false", "true | false", "reactometer doctor nothing", "echo $NOT_THERE"])
def test_a_wrong_block_fails(code: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="the page"):
        _run([Block(ROOT / "the page", 1, "sh", code, None)], tmp_path, "")


def test_no_command_is_overlooked() -> None:
    code = "A=1 reactometer demo > a.txt 2>&1 && reactometer doctor | x; y $(reactometer models)\n"
    code += "torchrun --nnodes 2 \\\n  -m reactometer train a.toml  # a comment of reactometer\n"
    code += "reactometer live 0 > a.log 2>&1 &\n"
    told = ["demo", "doctor", "models", "train a.toml", "live 0"]
    own = [command.removeprefix("reactometer ") for command in commands_of(Block(ROOT / "a page", 1, "sh", code, None))]
    assert own == told


def test_a_command_that_there_is_not_is_seen() -> None:
    for wrong in (["predict", "a.mp4", "--no-such"], ["nothing"], ["predict"]):
        with pytest.raises(Exception, match=r"No such option|nothing|Missing parameter"):
            _parse(wrong)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_block_is_overlooked(page: Path) -> None:
    """Each says what it is, in a word that is known, and begins its line."""
    fences = FENCE.findall(page.read_text(encoding="utf-8"))
    assert len(fences) % 2 == 0 and not any(fences[1::2])
    assert all(kind in (*CODE, *SHOWN) for kind in fences[::2]), fences[::2]
    assert sum(kind in CODE for kind in fences[::2]) == len(blocks_of(page))


def test_what_is_not_run_says_why() -> None:
    assert all(len(block.why_not) > 10 for block in BLOCKS if block.why_not is not None)
    assert len(RUN) >= 3


def _does(page: Path, what: str) -> bool:
    return any(what in block.code for block in blocks_of(page) if block.why_not is None)


def _with_its_name(page: Path) -> Any:
    marks = [pytest.mark.slow(60), *([pytest.mark.cluster] if _does(page, "ray start") else [])]
    return pytest.param(page, id=str(page.relative_to(ROOT)), marks=marks)


@pytest.mark.parametrize("page", map(_with_its_name, RUN))
def test_a_pages_blocks_run_one_after_the_other(page: Path, simulated: Path, tmp_path: Path, serving: Serving) -> None:
    """Where a page asks a service that none of its blocks starts, there is one."""
    lay_out(tmp_path, simulated)
    with ExitStack() as stack:
        stack.callback(_end_what_was_started, page, tmp_path)
        service = f"http://127.0.0.1:{free_port()}"
        if _does(page, "127.0.0.1:8000") and not _does(page, "reactometer serve"):
            service = stack.enter_context(serving(tmp_path / "service")).address
        _run([block for block in blocks_of(page) if block.why_not is None], tmp_path, service)


def _end_what_was_started(page: Path, folder: Path) -> None:
    """Pages end what they start, but not where a block of theirs fails."""
    with suppress(OSError):
        os.kill(int((folder / "serve.pid").read_text()), signal.SIGKILL)
    if _does(page, "ray start"):
        subprocess.run([PROGRAMS / "ray", "stop", "--force"], capture_output=True, check=True)


def _run(blocks: list[Block], folder: Path, service: str) -> None:
    paths = os.pathsep.join(path for path in sys.path if path)
    program = f"{folder / 'bin'}{os.pathsep}{PROGRAMS}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": program, "PYTHONPATH": paths}
    python = ""  # later blocks go on with what earlier ones named
    for block in blocks:
        code = block.code
        for said, instead in SMALLER.items():
            code = code.replace(said, instead.replace("$SERVICE", service).replace("$PORT", service.rpartition(":")[2]))
        if block.language == "python":
            python += code
            command = [sys.executable, "-c", f"service = {service!r}\n{python}"]
        elif block.language == "r":
            command = [shutil.which("Rscript") or pytest.skip(f"{block.name}: no R here"), "-e", code]
        else:
            command = ["bash", "-euo", "pipefail", "-c", code]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block.name}\n{code}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
