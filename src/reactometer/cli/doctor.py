"""The command ``doctor``: check this installation and predict a rendered clip."""

from __future__ import annotations

import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import typer
from packaging.requirements import Requirement
from rich.filesize import decimal

from reactometer.errors import WeightsError
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
    """Check this installation (packages, GPU, weights, write access) and predict a rendered clip.

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
    yield _check_gpu()
    yield _check_detector()
    yield from check_folders()
    yield _check_prediction()


def check_packages() -> Iterator[Finding]:
    """Check the required packages and their versions, then each extra as a whole."""
    requirements = [Requirement(text) for text in distribution("reactometer").requires or []]
    required = [one for one in requirements if one.marker is None]
    problems = [problem for one in required if (problem := _problem_of(one))]
    yield Finding(
        "packages",
        WRONG if problems else FINE,
        "; ".join(problems) or ", ".join(f"{one.name} {version(one.name)}" for one in required),
        "pip install --upgrade reactometer, in its own environment" if problems else "",
    )
    for extra in distribution("reactometer").metadata.get_all("Provides-Extra") or []:
        packages = [one for one in requirements if one.marker and one.marker.evaluate({"extra": extra})]
        if extra == "dev" or not packages:
            continue
        if problems := [problem for one in packages if (problem := _problem_of(one))]:
            yield Finding(f"extra {extra}", MISSING, "; ".join(problems), f"pip install 'reactometer[{extra}]'")
        else:
            yield Finding(f"extra {extra}", FINE, ", ".join(f"{one.name} {version(one.name)}" for one in packages))


def _problem_of(requirement: Requirement) -> str:
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if requirement.specifier.contains(installed, prereleases=True):
        return ""
    return f"{requirement.name} {installed} is installed, {requirement.specifier} is required"


def _check_gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return Finding("GPU", FINE, f"{', '.join(names)}, CUDA {torch.version.cuda}")
    if torch.backends.mps.is_available():
        return Finding("GPU", FINE, "Apple's (mps)")
    if Path("/proc/driver/nvidia").exists():
        hint = "check the driver with nvidia-smi" if torch.version.cuda else "install PyTorch's CUDA build: pytorch.org"
        return Finding("GPU", WRONG, "there is one, and this PyTorch cannot use it", hint)
    return Finding("GPU", MISSING, "none; everything runs on the CPU", "training a whole encoder needs a GPU")


def _check_detector() -> Finding:
    try:
        return Finding("face detector YuNet", FINE, str(find_yunet()))
    except WeightsError as error:
        return Finding("face detector YuNet", MISSING, "OpenCV's Haar cascade is used instead", str(error))


def check_folders() -> Iterator[Finding]:
    """Check write access and free space where files are written."""
    for name, folder, hint in (
        ("cache", cache_folder(), f"set {CACHE_VARIABLE} to a writable folder"),
        ("temporary files", Path(tempfile.gettempdir()), "set TMPDIR to another folder"),
        ("this folder", Path.cwd(), "change to another folder, or name outputs elsewhere"),
    ):
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        try:
            with tempfile.NamedTemporaryFile(dir=existing):
                pass
            free = shutil.disk_usage(existing).free
        except OSError as error:
            yield Finding(name, WRONG, f"{folder} is not writable: {error.strerror}", hint)
            continue
        is_full = free < MIN_FREE_BYTES
        message = f"{folder}, {decimal(free)} free"
        yield Finding(name, WRONG, message, f"free some space, or {hint}") if is_full else Finding(name, FINE, message)


def _check_prediction() -> Finding:
    """Predict one rendered clip with the starter model."""
    from reactometer.inference.predictor import predict
    from reactometer.synthetic.dataset import simulate

    name, start_s = "a prediction", time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as folder:
            data = simulate(Path(folder) / "data", n_clips=5, workers=1)
            (prediction,) = predict(sorted(data.rglob("*.mp4"))[:1], STARTER, progress=False)
    except Exception as error:  # any failure at all is the finding
        return Finding(name, WRONG, f"{type(error).__name__}: {error}", "report this, with all lines above")
    values = zip(prediction.labels, prediction.intensities or (), strict=False)
    shown = ", ".join(f"{label} {value:.2f}" for label, value in values)
    return Finding(name, FINE, f"of a rendered clip, in {time.perf_counter() - start_s:.1f} s: {shown}")
