"""The command ``doctor``: check this installation and predict a rendered clip."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import typer
from packaging.requirements import Requirement

from reactometer.io import check_writable
from reactometer.paths import CACHE_VARIABLE, STARTER, cache_folder, find_yunet
from reactometer.terminal import OK, SOME_FAILED

FINE, MISSING, WRONG = "ok", "no", "WRONG"
"""States of a finding: fine; missing but not needed; to be fixed."""


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    name: str
    state: str  # FINE, MISSING or WRONG
    message: str
    hint: str = ""


def doctor() -> None:
    """Check this installation. Add the output to bug reports. The exit status is 1 if something must be fixed."""
    wrong = 0
    for finding in run_checks():
        wrong += finding.state == WRONG
        color = "red" if finding.state == WRONG else None
        typer.secho(f"{finding.state:<5}  {finding.name}: {finding.message}", fg=color)
        if finding.hint:
            typer.echo(f"       hint: {finding.hint}")
    typer.echo(f"{wrong} to fix" if wrong else "nothing is wrong")
    raise typer.Exit(SOME_FAILED if wrong else OK)


def run_checks() -> Iterator[Finding]:
    """Run every check, one after the other; the last one predicts a rendered clip."""
    yield Finding("reactometer", FINE, f"{version('reactometer')}, in {STARTER.parent}")
    yield Finding("Python", FINE, f"{platform.python_version()}, {platform.platform()}")
    yield from check_packages()
    for name, check, state, hint in (
        ("ONNX Runtime", describe_runtime, WRONG, "pip install --force-reinstall onnxruntime"),
        ("face detector YuNet", find_yunet, MISSING, "OpenCV's Haar cascade is used instead"),
        ("cache", lambda: _check_folder(cache_folder()), WRONG, f"set {CACHE_VARIABLE} to a writable folder"),
        (
            "temporary files",
            lambda: _check_folder(Path(tempfile.gettempdir())),
            WRONG,
            "set TMPDIR to a writable folder",
        ),
        ("this folder", lambda: _check_folder(Path.cwd()), WRONG, "change to a writable folder"),
        ("a prediction", _predict_clip, WRONG, "report this, with all lines above"),
    ):
        try:
            yield Finding(name, FINE, str(check()))
        except Exception as error:  # any failure is a finding
            yield Finding(name, state, f"{type(error).__name__}: {error}", hint)


def check_packages() -> Iterator[Finding]:
    """Check the required packages and their versions, then those of each extra, without the extras that it includes."""
    package = distribution("reactometer")
    requirements = [item for item in map(Requirement, package.requires or []) if item.name != "reactometer"]
    for extra in ("", *(name for name in package.metadata.get_all("Provides-Extra") or [] if name != "dev")):
        active = [
            item for item in requirements if (item.marker.evaluate({"extra": extra}) if item.marker else not extra)
        ]
        problems = "; ".join(problem for item in active if (problem := _version_problem(item)))
        name = f"extra {extra}" if extra else "packages"
        if problems:
            hint = f"pip install 'reactometer[{extra}]'" if extra else "pip install --upgrade reactometer"
            yield Finding(name, MISSING if extra else WRONG, problems, hint)
        else:
            yield Finding(name, FINE, ", ".join(f"{item.name} {version(item.name)}" for item in active))


def _version_problem(requirement: Requirement) -> str:
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if requirement.specifier.contains(installed, prereleases=True):
        return ""
    return f"{requirement.name} {installed} is installed, {requirement.specifier} is required"


def describe_runtime() -> str:
    """Import ONNX Runtime; return its version and execution providers."""
    import onnxruntime

    providers = onnxruntime.get_available_providers()
    unused = Path("/proc/driver/nvidia").exists() and "CUDAExecutionProvider" not in providers
    advice = (
        "; it cannot use the NVIDIA GPU: pip uninstall onnxruntime && pip install onnxruntime-gpu" if unused else ""
    )
    return f"{onnxruntime.__version__}, execution providers {', '.join(providers)}{advice}"


def _check_folder(folder: Path) -> Path:
    check_writable(folder / "file")
    return folder


def _predict_clip() -> str:
    """Predict one rendered clip with the starter model."""
    from reactometer.inference.predictor import predict
    from reactometer.synthetic.dataset import simulate

    with tempfile.TemporaryDirectory() as folder:
        data = simulate(Path(folder) / "data", n_clips=5, workers=1)
        (prediction,) = predict(sorted(data.rglob("*.mp4"))[:1], STARTER, progress=False)
    values = zip(prediction.labels, prediction.intensities or (), strict=True)
    return ", ".join(f"{label} {value:.2f}" for label, value in values)
