"""What is given out: its version is the tag's, it holds what it must, and installed anywhere it works.

The slow ones build the package and install it into environments of their own, as a stranger would, from the package
index, with the versions of constraints.txt; each runs outside the checkout. A Python that is not on this machine, and
that uv cannot fetch, is skipped with a reason that names it; the one that runs the tests is always tested.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from email.parser import Parser
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGE = ROOT / "src" / "reactometer"

RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"
PYTHONS: list[str] = [line.rsplit(" ", 1)[1] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
TAGGED = "9.9.9"
LARGEST_BYTES = 12 * 2**20
LONGEST_S = 600

BIN = Path(sys.executable).parent
PINS = ("--constraint", ROOT / "constraints.txt")

Run = Callable[..., str]
Install = Callable[[str], Path]
InstallExtra = Callable[[str, str], Path]
Test = TypeVar("Test", bound=Callable[..., None])


def _variables() -> dict[str, str]:
    """This machine's, without what leads into the checkout; where pip is told to look, uv looks too."""
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")}
    for name, pips, join in (
        ("UV_DEFAULT_INDEX", "PIP_INDEX_URL", " "),
        ("UV_INDEX", "PIP_EXTRA_INDEX_URL", " "),
        ("UV_FIND_LINKS", "PIP_FIND_LINKS", ","),
    ):
        if pips in own:
            own.setdefault(name, join.join(own[pips].split()))
    return own


def _run(*command: object, cwd: Path, status: int = 0, **variables: str) -> str:
    """Run a command to its end, and hold its exit status against the one wanted; all that it printed."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=_variables() | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )
    assert done.returncode == status, f"{' '.join(map(str, command))}: {done.returncode}\n{done.stdout[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def room() -> Iterator[Path]:
    """A folder for gigabytes, gone when the tests are done; uv's cache lies in it, and environments link into that."""
    with tempfile.TemporaryDirectory(prefix="reactometer-release-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def uv(room: Path) -> Run:
    """Runs uv with a cache that is empty at first."""

    def uv(*arguments: object, cwd: Path = room, status: int = 0) -> str:
        own = {"UV_CACHE_DIR": str(room / "cache"), "UV_PYTHON_INSTALL_DIR": str(room / "pythons")}
        return _run(BIN / "uv", *arguments, cwd=cwd, status=status, **own)

    return uv


def _git(folder: Path, *arguments: object) -> None:
    own = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org", "-c", "commit.gpgsign=false")
    _run("git", *own, *arguments, cwd=folder)


def _commit(folder: Path, message: str) -> None:
    _git(folder, "add", "--all")
    _git(folder, "commit", "--quiet", "--allow-empty", "--message", message)


@pytest.fixture(scope="module")
def source(room: Path) -> Path:
    """A repository of this checkout's files as they are now, with the tag v9.9.9 on its only commit."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    folder = room / "source"
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    _git(folder, "init", "--quiet")
    _commit(folder, "all of it")
    _git(folder, "tag", f"v{TAGGED}")
    return folder


def _build(uv: Run, source: Path, out: Path, *options: str) -> list[Path]:
    uv("build", "--quiet", *options, "--build-constraint", ROOT / "constraints.txt", "--out-dir", out, source)
    return [*out.glob("*.tar.gz"), *out.glob("*.whl")]


@pytest.fixture(scope="module")
def built(uv: Run, source: Path, room: Path) -> tuple[Path, Path]:
    """The source distribution, and the wheel that was built from it and from nothing else."""
    archive, wheel = _build(uv, source, room / "dist")
    return archive, wheel


def _about(wheel: Path) -> Any:
    with zipfile.ZipFile(wheel) as own:
        (name,) = (name for name in own.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(own.read(name).decode())


def slow(test: Test) -> Test:
    """Marks a test that builds or installs; .ci/run has a line of its own for these."""
    pytest.mark.slow(test)
    pytest.mark.release(test)
    return test


# The version.


@slow
def test_a_tag_is_the_version(built: tuple[Path, Path]) -> None:
    archive, wheel = built
    assert (archive.name, wheel.name) == (f"reactometer-{TAGGED}.tar.gz", f"reactometer-{TAGGED}-py3-none-any.whl")
    assert _about(wheel)["Version"] == TAGGED


def _without_git(source: Path, copy: Path) -> None:
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns(".git"))


def _inside_another(source: Path, copy: Path) -> None:
    """A tree without git of its own, in somebody's repository, whose tags are not ours."""
    copy.parent.mkdir()
    _without_git(source, copy)
    _git(copy.parent, "init", "--quiet")
    _commit(copy.parent, "vendored")
    _git(copy.parent, "tag", "v7.7.7")


def _shallow(source: Path, copy: Path) -> None:
    _run("git", "clone", "--quiet", "--depth", 1, "--no-tags", source.as_uri(), copy, cwd=source)


def _gone_on(source: Path, copy: Path) -> None:
    """A commit behind the tag; another tag on it is no version's."""
    _run("git", "clone", "--quiet", source, copy, cwd=source)
    _commit(copy, "one more")
    _git(copy, "tag", "numbers-12")


@slow
@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (_without_git, r"0\.0\.0"),
        (_inside_another, r"0\.0\.0"),
        (_shallow, r"0\.0\.1\.dev1\+g[0-9a-f]+"),
        (_gone_on, r"9\.9\.10\.dev1\+g[0-9a-f]+"),
    ],
)
def test_what_has_no_tag_is_built_too_and_passes_for_no_release(
    uv: Run, source: Path, tmp_path: Path, make: Callable[[Path, Path], None], expected: str
) -> None:
    copy = tmp_path / "around" / "copy" if make is _inside_another else tmp_path / "copy"
    make(source, copy)
    (wheel,) = _build(uv, copy, tmp_path / "dist", "--wheel")
    assert re.fullmatch(expected, _about(wheel)["Version"]), wheel.name


def test_the_command_says_the_version_that_is_installed() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "reactometer", "--version"], capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == ["reactometer", version("reactometer")]


# What is in it.


@slow
def test_the_wheel_holds_what_it_must_and_nothing_else(built: tuple[Path, Path]) -> None:
    _, wheel = built
    with zipfile.ZipFile(wheel) as own:
        names = set(own.namelist())
    data = {name for name in names if name.startswith("reactometer/") and not name.endswith(".py")}
    page = {f"reactometer/serving/page/{file.name}" for file in (PACKAGE / "serving" / "page").iterdir()}
    starter = {f"reactometer/starter/{file.name}" for file in (PACKAGE / "starter").iterdir()}
    assert data == page | starter | {"reactometer/py.typed", "reactometer/evaluation/report.html"}
    code = {file.relative_to(PACKAGE.parent).as_posix() for file in PACKAGE.rglob("*.py")}
    about = f"reactometer-{TAGGED}.dist-info/"
    assert {name for name in names - data if not name.startswith(about)} == code
    assert wheel.stat().st_size <= LARGEST_BYTES


@slow
def test_the_source_distribution_holds_what_it_is_built_and_tested_from(built: tuple[Path, Path]) -> None:
    archive, _ = built
    with tarfile.open(archive) as own:
        names = {name.partition("/")[2] for name in own.getnames()}
    assert {"LICENSE", "README.md", "CHANGELOG.md", "constraints.txt", "Makefile", "tests/test_release.py"} <= names
    assert not {name for name in names if name.split("/")[0] in (".venv", "runs", "demo", "dist", "site")}
    assert archive.stat().st_size <= LARGEST_BYTES


WEIGHTS = sorted(file for file in PACKAGE.rglob("*") if file.suffix in (".safetensors", ".onnx", ".pt", ".bin"))


def test_weights_in_the_package_have_their_licence_beside_them() -> None:
    assert WEIGHTS
    for file in WEIGHTS:
        told = (file.parent / "LICENSE").read_text(encoding="utf-8")
        card = (file.parent / "README.md").read_text(encoding="utf-8")
        (name,) = re.findall(r"^license_name: (.+)$", card, re.MULTILINE)
        assert f"SPDX-License-Identifier: LicenseRef-{name}\n" in told, "what the card says"
        assert f"  {file.name} " in told, "each file is named"
        assert f"LicenseRef-{name}" in PROJECT["license"], "the package's licence does not hide it"
        parts = {"FER2013", "EmoDB"} & set(re.findall(r"\w+", card))
        assert parts <= set(re.findall(r"\w+", told)), "what they were made of"


@slow
def test_the_wheel_carries_the_licences(built: tuple[Path, Path]) -> None:
    _, wheel = built
    about = _about(wheel)
    licences = [file.parent / "LICENSE" for file in WEIGHTS]
    told = {"LICENSE", *(file.relative_to(ROOT).as_posix() for file in licences)}
    assert set(about.get_all("License-File")) == told
    assert about["License-Expression"] == PROJECT["license"]
    with zipfile.ZipFile(wheel) as own:
        for file in licences:
            assert own.read(file.relative_to(PACKAGE.parent).as_posix()) == file.read_bytes()
        for name in told:
            assert own.read(f"reactometer-{TAGGED}.dist-info/licenses/{name}") == (ROOT / name).read_bytes()


# Installed.


def _interpreter(wanted: str, uv: Run) -> str:
    """A Python of a version: the one that runs, one of the PATH or of pyenv, or one that uv fetches; else a skip."""
    named = shutil.which(f"python{wanted}")
    pyenv = sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob(f"versions/{wanted}.*/bin/python"))
    for own in [sys.executable] * (wanted == RUNNING) + ([named] if named else []) + [str(one) for one in pyenv[::-1]]:
        asked = [own, "-c", "import ensurepip, ssl, sys; print('%d.%d' % sys.version_info[:2])"]
        if subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() == wanted:
            return own
    try:
        uv("python", "install", "--quiet", wanted)
        return uv("python", "find", "--managed-python", wanted).strip()
    except AssertionError as error:
        pytest.skip(f"NOT TESTED on Python {wanted}: there is none here, and uv cannot fetch it: {error}"[:300])


@pytest.fixture(scope="module")
def install(uv: Run, built: tuple[Path, Path], room: Path) -> Install:
    """Makes an environment of a Python's version with the wheel and all that it needs; its folder of programs."""

    def install(python: str) -> Path:
        folder = room / python
        if not folder.exists():
            uv("venv", "--quiet", "--python", _interpreter(python, uv), folder)
            uv("pip", "install", "--quiet", "--python", folder / "bin" / "python", *PINS, built[1])
        return folder / "bin"

    return install


@pytest.fixture
def install_extra(uv: Run, built: tuple[Path, Path], install: Install, tmp_path: Path) -> InstallExtra:
    """Makes an environment with what one extra adds, on top of a plain one; its folder of programs.

    The plain one's packages are seen by a .pth file, so that PyTorch is unpacked and compiled once.
    """

    def install_extra(python: str, extra: str) -> Path:
        base, folder = install(python), tmp_path / "environment"
        uv("venv", "--quiet", "--python", _interpreter(python, uv), folder)
        packages = f"lib/python{python}/site-packages"
        (folder / packages / "base.pth").write_text(f"{base.parent / packages}\n")
        (tmp_path / "wanted.in").write_text(f"reactometer[{extra}] @ {built[1].as_uri()}\n")
        asked = ("--quiet", "--no-header", "--no-annotate", "--python", base / "python", *PINS, tmp_path / "wanted.in")
        there = _names(uv("pip", "freeze", "--quiet", "--python", base / "python"))
        wanted = _names(uv("pip", "compile", *asked))
        assert {name: wanted[name] for name in there} == there, "an extra adds, and changes nothing"
        if more := [f"{name}=={wanted[name]}" for name in wanted.keys() - there]:
            uv("pip", "install", "--quiet", "--no-deps", "--python", folder / "bin" / "python", *more)
        return folder / "bin"

    return install_extra


def _names(told: str) -> dict[str, str]:
    """Names and public versions in what uv lists, without what was given by its file."""
    pairs = [line.split("==") for line in told.split() if "==" in line]
    return {name: number.partition("+")[0] for name, number in pairs}


@pytest.fixture
def clip(talking: Callable[[int], Path], tmp_path: Path) -> Path:
    """A rendered clip, in a folder of its own."""
    (tmp_path / "clips").mkdir()
    return Path(shutil.copy(talking(1), tmp_path / "clips" / "clip.mp4"))


@slow
@pytest.mark.parametrize("python", PYTHONS)
def test_the_wheel_works_in_a_clean_environment(install: Install, python: str, clip: Path, tmp_path: Path) -> None:
    """It predicts what the checkout predicts."""
    from reactometer.inference.predictor import predict
    from reactometer.weights import STARTER

    own = install(python)
    assert _run(own / "reactometer", "--version", cwd=tmp_path).split() == ["reactometer", TAGGED]
    told = json.loads(_run(own / "reactometer", "doctor", "--json", cwd=tmp_path))
    about = {one["name"]: one for one in told}
    assert about["Python"]["told"].startswith(f"{python}.")
    assert about["reactometer"]["told"].endswith(f"{own.parent}/lib/python{python}/site-packages/reactometer")
    assert about["a prediction"]["state"] == "ok"
    assert {extra for extra in PROJECT["optional-dependencies"] if about.get(f"extra {extra}", {})} >= {"serve", "ray"}
    assert all(one["state"] == "no" for name, one in about.items() if name.startswith("extra ")), "nothing beside it"
    _run(own / "reactometer", "predict", clip, "--out", "clips.csv", cwd=tmp_path)
    with (tmp_path / "clips.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    (ours,) = predict([clip], STARTER, progress=False)
    assert row["status"] == "ok"
    numbers = [float(row[label]) for label in ours.labels]
    assert numbers == pytest.approx(list(ours.intensities or ()), abs=1e-4)


WITHOUT = {
    "serve": ("serve", "--port", "0"),
    "ray": ("predict", "clips", "--out", "results", "--ray", "local"),
    "search": ("search", "some.toml", "--space", "model.hidden=64,128", "--out", "found"),
    "onnx": ("predict", "clips/clip.mp4", "--engine", "onnx"),
    "openvino": ("predict", "clips/clip.mp4", "--engine", "openvino"),
}
"""Commands that need an extra."""


@slow
@pytest.mark.parametrize("extra", WITHOUT)
def test_without_an_extra_a_command_says_which_to_install(
    install: Install, extra: str, clip: Path, tmp_path: Path
) -> None:
    told = _run(install(RUNNING) / "reactometer", *WITHOUT[extra], cwd=tmp_path, status=2)
    assert f"pip install 'reactometer[{extra}]'" in " ".join(told.split())
    assert "Traceback" not in told


ITS_MODULES = """
import importlib, sys
from importlib.metadata import distributions, packages_distributions
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from reactometer.doctor import FINE, _packages

(ours,) = (one for one in distributions() if one.metadata["Name"] == "reactometer")
for one in map(Requirement, ours.requires):
    if one.marker and one.marker.evaluate({"extra": sys.argv[1]}):
        owners = packages_distributions().items()
        modules = [top for top, names in owners if canonicalize_name(one.name) in map(canonicalize_name, names)]
        for name in (name for name in modules if not name.startswith("_")):
            print(importlib.import_module(name).__name__)
states = {one.name: one.state for one in _packages()}
assert states.get(f"extra {sys.argv[1]}", FINE) == FINE, states
"""
"""The modules of an extra's packages are imported, and the package itself takes it for installed."""

A_GRAPH = """
import numpy as np, torch
net, given = torch.nn.Linear(3, 2), torch.ones(1, 3)
"""
ONNX = """
import onnxruntime
torch.onnx.export(net, (given,), "net.onnx", dynamo=True, verbose=False)
session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
(told,) = session.run(None, {session.get_inputs()[0].name: given.numpy()})
assert np.allclose(told, net(given).detach().numpy(), atol=1e-5)
"""
OPENVINO = """
import openvino
converted, exact = openvino.convert_model(net, example_input=given), {"INFERENCE_PRECISION_HINT": "f32"}
compiled = openvino.compile_model(converted, "CPU", exact)
assert np.allclose(compiled(given.numpy())[0], net(given).detach().numpy(), atol=1e-5)
"""
SPEECH = """
import torch
from transformers import HubertConfig, HubertModel, Wav2Vec2Config, Wav2Vec2Model, WavLMConfig, WavLMModel
small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
for network, config in ((HubertModel, HubertConfig), (Wav2Vec2Model, Wav2Vec2Config), (WavLMModel, WavLMConfig)):
    told = network(config(**small)).eval()(torch.zeros(1, 16000)).last_hidden_state
    assert told.shape == (1, 49, 32), told.shape
"""
SEARCH = """
import optuna
study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
study.optimize(lambda trial: trial.suggest_float("x", -1, 1) ** 2, n_trials=20)
assert abs(study.best_params["x"]) < 0.5
"""
RAY = """
import ray
from reactometer.cluster import connect
with connect("local", processors=1):
    assert ray.get(ray.remote(num_cpus=1)(lambda: 6 * 7).remote()) == 42
"""
POSTGRES = """
import psycopg
try:
    psycopg.connect("host=127.0.0.1 port=9 user=nobody dbname=none")
except psycopg.OperationalError as error:
    assert "127.0.0.1" in str(error), error
"""
TIMM = """
import torch
from transformers import AutoModel, TimmWrapperConfig
network = AutoModel.from_config(TimmWrapperConfig(architecture="resnet10t", do_pooling=True)).eval()
assert network(torch.zeros(1, 3, 64, 64)).pooler_output.shape == (1, 512)
"""
SCRIPTS = {
    "onnx": A_GRAPH + ONNX,
    "openvino": A_GRAPH + OPENVINO,
    "speech": SPEECH,
    "search": SEARCH,
    "ray": RAY,
    "postgres": POSTGRES,
    "timm": TIMM,
}
"""What an extra's packages do for us, in small."""


def _explains(own: Path, folder: Path) -> None:
    command = (own / "python", "-m", "reactometer", "explain", "clips/clip.mp4", "--span", "0-1s", "--out", "explained")
    _run(*command, cwd=folder)
    told = json.loads((folder / "explained" / "attribution.json").read_text(encoding="utf-8"))
    assert told["face_map"], "which is Captum's work"


def _serves(own: Path, folder: Path) -> None:
    told = _run(
        *(own / "python", "-m", "reactometer"),
        "serve",
        "--database",
        "postgresql+psycopg://a@127.0.0.1:9/b",
        cwd=folder,
        status=2,
    )
    assert "pip install 'reactometer[postgres]'" in " ".join(told.split())
    command = [str(own / "python"), "-m", "reactometer", "serve", "--port", "0", "--data", str(folder / "jobs")]
    with subprocess.Popen(
        command, cwd=folder, env=_variables(), stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True
    ) as serving:
        try:
            lines = iter(serving.stdout or ())
            address = next((line.split()[0] for line in lines if line.startswith("http")), "it ended")
            with urllib.request.urlopen(f"{address}/healthz", timeout=60) as answer:
                assert answer.status == 200
            with urllib.request.urlopen(address, timeout=60) as answer:
                assert b"<title>" in answer.read(), "the page is in the wheel"
        finally:
            serving.terminate()


COMMANDS = {"explain": _explains, "serve": _serves}


@slow
@pytest.mark.parametrize("extra", [name for name in PROJECT["optional-dependencies"] if name != "dev"])
def test_each_extra_alone_does_its_work(
    install: Install, install_extra: InstallExtra, extra: str, clip: Path, tmp_path: Path
) -> None:
    own = install_extra(_python_for(extra, install), extra)
    _run(own / "python", "-c", ITS_MODULES, extra, cwd=tmp_path)
    if extra in SCRIPTS:
        _run(own / "python", "-c", SCRIPTS[extra], cwd=tmp_path)
    else:
        COMMANDS[extra](own, tmp_path)


def _python_for(extra: str, install: Install) -> str:
    """The one that runs; for timm's torchvision, one whose PyTorch is the index's own build, as torchvision's is."""
    if extra != "timm":
        return RUNNING
    for python in sorted(PYTHONS, key=lambda one: one != RUNNING):
        (about,) = (install(python).parent / "lib" / f"python{python}" / "site-packages").glob("torch-*.dist-info")
        if "+" not in about.name:
            return python
    pytest.skip("NOT TESTED: timm; each PyTorch here is of another build than the index's torchvision")


@slow
def test_the_developers_extra_can_be_had_on_each_python(uv: Run, built: tuple[Path, Path], tmp_path: Path) -> None:
    """Resolved alone, with the pins, for the first of each version: Debian 12 has 3.11.2. What make installs is it."""
    for python in PYTHONS:
        (tmp_path / "wanted.in").write_text(f"reactometer[dev] @ {built[1].as_uri()}\n")
        told = uv("pip", "compile", "--quiet", "--python-version", f"{python}.0", *PINS, tmp_path / "wanted.in")
        assert {"pytest", "torch", "uv"} <= set(re.findall(r"^([\w-]+)==", told, re.MULTILINE)), python


# The shell.


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_a_command_once_it_is_installed(tmp_path: Path) -> None:
    """As a person at the shell: install it, begin a new shell, press TAB."""
    ask = 'COMP_WORDS=(reactometer pre); COMP_CWORD=1; _reactometer_completion reactometer; echo "${COMPREPLY[@]}"'
    variables = os.environ | {"HOME": str(tmp_path), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = [
        subprocess.run(["bash", "-c", line], env=variables, capture_output=True, text=True, check=True).stdout
        for line in ("reactometer --install-completion; true", f". ~/.bashrc; complete -p reactometer; {ask}")
    ]
    assert "bash completion installed" in done[0]
    assert done[1].splitlines()[-1].split() == ["prepare", "pretrain", "predict"]
