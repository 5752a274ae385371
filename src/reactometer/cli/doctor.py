"""The command ``doctor``: check this installation and predict a rendered clip."""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import typer
from packaging.requirements import Requirement
from rich.filesize import decimal

from reactometer.errors import OutputError, WeightsError
from reactometer.io import check_place
from reactometer.paths import CACHE_VARIABLE, STARTER, cache_folder, find_yunet
from reactometer.terminal import OK, SOME_FAILED

FINE, MISSING, WRONG = "ok", "no", "WRONG"
"""States of a finding: fine; missing but not needed; to be fixed."""

MIN_FREE_BYTES = 10**9


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    name: str
    state: str  # FINE, MISSING or WRONG
    message: str
    hint: str = ""


def doctor() -> None:
    """Check this installation (packages, ONNX Runtime, weights, write access) and predict a rendered clip.

    Add the output to a bug report. Status 1 if something must be fixed.
    """
    wrong = 0
    for finding in examine():
        wrong += finding.state == WRONG
        color = "red" if finding.state == WRONG else None
        typer.secho(f"{finding.state:<5}  {finding.name}: {finding.message}", fg=color)
        if finding.hint:
            typer.echo(f"       hint: {finding.hint}")
    typer.echo(f"{wrong} to fix" if wrong else "nothing is wrong")
    raise typer.Exit(SOME_FAILED if wrong else OK)


def examine() -> Iterator[Finding]:
    """Run every check, one after the other; the last one predicts a rendered clip."""
    yield Finding("reactometer", FINE, f"{version('reactometer')}, in {STARTER.parent}")
    yield Finding("Python", FINE, f"{platform.python_version()}, {platform.platform()}")
    yield from check_packages()
    yield from check_runtime()
    yield _check_detector()
    yield from check_folders()
    yield _check_prediction()


def check_packages() -> Iterator[Finding]:
    """Check the required packages and their versions, then those of each extra."""
    extras = distribution("reactometer").metadata.get_all("Provides-Extra") or []
    for extra in ("", *(name for name in extras if name != "dev")):
        wanted = _requirements(extra)
        problems = "; ".join(problem for one in wanted if (problem := _problem_of(one)))
        name = f"extra {extra}" if extra else "packages"
        if problems:
            hint = f"pip install 'reactometer[{extra}]'" if extra else "pip install --upgrade reactometer"
            yield Finding(name, MISSING if extra else WRONG, problems, hint)
        else:
            yield Finding(name, FINE, ", ".join(f"{one.name} {version(one.name)}" for one in wanted))


def _requirements(extra: str) -> list[Requirement]:
    """Return what an extra requires, with the extras that it includes; the required packages for ""."""
    own: list[Requirement] = []
    for one in map(Requirement, distribution("reactometer").requires or []):
        if one.marker.evaluate({"extra": extra}) if one.marker else not extra:
            included = [inner for name in sorted(one.extras) for inner in _requirements(name)]
            own += included if one.name == "reactometer" else [one]
    return own


def _problem_of(requirement: Requirement) -> str:
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if requirement.specifier.contains(installed, prereleases=True):
        return ""
    return f"{requirement.name} {installed} is installed, {requirement.specifier} is required"


def check_runtime() -> Iterator[Finding]:
    """Check that ONNX Runtime can be imported, and list where it can run models."""
    name = "ONNX Runtime"
    try:
        import onnxruntime
    except ImportError as error:
        yield Finding(name, WRONG, str(error), "pip install --force-reinstall onnxruntime")
        return
    providers = onnxruntime.get_available_providers()
    yield Finding(name, FINE, f"{onnxruntime.__version__}, execution providers {', '.join(providers)}")
    if Path("/proc/driver/nvidia").exists() and "CUDAExecutionProvider" not in providers:
        hint = "pip uninstall onnxruntime && pip install onnxruntime-gpu"
        yield Finding("GPU", MISSING, "there is an NVIDIA GPU, and this ONNX Runtime cannot use it", hint)


def _check_detector() -> Finding:
    try:
        return Finding("face detector YuNet", FINE, str(find_yunet()))
    except WeightsError as error:
        return Finding("face detector YuNet", MISSING, "OpenCV's Haar cascade is used instead", str(error))


def check_folders() -> Iterator[Finding]:
    """Check write access and free space where files are written."""
    places = []
    hint = f"set {CACHE_VARIABLE} to a writable folder with free space"
    try:
        places.append(("cache", cache_folder(), hint))
    except WeightsError as error:  # no home folder
        yield Finding("cache", WRONG, str(error), hint)
    for name, folder, hint in (
        *places,
        ("temporary files", Path(tempfile.gettempdir()), "set TMPDIR to a writable folder with free space"),
        ("this folder", Path.cwd(), "change to a writable folder with free space"),
    ):
        try:
            check_place(folder / "file")
        except OutputError as error:
            yield Finding(name, WRONG, str(error), hint)
            continue
        free = shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.exists())).free
        is_full = free < MIN_FREE_BYTES
        yield Finding(name, WRONG if is_full else FINE, f"{folder}, {decimal(free)} free", hint if is_full else "")


def _check_prediction() -> Finding:
    """Predict one rendered clip with the starter model."""
    from reactometer.inference.predictor import predict
    from reactometer.synthetic.dataset import simulate

    name = "a prediction"
    try:
        with tempfile.TemporaryDirectory() as folder:
            data = simulate(Path(folder) / "data", n_clips=5, workers=1)
            (prediction,) = predict(sorted(data.rglob("*.mp4"))[:1], STARTER, progress=False)
    except Exception as error:  # any failure at all is the finding
        return Finding(name, WRONG, f"{type(error).__name__}: {error}", "report this, with all lines above")
    values = zip(prediction.labels, prediction.intensities or (), strict=False)
    return Finding(name, FINE, ", ".join(f"{label} {value:.2f}" for label, value in values))
