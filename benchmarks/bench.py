"""Run all benchmarks one after the other, and write one Markdown file with the machine and the date.

    python benchmarks/bench.py [--out bench.md] [--only NAME]... [--videos SHORT LONG]

Each benchmark runs in its own process; the file holds its output. A line ``bar: NAME: VALUE (limit: LIMIT):
met`` (or ``NOT MET``) is a bar; the file ends with a table of all bars. A benchmark that fails is reported as
skipped. The exit status is 0 whether bars are met or not, because the file is a record.
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
BAR = re.compile(
    r"^bar: (?P<name>[^:]+): (?P<value>.+) \(limit: (?P<limit>.+)\): (?P<result>met|NOT MET)\s*$", re.M
)
READ_VIDEOS = ("predicting",)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("bench.md"))
    parser.add_argument(
        "--only", action="append", choices=BENCHMARKS, help="run only this benchmark; repeatable"
    )
    parser.add_argument("--limit", type=float, default=1800.0, help="stop a benchmark after this time, s")
    parser.add_argument(
        "--videos", nargs=2, metavar=("SHORT", "LONG"), help="videos for predicting; default: rendered"
    )
    options = parser.parse_args()
    videos = {name: options.videos for name in READ_VIDEOS if options.videos}
    text = "\n".join(["# Benchmarks", "", *describe_machine(), ""])
    options.out.write_text(text, encoding="utf-8")  # each benchmark appends its output
    bars = []
    for name in options.only or BENCHMARKS:
        output = run(name, videos.get(name, []), options.limit)
        bars += BAR.findall(output)
        _append(options.out, f"\n## {name}\n\n{output.rstrip()}\n")
    verdicts = [result for *_, result in bars]
    rows = [f"| {bar} | {value} | {limit} | {result} |" for bar, value, limit, result in bars]
    table = ["| bar | measured | limit | |", "| --- | --- | --- | --- |", *rows]
    summary = f"{verdicts.count('met')} of {len(verdicts)} bars met"
    _append(options.out, "\n".join(["", "## Bars", "", *table, "", summary, ""]))
    print("\n".join(["", *table, "", f"{summary}; report: {options.out}"]))


def describe_machine() -> Iterator[str]:
    """Yield lines of Markdown: CPU, memory, system, versions, date and commit."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    cores = len(os.sched_getaffinity(0))
    yield f"* machine: {_cpu_name()}, {cores} cores, {pages:.0f} GiB, {platform.platform()}"
    versions = [f"{name} {version}" for name in PACKAGES if (version := _version(name))]
    python = platform.python_version()
    threads = torch.get_num_threads()
    yield f"* Python {python}, {', '.join(versions)}; torch uses {threads} threads"
    commit = _output("git", "describe", "--always", "--dirty", "--abbrev=12") or "unknown"
    yield f"* {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}, commit {commit}"


def run(name: str, arguments: Sequence[str], limit_s: float) -> str:
    """Run one benchmark; print and return its output, or the reason why it has none."""
    script = HERE / f"{name}.py"
    print(f"\n== {name}", flush=True)
    start_s = time.monotonic()
    command = [sys.executable, "-W", "ignore", str(script), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return f"stopped after {limit_s:.0f} s\n"
    output = done.stdout
    if done.returncode:
        errors = done.stderr.strip().splitlines() or ["no message"]
        output += f"\nskipped: {script.name} ended with status {done.returncode}: {errors[-1]}\n"
    print(output, flush=True)
    return f"{output.rstrip()}\n\n(`python benchmarks/{script.name}`, {time.monotonic() - start_s:.0f} s)\n"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))
    }
    model = [fields[key] for key in ("cpu family", "model") if key in fields]
    family = f" (family {model[0]}, model {model[1]})" if len(model) == 2 else ""
    return fields.get("model name", platform.machine()) + family


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
