"""Installed anywhere, it works: the wheel on each Python, each extra alone, the shell's completion."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from extras_at_work import ITS_MODULES, SCRIPTS
from fixtures_of_releases import (
    BIN,
    PINS,
    PROJECT,
    PYTHONS,
    RUNNING,
    TAGGED,
    Install,
    InstallExtra,
    Run,
    run,
    slow,
    variables_outside,
)

EXTRAS = [name for name in PROJECT["optional-dependencies"] if name != "dev"]


@pytest.fixture
def clip(talking: Callable[[int], Path], tmp_path: Path) -> Path:
    """A rendered clip, in a folder of its program."""
    (tmp_path / "clips").mkdir()
    return Path(shutil.copy(talking(1), tmp_path / "clips" / "clip.mp4"))


@slow
@pytest.mark.parametrize("python", PYTHONS)
def test_the_wheels_work_in_a_clean_environment(
    install: Install, install_extra: InstallExtra, python: str, clip: Path, tmp_path: Path
) -> None:
    """With the starter's wheel beside the code's, it predicts what the checkout predicts."""
    from reactometer.inference.predictor import predict_files
    from reactometer.paths import STARTER

    program = install(python)
    assert run(program / "reactometer", "--version", cwd=tmp_path).split() == ["reactometer", TAGGED]
    printed = run(program / "reactometer", "doctor", cwd=tmp_path)
    assert f"ok     Python: {python}." in printed
    assert f"{program.parent}/lib/python{python}/site-packages/reactometer" in printed
    assert "a prediction" not in printed
    assert {f"no     extra {name}" for name in EXTRAS} <= {
        line.partition(":")[0] for line in printed.splitlines()
    }
    with_starter = install_extra(python, "starter") / "python"
    printed = run(with_starter, "-m", "reactometer", "doctor", cwd=tmp_path)
    assert "ok     extra starter: " in printed and "ok     a prediction: " in printed
    run(with_starter, "-m", "reactometer", "predict", clip, "--out", "clips.csv", cwd=tmp_path)
    with (tmp_path / "clips.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    (ours,) = predict_files([clip], STARTER, progress=False)
    assert row["status"] == "ok"
    numbers = [float(row[label]) for label in ours.labels]
    assert numbers == pytest.approx(list(ours.intensities or ()), abs=1e-4)


WITHOUT = {
    "starter": ("predict", "clips/clip.mp4"),
    "evaluate": ("predict", "clips/clip.mp4", "--out-dir", "results", "--save", "plot"),
    "parquet": ("predict", "clips", "-o", "clips.parquet"),
    "train": ("demo",),
    "serve": ("serve", "--port", "0"),
    "ray": ("predict", "clips", "--out-dir", "results", "--ray", "local"),
}
"""Commands that need an extra."""


@slow
@pytest.mark.parametrize("extra", WITHOUT)
def test_a_command_names_the_missing_extra(
    install: Install, install_extra: InstallExtra, extra: str, clip: Path, tmp_path: Path
) -> None:
    """Only the starter is installed, or nothing but the code."""
    program = install(RUNNING) if extra == "starter" else install_extra(RUNNING, "starter")
    output = run(program / "python", "-m", "reactometer", *WITHOUT[extra], cwd=tmp_path, status=2)
    assert f"pip install 'reactometer[{extra}]'" in " ".join(output.split())
    assert "Traceback" not in output


def _serves(program: Path, folder: Path) -> None:
    command = [
        str(program / "python"),
        "-m",
        "reactometer",
        "serve",
        "--port",
        "0",
        "--jobs",
        str(folder / "jobs"),
    ]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=variables_outside(),
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
        text=True,
    ) as serving:
        try:
            lines = iter(serving.stdout or ())
            address = next((line.split()[0] for line in lines if line.startswith("http")), "it ended")
            with urllib.request.urlopen(f"{address}/readyz", timeout=60) as answer:
                assert answer.status == 200
            with urllib.request.urlopen(address, timeout=60) as answer:
                assert b"<title>" in answer.read(), "the page is in the wheel"
        finally:
            serving.terminate()


COMMANDS = {"serve": _serves}


@slow
@pytest.mark.parametrize("extra", EXTRAS)
def test_each_extra_alone_does_its_work(
    install_extra: InstallExtra, extra: str, clip: Path, tmp_path: Path
) -> None:
    program = install_extra(RUNNING, extra)
    run(program / "python", "-c", ITS_MODULES, extra, cwd=tmp_path)
    if extra in SCRIPTS:
        run(program / "python", "-c", SCRIPTS[extra], cwd=tmp_path)
    else:
        COMMANDS[extra](program, tmp_path)


@slow
def test_the_developers_extra_can_be_had_on_each_python(
    uv: Run, built: tuple[Path, Path], tmp_path: Path
) -> None:
    """Resolved alone, with the pins, for the first of each version: Debian 12 has 3.11.2. What make installs
    is it."""
    for python in PYTHONS:
        (tmp_path / "wanted.in").write_text(f"reactometer[dev] @ {built[1].as_uri()}\n")
        output = uv(
            "pip", "compile", "--quiet", "--python-version", f"{python}.0", *PINS, tmp_path / "wanted.in"
        )
        assert {"pytest", "torch", "uv"} <= set(re.findall(r"^([\w-]+)==", output, re.MULTILINE)), python


# The shell.


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_a_command_once_it_is_installed(tmp_path: Path) -> None:
    """As a person at the shell: install it, begin a new shell, press TAB."""
    words = "COMP_WORDS=(reactometer pre); COMP_CWORD=1"
    script = words + '; _reactometer_completion reactometer; echo "${COMPREPLY[@]}"'
    variables = os.environ | {"HOME": str(tmp_path), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = [
        subprocess.run(["bash", "-c", line], env=variables, capture_output=True, text=True, check=True).stdout
        for line in (
            "reactometer --install-completion; true",
            f". ~/.bashrc; complete -p reactometer; {script}",
        )
    ]
    assert "bash completion installed" in done[0]
    assert sorted(done[1].splitlines()[-1].split()) == ["predict", "prepare"]
