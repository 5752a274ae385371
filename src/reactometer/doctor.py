"""What a report of a fault needs to tell of this machine, and what is wrong with it, each with its remedy."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from rich.filesize import decimal

from reactometer.paths import CACHE_VARIABLE, STARTER, cache_folder

FINE, LACKING, WRONG = "ok", "no", "WRONG"
"""As it should be; not there, which one can do without; to be mended."""

LEAST_FREE_BYTES = 10**9
DECODERS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mjpeg", "aac", "mp3", "opus", "vorbis", "flac", "pcm_s16le")
ENCODERS = ("libx264", "aac")
VARIABLES = re.compile("REACTOMETER_.*|HF_.*|CUDA_VISIBLE_DEVICES|OMP_.*|MKL_.*|MALLOC_.*|XDG_CACHE_HOME")
SECRET = re.compile("TOKEN|KEY|PASSWORD|DATABASE")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: str  # FINE, LACKING or WRONG
    told: str
    remedy: str = ""


def examine() -> Iterator[Finding]:
    """Look at everything, one thing after the other; the last is a clip that is rendered and predicted."""
    yield Finding("reactometer", FINE, f"{version('reactometer')}, in {Path(__file__).parent}")
    yield Finding("Python", FINE, f"{platform.python_version()}, {platform.platform()}")
    yield from _packages()
    yield _processors()
    yield _graphics()
    yield _codecs()
    yield from _weights()
    yield from _folders()
    yield from _shared_memory()
    yield from _variables()
    yield _prediction()


def _packages() -> Iterator[Finding]:
    """What the package needs is there, in a version that it takes; the extras, each as a whole."""
    needed = [Requirement(text) for text in distribution("reactometer").requires or []]
    bad = [told for own in needed if own.marker is None and (told := _unmet(own))]
    present = [f"{own.name} {version(own.name)}" for own in needed if own.marker is None and not _unmet(own)]
    again = "pip install --upgrade reactometer, in an environment of its own"
    yield Finding("packages", WRONG if bad else FINE, "; ".join(bad) or ", ".join(present), again if bad else "")
    for extra in distribution("reactometer").metadata.get_all("Provides-Extra") or []:
        own = [one for one in needed if one.marker and one.marker.evaluate({"extra": extra})]
        missing = [told for one in own if (told := _unmet(one))]
        if extra != "dev" and own:
            told = "; ".join(missing) or ", ".join(f"{one.name} {version(one.name)}" for one in own)
            remedy = f"for what it brings: pip install 'reactometer[{extra}]'" if missing else ""
            yield Finding(f"extra {extra}", LACKING if missing else FINE, told, remedy)


def _unmet(own: Requirement) -> str:
    try:
        there = version(own.name)
    except PackageNotFoundError:
        return f"{own.name} is not installed"
    return "" if own.specifier.contains(there, prereleases=True) else f"{own.name} is {there}, wanted {own.specifier}"


def _processors() -> Finding:
    import torch

    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    told = f"{os.cpu_count()}, {torch.get_num_threads()} threads of PyTorch, {platform.machine()}"
    return Finding("processors", FINE, told + (f", {decimal(pages)} of memory" if pages else ""))


def _graphics() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())]
        return Finding("GPU", FINE, f"{', '.join(names)}, CUDA {torch.version.cuda}")
    if torch.backends.mps.is_available():
        return Finding("GPU", FINE, "Apple's (mps)")
    if Path("/proc/driver/nvidia").exists():
        remedy = "a driver for it, see nvidia-smi" if torch.version.cuda else "PyTorch's CUDA build: see pytorch.org"
        return Finding("GPU", WRONG, "there is one, and this PyTorch cannot use it", remedy)
    return Finding("GPU", LACKING, "none; the processors do it all", "one is wanted to train large networks alone")


def _codecs() -> Finding:
    import av

    missing = [f"decoder {name}" for name in DECODERS if not _has(name, "r")]
    missing += [f"encoder {name}" for name in ENCODERS if not _has(name, "w")]
    told = f"PyAV {av.__version__} with FFmpeg {av.ffmpeg_version_info}: {', '.join(DECODERS)}"
    remedy = "pip install --force-reinstall av: its wheel brings an FFmpeg that has them" if missing else ""
    return Finding("codecs", WRONG if missing else FINE, f"no {', no '.join(missing)}" if missing else told, remedy)


def _has(name: str, mode: Literal["r", "w"]) -> bool:
    import av

    try:
        av.Codec(name, mode)
    except av.codec.codec.UnknownCodecError:
        return False
    return True


def _weights() -> Iterator[Finding]:
    from reactometer.models.store import digest_of, find_held, problem_of, shipped

    for held in (shipped(), find_held("yunet")):
        wrong = [told for file in held.files if (told := problem_of(file, digest_of(held, file)))]
        name = f"weights of {held.name}"
        if wrong:
            yield Finding(name, WRONG, "; ".join(wrong), f"reactometer weights fetch {held.name}, or install anew")
        elif held.files:
            yield Finding(name, FINE, f"{held.place}: {held.files[0].parent}")
        else:
            yield Finding(
                name, LACKING, "Haar finds faces instead: slower, and fewer", "reactometer weights fetch yunet"
            )


def _folders() -> Iterator[Finding]:
    """Whether one can write where files go, and how much."""
    named = f"set {CACHE_VARIABLE} to a folder that can be written"
    for name, folder, remedy in (
        ("cache", cache_folder(), named),
        ("folder for temporary files", Path(tempfile.gettempdir()), "set TMPDIR to another"),
        ("this folder", Path.cwd(), "go to another, or name outputs elsewhere"),
    ):
        there = next(own for own in (folder, *folder.absolute().parents) if own.exists())
        try:
            with tempfile.NamedTemporaryFile(dir=there):
                pass
            free = shutil.disk_usage(there).free
        except OSError as error:
            yield Finding(name, WRONG, f"{folder} cannot be written: {error.strerror}", remedy)
            continue
        told, full = f"{folder}, {decimal(free)} free", free < LEAST_FREE_BYTES
        yield Finding(name, WRONG, told, f"make room, or {remedy}") if full else Finding(name, FINE, told)


def _shared_memory() -> Iterator[Finding]:
    """What processes hand each other goes through it; containers have 64 MB of it by default."""
    folder = Path("/dev/shm")
    if folder.is_dir():
        size = shutil.disk_usage(folder).total
        small = size < LEAST_FREE_BYTES
        remedy = "start the container with --shm-size=1g, or train with training.workers=0" if small else ""
        yield Finding("shared memory", LACKING if small else FINE, decimal(size), remedy)


def _variables() -> Iterator[Finding]:
    for name, value in sorted(os.environ.items()):
        if VARIABLES.fullmatch(name):
            yield Finding(name, FINE, "set, not shown" if SECRET.search(name) else value)


def _prediction() -> Finding:
    """The whole way, from a file to numbers."""
    from reactometer.data.simulate import simulate
    from reactometer.inference.predictor import predict

    name, begun_s = "a prediction", time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as folder:
            data = simulate(Path(folder) / "data", n_clips=5, workers=1)
            (told,) = predict(sorted(data.rglob("*.mp4"))[:1], STARTER, progress=False)
    except Exception as error:  # whatever it is, it is what one wants to know
        return Finding(name, WRONG, f"{type(error).__name__}: {error}", "report this, with all of the above")
    shown = ", ".join(f"{label} {value:.2f}" for label, value in zip(told.labels, told.intensities or (), strict=False))
    return Finding(name, FINE, f"of a rendered clip, in {time.perf_counter() - begun_s:.1f} s: {shown}")
