"""The command ``doctor``: check this installation and predict a rendered clip."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from pathlib import Path

import typer
from packaging.requirements import Requirement

from reactometer.cli.render import print_json, results
from reactometer.errors import ConfigError, ReactometerError
from reactometer.io import check_writable
from reactometer.paths import CACHE_VARIABLE, INSTALL_STARTER, STARTER, cache_folder, find_starter, find_yunet
from reactometer.terminal import OK, SOME_FAILED


def doctor() -> None:
    """Check this installation, for bug reports.

    The exit status is 1 if something must be fixed.
    """
    findings = []
    for name, check, is_required, hint in list_checks():
        try:
            findings.append({"check": name, "status": "ok", "found": str(check())})
            results.print(f"ok     {name}: {findings[-1]['found']}")
        except Exception as error:  # any failure is a finding
            reason = str(error) if isinstance(error, ReactometerError) else f"{type(error).__name__}: {error}"
            status = "WRONG" if is_required else "no"
            findings.append({"check": name, "status": status, "found": reason, "hint": hint})
            results.print(f"{status:<5}  {name}: {reason}", style="red" if is_required else None)
            results.print(f"       hint: {hint}")
    print_json(findings)
    n_wrong = sum(finding["status"] == "WRONG" for finding in findings)
    results.print(f"{n_wrong} to fix" if n_wrong else "nothing is wrong")
    raise typer.Exit(SOME_FAILED if n_wrong else OK)


def list_checks() -> list[tuple[str, Callable[[], object], bool, str]]:
    """List the checks: name, a function that describes what it found or raises, whether it is required, and a
    hint."""
    extras = [
        name for name in distribution("reactometer").metadata.get_all("Provides-Extra") or [] if name != "dev"
    ]
    temporary = Path(tempfile.gettempdir())
    return [
        (
            "reactometer",
            lambda: f"{version('reactometer')}, in {Path(__file__).parents[1]}",
            True,
            "install it again",
        ),
        ("Python", lambda: f"{platform.python_version()}, {platform.platform()}", True, "install it again"),
        ("packages", partial(describe_packages, ""), True, "pip install --upgrade reactometer"),
        *(
            (
                f"extra {extra}",
                partial(describe_packages, extra),
                False,
                INSTALL_STARTER if extra == STARTER.name else f"pip install 'reactometer[{extra}]'",
            )
            for extra in extras
        ),
        ("ONNX Runtime", describe_runtime, True, "pip install --force-reinstall onnxruntime"),
        ("face detector YuNet", find_yunet, False, "OpenCV's Haar cascade is used instead"),
        ("cache", lambda: _check_folder(cache_folder()), True, f"set {CACHE_VARIABLE} to a writable folder"),
        ("temporary files", lambda: _check_folder(temporary), True, "set TMPDIR to a writable folder"),
        ("this folder", lambda: _check_folder(Path.cwd()), True, "change to a writable folder"),
        *(
            [("a prediction", _predict_clip, True, "report this, with all lines above")]
            if find_starter()
            else []
        ),
    ]


def describe_packages(extra: str) -> str:
    """Return the versions of an extra's packages, without those of extras that it includes; "": required
    packages.

    Raises:
        ConfigError: a package is missing or too old.
    """
    requirements = [
        item for item in map(Requirement, requires("reactometer") or []) if item.name != "reactometer"
    ]
    active = [
        item
        for item in requirements
        if (item.marker.evaluate({"extra": extra}) if item.marker else not extra)
    ]
    if problems := "; ".join(problem for item in active if (problem := _version_problem(item))):
        raise ConfigError(problems)
    return ", ".join(f"{item.name} {version(item.name)}" for item in active)


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
    description = f"{onnxruntime.__version__}, execution providers {', '.join(providers)}"
    advice = "it cannot use the NVIDIA GPU: pip uninstall onnxruntime && pip install onnxruntime-gpu"
    return f"{description}; {advice}" if unused else description


def _check_folder(folder: Path) -> Path:
    check_writable(folder / "file")
    return folder


def _predict_clip() -> str:
    """Predict one rendered clip with the starter model."""
    from reactometer.inference.predictor import predict_files
    from reactometer.synthetic.dataset import simulate

    with tempfile.TemporaryDirectory() as folder:
        data = simulate(Path(folder) / "data", n_clips=5, workers=1)
        (prediction,) = predict_files(sorted(data.rglob("*.mp4"))[:1], STARTER, progress=False)
    values = zip(prediction.labels, prediction.intensities or (), strict=True)
    return ", ".join(f"{label} {value:.2f}" for label, value in values)
