"""All benchmarks one after the other -> one Markdown file, with the machine and the date.

    python benchmarks/bench.py [--out bench.md] [--only NAME]... [--videos SHORT LONG]

Each runs as a process of its own, and what it prints is kept as it is. A line ``bar: NAME: VALUE (asked: LIMIT): met``
(or ``NOT MET``) is a bar; they are listed together at the end. A benchmark that fails is reported as skipped. The exit
status is 0 whether bars are met or not: it is a record.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
BENCHMARKS = ("predicting", "training", "live", "memory", "installing", "load")
PACKAGES = ("reactometer", "numpy", "torch", "opencv-python-headless", "av", "onnxruntime", "lightning")
BAR = re.compile(r"^bar: (?P<name>[^:]+): (?P<value>.+) \(asked: (?P<limit>.+)\): (?P<result>met|NOT MET)\s*$", re.M)
READ_VIDEOS = ("predicting",)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench.md"))
    parser.add_argument("--only", action="append", choices=BENCHMARKS, help="one of the benchmarks; repeatable")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds after which one is stopped")
    parser.add_argument("--videos", nargs=2, metavar=("SHORT", "LONG"), help="of predicting; default: rendered ones")
    asked = parser.parse_args()
    given = {name: asked.videos for name in READ_VIDEOS if asked.videos}
    text = "\n".join(["# Benchmarks", "", *describe_machine(), ""])
    asked.out.write_text(text, encoding="utf-8")  # and what follows is added as it comes
    bars = []
    for name in asked.only or BENCHMARKS:
        said = run(name, given.get(name, []), asked.limit)
        bars += BAR.findall(said)
        _append(asked.out, f"\n## {name}\n\n{said.rstrip()}\n")
    counted = [result for *_, result in bars]
    rows = [f"| {bar} | {value} | {limit} | {result} |" for bar, value, limit, result in bars]
    table = ["| bar | measured | asked | |", "| --- | --- | --- | --- |", *rows]
    summary = f"{counted.count('met')} of {len(counted)} bars met"
    _append(asked.out, "\n".join(["", "## Bars", "", *table, "", summary, ""]))
    print("\n".join(["", *table, "", f"{summary}; all of it in {asked.out}"]))


def describe_machine() -> Iterator[str]:
    """Lines of Markdown: processor, memory, system, versions, date and commit."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    yield f"* machine: {_processor()}, {len(os.sched_getaffinity(0))} cores, {pages:.0f} GiB, {platform.platform()}"
    versions = [f"{name} {version}" for name in PACKAGES if (version := _version(name))]
    yield f"* Python {platform.python_version()}, {', '.join(versions)}; torch uses {torch.get_num_threads()} threads"
    commit = _output("git", "describe", "--always", "--dirty", "--abbrev=12") or "unknown"
    yield f"* {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}, commit {commit}"


def run(name: str, arguments: Sequence[str], limit_s: float) -> str:
    """What one benchmark prints, which is shown as it comes, too; or why it said nothing."""
    script = HERE / f"{name}.py"
    print(f"\n== {name}", flush=True)
    started_s = time.monotonic()
    command = [sys.executable, "-W", "ignore", str(script), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return f"stopped after {limit_s:.0f} s\n"
    said = done.stdout
    if done.returncode:
        words = done.stderr.strip().splitlines() or ["no word"]
        said += f"\nskipped: {script.name} ended with status {done.returncode}: {words[-1]}\n"
    print(said, flush=True)
    return f"{said.rstrip()}\n\n(`python benchmarks/{script.name}`, {time.monotonic() - started_s:.0f} s)\n"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    model = [named[key] for key in ("cpu family", "model") if key in named]
    where = f" (family {model[0]}, model {model[1]})" if len(model) == 2 else ""
    return named.get("model name", platform.machine()) + where


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=HERE, check=False).stdout.strip()
    except OSError:
        return ""


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    main()
